"""A random map known in both directions, and how far a transform is from it.

It is the closest thing to ground truth that deformable registration has.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import identity_points, sample, vector_length
from ..geometry.smooth_noise import smooth_noise
from ..geometry.space import Array, Grid, affine_transform, displacements_mm, field_transform, grid_of, world_displacement
from .assessment import ErrorStatistics, error_statistics

_SAMPLE_POINTS = 200_000  # enough for a percentile


@dataclass(frozen=True)
class WarpOptions:
    """How a random `KnownMap` is drawn.

    Args:
        rotation_degrees: largest rotation about each axis through the image's centre.
        translation_mm: largest shift along each axis.
        displacement_mm: 95th percentile, over the image, of the deformation's velocity integrated over unit time.
        correlation_mm: standard deviation of the Gaussian that smooths the white noise; small is wriggly.
        margin_mm: how far around the image the deformation goes on, fading to nothing.
        lattice_mm: spacing of the displacement fields.
    """

    rotation_degrees: float = 4.0
    translation_mm: float = 6.0
    displacement_mm: float = 12.0
    correlation_mm: float = 20.0
    margin_mm: float = 40.0
    lattice_mm: float = 2.0

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "translation_mm", "displacement_mm"):
            require_in_range(name, getattr(self, name), minimum=0.0, is_minimum_allowed=True)
        for name in ("correlation_mm", "margin_mm", "lattice_mm"):
            require_in_range(name, getattr(self, name), minimum=0.0)


def require_in_range(
    name: str, value: float, *, minimum: float, maximum: float = math.inf, is_minimum_allowed: bool = False
) -> None:
    """Refuse an option's value outside its range.

    Raises:
        InputError: it is outside, or not finite.
    """
    is_low = value < minimum or (value == minimum and not is_minimum_allowed)
    if is_low or not value <= maximum or not math.isfinite(value):
        rule = f"{'at least' if is_minimum_allowed else 'more than'} {minimum:g}"
        rule += f" and at most {maximum:g}" if math.isfinite(maximum) else ""
        raise InputError(f"{name} is out of range; it must be {rule}, got {value:g}. Choose a value in the range.")


@dataclass(frozen=True)
class KnownMap:
    """A map known in both directions: T = rigid ∘ exp(v), and T⁻¹ = exp(-v) ∘ rigid⁻¹, in LPS mm.

    `moving_from_fixed` is T, `fixed_from_moving` is T⁻¹. Each displacement field fades to nothing at the edge of its
    lattice, beyond which only the rigid part acts, so both are defined everywhere. There and back misses by the error of
    linear interpolation between lattice points, about 0.01 mm with the default options.
    """

    moving_from_fixed: sitk.CompositeTransform
    fixed_from_moving: sitk.CompositeTransform


def random_map(grid: Grid, seed: int, options: WarpOptions = WarpOptions()) -> KnownMap:
    """A random `KnownMap` around the image lattice `grid`; the same seed gives the same map."""
    random = torch.Generator().manual_seed(seed)
    rigid = _random_rigid(grid.centre_mm, random, options)
    lattice = _lattice_around(grid, options)
    velocity = _random_velocity(lattice, random, options)
    forward, backward = (_flow(direction * velocity, lattice) for direction in (1.0, -1.0))
    return KnownMap(
        _chain(affine_transform(rigid), forward),
        _chain(backward, affine_transform(np.asarray(np.linalg.inv(rigid), dtype=np.float64))),
    )


def _chain(*transforms: sitk.Transform) -> sitk.CompositeTransform:
    """The last one acts first, as in a product of matrices."""
    composite = sitk.CompositeTransform(transforms[0].GetDimension())
    for transform in transforms:
        composite.AddTransform(transform)
    return composite


def _random_rigid(centre_mm: Array, random: torch.Generator, options: WarpOptions) -> Array:
    """Homogeneous matrix of a rotation in every coordinate plane about the centre, and a shift."""
    dim = len(centre_mm)
    planes = list(itertools.combinations(range(dim), 2))
    draws = (2 * torch.rand(len(planes) + dim, generator=random, dtype=torch.float64) - 1).numpy()
    rotation = np.eye(dim)
    for (a, b), draw in zip(planes, draws, strict=False):
        angle = math.radians(options.rotation_degrees) * draw
        turn = np.eye(dim)
        turn[[a, b], [a, b]] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = rotation
    matrix[:dim, dim] = centre_mm - rotation @ centre_mm + options.translation_mm * draws[len(planes) :]
    return matrix


def _lattice_around(grid: Grid, options: WarpOptions) -> Grid:
    """A lattice along the axes of `grid`, of `lattice_mm` spacing, that covers it and its margin."""
    step, dim = options.lattice_mm, grid.dim
    shape = tuple(math.ceil((extent + 2 * options.margin_mm) / step) + 1 for extent in grid.extent_mm)
    columns = step * grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = columns
    matrix[:-1, -1] = grid.centre_mm - columns @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, matrix)


def _random_velocity(lattice: Grid, random: torch.Generator, options: WarpOptions) -> Tensor:
    """Smooth random velocity on `lattice` that fades within the margin: [1, dim, *shape], unit-cube coordinates per unit time."""
    velocity = smooth_noise(lattice.shape, options.correlation_mm / options.lattice_mm, random, channels=lattice.dim)
    border = round(options.margin_mm / options.lattice_mm)
    inside = (..., *(slice(border, -border or None) for _ in lattice.shape))
    percentile = percentile_of(vector_length(velocity[inside], axis=1), 0.95)
    for axis, size in enumerate(lattice.shape):
        velocity = velocity * _along(axis, _fade(size, border), lattice.dim)
    edges_mm = torch.tensor(lattice.extent_mm, dtype=velocity.dtype).view(1, -1, *(1,) * lattice.dim)
    return velocity * (options.displacement_mm / percentile) / edges_mm


def _fade(size: int, border: int) -> Tensor:
    """1 inside, falling to 0 at both ends over `border` points as a raised cosine."""
    position = torch.arange(size)
    inward = (torch.minimum(position, size - 1 - position) / max(border, 1)).clamp(max=1.0)
    return 0.5 - 0.5 * torch.cos(math.pi * inward)


def _along(axis: int, values: Tensor, dim: int) -> Tensor:
    """A row of values [N] so shaped that it multiplies along one spatial axis of [1, C, *shape]."""
    return values.view(1, 1, *(-1 if d == axis else 1 for d in range(dim)))


def percentile_of(values: Tensor, fraction: float) -> float:
    """The value below which `fraction` of the values lie, from a sample of many."""
    flat = values.flatten()
    return float(torch.quantile(flat[:: max(1, flat.numel() // _SAMPLE_POINTS)], fraction))


def _flow(velocity: Tensor, lattice: Grid, *, steps: int = 2) -> sitk.DisplacementFieldTransform:
    """exp(v) by Runge-Kutta steps of fourth order at every lattice point, as a transform.

    Not by scaling and squaring: that interpolates the map again at each squaring, and the errors of forward and backward
    add up to three times those of this.
    """
    start = identity_points(lattice.shape, velocity)
    points, step = start, 1.0 / steps
    for _ in range(steps):
        first = sample(velocity, points)
        second = sample(velocity, points + 0.5 * step * first)
        third = sample(velocity, points + 0.5 * step * second)
        fourth = sample(velocity, points + step * third)
        points = points + (step / 6) * (first + 2 * second + 2 * third + fourth)
    return field_transform(world_displacement(points, lattice), lattice)


def error_mm(transform: sitk.Transform, known: KnownMap, mask: sitk.Image) -> ErrorStatistics:
    """How far `transform` takes the points of fixed from where `known.moving_from_fixed` takes them.

    Args:
        transform: estimated moving_from_fixed, LPS mm.
        mask: the voxels of fixed that count, those above 0; its grid is where the two are compared.

    Raises:
        InputError: the mask is empty.
    """
    inside = sitk.GetArrayViewFromImage(mask) > 0
    if not inside.any():
        raise InputError("The mask is empty; an error needs at least one voxel above 0. Check the mask.")
    estimated, true = (displacements_mm(one, grid_of(mask))[inside] for one in (transform, known.moving_from_fixed))
    distance = np.linalg.norm(estimated - true, axis=-1)
    return error_statistics(distance)
