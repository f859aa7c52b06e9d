"""Volumes as plain NRRD files: how images travel between Slicer and the worker, without SimpleITK and without compression.

Only what the two write is read: raw voxels in one file, little endian, LPS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OutputError

_TYPE_NAMES = {
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long int",
    "uint64": "unsigned long long int",
    "float32": "float",
    "float64": "double",
}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _TYPE_NAMES.items()}


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie: `values` [D, H, W], or [D, H, W, C] with channels.

    `world_from_index` [4, 4] maps homogeneous indices (i, j, k), which count the array's axes backwards, to LPS mm.
    """

    values: NDArray[Any]
    world_from_index: NDArray[np.float64]

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along i, j, k."""
        return self.values.shape[2::-1]


def write_volume(volume: Volume, path: Path) -> None:
    """`volume` as the file `path`.

    Raises:
        InputError: voxels that NRRD has no type for.
        OutputError: the disk is full or the folder cannot be written.
    """
    values = volume.values
    with _new_file(path, values.shape, values.dtype.name, volume.world_from_index) as file:
        file.write(_bytes_of(values))


def write_slabs(
    slabs: Iterable[NDArray[np.float32]], path: Path, *, shape: Sequence[int], world_from_index: NDArray[np.float64]
) -> None:
    """A float32 volume that is never held whole, as the file `path`: slabs of its first axis, one after the other.

    Args:
        shape: [D, H, W], or [D, H, W, C], of all of them together.
        world_from_index: as in `Volume`.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with _new_file(path, shape, "float32", world_from_index) as file:
        for slab in slabs:
            file.write(_bytes_of(slab))


def read_volume(path: Path) -> Volume:
    """The volume that `write_volume` or SimpleITK wrote, uncompressed.

    Raises:
        InputError: missing, cut short, or another kind of NRRD.
    """
    try:
        with path.open("rb") as file:
            fields = _fields(file, path)
            dtype = _DTYPES[fields["type"]]
            values = np.fromfile(file, dtype=dtype.newbyteorder("<"))
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}). Check the path.") from error
    except KeyError as error:
        raise InputError(f"{path} is not such a NRRD file as is written here (its header lacks {error}).") from error
    shape = [int(size) for size in fields["sizes"].split()][::-1]
    if values.size != np.prod(shape):
        raise InputError(f"{path} is cut short; it must hold {' x '.join(map(str, shape))} values and holds {values.size}.")
    return Volume(values.astype(dtype, copy=False).reshape(shape), _world_from_index(fields))


@contextmanager
def _new_file(path: Path, shape: Sequence[int], name: str, world_from_index: NDArray[np.float64]) -> Iterator[BinaryIO]:
    """The file, its header written, for the voxels."""
    header = _header(shape, name, world_from_index)
    try:
        with path.open("wb") as file:
            file.write(header.encode("ascii"))
            yield file
    except OSError as error:
        raise OutputError(
            f"Cannot write the temporary file {path} ({error.strerror}); images travel to the worker as files. Free some disk space."
        ) from error


def _header(shape: Sequence[int], name: str, world_from_index: NDArray[np.float64]) -> str:
    if name not in _TYPE_NAMES:
        raise InputError(f"Voxels are {name}; they must be whole or real numbers of 8 to 64 bits. Convert the volume first.")
    has_channels = len(shape) == 4
    directions = [_vector(column) for column in world_from_index[:3, :3].T]
    lines = {
        "type": _TYPE_NAMES[name],
        "dimension": str(len(shape)),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, shape[::-1])),
        "space directions": " ".join(["none"] * has_channels + directions),
        "kinds": " ".join(["vector"] * has_channels + ["domain"] * 3),
        "endian": "little",
        "encoding": "raw",
        "space origin": _vector(world_from_index[:3, 3]),
    }
    return "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items()) + "\n"


def _vector(values: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _bytes_of(values: NDArray[Any]) -> memoryview:
    little = values if sys.byteorder == "little" else values.byteswap()
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _fields(file: BinaryIO, path: Path) -> Mapping[str, str]:
    """The header; what it does not say about byte order and encoding must be the usual."""
    if not file.readline().startswith(b"NRRD"):
        raise InputError(f"{path} is no NRRD file; images travel as NRRD.")
    fields = {}
    for line in iter(file.readline, b"\n"):
        if not line:
            raise InputError(f"{path} is cut short within its header.")
        key, separator, value = line.decode("ascii", "replace").strip().partition(": ")
        if separator and not key.startswith("#"):
            fields[key] = value
    usual = {"encoding": "raw", "space": "left-posterior-superior", "endian": "little"}
    for key, expected in usual.items():
        if fields.get(key, expected) != expected:
            raise InputError(f"{path} has {key} {fields[key]}; only {expected} is read here.")
    return fields


def _world_from_index(fields: Mapping[str, str]) -> NDArray[np.float64]:
    columns = [_numbers(word) for word in fields["space directions"].split() if word != "none"]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    matrix[:3, 3] = _numbers(fields["space origin"])
    return matrix


def _numbers(word: str) -> list[float]:
    return [float(number) for number in word.strip("()").split(",")]
