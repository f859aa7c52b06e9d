"""Instance optimization of a registration whose maps are inverse to each other by construction, so that they stay so.

Not the displacements are refined, each direction for itself, but the innermost velocity of the network (`models.constricon_velocities`):
both images are carried to the middle once, and there one velocity, the network's plus one by cubic B-splines, registers them
both ways. Exchanged images have exchanged directions and start from minus the velocity, so that they end at minus the velocity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import GeometryError
from ..geometry.deformation import Affine, Composition, VelocityField, identity_points, jacobian_determinant
from ..geometry.field_pair import affine_of
from ..geometry.layered_points import Layered, LayeredPoints
from ..geometry.regularity import diffusion
from ..geometry.separable import interpolation_matrix, on
from ..geometry.space import Array, Grid
from ..losses.direction import DirectionOptions
from ..models.composition import BothWays, mapped_lattice
from ..models.constricon import affine_part
from ..models.constricon_velocities import Middle
from ..progress import StageReport
from .field_refinement import (
    SMALLEST_SIDE_VOX,
    FieldOptions,
    Level,
    LevelPair,
    Splines,
    coarse_to_fine,
    displacement_on_lattice,
    flat_gradient,
)
from .network_lattice import NetworkPair
from .optimizer import descend
from .prepare import Prepared
from .size import field_shape

DIFFUSION_WEIGHT = 0.1


def refine_velocity(
    maps: BothWays, pair: NetworkPair, images: tuple[Prepared, Prepared], options: FieldOptions, report: StageReport
) -> BothWays:
    """`maps` of a network for `pair`, fitted to `images` (fixed, moving) at their own resolution, or the coarser one's.

    The velocity lies on that lattice afterwards, or on the network's where it is finer. Regularity is the diffusion of the
    velocity, as in the loss of the paper; `options.gradicon_weight` does not count, for the inverse is known.

    Raises:
        GeometryError: the images do not overlap in the middle.
        RefinementError: the loss is not finite.
    """
    middle = Middle(maps)
    grid = middle_grid(pair, images)
    fixed, moving = in_the_middle(middle, grid, pair, images, conserve_mass=options.conserve_mass)
    shared = DirectionOptions(options.measure, moving_volume=1.0 if options.conserve_mass else None)
    coefficients, last = coarse_to_fine(
        1, fixed, moving, shared, options.steps, report,
        lambda coefficients, level, pair: _optimize(coefficients, level, pair, grid, middle, options),
    )  # fmt: skip
    finest = [max(sizes) for sizes in zip(field_shape(grid.shape), middle.flow.velocity.shape[2:], strict=True)]
    splines = Splines(last.intervals, finest, grid.extent_mm, fixed.values, middle.flow.velocity)
    with torch.no_grad():
        return middle.both_ways(splines.displacements(coefficients))


def affine_matrix_of(maps: BothWays) -> Array | None:
    """The affine part of moving_from_fixed by construction, homogeneous, in unit-cube coordinates; None where there is none."""
    affine = affine_part(maps).moving_from_fixed.maps
    if not affine:
        return None
    (one,) = affine
    assert isinstance(one, Affine)
    rows = one.matrix.detach().cpu().double().numpy()[0]
    return np.vstack([rows, np.eye(len(rows) + 1)[-1:]])


def middle_grid(pair: NetworkPair, images: tuple[Prepared, Prepared]) -> Grid:
    """A lattice of the middle with its spacing in mm; the same for the exchanged images.

    Each edge is the geometric mean of those of both cubes, with about as many voxels as the image that has fewer along it.
    """
    edges_mm = [np.linalg.norm(one.grid.world_from_unit[:-1, :-1], axis=0) for one in (pair.fixed, pair.moving)]
    voxels = [
        np.linalg.norm((np.linalg.inv(image.grid.world_from_voxel) @ seen.grid.world_from_unit)[:-1, :-1], axis=0)
        for image, seen in zip(images, (pair.fixed, pair.moving), strict=True)
    ]
    intervals = np.maximum(1, np.rint(np.minimum(*voxels)))
    return Grid(tuple(int(count) + 1 for count in intervals), np.diag([*(np.sqrt(edges_mm[0] * edges_mm[1]) / intervals), 1.0]))


@torch.no_grad()
def in_the_middle(
    middle: Middle, grid: Grid, pair: NetworkPair, images: tuple[Prepared, Prepared], *, conserve_mass: bool = False
) -> tuple[Prepared, Prepared]:
    """Fixed and moving carried to the lattice `grid` of the middle, counted where both have voxels.

    With `conserve_mass` their values, densities, are multiplied by the volumes that the way changes.

    Raises:
        GeometryError: that is nowhere.
    """
    ways = (middle.fixed_from_middle, middle.moving_from_middle)
    fixed, moving = (
        _carried(image, seen.grid.world_from_unit, way, grid, conserve_mass)
        for image, seen, way in zip(images, (pair.fixed, pair.moving), ways, strict=True)
    )
    if fixed.mask is None and moving.mask is None:
        return fixed, moving
    masks = [one.mask for one in (fixed, moving) if one.mask is not None]
    both = masks[0] & masks[-1]
    if not bool(both.any()):
        raise GeometryError(
            "fixed and moving, or their masks, do not overlap where the network puts them; at least one voxel must lie in both. "
            "Align the images beforehand (stages centre, rigid), or widen the masks."
        )
    return replace(fixed, mask=both), replace(moving, mask=both)


def _carried(image: Prepared, world_from_cube: Array, cube_from_middle: Composition, grid: Grid, conserve_mass: bool) -> Prepared:
    """The image at the lattice of the middle, from where a map leads to a unit cube of its world."""
    like = image.values
    image_from_cube = affine_of(image.grid.unit_from_world @ world_from_cube, like)
    points = image_from_cube(mapped_lattice(cube_from_middle, grid.shape, like))
    middle_vox = np.diag([*(1 / (size - 1) for size in grid.shape), 1.0])
    voxel_from_middle = np.linalg.inv(image.grid.world_from_voxel) @ world_from_cube @ middle_vox
    seen = image.at(points, grid, [float(step) for step in np.linalg.norm(voxel_from_middle[:-1, :-1], axis=1)])
    if not conserve_mass:
        return seen
    volume = float(abs(np.linalg.det(image.grid.world_from_unit)) / math.prod(grid.extent_mm))
    return replace(seen, values=seen.values * jacobian_determinant(points) * volume)


def _optimize(
    coefficients: Tensor, level: Level, pair: LevelPair, grid: Grid, middle: Middle, options: FieldOptions
) -> Iterator[int]:
    """Improve `coefficients` in place; yields the number of each step done.

    The flow is worked out at every second voxel of the level, and linear between: the splines' knots are farther apart.
    """
    squarings, like = middle.flow.squarings, pair.directions[0].sampled
    coarse = [min(size, max(SMALLEST_SIDE_VOX, (size + 1) // 2)) for size in level.shape]
    splines = Splines(level.intervals, coarse, grid.extent_mm, like, middle.flow.velocity)
    finer = on([interpolation_matrix(size, few) for size, few in zip(level.shape, coarse, strict=True)], like)

    def loss(sign: int, way: int) -> Tensor:
        velocity = splines.displacements(coefficients)
        flow = VelocityField(sign * velocity, squarings).displacement_field().displacement
        similarity = pair.directions[way].loss(LayeredPoints(level.shape, Layered.of(flow, finer)))
        if pair.labels is not None:
            moved = identity_points(pair.labels.shape, flow) + displacement_on_lattice(flow, pair.labels.shape)
            similarity = similarity + options.label_weight * pair.labels.loss(way, moved)
        return similarity + options.smoothness * DIFFUSION_WEIGHT * diffusion(velocity, extent=grid.extent_mm)

    spacing_mm = min(length / (size - 1) for length, size in zip(grid.extent_mm, level.shape, strict=True))
    flat = flat_gradient(coefficients, grid.extent_mm)
    losses = [partial(loss, 1, 0), partial(loss, -1, 1)]
    return descend(coefficients, losses, steps=level.steps, first_step=level.step_vox * spacing_mm, flat=flat)
