"""A registration corrected near pairs of landmarks: after it, a deformation of fixed that takes each pair to its place.

The deformation is the flow of a velocity: one that leads the points (`geometry/point_velocity.py`), and cubic B-splines on top of it, fitted to the
images while the points are held. So it cannot fold, its inverse is known, and beyond `REACH_MM` from all points it is nothing. What the
registration had found near a pair that it missed by far is made smooth first, for it was fitted to the wrong tissue.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import GeometryError
from ..geometry.deformation import (
    Composition,
    DisplacementField,
    Map,
    VelocityField,
    displacement_determinant,
    identity_points,
    sample,
    vector_length,
)
from ..geometry.field_pair import FieldPair, affine_of
from ..geometry.layered_points import Layered, LayeredPoints
from ..geometry.point_velocity import Points, nearness, velocity_through
from ..geometry.regularity import diffusion
from ..geometry.separable import apply_along_axes, interpolation_matrix, on, replicating_blur_matrix
from ..geometry.space import Array, Grid
from ..losses.direction import Direction, DirectionOptions
from ..losses.measure import Measure
from ..progress import StageReport
from .aligned_pair import counted_in_both
from .deforming import of_objects
from .field_refinement import SMALLEST_SIDE_VOX, Level, LevelPair, Splines, coarse_to_fine, displacement_on_lattice, flat_gradient
from .landmark_outliers import followed
from .landmark_pairs import LandmarkPairs
from .measures import FIELD_STIFFNESS
from .method import Solution
from .optimizer import descend
from .prepare import Prepared, resized

# How far around the points a correction reaches, and within what distance it is free.
REACH_MM, FREE_MM = 58.0, 36.0
# The reach of the kernels that lead the points grows with how far these go, as what lies around an organ moves with it: at a quarter
# of the reach half of a displacement is left.
KERNEL_MM, KERNEL_SHARE, WIDEST_KERNEL_MM = 40.0, 2.5, 100.0
# The region is worked on with so many voxels at most; its velocity is led through the points on a lattice of so many.
MOST_VOXELS, VELOCITY_POINTS = 250_000, 20_000
# What the others make of a pair that is left out is found on so many, from images of this spacing or coarser ones.
LEFT_OUT_VOXELS, LEFT_OUT_MM, LEFT_OUT_STEP_SHARE = 30_000, 3.0, 0.25
# Each pair is left out in turn; of more, groups are.
MOST_LEFT_OUT = 6
# Where a pair is missed by more, what was found is made smooth: wholly within a distance, and less and less up to the reach. In
# several passes, as one alone would fold what lies between.
FORGOTTEN_MM, SMOOTH_MM, SMOOTHINGS, FORGOTTEN_WITHIN_MM = 5.0, 24.0, 4, 20.0
# By this share of it, or by the first of the next ones at which no volume shrinks below the limit that had not before.
FORGOTTEN_SHARES, LEAST_DETERMINANT = (1.0, 0.5, 0.25), 0.02
DIFFUSION_WEIGHT = 0.1
# Of the pull: of all pairs together, beside the similarity of the region.
PULL_WEIGHT = 0.3
STEPS = 36
SQUARINGS = 6
# Of the search for the place of fixed that a map takes to a given one.
INVERSION_STEPS = 40
# A cube of points around a place in which images are compared.
PATCH_SIDE, PATCH_STEP_MM = 9, 2.5


@dataclass(frozen=True)
class CorrectionOptions:
    """How a correction is found.

    Attributes:
        measure: the similarity, judged in both directions.
        smoothness: factor on the regularity.
        with_left_out: the pairs are left out in turn, to see how well the others tell where they belong.
    """

    measure: Measure
    smoothness: float = 1.0
    with_left_out: bool = True


@dataclass(frozen=True, eq=False)
class Corrected:
    """A corrected solution.

    Attributes:
        followed: which pairs were followed, [N].
        missed_mm: by how much the solution had missed each pair, [N].
        left_out_mm: by how much the correction misses each pair when it is left out, [N]; None where that was not found.
        groups: how many times pairs were left out.
    """

    solution: Solution
    followed: NDArray[np.bool_]
    missed_mm: Points
    left_out_mm: Points | None
    groups: int


def corrected(
    fixed: Prepared,
    moving: Prepared,
    solution: Solution,
    pairs: LandmarkPairs,
    options: CorrectionOptions,
    report: StageReport,
) -> Corrected:
    """The solution of a pair of images, corrected so that it takes each of the `pairs` to its place; as it is where it does so already.

    Raises:
        RefinementError: the loss is not finite.
    """
    base = _Base.of(solution)
    missed = base.missed_mm(pairs)
    asked = base.back_mm(pairs.moving_mm) - pairs.fixed_mm
    look = partial(_alike, fixed, moving, base, pairs)
    taken = followed(pairs.fixed_mm, asked, look)
    chosen = pairs.only(np.flatnonzero(taken))
    groups = _groups(len(chosen)) if options.with_left_out else []
    if not len(chosen) or missed[taken].max() <= pairs.tolerance_mm:
        # The images have it as exactly as the pairs were placed, whichever of them is left out.
        report(1.0)
        return Corrected(solution, taken, missed, np.where(taken, missed, np.nan) if groups else None, len(groups))
    share = 1.0 / (1 + 0.25 * len(groups))
    problem = _Problem(fixed, moving, solution, options)
    found, corrected_base = problem.solved(base, chosen, MOST_VOXELS, STEPS, lambda done: report(share * done))
    left_out = np.full(len(pairs), np.nan)
    coarse = replace(problem, fixed=resized(fixed, LEFT_OUT_MM), moving=resized(moving, LEFT_OUT_MM))
    for number, group in enumerate(groups):
        part = chosen.only(np.setdiff1d(np.arange(len(chosen)), group))
        flow, rough = coarse.solved(base, part, LEFT_OUT_VOXELS, math.ceil(LEFT_OUT_STEP_SHARE * STEPS), lambda _: None)
        out = chosen.only(group)
        left_out[np.flatnonzero(taken)[group]] = rough.missed_mm(out, flow.moved_mm(out.fixed_mm))
        report(share + (1 - share) * (number + 1) / len(groups))
    report(1.0)
    return Corrected(_composed(solution, corrected_base, found), taken, missed, left_out if groups else None, len(groups))


def _groups(count: int) -> list[NDArray[np.intp]]:
    """Which pairs are left out together; one alone cannot be, as nothing would be left."""
    if count < 2:
        return []
    groups = min(count, MOST_LEFT_OUT)
    return [np.arange(first, count, groups) for first in range(groups)]


@dataclass(frozen=True, eq=False)
class _Base:
    """What is corrected: displacements [1, dim, *grid.shape] of the unit cube of `grid`, both ways, and the affine that follows."""

    grid: Grid
    forward: Tensor
    backward: Tensor
    alignment: Array

    @classmethod
    def of(cls, solution: Solution) -> _Base:
        fields = solution.fields
        return cls(fields.grid, fields.moving_from_fixed.displacement, fields.fixed_from_moving.displacement, solution.alignment)

    def there_mm(self, points_mm: Points) -> Points:
        """Points of fixed in moving."""
        unit = _tensor(points_mm, self.grid.unit_from_world)
        return _points(DisplacementField(self.forward.double().cpu())(unit), self.alignment @ self.grid.world_from_unit)

    def back_mm(self, points_mm: Points) -> Points:
        """Points of moving in fixed: what is taken nearest to them, as the way back is known only nearly."""
        target = _tensor(points_mm, self.grid.unit_from_world @ np.linalg.inv(self.alignment))
        there, back = (DisplacementField(one.double().cpu()) for one in (self.forward, self.backward))
        lengths = torch.tensor(self.grid.extent_mm, dtype=torch.float64).view(1, -1, 1)
        best = found = back(target)
        least = torch.full_like(target[:, :1], math.inf)
        for step in range(INVERSION_STEPS):
            missing = target - there(found)
            off = vector_length(missing * lengths)
            best, least = torch.where(off < least, found, best), torch.minimum(off, least)
            found = best + (target - there(best)) * (1.0 if step < INVERSION_STEPS // 2 else 0.4)
        return _points(best, self.grid.world_from_unit)

    def missed_mm(self, pairs: LandmarkPairs, from_mm: Points | None = None) -> Points:
        """How far from its partner each point of fixed is taken, from where it lies or from `from_mm`: [N]."""
        off: Points = self.there_mm(pairs.fixed_mm if from_mm is None else from_mm) - pairs.moving_mm
        return np.linalg.norm(off, axis=1)

    def on(self, grid: Grid) -> _Base:
        """The same on another lattice."""
        fields = FieldPair(self.grid, DisplacementField(self.forward), DisplacementField(self.backward)).on(grid)
        return _Base(grid, fields.moving_from_fixed.displacement, fields.fixed_from_moving.displacement, self.alignment)

    def forgetting(self, pairs: LandmarkPairs) -> _Base:
        """Smooth around the pairs that it misses by far, as far as nothing folds by that."""
        missed = self.missed_mm(pairs)
        wrong = pairs.fixed_mm[missed > max(FORGOTTEN_MM, 3 * pairs.tolerance_mm)]
        if not len(wrong):
            return self
        weight = _near(self.grid, wrong, self.forward, FORGOTTEN_WITHIN_MM, REACH_MM)
        least = min(LEAST_DETERMINANT, _least_determinant(self.forward))
        smoother = (self._smoothed(share * weight) for share in FORGOTTEN_SHARES)
        return next((one for one in smoother if _least_determinant(one.forward) >= least), self)

    def _smoothed(self, weight: Tensor) -> _Base:
        """Smooth where `weight` [1, 1, *grid.shape] is 1, as it is where it is 0."""
        sigmas = [SMOOTH_MM / math.sqrt(SMOOTHINGS) / step for step in self.grid.spacing_mm]
        blurs = on([replicating_blur_matrix(size, sigma) for size, sigma in zip(self.grid.shape, sigmas, strict=True)], weight)
        both = torch.cat([self.forward, self.backward])
        for _ in range(SMOOTHINGS):
            both = torch.lerp(both, apply_along_axes(both, blurs), weight)
        return _Base(self.grid, both[:1], both[1:], self.alignment)


def _least_determinant(displacement: Tensor) -> float:
    """Of a map of the unit cube, [1, dim, *shape]."""
    steps = displacement.new_tensor([size - 1 for size in displacement.shape[2:]]).view(1, -1, *(1,) * (displacement.dim() - 2))
    return float(displacement_determinant(displacement * steps).min())


@dataclass(frozen=True, eq=False)
class _Flow:
    """The correction: displacements [1, dim, *grid.shape] of the unit cube of `grid`, a part of fixed, inverse to each other."""

    grid: Grid
    forward: Tensor
    backward: Tensor

    def moved_mm(self, points_mm: Points) -> Points:
        """Points of fixed after the correction."""
        unit = _tensor(points_mm, self.grid.unit_from_world)
        return _points(DisplacementField(self.forward.double().cpu())(unit), self.grid.world_from_unit)

    def maps(self, cube: Grid, like: Tensor) -> tuple[Map, Map]:
        """Both ways as maps of the unit cube of another grid, with dtype and device of `like`."""
        own_from_cube = self.grid.unit_from_world @ cube.world_from_unit
        outer, inner = (affine_of(one, like) for one in (np.linalg.inv(own_from_cube), own_from_cube))
        forward, backward = (
            Composition((outer, DisplacementField(one.to(like)), inner)) for one in (self.forward, self.backward)
        )
        return forward, backward


@dataclass(frozen=True, eq=False)
class _Problem:
    """A pair of images and what was found for it."""

    fixed: Prepared
    moving: Prepared
    solution: Solution
    options: CorrectionOptions

    def solved(self, base: _Base, pairs: LandmarkPairs, most_voxels: int, steps: int, report: StageReport) -> tuple[_Flow, _Base]:
        """The correction for these pairs, and what it comes before: `base`, or what is left of it."""
        region = _region(self.fixed.grid, np.concatenate([pairs.fixed_mm, base.back_mm(pairs.moving_mm)]), most_voxels)
        whole = base if most_voxels == MOST_VOXELS else base.on(region)
        # An inverse that is known by construction stays so.
        kept = whole.forgetting(pairs) if self.solution.inverse is None else whole
        ends_mm = kept.back_mm(pairs.moving_mm)
        led = _led(region, pairs, ends_mm, self.fixed.values)
        free = _near(region, pairs.fixed_mm, self.fixed.values, FREE_MM, REACH_MM)
        fit = _Fit(region, led, free, pairs, ends_mm, self.options)
        velocity = fit.velocity(self._sides(region, kept), steps, report)
        both = VelocityField(torch.cat([velocity, -velocity]), SQUARINGS).displacement_field().displacement
        return _Flow(region, both[:1], both[1:]), kept

    def _sides(self, region: Grid, base: _Base) -> tuple[Prepared, Prepared] | None:
        """Fixed, and moving as `base` brings it there, counted where both show an object; None where they do not meet."""
        like = self.fixed.values
        there = base.on(region)
        onto = affine_of(self.moving.grid.unit_from_world @ self.solution.alignment @ region.world_from_unit, like)
        points = onto(identity_points(region.shape, like) + there.forward.to(like))
        steps_vox = [step / own for step, own in zip(region.spacing_mm, self.moving.grid.spacing_mm, strict=True)]
        seen = replace(self.moving, labels=None).at(points, region, steps_vox)
        own = replace(self.fixed, labels=None).carried(region)
        try:
            sides, _ = of_objects(self.fixed, self.moving, counted_in_both(own, seen), self.solution.alignment)
        except GeometryError:
            return None
        return sides


def _region(grid: Grid, places_mm: Points, most_voxels: int) -> Grid:
    """The part of fixed that the correction reaches, on a lattice of at most so many voxels."""
    voxels = (places_mm - grid.world_from_voxel[:-1, -1]) @ np.linalg.inv(grid.world_from_voxel[:-1, :-1]).T
    reach = (REACH_MM + 2.0) / np.array(grid.spacing_mm)
    first = np.floor(voxels.min(axis=0) - reach).clip(0).astype(int)
    last = np.minimum(np.ceil(voxels.max(axis=0) + reach).astype(int), np.array(grid.shape) - 1)
    part = grid.cropped([slice(int(one), int(other) + 1) for one, other in zip(first, last, strict=True)])
    coarser = max(1.0, (math.prod(part.shape) / most_voxels) ** (1 / grid.dim))
    if coarser == 1.0:
        return part
    step = coarser * min(part.spacing_mm)
    shape = [
        min(size, max(SMALLEST_SIDE_VOX, round(length / step) + 1))
        for size, length in zip(part.shape, part.extent_mm, strict=True)
    ]
    return part.spanned(shape)


def _coarse(grid: Grid, most_points: int) -> Grid:
    """The same unit cube with fewer points, if it has more."""
    coarser = max(1.0, (math.prod(grid.shape) / most_points) ** (1 / grid.dim))
    return grid.spanned([min(size, max(SMALLEST_SIDE_VOX, round((size - 1) / coarser) + 1)) for size in grid.shape])


def _lattice_mm(grid: Grid) -> Points:
    """[points, dim]"""
    return _points(identity_points(grid.shape, torch.zeros((), dtype=torch.float64)).flatten(2), grid.world_from_unit)


def _led(region: Grid, pairs: LandmarkPairs, ends_mm: Points, like: Tensor) -> Tensor:
    """The velocity that leads the points, [1, dim, *shape] on a coarse lattice of the region, in its unit cube."""
    coarse = _coarse(region, VELOCITY_POINTS)
    farthest = float(np.linalg.norm(ends_mm - pairs.fixed_mm, axis=1).max())
    reach_mm = min(WIDEST_KERNEL_MM, KERNEL_MM + KERNEL_SHARE * farthest)
    velocity = velocity_through(pairs.fixed_mm, ends_mm, _lattice_mm(coarse), reach_mm=reach_mm, noise_mm=pairs.tolerance_mm)
    unit = velocity @ region.unit_from_world[:-1, :-1].T
    return torch.from_numpy(unit.T.reshape(1, region.dim, *coarse.shape)).to(like)


def _near(grid: Grid, points_mm: Points, like: Tensor, within_mm: float, beyond_mm: float) -> Tensor:
    """1 near the points and 0 far from them (see `nearness`): [1, 1, *grid.shape]."""
    coarse = _coarse(grid, VELOCITY_POINTS)
    weight = nearness(_lattice_mm(coarse), points_mm, full_mm=within_mm, none_mm=beyond_mm - max(coarse.spacing_mm))
    return displacement_on_lattice(torch.from_numpy(weight.reshape(1, 1, *coarse.shape)).to(like), grid.shape)


@dataclass(frozen=True, eq=False)
class _Fit:
    """The velocity of a correction in the making: `led` leads the points, splines follow the images where it is `free`."""

    region: Grid
    led: Tensor
    free: Tensor
    pairs: LandmarkPairs
    ends_mm: Points
    options: CorrectionOptions

    def velocity(self, sides: tuple[Prepared, Prepared] | None, steps: int, report: StageReport) -> Tensor:
        """[1, dim, *shape of the region], in its unit cube; without images to look at that which leads the points."""
        shape = self.region.shape
        led = displacement_on_lattice(self.led, shape) * self.free
        if sides is None or not steps:
            return led
        coefficients, last = coarse_to_fine(
            1, *sides, DirectionOptions(self.options.measure), steps, report, self._optimize
        )  # fmt: skip
        splines = Splines(last.intervals, shape, self.region.extent_mm, led, None)
        with torch.no_grad():
            return led + self.free * splines.displacements(coefficients.detach())

    def _optimize(self, coefficients: Tensor, level: Level, pair: LevelPair) -> Iterator[int]:
        """Improve `coefficients` in place; yields the number of each step done. The flow is linear between every second voxel."""
        directions = pair.directions
        like, extent = directions[0].sampled, self.region.extent_mm
        coarse = [min(size, max(SMALLEST_SIDE_VOX, (size + 1) // 2)) for size in level.shape]
        splines = Splines(level.intervals, coarse, extent, like, None)
        free = displacement_on_lattice(self.free, coarse)
        led = displacement_on_lattice(self.led, coarse) * free
        finer = on([interpolation_matrix(size, few) for size, few in zip(level.shape, coarse, strict=True)], like)
        starts, ends = (_tensor(points, self.region.unit_from_world).to(like) for points in (self.pairs.fixed_mm, self.ends_mm))
        smoothness = self.options.smoothness * DIFFUSION_WEIGHT * FIELD_STIFFNESS.get(self.options.measure.name, 1.0)

        def loss(sign: int, direction: Direction, points: Tensor, partners: Tensor) -> Tensor:
            velocity = led + free * splines.displacements(coefficients)
            flow = VelocityField(sign * velocity, SQUARINGS).displacement_field().displacement
            similarity = direction.loss(LayeredPoints(level.shape, Layered.of(flow, finer)))
            pull = PULL_WEIGHT * self._pull(points + sample(flow, points) - partners)
            return similarity + smoothness * diffusion(velocity, extent=extent) + pull

        spacing_mm = min(length / (size - 1) for length, size in zip(extent, level.shape, strict=True))
        losses = [partial(loss, 1, directions[0], starts, ends), partial(loss, -1, directions[1], ends, starts)]
        flat = flat_gradient(coefficients, extent)
        return descend(coefficients, losses, steps=level.steps, first_step=level.step_vox * spacing_mm, flat=flat)

    def _pull(self, off: Tensor) -> Tensor:
        """Of points [1, dim, N] that are off by so much of the unit cube: square of the tolerance within it, linear beyond."""
        lengths = off.new_tensor(self.region.extent_mm).view(1, -1, 1)
        shares = (off * lengths / self.pairs.tolerance_mm).square().sum(dim=1)
        return ((1 + shares).sqrt() - 1).mean()


def _composed(solution: Solution, base: _Base, flow: _Flow) -> Solution:
    """The solution with the correction before it."""
    fields = solution.fields
    forward, backward = flow.maps(fields.grid, base.forward)
    lattice = identity_points(fields.grid.shape, base.forward)
    moved = DisplacementField(base.forward)(forward(lattice)) - lattice
    back = backward(lattice + base.backward) - lattice
    inverse = None if solution.inverse is None else Composition((backward, solution.inverse))
    return replace(solution, fields=FieldPair(fields.grid, DisplacementField(moved), DisplacementField(back)), inverse=inverse)


def _alike(fixed: Prepared, moving: Prepared, base: _Base, pairs: LandmarkPairs, number: int) -> tuple[float, float]:
    """How much the images look alike around a pair where the base has it, and where the pair has it (see `pair_judgement`)."""
    dim = fixed.grid.dim
    line = (np.arange(PATCH_SIDE) - PATCH_SIDE // 2) * PATCH_STEP_MM
    patch = np.stack(np.meshgrid(*[line] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    place = pairs.fixed_mm[number]
    partner = base.back_mm(pairs.moving_mm[number : number + 1])[0]
    seen = _values(fixed, place + patch)
    step = 2 * pairs.tolerance_mm
    shifts = step * np.array(list(itertools.product((-1, 0, 1), repeat=dim)))

    def best(centre: Points) -> float:
        return max(_correlation(seen, _values(moving, base.there_mm(centre + shift + patch))) for shift in shifts)

    return best(place), best(partner)


def _values(image: Prepared, points_mm: Points) -> Points:
    unit = _tensor(points_mm, image.grid.unit_from_world)
    return sample(image.values.double().cpu(), unit)[0, 0].numpy()


def _correlation(one: Points, other: Points) -> float:
    a, b = one - one.mean(), other - other.mean()
    return abs(float((a * b).sum() / math.sqrt(max(float((a * a).sum() * (b * b).sum()), 1e-12))))


def _tensor(points_mm: Points, unit_from_world: Array) -> Tensor:
    """Points of the world [N, dim] as [1, dim, N] of a unit cube, float64 on the CPU."""
    unit = points_mm @ unit_from_world[:-1, :-1].T + unit_from_world[:-1, -1]
    return torch.from_numpy(np.ascontiguousarray(unit.T))[None]


def _points(unit: Tensor, world_from_unit: Array) -> Points:
    """[1, dim, N] of a unit cube as points of the world [N, dim]."""
    points: Points = unit[0].cpu().numpy().T @ world_from_unit[:-1, :-1].T + world_from_unit[:-1, -1]
    return points
