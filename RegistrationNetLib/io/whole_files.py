"""Whether a file holds all that its header promises: where ITK's readers do not look, what is missing would become 0."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import SimpleITK as sitk

GZIP = b"\x1f\x8b"
PIECE = 2**20
HEADER_BYTES = {".gipl": 256, ".mrc": 1024}


def is_whole(path: Path) -> bool:
    """Whether a file whose format tells its own length (TIFF, JPEG, BMP) has it; any other passes."""
    kind = _format(path)
    if kind in (".tif", ".tiff"):
        return _is_whole_tiff(path)
    if kind in (".jpg", ".jpeg"):
        return path.read_bytes().rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == ".bmp":
        with path.open("rb") as file:
            start = file.read(6)
        return len(start) == 6 and path.stat().st_size >= struct.unpack("<I", start[2:])[0]
    return True


def holds_all(path: Path, image: sitk.Image) -> bool:
    """Whether the file `path`, which has been read as `image`, is as long as its header says.

    For NIfTI, Analyze, VTK, GIPL and MRC; every other format's reader looks itself, or `is_whole` has.
    """
    kind = _format(path)
    if kind in (".nii", ".hdr", ".img", ".nia") and image.HasMetaDataKey("bitpix"):
        return _is_whole_nifti(path, image)
    start = _vtk_start(path) if kind == ".vtk" else HEADER_BYTES.get(kind)
    return start is None or _has(path, start + _voxel_bytes(image))


def _format(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _voxel_bytes(image: sitk.Image) -> int:
    return int(image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent())


def _has(path: Path, needed: float) -> bool:
    """Whether the file holds so many bytes, unpacked where it is packed."""
    with path.open("rb") as file:
        if file.read(2) != GZIP:
            return path.stat().st_size >= needed
    try:
        with gzip.open(path) as unpacked:
            return sum(map(len, _pieces(cast(BinaryIO, unpacked)))) >= needed
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE), b"")


def _is_whole_nifti(path: Path, image: sitk.Image) -> bool:
    values = math.prod(int(image.GetMetaData(f"dim[{axis}]")) for axis in range(1, 1 + int(image.GetMetaData("dim[0]"))))
    needed = values * int(image.GetMetaData("bitpix")) / 8
    data = image_beside(path)
    return _has(data, needed if data != path else needed + float(image.GetMetaData("vox_offset")))


def image_beside(path: Path) -> Path:
    """The file with the voxels: of a pair .hdr and .img the second, packed or not."""
    base = path.name.removesuffix(".gz")
    if _format(path) not in (".hdr", ".img"):
        return path
    names = [base[:-4] + suffix for suffix in (".img", ".img.gz", ".IMG")]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), path)


def _vtk_start(path: Path) -> int | None:
    """Where the voxels begin; None where they are written as text."""
    with path.open("rb") as file:
        lines = file.read(4096).splitlines(keepends=True)
    if len(lines) < 3 or not lines[2].upper().startswith(b"BINARY"):
        return None
    start = 0
    for line in lines:
        start += len(line)
        if line.upper().startswith((b"LOOKUP_TABLE", b"VECTORS", b"COLOR_SCALARS", b"TENSORS")):
            return start
    return None


def _is_whole_tiff(path: Path) -> bool:
    """Whether every page and every strip of voxels that the file tells of lies within it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 16:
            return False
        try:
            is_big = struct.unpack(order + "H", start[2:4])[0] == 43
            place = struct.unpack(order + ("Q" if is_big else "I"), start[8:16] if is_big else start[4:8])[0]
            seen: set[int] = set()
            while place and place not in seen:
                seen.add(place)
                end, place = _page(file, place, order, is_big=is_big)
                if end > size:
                    return False
        except (struct.error, KeyError, OverflowError, OSError, ValueError):  # the page itself lies behind the end, or is none
            return False
    return True


# The bytes of TIFF's types of numbers, and how the whole ones among them are read.
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_WHOLE = {3: "H", 4: "I", 16: "Q"}
_STARTS, _LENGTHS = (273, 324), (279, 325)


def _page(file: BinaryIO, place: int, order: str, *, is_big: bool) -> tuple[int, int]:
    """Where the voxels of a page end, and where the next page is (0: none)."""
    count_form, entry_bytes, offset_form = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    file.seek(place)
    (count,) = struct.unpack(order + count_form, file.read(struct.calcsize(count_form)))
    entries = file.read(entry_bytes * min(count, 4096))
    (following,) = struct.unpack(order + offset_form, file.read(struct.calcsize(offset_form)))
    starts: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    end = 0
    for first in range(0, len(entries), entry_bytes):
        entry = entries[first : first + entry_bytes]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        end = max(end, _tiff_end(entry, kind, order, offset_form))
        if tag in _STARTS:
            starts = _tiff_numbers(file, entry, kind, order, offset_form)
        elif tag in _LENGTHS:
            lengths = _tiff_numbers(file, entry, kind, order, offset_form)
    return max(end, *(start + length for start, length in zip(starts, lengths, strict=False)), 0), following


def _tiff_end(entry: bytes, kind: int, order: str, offset_form: str) -> int:
    """Where the numbers of an entry end that stand elsewhere in the file; 0 for those that stand in the entry."""
    field = struct.calcsize(offset_form)
    count, place = struct.unpack(order + 2 * offset_form, entry[4 : 4 + 2 * field])
    size = _TIFF_BYTES.get(kind, 1) * int(count)
    return int(place) + size if size > field else 0


def _tiff_numbers(file: BinaryIO, entry: bytes, kind: int, order: str, offset_form: str) -> tuple[int, ...]:
    field = struct.calcsize(offset_form)
    (count,) = struct.unpack(order + offset_form, entry[4 : 4 + field])
    size = _TIFF_BYTES.get(kind, 1) * count
    content = entry[4 + field :][:size]
    if size > field:
        file.seek(struct.unpack(order + offset_form, entry[4 + field :])[0])
        content = file.read(size)
    return struct.unpack(f"{order}{count}{_TIFF_WHOLE[kind]}", content)
