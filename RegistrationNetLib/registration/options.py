"""What a registration is asked for beside its images, checked against the card of its model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..devices import chosen_device
from ..errors import InputError
from ..losses.similarity import LNCC, MINDSSC, Measure, MutualInformation, SquaredLNCC, measure_named
from ..models.catalogue import DIRECT, NEPHI, Card, card_named
from .alignment import checked_stages
from .field_refinement import FieldOptions
from .nephi_fit import ImplicitOptions, implicit_options
from .network_refinement import NetworkOptions, network_options
from .prepare import Preparation

REFINEMENTS = ("none", "field", "network")
# For the field: narrow windows, and an ε that keeps the noise of the background from counting.
FIELD_MEASURES: dict[str, Measure] = {
    "lncc": LNCC(sigma_vox=1.5, epsilon=1e-4, stride_vox=2, is_balanced=True),
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
class Options:
    """What `register` was asked for, checked.

    Attributes:
        refine: one of `REFINEMENTS`, "none" where the steps are 0.
        field: how the field is refined; its measure also judges the result.
        network: how the network is refined; None for the model that has none.
        weights: a file in place of the card's own, or, for NePhi, of the encoder that predicts where the fit begins.
        mirrored: images are mirrored for the network, which knows the other side of the body.
        implicit: how networks and codes are fitted to the pair by NePhi; None for every other model.
        chooses_measure: the field's measure is that of one contrast until the aligned images are seen to have two.
    """

    card: Card
    refine: str
    field: FieldOptions
    network: NetworkOptions | None
    align: tuple[str, ...]
    device: torch.device
    weights: Path | None
    mirrored: bool
    seed: int
    implicit: ImplicitOptions | None = None
    chooses_measure: bool = False

    def across_contrasts(self) -> Options:
        """The same, with the measure that the card has for two modalities."""
        name = str(self.card.refine["similarity"]["across_modalities"])
        return replace(self, field=replace(self.field, measure=FIELD_MEASURES.get(name) or measure_named(name)))

    @property
    def preparation(self) -> Preparation:
        return Preparation.of(self.card)

    @property
    def steps(self) -> int:
        """Of the refinement that is done."""
        return self._refinement.steps

    @property
    def measure(self) -> Measure:
        """That of the refinement that is done, or would be."""
        return self._refinement.measure

    @property
    def _refinement(self) -> FieldOptions | NetworkOptions | ImplicitOptions:
        if self.implicit is not None:
            return self.implicit
        return self.network if self.refine == "network" and self.network is not None else self.field

    @property
    def wide_measure(self) -> Measure:
        """What judges the alignment, and the whole before and after."""
        return ALIGNMENT_MEASURES.get(self.field.measure.name, self.field.measure)


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
    seed: int = 0,
) -> Options:
    """What was asked for; what is None or "auto" is as the card says.

    Raises:
        InputError: an option has no such value, or does not go with the model.
    """
    card = card_named(model)
    if weights is not None and card.weights is None and card.method != NEPHI:
        raise InputError(f"The model {model} has no weights, but a weights file was given. Leave it out or choose another model.")
    if mirrored and card.prepare["mirror_axis"] is None:
        raise InputError(
            f"The model {model} takes both sides of the body as they are; only models of one side mirror images. "
            "Leave the option mirrored out."
        )
    if conserve_mass and modalities != ("ct", "ct"):
        raise InputError(
            f"Mass is conserved between two CT images only, whose values are densities; got {' and '.join(modalities)}. "
            "Say that both are ct, or leave the option conserve_mass out."
        )
    refine = _refinement(card, refine, steps)
    chooses = similarity == "auto" and card.method == DIRECT and modalities[0] == modalities[1]
    if similarity == "auto":
        kind = "same_modality" if modalities[0] == modalities[1] else "across_modalities"
        own = network_own = str(card.refine["similarity"][kind])
        if "network" in card.refine and kind == "same_modality":
            network_own = card.refine["network"]["similarity"]
    else:
        own = network_own = similarity
    field = FieldOptions(FIELD_MEASURES.get(own) or measure_named(own), smoothness=smoothness, conserve_mass=conserve_mass)
    if refine != "field" or steps is not None:
        field = replace(field, steps=steps if refine == "field" and steps else 0)
    network, implicit = None, None
    if card.method == NEPHI:
        implicit = implicit_options(
            card.refine, field.measure, smoothness=smoothness, conserve_mass=conserve_mass, steps=0 if refine == "none" else steps
        )
    elif card.method != DIRECT:
        network = network_options(
            card, network_own, smoothness=smoothness, conserve_mass=conserve_mass, steps=steps if refine == "network" else None
        )
    return Options(
        card=card,
        refine=refine,
        field=field,
        network=network,
        align=checked_stages(card.prepare["align"] if align is None else align),
        device=chosen_device(device),
        weights=None if weights is None else Path(weights),
        mirrored=mirrored,
        seed=seed,
        implicit=implicit,
        chooses_measure=chooses,
    )


def _refinement(card: Card, refine: str | None, steps: int | None) -> str:
    refine = refine or str(card.refine["default"])
    if refine not in REFINEMENTS:
        raise InputError(f"There is no refinement {refine!r}; the refinements are {', '.join(REFINEMENTS)}. Choose one of them.")
    if refine == "network" and card.method == DIRECT:
        raise InputError("The model direct has no network to refine; it refines the field. Choose the refinement field or none.")
    if refine == "field" and card.method == NEPHI:
        raise InputError(
            f"The model {card.name} has no field to refine; it fits its networks to the pair. Choose the refinement network or none, "
            "or the model direct, which refines the field."
        )
    if steps is not None and steps < 0:
        raise InputError(f"steps is {steps}; it must be 0 (no refinement) or more. Choose another.")
    return "none" if steps == 0 else refine
