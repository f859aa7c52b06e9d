"""Matrices that take points nearest to their partners, in the sense of least squares: rigid ones, and affine ones that keep volumes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry.space import Array

Points = NDArray[np.float64]

# Points whose second spread is a smaller share of the first lie on one line, about which any rotation is as good.
ON_ONE_LINE = 1e-6


def rigid_fit(points: Points, partners: Points, weights: Points | None = None) -> Array:
    """The rotation and shift that take the points [N, dim] nearest to their partners (Kabsch, 1976); homogeneous.

    Of points on one line, or of fewer than there are dimensions, the shift alone.
    """
    weights = np.ones(len(points)) if weights is None else weights
    dim = points.shape[1]
    middle, other = (np.average(one, axis=0, weights=weights) for one in (points, partners))
    left, sizes, right = np.linalg.svd(((partners - other) * weights[:, None]).T @ (points - middle))
    turn = left @ np.diag([*[1.0] * (dim - 1), np.linalg.det(left @ right)]) @ right
    if sizes[dim - 2] <= ON_ONE_LINE * max(sizes[0], 1e-12) or len(points) < dim:
        turn = np.eye(dim)
    return _about(turn, middle, other)


def volume_keeping_fit(points: Points, partners: Points) -> Array:
    """The affine map nearest to taking the points [N, dim] to their partners, its determinant then made 1; homogeneous.

    A rigid one where the points span no volume, or would be turned inside out.
    """
    middle, other = points.mean(axis=0), partners.mean(axis=0)
    solved, _, rank, _ = np.linalg.lstsq(points - middle, partners - other, rcond=None)
    determinant = float(np.linalg.det(solved))
    if rank < points.shape[1] or determinant <= 0:
        return rigid_fit(points, partners)
    return _about(solved.T / determinant ** (1 / points.shape[1]), middle, other)


def _about(linear: Array, middle: Points, other: Points) -> Array:
    matrix = np.eye(len(middle) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = linear, other - linear @ middle
    return matrix
