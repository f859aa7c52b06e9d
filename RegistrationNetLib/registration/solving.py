"""From the checked pair to the method's solution, a world matrix and fields in the unit cube: prepared, aligned, solved, judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from torch import nn

from ..devices import memory_returned
from ..geometry.deformation import sample
from ..geometry.space import Array, grid_of
from ..losses.measure import Measure
from ..models.loading import trained_network
from ..progress import StageReport, Stages
from .aligned_pair import on_coarser, seen_on_fixed
from .alignment import align, check_direction
from .contrast import contrast_of
from .correction import Corrected, CorrectionOptions, corrected
from .initial_transform import Initial
from .kept_shape import Body, keeping_shape
from .landmark_pairs import LandmarkPairs
from .measures import ALIGNMENT_MEASURES, OF_ONE_CONTRAST
from .method import Solution, Task
from .methods import untrained_network
from .options import Options
from .prepare import Prepared, prepared_pair
from .previous import Previous
from .size import Size

STAGE_NAMES = ("prepare", "align", "network", "refine", "correct", "repeats", "finish")
# Seconds on two cores, measured, from which the progress bar knows each stage's share.
ALIGN_SECONDS = 1.1
REPEAT_SECONDS = 0.5
CORRECT_SECONDS = 4.0
PREPARE_SECONDS_PER_VOXEL, FINISH_SECONDS_PER_VOXEL = 0.1e-6, 1.4e-6


@dataclass(frozen=True)
class Solved:
    """A pair with what was found for it.

    Attributes:
        fixed, moving: as the method saw them.
        start: the world matrix from which the alignment began.
        network: that of the method, if it has one.
        similarity: before and after.
        options: those that held, once the pair was looked at; `because` says why, if the images decided.
        pairs: of landmarks that pulled, as the method's images lie; None for none.
        corrected: what they did.
    """

    fixed: Prepared
    moving: Prepared
    start: Array
    network: nn.Module | None
    solution: Solution
    similarity: tuple[float, float]
    options: Options
    because: str | None = None
    pairs: LandmarkPairs | None = None
    corrected: Corrected | None = None


def stage_seconds(size: Size, options: Options, pairs: LandmarkPairs | None = None, *, goes_on: bool = False) -> dict[str, float]:
    """What each stage will take, in about seconds; where a run goes on from a result, the method itself has nothing to do."""
    voxels = math.prod(size.fixed)
    return {
        "prepare": 0.05 + PREPARE_SECONDS_PER_VOXEL * voxels,
        "align": ALIGN_SECONDS if set(options.align) - {"centre"} and not goes_on else 0.05,
        "network": 0.0,
        "refine": 0.05,
        "correct": 0.0 if pairs is None else CORRECT_SECONDS,
        "repeats": options.repeats * REPEAT_SECONDS + (ALIGN_SECONDS if options.repeats and options.align else 0.0),
        "finish": 0.2 + FINISH_SECONDS_PER_VOXEL * voxels,
        **({} if goes_on else options.method.seconds(size, options.settings)),
    }


def solve(
    start: Initial,
    options: Options,
    stages: Stages,
    resolutions_mm: Mapping[str, float] = MappingProxyType({}),
    *,
    pairs: LandmarkPairs | None = None,
    previous: Previous | None = None,
    bodies: Sequence[Body] = (),
) -> Solved:
    """The pair of `start` prepared, aligned, and solved by the method of `options`.

    At the resolution that the similarity has in `resolutions_mm`, by its name; 0, and without an entry, is that of the images.

    `pairs` of landmarks guide the alignment, and correct what the method finds; or what is `previous`, in place of both.
    `bodies` keep their shape.

    Raises:
        GeometryError: the images do not overlap.
        RefinementError: the loss is not finite.
        WeightsError: the weights are missing, or not those of the network.
    """
    network = None if previous is not None else _network(options)  # first of all, as it is the first thing that may be missing
    fixed, moving = _prepared(start, options, resolutions_mm)
    pairs = None if pairs is None else start.carried(pairs)
    asked, given = options, _given(previous, fixed, options)
    report = stages.begin("align")
    alignment = _aligned(fixed, moving, start, options, report, pairs) if given is None else given.alignment
    options, because = _looked_at(fixed, moving, alignment, options, start.pair.weightings)
    if _resolution_mm(options, resolutions_mm) != _resolution_mm(asked, resolutions_mm):
        fixed, moving = _prepared(start, options, resolutions_mm)
        given = _given(previous, fixed, options)
    measure = options.wide_measure
    judged = on_coarser(fixed, options.method.judged_shape(fixed.grid.shape))
    before = measure.similarity(seen_on_fixed(moving, judged.grid, start.matrix).values, judged.values, judged.mask)
    is_aligned = bool(options.align) or not np.allclose(start.matrix, np.eye(len(start.matrix)))
    task = Task(
        fixed, moving, alignment, is_aligned, network, options.card, options.settings, options.device, stages,
        mirrored=options.mirrored, seed=options.seed,
    )  # fmt: skip
    memory_returned()
    solution, done = given or options.method.solve(task), None
    if pairs is not None:
        done = corrected(fixed, moving, solution, pairs, correction_of(options), stages.begin("correct"))
        solution = done.solution
    solution = keeping_shape(solution, bodies, grid_of(start.pair.fixed))
    similarity = float(before), _similarity_after(measure, judged, moving, solution)
    return Solved(fixed, moving, start.matrix, network, solution, similarity, options, because, pairs, done)


def correction_of(options: Options, *, with_left_out: bool = True) -> CorrectionOptions:
    """How landmarks correct what a method has found."""
    return CorrectionOptions(options.judge, options.smoothness, with_left_out)


def _given(previous: Previous | None, fixed: Prepared, options: Options) -> Solution | None:
    """The result that is gone on from."""
    return None if previous is None else previous.solution(fixed.grid).to(options.device)


def _prepared(start: Initial, options: Options, resolutions_mm: Mapping[str, float]) -> tuple[Prepared, Prepared]:
    fixed, moving = prepared_pair(start.pair, options.preparation, _resolution_mm(options, resolutions_mm))
    return fixed.to(options.device), moving.to(options.device)


def _resolution_mm(options: Options, resolutions_mm: Mapping[str, float]) -> float:
    return resolutions_mm.get(options.measure.name, 0.0)


def _aligned(
    fixed: Prepared, moving: Prepared, start: Initial, options: Options, report: StageReport, pairs: LandmarkPairs | None
) -> Array:
    check_direction(fixed, moving, start.matrix)
    wide = ALIGNMENT_MEASURES["lncc2"] if options.across else options.wide_measure
    return align(fixed, moving, start=start.matrix, stages=options.align, measure=wide, report=report, pairs=pairs)


def _looked_at(
    fixed: Prepared, moving: Prepared, alignment: Array, options: Options, weightings: tuple[str, str]
) -> tuple[Options, str | None]:
    """The options for what the aligned pair turns out to be, and why; `weightings` are those that the headers tell."""
    if not options.across:
        return options, None
    contrast = contrast_of(fixed, moving, alignment)
    is_one_modality = options.judge.name in OF_ONE_CONTRAST
    told = weightings if all(weightings) and weightings[0] != weightings[1] else None
    because = contrast.because(is_one_modality=is_one_modality, told=told)
    if contrast.is_one and is_one_modality and told is None:
        return options, because
    return options.across.get(contrast.across, options.across["mind"]), because


def _network(options: Options) -> nn.Module | None:
    """The network with its weights; None for a method that has none, or that none were given to."""
    if options.card.weights is None and options.weights is None:
        return None
    return trained_network(options.card, options.weights, options.device, network_of=untrained_network)


def _similarity_after(measure: Measure, fixed: Prepared, moving: Prepared, solution: Solution) -> float:
    aligned = seen_on_fixed(moving, fixed.grid, solution.alignment)
    points = solution.fields.on(fixed.grid).moving_from_fixed.on_lattice().to(fixed.values.device)
    return float(measure.similarity(sample(aligned.values, points), fixed.values, fixed.mask))
