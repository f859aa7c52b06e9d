"""The one pipeline: two images → prepare → align → deform → transforms in mm → quality → `Registration`.

Masks, labels, initial transforms and devices are options of this pipeline; the command line, the worker and the Slicer logic call it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike

from ..devices import PeakMemory, memory_kept, memory_returned
from ..errors import InputError
from ..geometry.space import affine_transform, grid_of, image_on
from ..io.image_sources import ImageLike
from ..io.inputs import Pair
from ..io.label_images import checked_mask
from ..io.native_paths import printable
from ..io.outlying import plain_pair
from ..io.outputs import staged_folder, write_image, write_transform
from ..io.warping import warp_image
from ..memory import shortage_told
from ..progress import ProgressCallback, StageReport, Stages, silent
from ..quality.assessment import Pull, Quality, assess, jacobian_image, landmark_errors
from ..quality.error_map import ExpectedError, error_image, expected_error
from ..quality.evidence import Evidence
from ..quality.marks import Mark, marks
from ..quality.notebook import in_two_lines, notebook_html
from ..quality.report import write_html
from ..quality.truth import Truth
from ..quality.verdict import Verdict, trust_marks, verdict_on
from ..quality.worst import Place, worst_places
from ..version import __version__
from .argument_types import check_types
from .correction import Corrected
from .delivery import Delivered, delivered
from .initial_transform import initial_of
from .kept_shape import bodies_of, reached
from .landmark_pairs import LandmarkPairs, checked_pairs
from .method import Solution
from .options import Options
from .previous import Previous, previous_of
from .repeats import gathered
from .request import checked_request
from .resolution import REMEDY, resolutions_for
from .solving import STAGE_NAMES, solve, stage_seconds

_log = logging.getLogger(__name__)

# Binary digits of the values in files: a determinant to 0.01 %, an expected error to 0.2 %.
JACOBIAN_DIGITS, ERROR_DIGITS = 14, 9


@dataclass(frozen=True, repr=False)
class Registration:
    """A registered pair: transforms in LPS mm, moving on fixed's grid, and what says whether to trust it.

    `moving_from_fixed` maps points of fixed to points of moving, as resampling needs it; it is an affine (`alignment`)
    after a displacement field that covers fixed and a margin. `fixed_from_moving` is its inverse, with a field that covers moving.
    `error_mm` is the expected error at each voxel of fixed; 95 % of the errors lie below `expected_error.bound_factor` times it.
    `places_mm` are the points of fixed at which it is worst, by the `place` of a mark.

    `repr` tells images, method and verdict in two lines; a notebook shows pictures, too.
    """

    fixed: sitk.Image
    moving: sitk.Image
    moving_from_fixed: sitk.CompositeTransform
    fixed_from_moving: sitk.CompositeTransform
    alignment: sitk.Transform
    warped: sitk.Image
    jacobian: sitk.Image
    error_mm: sitk.Image
    quality: Quality
    evidence: Evidence
    expected_error: ExpectedError
    places_mm: Mapping[str, Place]
    facts: Mapping[str, Any]

    def __repr__(self) -> str:
        return in_two_lines(self)

    def _repr_html_(self) -> str:
        return notebook_html(self)

    @property
    def marks(self) -> list[Mark]:
        """Every measure with its colour: the evidence first, in the order of its weight."""
        return [*trust_marks(self.evidence, self.expected_error, max(self.quality.voxel_mm)), *marks(self.quality)]

    @property
    def body(self) -> sitk.Image:
        """1 where fixed shows a body, else 0; uint8, on the coarse lattice of the evidence."""
        return image_on(self.evidence.grid, self.evidence.body.astype(np.uint8))

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, with the reason."""
        return verdict_on(self.evidence, self.expected_error, self.quality, self.marks)

    def report(self) -> dict[str, Any]:
        """The content of `report.json`."""
        marked = {mark.measure: self._marked(mark) for mark in self.marks}
        return {
            "verdict": self.verdict.as_dict(),
            **self.facts,
            **self.quality.as_dict(),
            "error_mm": asdict(self.expected_error),
            "evidence": self.evidence.as_dict(),
            "marks": marked,
        }

    def save(self, directory: str | os.PathLike[str], *, anonymous: bool = False, truth: Truth | None = None) -> None:
        """Write transform.h5, inverse.h5, warped.nii.gz, jacobian.nii.gz, error_mm.nii.gz, report.json, report.html: all or none.

        Args:
            anonymous: the reports name no files either.
            truth: what is known about the pair, which the reports tell, too.

        Raises:
            OutputError: the folder cannot be written; what stood there before is untouched.
        """
        told = self._without_files() if anonymous else self
        with staged_folder(Path(directory)) as folder:
            write_transform(self.moving_from_fixed, folder / "transform.h5")
            write_transform(self.fixed_from_moving, folder / "inverse.h5")
            write_image(self.warped, folder / "warped.nii.gz")
            write_image(self.jacobian, folder / "jacobian.nii.gz", digits=JACOBIAN_DIGITS)
            write_image(self.error_mm, folder / "error_mm.nii.gz", digits=ERROR_DIGITS)
            content = told.report() | ({} if truth is None else {"truth": truth.as_dict()})
            (folder / "report.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
            write_html(told, folder / "report.html", truth=truth)

    def _marked(self, mark: Mark) -> dict[str, Any]:
        place = self.places_mm.get(mark.place)
        told = {"colour": mark.colour, "value": mark.value_text, "rule": mark.rule}
        return told if place is None else {**told, "worst_at_mm": list(place)}

    def _without_files(self) -> Registration:
        """The same result, whose facts do not say what its files were called."""
        inputs = {name: {**one, "file": None} if isinstance(one, Mapping) else one for name, one in self.facts["inputs"].items()}
        return replace(self, facts={**self.facts, "inputs": inputs})


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    model: str = "direct",
    refine: str | None = None,
    steps: int | None = None,
    similarity: str = "auto",
    fixed_modality: str | None = None,
    moving_modality: str | None = None,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    fixed_labels: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    rigid: ImageLike | None = None,
    keep_volume: ImageLike | None = None,
    fixed_landmarks: ArrayLike | None = None,
    moving_landmarks: ArrayLike | None = None,
    landmark_labels: Sequence[str] | None = None,
    landmarks: str = "judge",
    tolerance: float = 1.0,
    initial: str | os.PathLike[str] | sitk.Transform | None = None,
    previous: Registration | Previous | str | os.PathLike[str] | sitk.Transform | None = None,
    align: Sequence[str] | None = None,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    smoothness: float = 1.0,
    mirrored: bool = False,
    conserve_mass: bool = False,
    repeats: int | None = None,
    seed: int = 0,
    resolution: float | None = None,
    progress: ProgressCallback = silent,
) -> Registration:
    """Register `moving` to `fixed`, two images of any grid and orientation, two- or three-dimensional.

    Args:
        fixed, moving: paths (files or DICOM folders), images of SimpleITK, ITK or nibabel.
        model: name of a model card.
        refine: "none", "field" (the deformation itself, from the network's on, up to the image's resolution) or "network" (its
            weights, as published); default: what the card says. NePhi fits its networks ("network"), and has no field.
        steps: of the refinement, at each level of the field's; default: what the method says. 0 means no refinement.
        similarity: "lncc", "lncc2", "ncc", "ssd", "mind", "mi", or "auto": LNCC within one contrast, as the aligned
            images show (two MR images may have two); across, mutual information where intensities say much of each other, else MIND-SSC.
        fixed_modality, moving_modality: "ct", "mr" or "other"; they set the intensity window. Default: what the DICOM header
            of the image says, else "other".
        fixed_mask, moving_mask: the similarity counts where they are not 0; on another grid than their image they are resampled.
        fixed_labels, moving_labels: both or neither; they add a Dice term (not to NePhi's fit), and Dice before and after to
            the quality.
        rigid: labels or a mask of fixed whose inside moves only rigidly (bones, implants): each label by itself, or of a mask each part
            that hangs together. What was reached is told in the report.
        keep_volume: the same for what may turn and be sheared, but keeps its volume everywhere (lesions).
        fixed_landmarks, moving_landmarks: both or neither, [N, dim] LPS mm.
        landmark_labels: what each pair of landmarks is called in the report; default: its number, from 1.
        landmarks: "judge" measures the result by them; "pull" also guides by them the alignment, and corrects near them what was
            found. One that most likely was misplaced is not followed, and named.
        tolerance: how exactly landmarks were placed, in mm; nearer than that they need not be met.
        initial: transform from points of fixed to points of moving, from which the alignment starts.
        previous: a result of this pair to go on from, or its moving_from_fixed: it is only corrected near landmarks that pull, or where
            tissue must keep its shape, and stays as it is everywhere else; its alignment holds, and is searched for again by the first
            repeat only, to judge it. Beside transform.h5 its inverse.h5 is read, too.
        align: which of "centre", "pose" (a search over all rotations and shifts), "rigid", "similarity", "affine" to do; default:
            what the card says. A stage is kept only where it gains, and images in place stay.
        device: "auto", "cpu", "cuda" or "mps".
        weights: a file of weights in place of those of the card; for NePhi, which needs none, a checkpoint whose encoder predicts
            where the fit begins.
        smoothness: factor on the regularity; larger is smoother.
        mirrored: the images show the other side of the body than the model was trained on (right knees).
        conserve_mass: values are densities, which fall where tissue grows: for two CT of lungs.
        repeats: how often the pair is registered again, from the other side and from changed inputs, to see how far the result can
            be trusted; default: as often as takes no more time than the registration. With 0 the verdict rests on the images alone.
        seed: of the random numbers; only the refinement of a network and NePhi's fit draw any.
        resolution: spacing in mm of the lattice on which the work is done, no finer than the images; default: theirs, or, of large
            images, the finest that the pair needs and the memory allows. The results have the resolution of fixed in any case.
        progress: told how far the work is; raises `Cancelled` to stop it.

    Raises:
        InputError: an image, mask, option or file breaks a rule; the message says which.
        ResourceError: it does not fit into memory.
    """
    check_types(locals())
    warnings: list[str] = []
    stages = Stages(progress, dict.fromkeys(STAGE_NAMES, 1.0))
    stages.begin("prepare")
    request = checked_request(
        fixed, moving,
        {
            "model": model, "refine": refine, "steps": steps, "similarity": similarity, "align": align, "device": device,
            "weights": weights, "smoothness": smoothness, "mirrored": mirrored, "conserve_mass": conserve_mass,
            "repeats": repeats, "seed": seed, "resolution": resolution, "landmarks": landmarks, "tolerance": tolerance,
            "fixed_modality": fixed_modality, "moving_modality": moving_modality, "fixed_mask": fixed_mask,
            "moving_mask": moving_mask, "fixed_labels": fixed_labels, "moving_labels": moving_labels,
        },
        warnings.append,
    )  # fmt: skip
    options, pair = request.options, request.pair
    pairs = _pairs_of(fixed_landmarks, moving_landmarks, landmark_labels, pair, options)
    resolutions = resolutions_for(pair, (grid_of(pair.fixed), grid_of(pair.moving)), options)
    _log_beginning(pair, options)
    bodies = bodies_of(
        *(None if one is None else checked_mask(one, pair.fixed, what, warnings.append)
          for one, what in ((rigid, "fixed mask of what is rigid"), (keep_volume, "fixed mask of what keeps its volume")))
    )  # fmt: skip
    begun = _begun(previous, initial, align, options, pair, has_bodies=bool(bodies))
    stages.weights = stage_seconds(resolutions[options.measure.name].size, options, pairs, goes_on=begun is not None)
    start = initial_of(initial, plain_pair(pair, warnings.append))
    spacings_mm = {name: one.spacing_mm for name, one in resolutions.items()}
    # The caller's no_grad or inference_mode must not reach into the optimization.
    with shortage_told(REMEDY), PeakMemory(options.device) as memory, torch.inference_mode(False):
        solved = solve(start, options, stages, spacings_mm, pairs=pairs, previous=begun, bodies=bodies)
        held, because = solved.options, solved.because
        chosen = resolutions[held.measure.name]
        warnings += chosen.warnings
        _log.info("worked on at %s mm; %s", solved.fixed.grid.spacing_mm, because or f"similarity {held.measure.name} as asked")
        evidence = gathered(solved, held, held.repeats, stages.begin("repeats"))
        if evidence.repeat_failure:
            warnings.append(f"A repeat failed, and the verdict rests on the others: {evidence.repeat_failure}")
        solution, alike, worked, pulled = solved.solution, solved.similarity, solved.fixed.grid, solved.corrected
        del solved  # the prepared images, which nothing needs any more
        memory_returned()
        report = stages.begin("finish")
        with memory_kept():
            transforms = delivered(start, solution)
            parts = _seen(pair, transforms, solution, report)
            quality = assess(
                **{name: parts[name] for name in ("fixed", "moving", "moving_from_fixed", "fixed_from_moving", "jacobian")},
                similarity_name=held.wide_measure.name,
                similarity_before=alike[0],
                similarity_after=alike[1],
                fixed_labels=pair.labels[0],
                moving_labels=pair.labels[1],
                fixed_landmarks=fixed_landmarks,
                moving_landmarks=moving_landmarks,
                landmark_labels=landmark_labels,
                pull=None if pulled is None else Pull(pulled.followed, pulled.missed_mm, pulled.left_out_mm),
            )
            error_mm = error_image(evidence, pair.fixed)
            places_mm = worst_places(
                evidence,
                **{name: parts[name] for name in ("moving", "jacobian", "moving_from_fixed", "fixed_from_moving")},
                labels=pair.labels,
                landmarks=(fixed_landmarks, moving_landmarks),
            )
    report(1.0)
    stages.finish()
    facts = {
        "model": options.card.name,
        "refine": options.refine,
        "device": str(options.device),
        "seconds": {"total": stages.total_seconds, **_seconds_by_contract(stages.seconds)},
        "peak_memory_mb": memory.peak_mb,
        "estimated_memory_mb": chosen.needed_mb,
        "resolution_mm": list(worked.spacing_mm[::-1]),
        "inputs": _described(pair, (fixed, moving), held, initial is not None, because) | {"previous": previous is not None},
        **solution.notes,
        **({"kept_shape": reached(transforms.moving_from_fixed, parts["jacobian"], bodies)} if bodies else {}),
        "delivered_spacing_mm": list(transforms.spacing_mm),
        "margin_mm": transforms.margin_mm,
        "warnings": [*warnings, *solution.warnings, *_told_of_pull(pulled, pairs)],
        "versions": _versions(),
    }
    result = Registration(
        **parts, error_mm=error_mm, quality=quality, evidence=evidence,
        expected_error=expected_error(evidence, max(quality.voxel_mm)), places_mm=places_mm, facts=facts,
    )  # fmt: skip
    for warning in facts["warnings"]:
        _log.warning("%s", warning)
    _log.info("%s", result.verdict)
    return result


def _log_beginning(pair: Pair, options: Options) -> None:
    for name, image, modality in zip(("fixed", "moving"), pair.images, pair.modalities, strict=True):
        _log.info("%s: %s voxels of %s mm, modality %s", name, image.GetSize(), image.GetSpacing(), modality)
    _log.info("model %s on %s, refinement %s, alignment %s", options.card.name, options.device, options.refine, options.align)


def _pairs_of(
    fixed: ArrayLike | None, moving: ArrayLike | None, labels: Sequence[str] | None, pair: Pair, options: Options
) -> LandmarkPairs | None:
    """The landmarks that are to pull; None for none. Those that only judge are checked, too."""
    if fixed is None and moving is None:
        if options.landmarks == "pull":
            raise InputError(
                "Landmarks are to pull, and none came; there must be some of fixed and of moving. Give them, or leave the option out."
            )
        return None
    if fixed is None or moving is None:
        raise InputError(
            "Landmarks came for one image only; their error needs both. Give landmarks for fixed and moving, or for neither."
        )
    landmark_errors(fixed, moving, sitk.Transform(pair.fixed.GetDimension(), sitk.sitkIdentity), labels=labels)
    if options.landmarks == "judge":
        return None
    return checked_pairs(fixed, moving, pair.images, tolerance_mm=options.tolerance_mm, labels=labels)


def _begun(
    previous: Registration | Previous | str | os.PathLike[str] | sitk.Transform | None,
    initial: object,
    align: Sequence[str] | None,
    options: Options,
    pair: Pair,
    *,
    has_bodies: bool,
) -> Previous | None:
    """The result to go on from."""
    if previous is None:
        return None
    if initial is not None or align:
        raise InputError(
            "A result to go on from came with an initial transform or stages of alignment; it holds both already. Leave them out."
        )
    if options.landmarks != "pull" and not has_bodies:
        raise InputError(
            "A result to go on from came without anything to correct; landmarks that pull say where it is wrong, and masks what keeps its "
            "shape. Give one of them."
        )
    if isinstance(previous, Registration | Previous):
        return previous_of(previous.moving_from_fixed, previous.fixed_from_moving, pair.fixed.GetDimension())
    inverse = None if isinstance(previous, sitk.Transform) else Path(previous).with_name("inverse.h5")
    return previous_of(previous, inverse if inverse is not None and inverse.is_file() else None, pair.fixed.GetDimension())


def _told_of_pull(pulled: Corrected | None, pairs: LandmarkPairs | None) -> list[str]:
    """What the user should know of landmarks that were not followed."""
    if pulled is None or pairs is None or pulled.followed.all():
        return []
    left = np.flatnonzero(~pulled.followed)
    names = ", ".join(pairs.labels[place] for place in left)
    return [
        f"Landmarks that were not followed, as the other ones and the images contradict them: {names} (missed by "
        f"{', '.join(f'{pulled.missed_mm[place]:.1f}' for place in left)} mm). Check their places; a second pair beside one confirms it."
    ]


def _seen(pair: Pair, transforms: Delivered, solution: Solution, report: StageReport) -> dict[str, Any]:
    """The pair through the transforms: warped image, Jacobian."""
    report(0.4)
    warped = warp_image(pair.moving, pair.fixed, transforms.moving_from_fixed)
    report(0.6)
    jacobian = jacobian_image(transforms.moving_from_fixed, pair.fixed)
    report(0.8)
    return {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "moving_from_fixed": transforms.moving_from_fixed,
        "fixed_from_moving": transforms.fixed_from_moving,
        "alignment": affine_transform(solution.alignment),
        "warped": warped,
        "jacobian": jacobian,
    }


def _seconds_by_contract(seconds: Mapping[str, float]) -> dict[str, float]:
    """The stages under the names of `report.json`, in which the alignment counts with the network."""
    network = seconds["align"] + seconds.get("network", 0.0)
    return {
        "prepare": seconds["prepare"],
        "network": network,
        "refine": seconds.get("refine", 0.0) + seconds.get("correct", 0.0),
        "repeats": seconds["repeats"],
        "finish": seconds["finish"],
    }


def _described(
    pair: Pair, sources: Sequence[ImageLike], options: Options, has_initial: bool, because: str | None
) -> dict[str, Any]:
    """What went in, for the report."""
    described: dict[str, Any] = {}
    for name, source, image, modality, mask, labels in zip(
        ("fixed", "moving"), sources, pair.images, pair.modalities, pair.masks, pair.labels, strict=True
    ):
        described[name] = {
            "file": printable(source) if isinstance(source, str | os.PathLike) else None,
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
        "similarity": options.measure.as_dict() | ({} if because is None else {"chosen_because": because}),
        "steps": options.steps,
        "smoothness": options.smoothness,
        "mirrored": options.mirrored,
        "conserve_mass": options.conserve_mass,
        "landmarks": options.landmarks,
        "tolerance_mm": options.tolerance_mm,
        "repeats": options.repeats,
        "seed": options.seed,
    }


def _versions() -> dict[str, str]:
    return {
        "registrationnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "SimpleITK": sitk.Version.VersionString(),
        "numpy": np.__version__,
    }
