"""The one road: two images → prepare → align → deform → transforms in mm → quality → `Registration`.

Masks, labels, initial transforms and devices are options of this road; the command line, the worker and the Slicer logic call it.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike

from .alignment import align, checked_stages
from .catalogue import Card, card_named
from .deformation import sample
from .devices import PeakMemory, check_memory, chosen_device
from .errors import GeometryError, InputError, OutputError
from .initial import Initial, initial_of
from .marks import marks
from .native import native_messages_dropped
from .outputs import staged_folder, write_image
from .prepare import ImageLike, Pair, Prepared, checked_pair
from .progress import ProgressCallback, StageReport, Stages, silent
from .quality import Quality, assess, jacobian_image, landmark_errors
from .refine import FieldOptions, Fields, memory_mb, refine_field
from .similarity import LNCC, MINDSSC, Measure, MutualInformation, SquaredLNCC, measure_named
from .space import (
    Array,
    Grid,
    affine_transform,
    grid_of,
    inverse_transform_from_map,
    is_inside,
    transform_from_map,
)
from .version import __version__
from .warping import warp_image

PageWriter = Callable[["Registration", Path], None]
page_writers: dict[str, PageWriter] = {}
"""Pages that `Registration.save` adds, by file name; `report.py`, a floor above, enters its own."""

STAGE_NAMES = ("prepare", "align", "refine", "finish")
# Seconds on two cores, measured, from which the progress bar knows each stage's share.
ALIGN_SECONDS = 1.1
PREPARE_SECONDS_PER_VOXEL, FINISH_SECONDS_PER_VOXEL = 0.1e-6, 1.4e-6
REFINE_SECONDS_PER_VOXEL_AND_STEP = {
    "lncc": 0.13e-6,
    "lncc2": 0.13e-6,
    "mind": 0.9e-6,
    "mi": 0.5e-6,
    "ncc": 0.1e-6,
    "ssd": 0.1e-6,
}
REFINEMENTS = ("none", "field", "network")
# For the field: narrow windows, and an ε that keeps the noise of the background from counting.
FIELD_MEASURES: dict[str, Measure] = {
    "lncc": LNCC(sigma_vox=1.5, epsilon=1e-4, stride_vox=2),
    "lncc2": SquaredLNCC(sigma_vox=1.5, epsilon=1e-4, stride_vox=2),
    "mind": MINDSSC(radius=1, dilation=2),
}
# For the alignment, which comes from farther away: wide windows, or none.
ALIGNMENT_MEASURES: dict[str, Measure] = {
    "lncc": LNCC(sigma_vox=3.0, epsilon=1e-3),
    "lncc2": SquaredLNCC(sigma_vox=3.0, epsilon=1e-3),
    "mind": MutualInformation(),
}


@dataclass(frozen=True)
class Registration:
    """A registered pair: transforms in LPS mm, moving on fixed's grid, and the numbers that say whether to trust it.

    `moving_from_fixed` maps points of fixed to points of moving, as resampling needs it; it is an affine (`alignment`)
    after a displacement field on fixed's grid. `fixed_from_moving` is its inverse, with its field on moving's grid.
    """

    fixed: sitk.Image
    moving: sitk.Image
    moving_from_fixed: sitk.CompositeTransform
    fixed_from_moving: sitk.CompositeTransform
    alignment: sitk.Transform
    warped: sitk.Image
    jacobian: sitk.Image
    quality: Quality
    facts: Mapping[str, Any]

    def report(self) -> dict[str, Any]:
        """The content of `report.json`."""
        marked = {
            mark.measure: {"colour": mark.colour, "value": mark.value_text, "rule": mark.rule} for mark in marks(self.quality)
        }
        return {**self.facts, **self.quality.as_dict(), "marks": marked}

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write transform.h5, inverse.h5, warped.nii.gz, jacobian.nii.gz, report.json and report.html: all or none.

        Raises:
            OutputError: the folder cannot be written; what stood there before is untouched.
        """
        with staged_folder(Path(directory)) as folder:
            try:
                with native_messages_dropped():
                    sitk.WriteTransform(self.moving_from_fixed, str(folder / "transform.h5"))
                    sitk.WriteTransform(self.fixed_from_moving, str(folder / "inverse.h5"))
            except RuntimeError as error:
                raise OutputError(
                    f"The transforms cannot be written into {directory}; free some space or choose another folder."
                ) from error
            write_image(self.warped, folder / "warped.nii.gz")
            write_image(self.jacobian, folder / "jacobian.nii.gz")
            (folder / "report.json").write_text(json.dumps(self.report(), indent=2), encoding="utf-8")
            for name, write in page_writers.items():
                write(self, folder / name)


@dataclass(frozen=True)
class Options:
    """What `register` was asked for beside the images, checked."""

    card: Card
    field: FieldOptions
    align: tuple[str, ...]
    device: torch.device


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    model: str = "direct",
    refine: str | None = None,
    steps: int | None = None,
    similarity: str = "auto",
    fixed_modality: str = "other",
    moving_modality: str = "other",
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    fixed_landmarks: ArrayLike | None = None,
    moving_landmarks: ArrayLike | None = None,
    initial: str | os.PathLike[str] | sitk.Transform | None = None,
    align: Sequence[str] | None = None,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    smoothness: float = 1.0,
    seed: int = 0,
    progress: ProgressCallback = silent,
) -> Registration:
    """Register `moving` to `fixed`, two images of any grid and orientation, two- or three-dimensional.

    Args:
        fixed, moving: paths (files or DICOM folders), SimpleITK or ITK images.
        model: name of a model card.
        refine: "none", "field" or "network"; default: what the card says.
        steps: steps at each level of the refinement; default: what the method says. 0 means no refinement.
        similarity: "lncc", "lncc2", "ncc", "ssd", "mind", "mi", or "auto": LNCC within one modality, MIND-SSC across.
        fixed_modality, moving_modality: "ct", "mr" or "other"; they set the intensity window.
        fixed_mask, moving_mask: on the grid of their image; the similarity counts where they are not 0.
        fixed_labels, moving_labels: both or neither; they add a Dice term, and Dice before and after to the quality.
        fixed_landmarks, moving_landmarks: both or neither, [N, dim] LPS mm; used for the quality only.
        initial: transform from points of fixed to points of moving, from which the alignment starts.
        align: which of "centre", "rigid", "affine" to do; default: what the card says.
        device: "auto", "cpu", "cuda" or "mps".
        smoothness: factor on the regularity; larger is smoother.
        seed: of the random numbers; `direct` draws none, so that it gives the same result every time.
        progress: told how far the work is; raises `Cancelled` to stop it.

    Raises:
        InputError: an image, mask, option or file breaks a rule; the message says which.
        ResourceError: it does not fit into memory.
    """
    stages = Stages(progress, dict.fromkeys(STAGE_NAMES, 1.0))
    stages.begin("prepare")
    modalities = (fixed_modality, moving_modality)
    card = _card_for(model, weights)
    field = FieldOptions(_measure(card, similarity, modalities), smoothness=smoothness)
    options = Options(card, _with_steps(field, _refinement(card, refine), steps), _stages(card, align), chosen_device(device))
    pair = checked_pair(
        (fixed, moving), modalities=modalities, masks=(fixed_mask, moving_mask), labels=(fixed_labels, moving_labels)
    )
    _check_landmarks(fixed_landmarks, moving_landmarks, pair)
    needed_mb = memory_mb(grid_of(pair.fixed).shape, _not_finer(grid_of(pair.moving), grid_of(pair.fixed)).shape)
    check_memory(needed_mb, options.device, "Crop the images, or resample them to a larger spacing.")
    stages.weights = _stage_weights(grid_of(pair.fixed).shape, options)
    start = initial_of(initial, pair)
    # The caller's no_grad or inference_mode must not reach into the optimization.
    with PeakMemory(options.device) as memory, torch.inference_mode(False):
        solution = _solve(start, options, stages)
        report = stages.begin("finish")
        parts = _delivered(pair, start, solution, report)
        quality = assess(
            **{name: parts[name] for name in ("fixed", "moving", "moving_from_fixed", "fixed_from_moving", "jacobian")},
            similarity_name=_wide(options.field.measure).name,
            similarity_before=solution.similarity[0],
            similarity_after=solution.similarity[1],
            fixed_labels=pair.labels[0],
            moving_labels=pair.labels[1],
            fixed_landmarks=fixed_landmarks,
            moving_landmarks=moving_landmarks,
        )
    report(1.0)
    stages.finish()
    facts = {
        "model": card.name,
        "refine": "field" if options.field.steps else "none",
        "device": str(options.device),
        "seconds": {"total": stages.total_seconds, **_seconds_by_contract(stages.seconds)},
        "peak_memory_mb": memory.peak_mb,
        "inputs": _described(pair, (fixed, moving), options, seed, initial is not None),
        "versions": _versions(),
    }
    return Registration(**parts, quality=quality, facts=facts)


def _check_landmarks(fixed: ArrayLike | None, moving: ArrayLike | None, pair: Pair) -> None:
    if fixed is None and moving is None:
        return
    if fixed is None or moving is None:
        raise InputError(
            "Landmarks came for one image only; their error needs both. Give landmarks for fixed and moving, or for neither."
        )
    landmark_errors(fixed, moving, sitk.Transform(pair.fixed.GetDimension(), sitk.sitkIdentity))


def _card_for(model: str, weights: object) -> Card:
    card = card_named(model)
    if weights is not None and card.weights is None:
        raise InputError(f"The model {model} has no weights, but a weights file was given. Leave it out or choose another model.")
    return card


def _refinement(card: Card, refine: str | None) -> str:
    refine = refine or str(card.refine["default"])
    if refine not in REFINEMENTS:
        raise InputError(f"There is no refinement {refine!r}; the refinements are {', '.join(REFINEMENTS)}. Choose one of them.")
    if refine == "network" and card.method == "direct":
        raise InputError("The model direct has no network to refine; it refines the field. Choose the refinement field or none.")
    return refine


def _measure(card: Card, similarity: str, modalities: tuple[str, str]) -> Measure:
    if similarity == "auto":
        similarity = card.refine["similarity"]["same_modality" if modalities[0] == modalities[1] else "across_modalities"]
    return FIELD_MEASURES.get(similarity) or measure_named(similarity)


def _wide(measure: Measure) -> Measure:
    """The measure that judges the alignment, and the whole before and after, where `measure` drives the field."""
    return ALIGNMENT_MEASURES.get(measure.name, measure)


def _stages(card: Card, align: Sequence[str] | None) -> tuple[str, ...]:
    return checked_stages(card.prepare["align"] if align is None else align)


def _with_steps(field: FieldOptions, refine: str, steps: int | None) -> FieldOptions:
    if refine == "none":
        return replace(field, steps=0)
    return field if steps is None else replace(field, steps=steps)


@dataclass(frozen=True)
class _Solution:
    """The alignment (a world matrix), the deformation on fixed's lattice that goes before it, and the similarity before and after."""

    alignment: Array
    fields: Fields
    similarity: tuple[float, float]


def _solve(start: Initial, options: Options, stages: Stages) -> _Solution:
    """The method's own work, in the network world."""
    fixed, moving = (one.to(options.device) for one in start.pair.prepared())
    wide = _wide(options.field.measure)
    report = stages.begin("align")
    alignment = align(fixed, moving, start=start.matrix, stages=options.align, measure=wide, report=report)
    report = stages.begin("refine")
    aligned = _on_fixed(moving, fixed.grid, alignment)
    fields = refine_field(_counted(fixed, moving.grid, alignment), aligned, options.field, report)
    before = wide.similarity(_on_fixed(moving, fixed.grid, start.matrix).values, fixed.values, fixed.mask)
    after = wide.similarity(sample(aligned.values, fields.moving_from_fixed.on_lattice()), fixed.values, fixed.mask)
    return _Solution(alignment, fields, (float(before), float(after)))


def _on_fixed(moving: Prepared, fixed: Grid, alignment: Array) -> Prepared:
    """Moving seen through `alignment` on the lattice of fixed."""
    return replace(moving.carried(fixed.moved(alignment)), grid=fixed)


def _counted(fixed: Prepared, moving: Grid, alignment: Array) -> Prepared:
    """Fixed, counted only where moving has voxels.

    Raises:
        GeometryError: that is nowhere.
    """
    inside = is_inside(moving, fixed.grid.moved(alignment), fixed.values)
    if not bool(inside.any()):
        raise GeometryError(
            "fixed and moving do not overlap; at least one voxel of fixed must fall into moving. "
            "Align the centres (stage centre) or give an initial transform."
        )
    if bool(inside.all()):
        return fixed
    mask = inside if fixed.mask is None else inside & fixed.mask
    if not bool(mask.any()):
        raise GeometryError(
            "The fixed mask lies where moving has no voxels; at least one voxel of it must fall into moving. "
            "Widen the mask, or give an initial transform."
        )
    return replace(fixed, mask=mask)


def _stage_weights(shape: Sequence[int], options: Options) -> dict[str, float]:
    """What each stage will take, in about seconds."""
    voxels = math.prod(shape)
    steps = options.field.steps
    return {
        "prepare": 0.05 + PREPARE_SECONDS_PER_VOXEL * voxels,
        "align": ALIGN_SECONDS if set(options.align) - {"centre"} else 0.05,
        "refine": 0.05 + REFINE_SECONDS_PER_VOXEL_AND_STEP[options.field.measure.name] * voxels * steps,
        "finish": 0.2 + FINISH_SECONDS_PER_VOXEL * voxels,
    }


def _delivered(pair: Pair, start: Initial, solution: _Solution, report: StageReport) -> dict[str, Any]:
    """The solution in the physical world: transforms both ways, warped image, Jacobian."""
    forward = _forward(pair, start, solution)
    report(0.1)
    inverse = _inverse(pair, start, solution)
    report(0.6)
    warped = warp_image(pair.moving, pair.fixed, forward)
    report(0.7)
    jacobian = jacobian_image(forward, pair.fixed)
    report(0.8)
    return {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "moving_from_fixed": forward,
        "fixed_from_moving": inverse,
        "alignment": affine_transform(solution.alignment),
        "warped": warped,
        "jacobian": jacobian,
    }


def _forward(pair: Pair, start: Initial, solution: _Solution) -> sitk.CompositeTransform:
    fixed, field = grid_of(pair.fixed), solution.fields.moving_from_fixed
    forward = transform_from_map(field, fixed, fixed.moved(solution.alignment), like=field.displacement)
    return forward if start.moving_from_carried is None else _chained(start.moving_from_carried, forward)


def _inverse(pair: Pair, start: Initial, solution: _Solution) -> sitk.CompositeTransform:
    fixed, moving = grid_of(pair.fixed), grid_of(start.pair.moving)
    fields = solution.fields
    inverse = inverse_transform_from_map(
        fields.moving_from_fixed, fixed, _not_finer(moving, fixed), solution.alignment, start=fields.fixed_from_moving
    )
    return inverse if start.carried_from_moving is None else _chained(inverse, start.carried_from_moving)


def _chained(outer: sitk.Transform, inner: sitk.Transform) -> sitk.CompositeTransform:
    """x ↦ outer(inner(x)), without nesting. SimpleITK applies the transform added last first."""
    chain = sitk.CompositeTransform([outer, inner])
    chain.FlattenTransform()
    return chain


def _not_finer(moving: Grid, fixed: Grid) -> Grid:
    """The cube of moving on a lattice no finer than fixed's: more would hold nothing that the field knows."""
    finest_mm = min(fixed.spacing_mm)
    shape = [
        size if step >= finest_mm else max(2, math.ceil(length / finest_mm) + 1)
        for size, step, length in zip(moving.shape, moving.spacing_mm, moving.extent_mm, strict=True)
    ]
    return moving.spanned(shape)


def _seconds_by_contract(seconds: Mapping[str, float]) -> dict[str, float]:
    """The stages under the names of `report.json`; what a network would do, the alignment does for `direct`."""
    return {"prepare": seconds["prepare"], "network": seconds["align"], "refine": seconds["refine"], "finish": seconds["finish"]}


def _described(pair: Pair, sources: Sequence[ImageLike], options: Options, seed: int, has_initial: bool) -> dict[str, Any]:
    """What went in, for the report."""
    described: dict[str, Any] = {}
    for name, source, image, modality, mask, labels in zip(
        ("fixed", "moving"), sources, pair.images, pair.modalities, pair.masks, pair.labels, strict=True
    ):
        described[name] = {
            "file": os.fspath(source) if isinstance(source, str | os.PathLike) else None,
            "size": list(image.GetSize()),
            "spacing_mm": list(image.GetSpacing()),
            "pixel_type": image.GetPixelIDTypeAsString(),
            "modality": modality,
            "mask": mask is not None,
            "labels": labels is not None,
        }
    return {
        **described,
        "initial": has_initial,
        "align": list(options.align),
        "similarity": options.field.measure.as_dict(),
        "steps": options.field.steps,
        "smoothness": options.field.smoothness,
        "seed": seed,
    }


def _versions() -> dict[str, str]:
    return {
        "registrationnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "SimpleITK": sitk.Version.VersionString(),
        "numpy": np.__version__,
    }
