"""A result to go on from, as a solution: an affine in millimetres after a deformation of fixed, with its inverse."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import DisplacementField, identity_points, invert
from ..geometry.field_pair import FieldPair, affine_of
from ..geometry.space import INVERSION_TOLERANCE, PARALLEL_WITHIN_VOX, Array, Grid, affine_matrix, affine_transform, runs_along
from ..geometry.transform_slabs import WorldMap
from ..io.transform_files import read_transform
from .field_refinement import lattice_of_field
from .method import Solution
from .size import delivered_shape

Source = str | os.PathLike[str] | sitk.Transform

# A result whose points lie so many times farther apart than those of a new one would is too coarse for a correction.
COARSEST = 2.0


@dataclass(frozen=True)
class Previous:
    """What is gone on from: points of fixed to points of moving, and its inverse where that is known."""

    moving_from_fixed: sitk.Transform
    fixed_from_moving: sitk.Transform | None = None

    def solution(self, fixed: Grid) -> Solution:
        """The same as a deformation of fixed and the affine that follows it: on its own lattice, if that is one of a result on `fixed`."""
        own, usual = _lattice_of(self.moving_from_fixed, fixed), lattice_of_field(fixed)
        delivered = usual.spanned(delivered_shape(usual.shape))
        if own is None or max(own.spacing_mm) > COARSEST * max(delivered.spacing_mm):
            return self._on(usual)
        return replace(self._on(own), as_delivered=True)

    def _on(self, grid: Grid) -> Solution:
        alignment = _affine_of(self.moving_from_fixed, grid)
        lattice = identity_points(grid.shape, torch.zeros(()))
        forward = _points(self.moving_from_fixed, grid, grid.moved(alignment)) - lattice
        if self.fixed_from_moving is not None:
            # At points of fixed, as ITK knows no sheared lattice. The transform added last is applied first.
            back = sitk.CompositeTransform([self.fixed_from_moving, affine_transform(alignment)])
            back.FlattenTransform()
            backward = _points(back, grid, grid) - lattice
            return Solution(alignment, FieldPair(grid, DisplacementField(forward), DisplacementField(backward)))
        found = invert(
            DisplacementField(forward), grid.shape, like=forward, scale=grid.extent_mm,
            tolerance=INVERSION_TOLERANCE * max(grid.extent_mm),
        )  # fmt: skip
        return Solution(alignment, FieldPair(grid, DisplacementField(forward), found.field))


def previous_of(source: Source, inverse: Source | None, dim: int) -> Previous:
    """The result to go on from, in a file or at hand.

    Raises:
        InputError: unreadable, or of another dimension than the images.
    """
    there, back = (None if one is None else read_transform(one) for one in (source, inverse))
    assert there is not None
    for transform in (there, back):
        if transform is not None and transform.GetDimension() != dim:
            raise InputError(
                f"The transform to go on from has {transform.GetDimension()} dimensions and the images {dim}; both need the same. "
                "Give another transform."
            )
    return Previous(there, back)


def _affine_of(transform: sitk.Transform, grid: Grid) -> Array:
    """The affine part: as it is where one follows a field, else the one nearest to the transform over the lattice of fixed."""
    if transform.IsLinear():
        return affine_matrix(transform)
    held = WorldMap.of(transform)
    if held.affine is not None:
        return held.affine
    coarse = grid.spanned([min(size, 9) for size in grid.shape])
    points = _points(transform, coarse, coarse).double()
    lattice = identity_points(coarse.shape, points)
    homogeneous = torch.cat([lattice[0].flatten(1), torch.ones_like(lattice[0, :1].flatten(1))])
    unit = np.eye(grid.dim + 1)
    unit[:-1] = torch.linalg.lstsq(homogeneous.T, points[0].flatten(1).T).solution.T.numpy()
    return np.asarray(coarse.world_from_unit @ unit @ coarse.unit_from_world)


def _lattice_of(transform: sitk.Transform, fixed: Grid) -> Grid | None:
    """That of the field of a result, without its margin: it ends where `fixed` does, by its voxels' centres or by their edges."""
    held = WorldMap.of(transform)
    if held.grid is None:
        return None
    own_from_fixed = np.linalg.inv(held.grid.world_from_voxel) @ fixed.world_from_voxel
    if not runs_along(own_from_fixed, fixed.shape):
        return None
    steps, start = np.diag(own_from_fixed)[:-1], own_from_fixed[:-1, -1]
    for edge in (0.0, 0.5):
        ends = np.stack([start + edge * (1 - steps), start + (np.array(fixed.shape) - 1) * steps - edge * (1 - steps)])
        places = ends.round().astype(int)
        is_within = (places[0] >= 0) & (places[0] < places[1]) & (places[1] < held.grid.shape)
        if np.abs(ends - places).max() <= PARALLEL_WITHIN_VOX and is_within.all():
            return held.grid.cropped([slice(int(first), int(last) + 1) for first, last in places.T])
    return None


def _points(transform: sitk.Transform, lattice: Grid, target: Grid) -> Tensor:
    """Where the transform takes the lattice, in the unit cube of `target`: [1, dim, *shape], float32.

    Raises:
        InputError: to no finite place.
    """
    voxels = WorldMap.of(transform, torch.float64).voxels(target, lattice)
    if not bool(torch.isfinite(voxels).all()):
        raise InputError("The transform to go on from maps points to no finite place; it must. Give another transform.")
    unit = np.diag([*(1 / (size - 1) for size in target.shape), 1.0])
    return affine_of(unit, voxels)(voxels).float()
