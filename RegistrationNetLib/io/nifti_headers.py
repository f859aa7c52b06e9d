"""Contradictions in NIfTI headers: two transforms and the voxel sizes say where the voxels lie, and need not agree."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..errors import InputError
from .native_paths import printable
from .warning import Warn

Array = NDArray[np.float64]

# Voxel sizes that differ by more, relatively, are not the same ones rounded.
SAME_SIZE = 0.01
# Cosines between the axes of a transform up to which they count as orthogonal.
ORTHOGONAL = 1e-3
# In voxels: farther apart, two transforms put a corner of the image at different places.
SAME_PLACE_VOX = 0.1
# By the header's number of the unit: millimetres in one. ITK converts.
UNIT_MM = {1: 1000.0, 3: 0.001}


@dataclass(frozen=True)
class _Header:
    sizes: tuple[int, ...]
    voxel_sizes: Array
    unit: int
    qform_code: int
    sform_code: int
    qfac: float
    quaternion: Array
    offset: Array
    sform: Array


def check_nifti(path: Path, image: sitk.Image, warn: Warn) -> None:
    """Compare what the header of a NIfTI file says of the place of its voxels with each other and with `image`, as ITK read it.

    Args:
        warn: hears of a contradiction that ITK has decided, and of a place that is not told.

    Raises:
        InputError: voxel sizes and transform contradict each other.
    """
    header = _header(path)
    if header is None or image.GetDimension() < 3:
        return
    name = printable(path)
    if not (header.voxel_sizes > 0).all():
        warn(f"{name} does not say how large its voxels are (pixdim {_short(header.voxel_sizes)}); 1 mm was taken where it is 0.")
        return
    if header.sform_code > 0 and np.isfinite(header.sform).all():
        _check_sform(header, name)
    if header.sform_code > 0 and header.qform_code > 0:
        _compare_transforms(header, image, name, warn)
    if header.sform_code <= 0 and header.qform_code <= 0:
        warn(f"{name} does not say how its axes lie in the body (no sform, no qform); they were taken as they are in the file.")


def _short(values: Array) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def _check_sform(header: _Header, name: str) -> None:
    axes = header.sform[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (lengths > 0).all():
        return
    if np.abs((axes / lengths).T @ (axes / lengths) - np.eye(3)).max() > ORTHOGONAL:
        # ITK takes the qform, of which `_compare_transforms` tells, or refuses.
        return
    if np.maximum(lengths / header.voxel_sizes, header.voxel_sizes / lengths).max() > 1 + SAME_SIZE:
        raise InputError(
            f"{name} contradicts itself: its voxel sizes (pixdim) are {_short(header.voxel_sizes)}, those of its transform (sform) "
            f"{_short(lengths)}; both must be the same. Find out which is right, and write the file again with that one."
        )


def _compare_transforms(header: _Header, image: sitk.Image, name: str, warn: Warn) -> None:
    """Say how far apart sform and qform put the image, and which of them ITK took."""
    ends = np.array([size - 1 for size in header.sizes[:3]])
    corners = np.array(np.meshgrid(*[[0, end] for end in ends], indexing="ij")).reshape(3, -1)
    by_sform, by_qform = (matrix[:3, :3] @ corners + matrix[:3, 3:] for matrix in (header.sform, _qform(header)))
    apart = float(np.linalg.norm(by_sform - by_qform, axis=0).max())
    if not apart > SAME_PLACE_VOX * float(header.voxel_sizes.min()):
        return
    unit_mm = UNIT_MM.get(header.unit, 1.0)
    dim = image.GetDimension()
    read = [image.TransformIndexToPhysicalPoint([*map(int, corner), *[0] * (dim - 3)])[:3] for corner in corners.T]
    read_ras = np.array(read).T * [[-1], [-1], [1]] / unit_mm
    is_sform = np.linalg.norm(read_ras - by_sform) < np.linalg.norm(read_ras - by_qform)
    warn(
        f"{name} contradicts itself: its sform and its qform put the image up to {apart * unit_mm:.3g} mm apart; the "
        f"{'sform' if is_sform else 'qform'} was taken. If the images do not lie on each other as they should, this may be why."
    )


def _qform(header: _Header) -> Array:
    b, c, d = header.quaternion
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = turn * (header.voxel_sizes[:3] * (1, 1, header.qfac))
    matrix[:3, 3] = header.offset
    return matrix


def _header(path: Path) -> _Header | None:
    """The header of a NIfTI-1 file; None for anything else (NIfTI-2, Analyze)."""
    content = _start(path)
    if len(content) < 348 or content[344:347] not in (b"n+1", b"ni1"):
        return None
    order = "<" if struct.unpack("<i", content[:4])[0] == 348 else ">"

    def numbers(form: str, place: int) -> tuple[float, ...]:
        return struct.unpack_from(order + form, content, place)

    pixdim = numbers("8f", 76)
    sizes = tuple(int(size) for size in numbers("8h", 40))
    sform = np.eye(4)
    sform[:3] = np.reshape(numbers("12f", 280), (3, 4))
    qform_code, sform_code = (int(code) for code in numbers("2h", 252))
    return _Header(
        sizes=sizes[1 : 1 + sizes[0]] + (1,) * (3 - sizes[0]),
        voxel_sizes=np.abs(pixdim[1:4]),
        unit=content[123] & 7,
        qform_code=qform_code,
        sform_code=sform_code,
        qfac=-1.0 if pixdim[0] < 0 else 1.0,
        quaternion=np.array(numbers("3f", 256)),
        offset=np.array(numbers("3f", 268)),
        sform=sform,
    )


def _start(path: Path) -> bytes:
    if path.name.lower().endswith((".img", ".img.gz")):
        path = path.with_name(path.name[: path.name.lower().rindex(".img")] + ".hdr")
    try:
        with path.open("rb") as file:
            start = file.read(348)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path) as unpacked:
                start = unpacked.read(348)
    except (OSError, EOFError, zlib.error):
        return b""
    return start
