"""Instance optimization of the field: both directions of the deformation, coarse to fine, regularised by GradICON.

The pair lies on one lattice (moving already resampled through the alignment), so that both maps live in one unit cube.
Each direction is a displacement to start from (a network's, say) plus one by cubic B-splines, whose knots come closer from
level to level, up to the image's resolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..devices import threads_for
from ..errors import InputError
from ..geometry.deformation import DisplacementField, identity_points, sample
from ..geometry.field_pair import FieldPair
from ..geometry.layered_points import Layered, LayeredPoints
from ..geometry.pyramid import pyramid
from ..geometry.regularity import gradicon_on_lattice
from ..geometry.separable import (
    apply_along_axes,
    bspline_change_matrix,
    bspline_matrix,
    interpolation_matrix,
    on,
    replicating_blur_matrix,
)
from ..geometry.space import Array, Grid
from ..losses.direction import Direction, DirectionOptions, Side, both_directions
from ..losses.label_codes import CodePair, code_pairs
from ..losses.measure import Measure
from ..progress import StageReport
from .aligned_pair import counted_in_both, seen_on_fixed
from .measures import FIELD_STIFFNESS, label_weight
from .method import Asked
from .optimizer import descend
from .prepare import Prepared
from .size import COARSEST_SIDE_VOX, field_shape
from .volume import mask_of

SMALLEST_SIDE_VOX = 8
# Loss per length of the image's longest edge, shared out among the knots, below which Adam does not stretch a gradient to a full
# step: without it an image in place would be pushed about by rounding, and background by noise.
FLAT_GRADIENT = 1.0
START_SIGMA_VOX = 1.5
# Labels of larger images are compared on a lattice half as fine.
MOST_LABEL_VOXELS = 2**19


@dataclass(frozen=True)
class FieldOptions:
    """How the field is optimized.

    Attributes:
        measure: the similarity, judged in both directions.
        smoothness: factor on the regularity terms; 1 is the default, larger is smoother.
        steps: steps at each level but the finest, which takes a quarter of them.
        gradicon_weight: λ of the GradICON term.
        label_weight: of the labels where both images carry some.
        conserve_mass: values are densities, which fall where tissue grows (CT of lungs).
    """

    measure: Measure
    smoothness: float = 1.0
    steps: int = 24
    gradicon_weight: float = 3.0
    label_weight: float = 1.0
    conserve_mass: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smoothness) and self.smoothness > 0):
            raise InputError(
                f"smoothness is {self.smoothness:g}; it must be above 0 (1 is the default, larger is smoother). Choose another."
            )
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}; it must be 0 (no refinement) or more. Choose another.")


def field_options(asked: Asked) -> FieldOptions:
    """What was asked of the field.

    Raises:
        InputError: smoothness or steps break their rules.
    """
    options = FieldOptions(
        asked.measure, smoothness=asked.smoothness, label_weight=label_weight(asked.measure), conserve_mass=asked.conserve_mass
    )
    steps = asked.steps_of("field")
    return options if steps is None else replace(options, steps=steps)


@dataclass(frozen=True)
class Level:
    """One stage: lattice of the images, knot intervals of the splines, steps, and the length of the first step in voxels."""

    shape: tuple[int, ...]
    intervals: tuple[int, ...]
    steps: int
    step_vox: float


def levels_for(shape: Sequence[int], spacing_mm: Sequence[float], steps: int) -> list[Level]:
    """From at most 28 voxels a side to the image's own lattice, halving the spacing each time; the coarser ones first."""
    finest_mm = min(spacing_mm)
    extent_mm = [step * (size - 1) for step, size in zip(spacing_mm, shape, strict=True)]
    doublings = max(0, math.ceil(math.log2(max(extent_mm) / finest_mm / COARSEST_SIDE_VOX)))
    levels = []
    for doubling in range(doublings, -1, -1):
        spacing = finest_mm * 2**doubling
        lattice = tuple(
            min(size, max(SMALLEST_SIDE_VOX, round(extent / spacing) + 1)) for size, extent in zip(shape, extent_mm, strict=True)
        )
        for knot_vox, share, step_vox in _passes(is_coarsest=doubling == doublings, is_finest=doubling == 0):
            intervals = tuple(
                min(size - 1, max(1, round(extent / (knot_vox * spacing))))
                for size, extent in zip(lattice, extent_mm, strict=True)
            )
            levels.append(Level(lattice, intervals, math.ceil(share * steps), step_vox))
    return levels


def _passes(*, is_coarsest: bool, is_finest: bool) -> list[tuple[float, float, float]]:
    """Knot distance in voxels, share of the steps, step length in voxels, for each pass at a level."""
    if is_finest and not is_coarsest:
        return [(4, 0.25, 0.25)]
    if is_coarsest:
        return [(3, 0.75, 0.2)]
    return [(4, 1, 0.25), (3, 1, 0.2)]


def refine_aligned(
    fixed: Prepared,
    moving: Prepared,
    alignment: Array,
    options: FieldOptions,
    report: StageReport,
    *,
    start: FieldPair | None = None,
) -> FieldPair:
    """The deformation of fixed that goes before the world matrix `alignment`; as `refine_field` otherwise.

    Raises:
        GeometryError: the images do not overlap.
        RefinementError: the loss is not finite.
    """
    sides = counted_in_both(fixed, seen_on_fixed(moving, fixed.grid, alignment))
    return refine_field(*sides, options, report, start=start, moving_volume=float(abs(np.linalg.det(alignment))))


def refine_field(
    fixed: Prepared,
    moving: Prepared,
    options: FieldOptions,
    report: StageReport,
    *,
    start: FieldPair | None = None,
    moving_volume: float = 1.0,
    weight: float = 1.0,
) -> FieldPair:
    """The deformation between two images on one lattice; both directions on one that holds them (`lattice_of_field`).

    Args:
        start: what to begin with; None is the identity.
        moving_volume: how much larger the lattice is where moving was sampled, which counts where mass is conserved.
        weight: of the similarity, beside the regularity.

    Raises:
        RefinementError: the loss is not finite.
    """
    grid = fixed.grid
    assert moving.grid.shape == grid.shape, "fixed and moving must lie on one lattice"
    held = lattice_of_field(grid)
    begun = None if start is None else _smoothed(start.on(held).displacements(), grid.shape)
    volume = moving_volume if options.conserve_mass else None
    shared = DirectionOptions(options.measure, moving_volume=volume, weight=weight)
    coefficients, finest = coarse_to_fine(
        2, fixed, moving, shared, options.steps, report,
        lambda coefficients, level, pair: _optimize(coefficients, level, pair, grid.extent_mm, options, begun),
    )  # fmt: skip
    splines = Splines(finest.intervals, held.shape, grid.extent_mm, fixed.values, begun)
    both = splines.displacements(coefficients.detach())
    return FieldPair(held, DisplacementField(both[:1]), DisplacementField(both[1:]))


def lattice_of_field(grid: Grid) -> Grid:
    """That on which the deformation of images on `grid` is held: their own, or, of large ones, half as fine, as splines are smooth."""
    return grid.spanned(field_shape(grid.shape))


def _smoothed(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """Without what the finest splines, on images of `shape`, could neither mend nor judge: folds between their knots."""
    sizes = zip(displacement.shape[2:], shape, strict=True)
    blurs = [replicating_blur_matrix(size, START_SIGMA_VOX * (size - 1) / (own - 1)) for size, own in sizes]
    return apply_along_axes(displacement, on(blurs, displacement))


@dataclass(frozen=True)
class LevelPair:
    """Both images on the lattice of a level, to be compared either way, and the codes of their labels (None: no labels) on one of their own."""

    directions: tuple[Direction, Direction]
    labels: CodePair | None


def coarse_to_fine(
    ways: int,
    fixed: Prepared,
    moving: Prepared,
    shared: DirectionOptions,
    steps: int,
    report: StageReport,
    optimize: Callable[[Tensor, Level, LevelPair], Iterator[int]],
) -> tuple[Tensor, Level]:
    """Coefficients [ways, dim, *intervals + 3] of splines, 0 at first, that `optimize` has improved on each level; and the last level.

    `fixed` and `moving` lie on one lattice. `optimize` changes the coefficients in place and yields the number of each step done.
    """
    grid = fixed.grid
    levels = levels_for(grid.shape, grid.spacing_mm, steps)
    total = sum(math.prod(level.shape) * level.steps for level in levels) or 1
    coefficients, done = torch.zeros(ways, grid.dim, *(1,) * grid.dim), 0
    shapes = list(dict.fromkeys(level.shape for level in reversed(levels)))
    sides, labels = sides_on(shapes, fixed, moving), _codes_on(shapes, fixed, moving)
    previous: Level | None = None
    for level in levels:
        coefficients = _carried_over(coefficients, previous, level, like=fixed.values)
        if previous is None or previous.shape != level.shape:
            pair = LevelPair(both_directions(*sides[level.shape], shared), labels.get(level.shape))
        with threads_for(math.prod(level.shape)):
            for step in optimize(coefficients, level, pair):
                report((done + math.prod(level.shape) * step) / total)
        done += math.prod(level.shape) * level.steps
        previous = level
    assert previous is not None
    return coefficients, previous


def _carried_over(coefficients: Tensor, previous: Level | None, level: Level, *, like: Tensor) -> Tensor:
    """The same displacements (in mm) as splines of the next level, ready to be optimized; zeros for the first."""
    if previous is None:
        shape = [*coefficients.shape[:2], *(count + 3 for count in level.intervals)]
        return torch.zeros(shape, dtype=like.dtype, device=like.device, requires_grad=True)
    changes = [bspline_change_matrix(new, old) for new, old in zip(level.intervals, previous.intervals, strict=True)]
    return apply_along_axes(coefficients.detach(), on(changes, like)).requires_grad_()


class Splines:
    """Displacements, or velocities, on one lattice: `begun` [B, dim, *any] (None: nothing), and cubic B-splines on top of it.

    The splines have `intervals` between their knots along each axis.
    """

    def __init__(
        self, intervals: Sequence[int], shape: Sequence[int], extent_mm: Sequence[float], like: Tensor, begun: Tensor | None
    ) -> None:
        self._shape = tuple(shape)
        self._matrices = on([bspline_matrix(size, count) for size, count in zip(shape, intervals, strict=True)], like)
        self._lengths = like.new_tensor(extent_mm).view(1, -1, *(1,) * len(shape))
        self._begun = begun
        ways = [] if begun is None else begun.split(1)
        self._begun_layers = [Layered.of(one, _matrices_to(shape, one)) for one in ways]

    def moved(self, coefficients: Tensor, way: int) -> LayeredPoints:
        """The lattice moved by one of the ways, made a few layers at a time."""
        added = Layered.of(coefficients[way : way + 1] / self._lengths, self._matrices)
        return LayeredPoints(self._shape, added, self._begun_layers[way] if self._begun_layers else None)

    def displacements(self, coefficients: Tensor, ways: slice = slice(None)) -> Tensor:
        """Coefficients in mm [B, dim, *intervals + 3] to displacements in unit-cube coordinates [B, dim, *shape]; or some of the `ways`."""
        added = apply_along_axes(coefficients[ways] / self._lengths, self._matrices)
        return added if self._begun is None else added + displacement_on_lattice(self._begun[ways], self._shape)


def displacement_on_lattice(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """The same displacement on another lattice of the same unit cube."""
    if displacement.shape[2:] == torch.Size(shape):
        return displacement
    return apply_along_axes(displacement, _matrices_to(shape, displacement))


def _matrices_to(shape: Sequence[int], values: Tensor) -> list[Tensor]:
    return on([interpolation_matrix(new, old) for new, old in zip(shape, values.shape[2:], strict=True)], values)


def sides_on(shapes: Sequence[tuple[int, ...]], fixed: Prepared, moving: Prepared) -> dict[tuple[int, ...], tuple[Side, Side]]:
    """Both images on each of the lattices, which are named finest first."""
    images = [pyramid(one.values, shapes) for one in (fixed, moving)]
    shares = [None if one.mask is None else pyramid(one.mask, shapes) for one in _differing(fixed, moving)]
    sides = {}
    for place, shape in enumerate(shapes):
        masks = [None if one is None else one[place] if one[place].dtype == torch.bool else mask_of(one[place]) for one in shares]
        sides[shape] = Side(images[0][place], masks[0]), Side(images[1][place], masks[-1])
    return sides


def _codes_on(shapes: Sequence[tuple[int, ...]], fixed: Prepared, moving: Prepared) -> dict[tuple[int, ...], CodePair]:
    """The labels for each of the lattices of images, finest first; of large ones on the next coarser, which holds what is so smooth."""
    if fixed.labels is None or moving.labels is None:
        return {}
    pairs = itertools.pairwise([*shapes, shapes[-1]])
    own = {shape: shape if math.prod(shape) <= MOST_LABEL_VOXELS else coarser for shape, coarser in pairs}
    lattices = list(dict.fromkeys(own.values()))
    found = dict(zip(lattices, code_pairs(fixed.labels, moving.labels, lattices), strict=True))
    return {shape: found[lattice] for shape, lattice in own.items()}


def _differing(fixed: Prepared, moving: Prepared) -> list[Prepared]:
    """Those of the two that have a mask of their own: one where they share it."""
    return [fixed] if fixed.mask is moving.mask else [fixed, moving]


def _optimize(
    coefficients: Tensor,
    level: Level,
    pair: LevelPair,
    extent_mm: Sequence[float],
    options: FieldOptions,
    begun: Tensor | None,
) -> Iterator[int]:
    """Improve `coefficients` in place; yields the number of each step done."""
    like = pair.directions[0].sampled
    splines = Splines(level.intervals, level.shape, extent_mm, like, begun)
    knots = [count + 1 for count in level.intervals]
    at_knots = Splines(level.intervals, knots, extent_mm, like, begun)
    lattice = identity_points(knots, coefficients.detach())
    labels = None if pair.labels is None else (pair.labels, Splines(level.intervals, pair.labels.shape, extent_mm, like, begun))

    stiffness = options.smoothness * options.gradicon_weight * FIELD_STIFFNESS.get(options.measure.name, 1.0)

    def loss(way: int) -> Tensor:
        similarity = pair.directions[way].loss(splines.moved(coefficients, way))
        inconsistency = _inconsistency(at_knots.displacements(coefficients), lattice, way, extent_mm)
        loss = similarity + stiffness * inconsistency
        return loss if labels is None else loss + options.label_weight * _label_loss(*labels, coefficients, way)

    spacing_mm = min(length / (size - 1) for length, size in zip(extent_mm, level.shape, strict=True))
    flat = flat_gradient(coefficients, extent_mm)
    return descend(
        coefficients, [partial(loss, 0), partial(loss, 1)], steps=level.steps, first_step=level.step_vox * spacing_mm, flat=flat
    )


def _label_loss(labels: CodePair, splines: Splines, coefficients: Tensor, way: int) -> Tensor:
    """See `CodePair.loss`, of labels on the lattice of the splines."""
    return labels.loss(
        way, identity_points(labels.shape, coefficients) + splines.displacements(coefficients, slice(way, way + 1))
    )


def flat_gradient(coefficients: Tensor, extent_mm: Sequence[float]) -> float:
    """`FLAT_GRADIENT` for each of the `coefficients` [ways, dim, *knots] in mm, so that the unit of length does not count."""
    return FLAT_GRADIENT / max(extent_mm) / math.prod(coefficients.shape[2:])


def _inconsistency(both: Tensor, lattice: Tensor, way: int, extent_mm: Sequence[float]) -> Tensor:
    """GradICON of one direction after the other, both as displacements [2, dim, *shape] on `lattice`."""
    points = lattice + both[1 - way : 2 - way]
    return gradicon_on_lattice(points + sample(both[way : way + 1], points), extent=extent_mm)
