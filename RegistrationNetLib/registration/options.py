"""What a registration is asked for beside its images, checked against the card and the method of its model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..choices import LANDMARK_USES, REFINEMENTS
from ..devices import chosen_device
from ..errors import InputError
from ..losses.measure import Measure
from ..models.catalogue import Card, card_named
from .alignment import checked_stages
from .measures import alignment_measure, field_measure
from .method import Asked, Method, Settings
from .methods import method_of
from .prepare import Preparation


@dataclass(frozen=True)
class Options:
    """What `register` was asked for, checked.

    Attributes:
        refine: one of the method's refinements, "none" where the steps are 0.
        settings: how the method refines.
        judge: the similarity at the resolution of the images, by which the result is judged.
        weights: a file in place of the card's own; for a method that needs none, what it then begins with.
        mirrored: images are mirrored for the network, which knows the other side of the body.
        repeats: how often the pair is registered again, to see how far the result can be trusted.
        landmarks: "judge" or "pull".
        tolerance_mm: how exactly landmarks were placed.
        resolution_mm: of the work; None leaves it to `resolution.resolution_for`.
        across: by the name of the similarity, what holds in place of all this where the aligned images turn out to have two
            contrasts; empty: their contrast is not looked at.
    """

    card: Card
    method: Method
    refine: str
    settings: Settings
    judge: Measure
    smoothness: float
    conserve_mass: bool
    align: tuple[str, ...]
    device: torch.device
    weights: Path | None
    mirrored: bool
    repeats: int
    seed: int
    landmarks: str = "judge"
    tolerance_mm: float = 1.0
    resolution_mm: float | None = None
    across: Mapping[str, Options] = field(default_factory=dict)

    @property
    def preparation(self) -> Preparation:
        """How the images are prepared."""
        return Preparation.of(self.card)

    @property
    def steps(self) -> int:
        """The number of refinement steps."""
        return self.settings.steps

    @property
    def measure(self) -> Measure:
        """The similarity of the refinement that is done, or would be."""
        return self.settings.measure

    @property
    def wide_measure(self) -> Measure:
        """What judges the alignment, and the whole before and after."""
        return alignment_measure(self.judge)


def checked_options(
    model: str,
    *,
    modalities: tuple[str, str],
    refine: str | None = None,
    steps: int | None = None,
    similarity: str = "auto",
    align: Sequence[str] | None = None,
    device: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    smoothness: float = 1.0,
    mirrored: bool = False,
    conserve_mass: bool = False,
    repeats: int | None = None,
    seed: int = 0,
    landmarks: str = "judge",
    tolerance: float = 1.0,
    resolution: float | None = None,
) -> Options:
    """What was asked for; what is None or "auto" is as the card says.

    Raises:
        InputError: an option has no such value, or does not go with the model.
    """
    card = card_named(model)
    method = method_of(card)
    _check_fits(card, method, modalities, has_weights=weights is not None, mirrored=mirrored, conserve_mass=conserve_mass)
    refine = _refinement(card, method, refine, steps)
    own, of_network = _similarities(card, similarity, modalities)
    asked = Asked(card, refine, steps, field_measure(own), of_network, smoothness, conserve_mass)
    options = Options(
        card=card,
        method=method,
        refine=refine,
        settings=method.settings(asked),
        judge=asked.measure,
        smoothness=smoothness,
        conserve_mass=conserve_mass,
        align=checked_stages(card.prepare["align"] if align is None else align),
        device=chosen_device(device),
        weights=None if weights is None else Path(weights),
        mirrored=mirrored,
        repeats=_repeats(method, repeats),
        seed=seed,
        landmarks=_use_of_landmarks(landmarks),
        tolerance_mm=tolerance,
        resolution_mm=resolution,
    )
    if similarity != "auto" or method.has_network:
        return options

    def judged_by(name: str) -> Options:
        judge = field_measure(name)
        return replace(options, settings=method.settings(replace(asked, measure=judge)), judge=judge)

    return replace(options, across={name: judged_by(name) for name in method.across_contrasts})


def _check_fits(
    card: Card, method: Method, modalities: tuple[str, str], *, has_weights: bool, mirrored: bool, conserve_mass: bool
) -> None:
    if has_weights and not method.has_network:
        raise InputError(
            f"The model {card.name} has no weights, but a weights file was given. Leave it out or choose another model."
        )
    if mirrored and card.prepare["mirror_axis"] is None:
        raise InputError(
            f"The model {card.name} takes both sides of the body as they are; only models of one side mirror images. "
            "Leave the option mirrored out."
        )
    if conserve_mass and modalities != ("ct", "ct"):
        raise InputError(
            f"Mass is conserved between two CT images only, whose values are densities; got {' and '.join(modalities)}. "
            "Say that both are ct, or leave the option conserve_mass out."
        )


def _similarities(card: Card, similarity: str, modalities: tuple[str, str]) -> tuple[str, str]:
    """The names of the similarity at the resolution of the images, and at that of a network, which may know its own."""
    if similarity != "auto":
        return similarity, similarity
    kind = "same_modality" if modalities[0] == modalities[1] else "across_modalities"
    own = str(card.refine["similarity"][kind])
    if "network" in card.refine and kind == "same_modality":
        return own, str(card.refine["network"]["similarity"])
    return own, own


def _use_of_landmarks(landmarks: str) -> str:
    if landmarks not in LANDMARK_USES:
        raise InputError(
            f"There is no use {landmarks!r} of landmarks; the uses are {', '.join(LANDMARK_USES)}. Choose one of them."
        )
    return landmarks


def _repeats(method: Method, repeats: int | None) -> int:
    if repeats is not None and repeats < 0:
        raise InputError(f"repeats is {repeats}; it must be 0 (none) or more. Choose another.")
    return method.repeats if repeats is None else repeats


def _refinement(card: Card, method: Method, refine: str | None, steps: int | None) -> str:
    refine = refine or str(card.refine["default"])
    if refine not in REFINEMENTS:
        raise InputError(f"There is no refinement {refine!r}; the refinements are {', '.join(REFINEMENTS)}. Choose one of them.")
    if refine not in ("none", *method.refinements):
        kinds = ", ".join(("none", *method.refinements))
        raise InputError(f"The model {card.name} has no {refine} to refine; its refinements are {kinds}. Choose one of them.")
    if steps is not None and steps < 0:
        raise InputError(f"steps is {steps}; it must be 0 (no refinement) or more. Choose another.")
    return "none" if steps == 0 else refine
