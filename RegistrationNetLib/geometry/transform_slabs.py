"""A transform of the world at the voxels of a lattice, slab by slab, and fast where it is a field whose axes run along the lattice's.

ITK asks a transform at one point after the other. A displacement field that is linear between the points of a coarser lattice is
the same along each axis, so that a slab of voxels is two small matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .deformation import Affine, sample
from .separable import Matrix, apply_along_axes, on
from .space import PARALLEL_WITHIN_VOX, Array, Grid, affine_matrix, displacements_mm, grid_of, runs_along


@dataclass(frozen=True, eq=False)
class WorldMap:
    """A transform ready to be asked at lattices: an affine after a displacement field, or any other.

    Attributes:
        transform: itself; asked where it is not of that form.
        affine: the homogeneous world matrix that is applied last; None for transforms of another form.
        displacement_mm: of the field before it, [1, dim, *grid.shape], world x, y, z; None for linear ones.
        grid: of the field.
        dtype: of the displacements.
    """

    transform: sitk.Transform
    affine: Array | None = None
    displacement_mm: Tensor | None = None
    grid: Grid | None = None
    dtype: torch.dtype = torch.float32

    @staticmethod
    def of(transform: sitk.Transform, dtype: torch.dtype = torch.float32) -> WorldMap:
        """Of any transform; numbers are kept as `dtype`."""
        parts = _in_order(transform)
        if all(one.IsLinear() for one in parts):
            return WorldMap(transform, _product(parts, transform.GetDimension()), dtype=dtype)
        field, *rest = parts
        if not isinstance(field, sitk.DisplacementFieldTransform) or not all(one.IsLinear() for one in rest):
            return WorldMap(transform)
        image = field.GetDisplacementField()
        values = np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0)
        displacement = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)[None]
        return WorldMap(transform, _product(rest, transform.GetDimension()), displacement, grid_of(image), dtype)

    def voxels(self, target: Grid, lattice: Grid) -> Tensor:
        """Where the transform takes the voxels of `lattice`, in voxels of `target`: [1, dim, *lattice.shape]."""
        voxel_from_world = np.linalg.inv(target.world_from_voxel)
        displacement = self.displacement_on(lattice)
        if self.affine is None or displacement is None:
            displacement = _of_itk(self.transform, lattice)
            return _moved(voxel_from_world @ lattice.world_from_voxel, voxel_from_world, displacement, lattice)
        voxel_from_moved = voxel_from_world @ self.affine
        return _moved(voxel_from_moved @ lattice.world_from_voxel, voxel_from_moved, displacement, lattice)

    def voxels_of(self, target: Grid, source: Grid, places: Tensor) -> Tensor | None:
        """Where the transform takes `places` [1, dim, *any] in voxels of `source`, in voxels of `target`; None for transforms of another form."""
        if self.affine is None:
            return None
        voxel_from_moved = np.linalg.inv(target.world_from_voxel) @ self.affine
        moved = _through(voxel_from_moved @ source.world_from_voxel, places)
        if self.displacement_mm is None or self.grid is None:
            return moved
        own = _through(np.linalg.inv(self.grid.world_from_voxel) @ source.world_from_voxel, places)
        displacement = self._displacement_at(own)
        linear = torch.as_tensor(voxel_from_moved[:-1, :-1]).to(displacement)
        return moved + (linear @ displacement.flatten(2)).view_as(moved)

    def _displacement_at(self, own: Tensor) -> Tensor:
        """Of the field at places in its own voxels; as ITK has it, 0 from half a voxel beyond the field on."""
        assert self.displacement_mm is not None
        sizes = own.new_tensor(self.displacement_mm.shape[2:]).view(1, -1, *(1,) * (own.dim() - 2))
        inside = ((own >= -0.5) & (own <= sizes - 0.5)).all(dim=1, keepdim=True)
        return sample(self.displacement_mm, own / (sizes - 1).clamp_min(1)) * inside

    def displacement_on(self, lattice: Grid) -> Tensor | None:
        """Of the field at the voxels of `lattice`, [1, dim, *shape] in world x, y, z; None where the axes do not run along it.

        As ITK has it: 0 from half a voxel beyond the field on.
        """
        if self.affine is None:
            return None
        if self.displacement_mm is None or self.grid is None:
            return torch.zeros(1, lattice.dim, *lattice.shape, dtype=self.dtype)
        own_from_lattice = np.linalg.inv(self.grid.world_from_voxel) @ lattice.world_from_voxel
        if not runs_along(own_from_lattice, lattice.shape):
            return None
        matrices = [
            _interpolation(float(own_from_lattice[axis, axis]), float(own_from_lattice[axis, -1]), size, own)
            for axis, (size, own) in enumerate(zip(lattice.shape, self.grid.shape, strict=True))
        ]
        return _separably(self.displacement_mm, matrices)


def _in_order(transform: sitk.Transform) -> list[sitk.Transform]:
    """The parts of a transform, the one that is applied first leading."""
    one = transform.Downcast()
    if not isinstance(one, sitk.CompositeTransform):
        return [one]
    parts = [one.GetNthTransform(index) for index in range(one.GetNumberOfTransforms())]
    return [inner for part in reversed(parts) for inner in _in_order(part)]


def _product(parts: list[sitk.Transform], dim: int) -> Array:
    matrix: Array = np.eye(dim + 1)
    for one in parts:
        matrix = affine_matrix(one) @ matrix
    return matrix


def _interpolation(step: float, start: float, size: int, own: int) -> Matrix:
    """Linear interpolation among `own` points at places `start` + `step` · i: [size, own]; nothing from half a voxel beyond them on."""
    places = start + step * np.arange(size)
    inside = (places >= -0.5 - PARALLEL_WITHIN_VOX) & (places <= own - 0.5 + PARALLEL_WITHIN_VOX)
    places = places.clip(0, own - 1)
    lower = np.minimum(places.astype(int), max(own - 2, 0))
    matrix = np.zeros((size, own))
    matrix[np.arange(size), lower] += inside * (1 - (places - lower))
    matrix[np.arange(size), np.minimum(lower + 1, own - 1)] += inside * (places - lower)
    return matrix


def _separably(values: Tensor, matrices: list[Matrix]) -> Tensor:
    """As `apply_along_axes`, but first along the first axis, of which few layers are needed."""
    first, *rest = matrices
    taken = np.flatnonzero(first.any(axis=0))
    layers = slice(int(taken[0]), int(taken[-1]) + 1) if taken.size else slice(0, 1)
    (rows,) = on([first[:, layers]], values)
    few = torch.einsum("ij,cj...->ci...", rows, values[0, :, layers])
    wide = apply_along_axes(few.flatten(0, 1)[None], on(rest, values))
    return wide.unflatten(1, few.shape[:2])


def _through(matrix: Array, places: Tensor) -> Tensor:
    return Affine(torch.as_tensor(matrix[:-1]).to(places))(places)


def _of_itk(transform: sitk.Transform, lattice: Grid) -> Tensor:
    return torch.from_numpy(np.moveaxis(displacements_mm(transform, lattice), -1, 0))[None]


def _moved(target_from_lattice: Array, target_from_world: Array, displacement: Tensor, lattice: Grid) -> Tensor:
    """The voxels of a lattice through a matrix, and the world displacement through another's linear part."""
    dim = lattice.dim
    linear = torch.as_tensor(target_from_world[:-1, :-1]).to(displacement)
    moved = (linear @ displacement.flatten(2)[0]).unflatten(1, lattice.shape)
    for axis, size in enumerate(lattice.shape):
        line = torch.arange(size, dtype=torch.float64)[None] * torch.as_tensor(target_from_lattice[:-1, axis])[:, None]
        if axis == 0:
            line += torch.as_tensor(target_from_lattice[:-1, -1])[:, None]
        moved += line.to(displacement).view(dim, *(-1 if axis == other else 1 for other in range(dim)))
    return moved[None]
