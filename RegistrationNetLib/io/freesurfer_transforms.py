"""Linear transforms of FreeSurfer (LTA): text with a matrix from the source image (moving) to the destination (fixed), and both geometries.

Source: FreeSurfer's `transform.h`, https://surfer.nmr.mgh.harvard.edu. Of the kinds of matrices, those between voxel indices (0) and
between the scanner's RAS coordinates (1) are read.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .lattices import Array, affine_of
from .matrix_files import RAS_FROM_LPS
from .native_paths import printable
from .transform_checks import are_sound

VOXELS, SCANNER = 0, 1
SMALLEST_DETERMINANT = 1e-12


def is_lta(text: str) -> bool:
    """Whether a text looks like an LTA file."""
    return re.search(r"^type\s*=", text, re.MULTILINE) is not None and re.search(r"^nxforms\s*=", text, re.MULTILINE) is not None


def lta_transform(path: Path) -> sitk.Transform:
    """An LTA file as points of fixed (its destination) → points of moving (its source).

    Raises:
        InputError: it is damaged, has not exactly one transform, or one of another kind.
    """
    text = path.read_text("utf-8", errors="replace")
    kind, count = (_integer(path, text, name) for name in ("type", "nxforms"))
    if count != 1 or kind not in (VOXELS, SCANNER):
        raise InputError(
            f"{printable(path)} has {count} transforms of the kind {kind}; one is read, between voxels (0) or the scanner's coordinates "
            "(1). Convert it by lta_convert --inlta IN --outlta OUT."
        )
    matrix = _matrix(path, text)
    if kind == VOXELS:
        matrix = _ras_from_index(path, text, "dst") @ matrix @ np.linalg.inv(_ras_from_index(path, text, "src"))
    if not np.allclose(matrix[3], [0, 0, 0, 1]) or abs(np.linalg.det(matrix)) < SMALLEST_DETERMINANT:
        raise _damaged(path, "its matrix cannot be inverted, or is not affine")
    return affine_of(RAS_FROM_LPS @ np.linalg.inv(matrix) @ RAS_FROM_LPS)


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{printable(path)} cannot be read as an LTA file; that has a matrix of four rows and the geometry of both images: {why}. "
        "Copy or write it again."
    )


def _integer(path: Path, text: str, name: str) -> int:
    found = re.search(rf"^{name}\s*=\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise _damaged(path, f"{name} is missing")
    return int(found[1])


def _matrix(path: Path, text: str) -> Array:
    found = re.search(r"^1 4 4\s*\n((?:.*\n){4})", text, re.MULTILINE)
    try:
        return _numbers(found[1], 16).reshape(4, 4)  # type: ignore[index]
    except (TypeError, ValueError):
        raise _damaged(path, "its matrix is not whole") from None


def _ras_from_index(path: Path, text: str, side: str) -> Array:
    """The matrix from indices of the source ("src") or destination ("dst") to RAS mm."""
    section = re.search(rf"^{side} volume info[^\n]*\n((?:\w+\s*=.*\n?)+)", text, re.MULTILINE)
    lines = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", section[1], re.MULTILINE)) if section else {}
    try:
        if lines["valid"].split()[0] != "1":
            raise _damaged(path, f"the geometry of {side} is not valid")
        size, spacing, centre = (_numbers(lines[name], 3) for name in ("volume", "voxelsize", "cras"))
        axes = np.stack([_numbers(lines[name], 3) for name in ("xras", "yras", "zras")], axis=1)
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, f"the geometry of {side} is not whole") from None
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = centre - matrix[:3, :3] @ (size / 2)
    if abs(np.linalg.det(matrix)) < SMALLEST_DETERMINANT:
        raise _damaged(path, f"the axes of {side} do not span space")
    return matrix


def _numbers(words: str, count: int) -> Array:
    numbers = np.array([float(word) for word in words.split()])
    if numbers.shape != (count,) or not are_sound(numbers):
        raise ValueError(f"{count} numbers are needed, got {words}")
    return numbers
