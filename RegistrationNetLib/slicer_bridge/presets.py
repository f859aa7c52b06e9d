"""Presets: what suits a kind of pair, as one choice of network, alignment and refinement. Built-in ones, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

# What a preset decides, with what stands where it says nothing: the parameters of the panel.
USUAL: Mapping[str, Any] = {
    "model": "direct",
    "alignment": "default",
    "refinement": "default",
    "hasOwnSteps": False,
    "steps": 50,
    "similarity": "auto",
    "smoothness": 1.0,
    "mirrored": False,
    "conserveMass": False,
}


@dataclass(frozen=True)
class Preset:
    """One choice.

    Attributes:
        name: what a preset is known by.
        title: what the list shows.
        settings: parameters of the panel.
        modalities: of fixed and moving, or () where the preset goes with any.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    modalities: tuple[str, ...] = ()

    def asked(self, modalities: tuple[str, str]) -> dict[str, Any]:
        """The parameters to set for a pair that is said to be of these `modalities`; the other way round is as good."""
        wanted = self.modalities
        if wanted and modalities == wanted[::-1]:
            wanted = modalities
        sides = dict(zip(("fixedModality", "movingModality"), wanted, strict=False))
        return {**USUAL, **self.settings, **sides}

    def is_in_force(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the panel is set as this preset would set it."""
        both = (parameters["fixedModality"], parameters["movingModality"])
        return all(parameters[name] == value for name, value in self.asked(both).items())


# Whether the affine part is looked for is decided in each: a network alone assumes that the pair lies about alike.
BUILT_IN: tuple[Preset, ...] = (
    Preset("usual", _("Usual: any pair"), {}),
    Preset("head-mr", _("Head, MR with MR"), {"alignment": "affine"}, ("mr", "mr")),
    Preset("head-ct-mr", _("Head, CT with MR (one patient)"), {"alignment": "rigid"}, ("ct", "mr")),
    Preset("chest-ct", _("Chest, CT of two breaths"), {"alignment": "affine", "conserveMass": True}, ("ct", "ct")),
    Preset("lungs-ct", _("Lungs, CT with lung masks"), {"model": "gradicon-lung"}, ("ct", "ct")),
    Preset("abdomen-ct", _("Abdomen, CT with CT"), {"model": "unigradicon", "alignment": "affine"}, ("ct", "ct")),
    Preset("abdomen-ct-mr", _("Abdomen, CT with MR"), {"model": "multigradicon", "alignment": "affine"}, ("ct", "mr")),
    Preset("brain-mr", _("Brain without skull, MR"), {"model": "gradicon-brain", "alignment": "affine"}, ("mr", "mr")),
    Preset("knee-mr", _("Knee, MR with MR"), {"model": "gradicon-knee", "alignment": "rigid"}, ("mr", "mr")),
)


def settings_of(node: Any) -> dict[str, Any]:
    """What a parameter node is set to, as far as presets go."""
    return {name: getattr(node, name) for name in (*USUAL, "fixedModality", "movingModality")}
