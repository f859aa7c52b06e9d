"""Values that are none (NaN, infinite) in NIfTI files, which ITK's reader makes 0 without a word."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .native_paths import printable

FLOAT32, FLOAT64 = "16", "64"


def with_missing(path: Path, data: Path, image: sitk.Image) -> sitk.Image:
    """`image`, as ITK read it from `path`, with the NaN and infinite values that the file holds.

    Args:
        data: the file with the voxels, which is another one for a pair .hdr and .img; known to hold them all.
    """
    kind = image.GetMetaData("datatype") if image.HasMetaDataKey("datatype") else ""
    if kind not in (FLOAT32, FLOAT64):
        return image
    parts = image.GetNumberOfComponentsPerPixel()
    start = int(float(image.GetMetaData("vox_offset"))) if data == path else 0
    order = _order(path)
    found = np.frombuffer(
        _content(data), dtype=f"{order}f{4 if kind == FLOAT32 else 8}", count=parts * image.GetNumberOfPixels(), offset=start
    )
    if np.isfinite(found).all():
        return image
    array = sitk.GetArrayFromImage(image)
    # A file holds one part of all vectors after the other, an image all parts of one vector together.
    found = np.moveaxis(found.reshape(parts, *image.GetSize()[::-1]), 0, -1).reshape(array.shape)
    missing = ~np.isfinite(found)
    array[missing] = found[missing]
    restored = sitk.GetImageFromArray(array, isVector=parts > 1)
    restored.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        restored.SetMetaData(printable(key), printable(image.GetMetaData(key)))
    return restored


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _order(path: Path) -> str:
    """Little or big endian, by the header's own size at its beginning."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked:
            start = unpacked.read(4)
    return "<" if struct.unpack("<i", start)[0] in (348, 540) else ">"
