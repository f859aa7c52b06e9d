"""What the methods find, in the network world: an alignment and the deformation that goes before it, both ways.

`direct` aligns the pair and deforms the field from the identity. A network predicts both; then its weights, or the field from
its prediction on, are refined for the pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ..devices import memory_kept
from ..geometry.deformation import Affine, Composition, Map, sample
from ..geometry.field_pair import Fields
from ..geometry.space import Array
from ..losses.direction import both_targets
from ..losses.measure import Measure
from ..memory import prediction_ways, refinement_ways, sparingly
from ..models import constricon
from ..models.composition import BothWays, both_ways
from ..models.constricon import InverseConsistent
from ..models.constricon_resolution import check_resolved
from ..models.loading import trained_network, watched
from ..progress import StageReport, Stages
from .alignment import align, check_direction
from .contrast import contrast_of
from .deforming import counted_in_both, deformed, on_fixed
from .field_refinement import refine_field
from .initial_transform import Initial
from .nephi import bounded, fit_pair, implicit_seconds
from .network_pair import NetworkPair, Placed, as_seen, network_pair, placed
from .network_refinement import NetworkRefined, refine_network
from .options import ALIGNMENT_MEASURES, Options
from .prepare import Prepared, prepared_pair
from .velocity_refinement import refine_velocity

STAGE_NAMES = ("prepare", "align", "network", "refine", "finish")
# Seconds on two cores, measured, from which the progress bar knows each stage's share.
ALIGN_SECONDS = 1.1
PREPARE_SECONDS_PER_VOXEL, FINISH_SECONDS_PER_VOXEL = 0.1e-6, 1.4e-6
FIELD_SECONDS_PER_VOXEL_AND_STEP = {
    "lncc": 0.13e-6,
    "lncc2": 0.13e-6,
    "mind": 0.9e-6,
    "mi": 0.5e-6,
    "ncc": 0.1e-6,
    "ssd": 0.1e-6,
}
PREDICTION_SECONDS_PER_VOXEL, NETWORK_SECONDS_PER_VOXEL_AND_STEP = 1.5e-6, 6e-6


@dataclass(frozen=True)
class Solution:
    """An alignment (world matrix), the deformation of fixed that goes before it, and the similarity before and after.

    `inverse` is that of the deformation, in the unit cube of the fields, where the method knows it by construction. `options` are
    those that were used where the images decided some of them. `notes` say for the report how the work was done.
    """

    alignment: Array
    fields: Fields
    similarity: tuple[float, float]
    inverse: Map | None = None
    options: Options | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def stage_seconds(shape: Sequence[int], options: Options) -> dict[str, float]:
    """What each stage will take for a fixed image of `shape`, in about seconds."""
    voxels = math.prod(shape)
    predicted = options.card.input_shape
    seconds = {
        "prepare": 0.05 + PREPARE_SECONDS_PER_VOXEL * voxels,
        "align": ALIGN_SECONDS if set(options.align) - {"centre"} else 0.05,
        "network": 0.5 + PREDICTION_SECONDS_PER_VOXEL * math.prod(predicted) if predicted else 0.0,
        "refine": 0.05 + FIELD_SECONDS_PER_VOXEL_AND_STEP[options.field.measure.name] * voxels * options.field.steps,
        "finish": 0.2 + FINISH_SECONDS_PER_VOXEL * voxels,
    }
    if options.implicit is not None:
        seconds["refine"] = implicit_seconds(shape, options.implicit)
    elif options.refine == "network" and predicted:
        seconds["refine"] = NETWORK_SECONDS_PER_VOXEL_AND_STEP * math.prod(predicted) * options.steps
    return seconds


def solve(start: Initial, options: Options, stages: Stages) -> Solution:
    """The method's own work.

    Raises:
        GeometryError: the images do not overlap.
        RefinementError: the loss is not finite.
    """
    # First of all, as it is the first thing that may be missing.
    has_network = options.card.weights is not None or options.weights is not None
    trained = trained_network(options.card, options.weights, options.device) if has_network else None
    fixed, moving = (one.to(options.device) for one in prepared_pair(start.pair, options.preparation))
    options, alignment, notes = _aligned(fixed, moving, start, options, stages.begin("align"))
    wide = options.wide_measure
    judged = fixed if options.implicit is None else bounded(fixed)
    before = wide.similarity(on_fixed(moving, judged.grid, start.matrix).values, judged.values, judged.mask)
    is_aligned = bool(options.align) or not np.allclose(start.matrix, np.eye(len(start.matrix)))
    if options.implicit is not None:
        fit = fit_pair(fixed, moving, trained, options, stages, alignment=alignment, is_aligned=is_aligned)
        after = _similarity(wide, judged, on_fixed(moving, judged.grid, fit.alignment), fit.fields)
        # A graphics card that holds the images may not hold the inversion too.
        return Solution(fit.alignment, fit.fields.to(torch.device("cpu")), (float(before), after), notes=fit.notes)
    begun: Placed | None = None
    if trained is not None:
        begun, notes = _predicted(trained, fixed, moving, alignment if is_aligned else None, options, stages)
        alignment = begun.alignment
    aligned = on_fixed(moving, fixed.grid, alignment)
    counted, _ = counted_in_both(fixed, aligned)
    inverse: Map | None = None
    if begun is not None and (isinstance(trained, InverseConsistent) or not options.field.steps):
        fields = begun.fields
        inverse = begun.fixed_from_moving if isinstance(trained, InverseConsistent) else None
    else:
        report = stages.begin("refine")
        if begun is None:
            fields, warnings = deformed(fixed, moving, alignment, options.field, report)
            notes = {**notes, **({"warnings": warnings} if warnings else {})}
        else:
            volume = float(abs(np.linalg.det(alignment)))
            fields = refine_field(counted, aligned, options.field, report, start=begun.fields, moving_volume=volume)
    after = _similarity(wide, fixed, aligned, fields)
    return Solution(alignment, fields, (float(before), after), inverse, options=options, notes=notes)


def _aligned(
    fixed: Prepared, moving: Prepared, start: Initial, options: Options, report: StageReport
) -> tuple[Options, Array, dict[str, Any]]:
    """The options with the measure for what the aligned pair turns out to be, the alignment, and why, for the report."""
    wide = ALIGNMENT_MEASURES["lncc2"] if options.chooses_measure else options.wide_measure
    check_direction(fixed, moving, start.matrix)
    alignment = align(fixed, moving, start=start.matrix, stages=options.align, measure=wide, report=report)
    if not options.chooses_measure:
        return options, alignment, {}
    contrast = contrast_of(fixed, moving, alignment)
    chosen = options if contrast.is_one else options.across_contrasts()
    return chosen, alignment, {"chosen_because": contrast.because()}


def _similarity(measure: Measure, fixed: Prepared, aligned: Prepared, fields: Fields) -> float:
    """After the deformation."""
    warped = sample(aligned.values, fields.on(fixed.grid).moving_from_fixed.on_lattice())
    return float(measure.similarity(warped, fixed.values, fixed.mask))


def _predicted(
    trained: nn.Module, fixed: Prepared, moving: Prepared, alignment: Array | None, options: Options, stages: Stages
) -> tuple[Placed, dict[str, Any]]:
    """What the network says, after its weights, or its velocity, were fitted to the pair if that is the refinement; and notes."""
    report = stages.begin("network")
    mirror_axis = options.preparation.mirror_axis if options.mirrored else None
    assert options.card.input_shape is not None
    assert options.network is not None
    pair = network_pair(
        fixed, moving, options.card.input_shape,
        orientation=options.preparation.orientation, mirror_axis=mirror_axis, alignment=alignment,
    )  # fmt: skip
    if options.refine == "network":
        maps, notes = _refined_network(trained, pair, options, stages.begin("refine"))
    else:
        maps, notes = _prediction(trained, pair, options.device, report)
    if not isinstance(trained, InverseConsistent):
        return placed(maps, pair, fixed.grid.resized(options.card.input_shape)), notes
    check_resolved(maps)
    affine = _homogeneous(constricon.affine_part(maps).moving_from_fixed)
    if not options.field.steps:
        return placed(maps, pair, fixed.grid.resized(options.card.input_shape), affine=affine), notes
    images = as_seen(fixed, options.preparation.orientation), as_seen(moving, options.preparation.orientation)
    maps = refine_velocity(maps, pair, images, options.field, stages.begin("refine"))
    check_resolved(maps)
    return placed(maps, pair, fixed.grid, affine=affine, is_refined=True), notes


def _homogeneous(affine: Composition) -> Array | None:
    """The matrix of a composition that is one affine map; None of one that is none."""
    if not affine.maps:
        return None
    (one,) = affine.maps
    assert isinstance(one, Affine)
    rows = one.matrix.detach().double().cpu().numpy()[0]
    return np.vstack([rows, np.eye(len(rows) + 1)[-1:]])


def _prediction(
    trained: nn.Module, pair: NetworkPair, device: torch.device, report: StageReport
) -> tuple[BothWays, dict[str, Any]]:
    def work() -> BothWays:
        with torch.no_grad(), watched(trained, report), memory_kept():
            return both_ways(trained, pair.moving.values, pair.fixed.values)

    maps, way = sparingly(prediction_ways(device), device, work, remedy="Choose the device cpu.")
    return maps, {"execution": way.name}


def _refined_network(
    trained: nn.Module, pair: NetworkPair, options: Options, report: StageReport
) -> tuple[BothWays, dict[str, Any]]:
    assert options.network is not None
    network, device = options.network, options.device

    def work() -> NetworkRefined:
        targets = both_targets(*pair.sides(), network.targets(pair.moving_volume))
        return refine_network(trained, targets, network, seed=options.seed, report=report)

    refined, way = sparingly(
        refinement_ways(device), device, work, remedy="Choose the refinement field or none, or the device cpu."
    )
    return refined.maps, {"execution": way.name, "steps_done": refined.steps}
