"""A known map by which an image is changed before the pair is registered again: a small turn and shift, and a smooth deformation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..geometry.deformation import DisplacementField
from ..geometry.field_pair import affine_of
from ..geometry.smooth_noise import smooth_noise
from ..geometry.space import Array, Grid
from .prepare import Prepared

# Each makes the error of the inverse a third, at the strength of the options below.
INVERSE_STEPS = 15


@dataclass(frozen=True)
class PerturbationOptions:
    """How strong a `Perturbation` is.

    Args:
        degrees: largest turn in each coordinate plane.
        shift: largest shift along each axis, as a share of the image's longest edge.
        displacement_vox: standard deviation of the smooth displacement along each axis.
        correlation: standard deviation of the Gaussian that smooths it, as a share of the longest edge; small is wriggly.
    """

    degrees: float = 4.0
    shift: float = 0.03
    displacement_vox: float = 0.7
    correlation: float = 0.12


@dataclass(frozen=True)
class Perturbation:
    """x ↦ affine(x + u(x)) of the world around `grid`; `affine` is a world matrix, `field` is x + u(x) in the unit cube of `grid`."""

    grid: Grid
    affine: Array
    field: DisplacementField

    def apply(self, image: Prepared) -> Prepared:
        """`image` seen through the map, on `grid`; counted where it has voxels."""
        onto = affine_of(image.grid.unit_from_world @ self.affine @ self.grid.world_from_unit, self.field.displacement)
        points = onto(self.field.on_lattice()).to(image.values)
        steps_vox = [step / own for step, own in zip(self.grid.spacing_mm, image.grid.spacing_mm, strict=True)]
        return image.at(points, self.grid, steps_vox)

    def moved_mm(self, points_mm: Tensor) -> Tensor:
        """Points of the world [1, dim, *any] through the map."""
        world = self.grid.world_from_unit
        inner = affine_of(self.grid.unit_from_world, points_mm)
        return affine_of(self.affine @ world, points_mm)(_as(self.field, points_mm)(inner(points_mm)))

    def undone_mm(self, points_mm: Tensor) -> Tensor:
        """Points of the world [1, dim, *any] through the inverse of the map."""
        target = affine_of(self.grid.unit_from_world @ np.linalg.inv(self.affine), points_mm)(points_mm)
        field, found = _as(self.field, points_mm), target
        for _ in range(INVERSE_STEPS):  # of the fixed point, as u changes slowly
            found = found + target - field(found)
        return affine_of(self.grid.world_from_unit, points_mm)(found)


def random_perturbation(grid: Grid, seed: int, options: PerturbationOptions = PerturbationOptions()) -> Perturbation:
    """A `Perturbation` of images on `grid`; the same seed gives the same one."""
    random = torch.Generator().manual_seed(seed)
    affine = _random_rigid(grid, random, options)
    longest_vox = max(grid.extent_mm) / max(grid.spacing_mm)
    noise = smooth_noise(grid.shape, max(2.0, options.correlation * longest_vox), random, channels=grid.dim)
    step = torch.tensor([options.displacement_vox / (size - 1) for size in grid.shape]).view(1, -1, *(1,) * grid.dim)
    return Perturbation(grid, affine, DisplacementField(noise * step))


def _random_rigid(grid: Grid, random: torch.Generator, options: PerturbationOptions) -> Array:
    """A turn in every coordinate plane about the middle of `grid`, each by half the largest angle at least, and a shift."""
    planes = list(itertools.combinations(range(grid.dim), 2))
    draws = 2 * torch.rand(len(planes) + grid.dim, generator=random, dtype=torch.float64) - 1
    draws = torch.where(draws < 0, -0.5 + 0.5 * draws, 0.5 + 0.5 * draws)
    matrix, centre = np.eye(grid.dim), grid.centre_mm
    for (a, b), draw in zip(planes, draws.tolist(), strict=False):
        angle, turn = math.radians(options.degrees) * draw, np.eye(grid.dim)
        turn[[a, b], [a, b]] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    affine = np.eye(grid.dim + 1)
    affine[:-1, :-1] = matrix
    shift_mm = options.shift * max(grid.extent_mm) * draws[len(planes) :].numpy()
    affine[:-1, -1] = centre - matrix @ centre + shift_mm
    return affine


def _as(field: DisplacementField, like: Tensor) -> DisplacementField:
    return DisplacementField(field.displacement.to(like))
