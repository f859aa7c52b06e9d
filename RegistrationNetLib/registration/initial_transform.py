"""The transform from which a registration starts.

A linear one is where the alignment begins. A non-linear one cannot be: moving is carried through it first, what follows is
found between fixed and the carried image, and the two are chained in the result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import GeometryError, InputError
from ..geometry.deformation import DisplacementField, identity_points
from ..geometry.space import Array, Grid, affine_matrix, grid_of, inverse_transform_from_map, points_of_transform
from ..io.inputs import Pair
from ..io.landmarks import mapped
from ..io.outlying import without_padding
from ..io.transform_files import read_transform
from ..io.warping import LABELS, warp_image
from .landmark_pairs import LandmarkPairs

SMALLEST_DETERMINANT = 1e-6


@dataclass(frozen=True)
class Initial:
    """Where to begin: the pair to register, the matrix to start from, and what follows in the chain (both ways)."""

    pair: Pair
    matrix: Array
    moving_from_carried: sitk.Transform | None = None
    carried_from_moving: sitk.Transform | None = None

    def carried(self, pairs: LandmarkPairs) -> LandmarkPairs:
        """The pairs of landmarks as the images of `pair` show them."""
        if self.carried_from_moving is None:
            return pairs
        return pairs.moved(pairs.fixed_mm, mapped(pairs.moving_mm, self.carried_from_moving))


def initial_of(source: str | os.PathLike[str] | sitk.Transform | None, pair: Pair) -> Initial:
    """The start that `source` (points of fixed → points of moving, LPS mm) gives; None is the identity.

    Raises:
        InputError: unreadable, of another dimension than the images, or not invertible.
        GeometryError: a non-linear one that takes no voxel of fixed into moving.
    """
    dim = pair.fixed.GetDimension()
    if source is None:
        return Initial(pair, np.eye(dim + 1))
    transform = read_transform(source)
    if transform.GetDimension() != dim:
        raise InputError(
            f"The initial transform has {transform.GetDimension()} dimensions and the images {dim}; both need the same. Give another transform."
        )
    if transform.IsLinear():
        with np.errstate(invalid="ignore"):
            matrix = affine_matrix(transform)
        return Initial(pair, _checked(matrix))
    inverse = _inverted(transform, grid_of(pair.fixed), grid_of(pair.moving))
    return Initial(_carried(pair, transform), np.eye(dim + 1), transform, inverse)


def _checked(matrix: Array) -> Array:
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > SMALLEST_DETERMINANT):
        raise InputError(
            f"The initial transform cannot be inverted; its matrix must be finite and its determinant not 0. "
            f"It is {matrix[:-1].tolist()}. Give another transform."
        )
    return matrix


def _carried(pair: Pair, transform: sitk.Transform) -> Pair:
    """The pair with moving, its mask and its labels seen through `transform` on fixed's grid, counted where moving has voxels.

    Its padding is no voxel, and must not be mixed with what lies beside it.
    """
    moving, measured = without_padding(pair.moving)
    inside = _inside(pair, measured, transform)
    mask, labels = (
        None if one is None else warp_image(one, pair.fixed, transform, LABELS) for one in (pair.masks[1], pair.labels[1])
    )
    return replace(
        pair,
        images=(pair.fixed, warp_image(moving, pair.fixed, transform)),
        masks=(_both(pair.masks[0], inside), _both(mask, inside)),
        labels=(pair.labels[0], labels),
    )


def _inside(pair: Pair, measured: sitk.Image, transform: sitk.Transform) -> sitk.Image | None:
    """1 where `transform` takes fixed to a voxel of moving that is `measured`; None if that is everywhere.

    Raises:
        GeometryError: it is nowhere.
    """
    inside = warp_image(measured, pair.fixed, transform, LABELS)
    values = sitk.GetArrayViewFromImage(inside)
    if not values.any():
        raise GeometryError(
            "The initial transform takes no voxel of fixed into moving; the two must overlap. "
            "Check that it maps points of fixed to points of moving."
        )
    return None if values.all() else inside


def _both(mask: sitk.Image | None, inside: sitk.Image | None) -> sitk.Image | None:
    """Where both are not 0; None is everywhere."""
    if mask is None or inside is None:
        return inside if mask is None else mask
    both = sitk.GetImageFromArray((sitk.GetArrayViewFromImage(mask) * sitk.GetArrayViewFromImage(inside) != 0).astype(np.uint8))
    both.CopyInformation(inside)
    return both


def _inverted(transform: sitk.Transform, fixed: Grid, moving: Grid) -> sitk.Transform:
    """The inverse on the grid of moving: of the nearest affine, and of what is left beside it on the grid of fixed."""
    points = points_of_transform(transform, fixed, fixed)
    if not bool(torch.isfinite(points).all()):
        raise InputError("The initial transform maps points of fixed to no finite place; it must. Give another transform.")
    lattice = identity_points(fixed.shape, points)
    homogeneous = torch.cat([lattice[0].flatten(1), torch.ones_like(lattice[0, :1].flatten(1))])
    affine = torch.linalg.lstsq(homogeneous.T, points[0].flatten(1).T).solution.T
    unit = np.eye(fixed.dim + 1)
    unit[:-1] = affine.numpy()
    alignment = _checked(fixed.world_from_unit @ unit @ fixed.unit_from_world)
    inverse = torch.linalg.inv(affine[:, :-1])
    rest = torch.einsum("de,be...->bd...", inverse, points - affine[:, -1].view(1, -1, *(1,) * fixed.dim)) - lattice
    return inverse_transform_from_map(DisplacementField(rest.float()), fixed, moving, alignment)
