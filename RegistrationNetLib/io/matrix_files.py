"""Matrices of four rows of four numbers, as FLIRT and NiftyReg write them; no file says which of them wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .native_paths import printable
from .transform_checks import are_sound

# From LPS mm to RAS mm, and back.
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_matrix_text(text: str) -> bool:
    """Whether a text begins with four numbers in a line."""
    words = text.strip().split("\n", 1)[0].split()
    try:
        return len([float(word) for word in words]) == 4
    except ValueError:
        return False


def read_matrix(path: Path) -> NDArray[np.float64]:
    """The matrix [4, 4] in a text file.

    Raises:
        InputError: it does not hold four rows of four sound numbers, the last 0 0 0 1, or is singular.
    """
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except ValueError:
        rows = []
    matrix = np.array(rows if [len(row) for row in rows] == [4] * 4 else np.zeros((4, 4)))
    if not are_sound(matrix) or not np.allclose(matrix[3], [0, 0, 0, 1]) or abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(
            f"{printable(path)} holds no matrix of a transform; that has four rows of four numbers, the last 0 0 0 1, and can be "
            f"inverted. Got {len(rows)} rows of numbers. Check the file."
        )
    return matrix
