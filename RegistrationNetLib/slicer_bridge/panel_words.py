"""The panel's words: what each choice is called, and what the stages of the work are, in the language of the application."""

from __future__ import annotations

from collections.abc import Mapping

from slicer.i18n import tr as _

# By parameter: its choices, in the order of the parameter node, and what the list shows for each.
CHOICES: Mapping[str, Mapping[str, str]] = {
    "fixedModality": {"other": _("Other"), "ct": _("CT"), "mr": _("MR")},
    "movingModality": {"other": _("Other"), "ct": _("CT"), "mr": _("MR")},
    "alignment": {
        "default": _("As the network needs it"),
        "none": _("None"),
        "centre": _("Centres"),
        "rigid": _("Rigid"),
        "affine": _("Affine"),
    },
    "refinement": {
        "default": _("As suits the network"),
        "none": _("Nothing"),
        "field": _("The field (to the finest detail)"),
        "network": _("The network (slow)"),
    },
    "similarity": {
        "auto": _("As suits the pair"),
        "lncc": _("Local correlation"),
        "lncc2": _("Local correlation, squared"),
        "ncc": _("Correlation"),
        "ssd": _("Squared difference (intensities alike)"),
        "mind": _("MIND (across modalities)"),
        "mi": _("Mutual information (across modalities)"),
    },
}
DEVICES: Mapping[str, str] = {
    "auto": _("Automatic"),
    "cpu": _("Processor"),
    "cuda": _("NVIDIA graphics card"),
    "mps": _("Apple graphics"),
}
REFINEMENT_WORDS: Mapping[str, str] = {
    "none": _("refines nothing"),
    "field": _("refines the field"),
    "network": _("refines the network"),
}
STAGES: Mapping[str, str] = {
    "prepare": _("Preparing the volumes"),
    "align": _("Aligning the volumes"),
    "network": _("Finding the deformation"),
    "refine": _("Refining"),
    "finish": _("Measuring the result"),
    "download": _("Downloading"),
    "check": _("Checking the file"),
}
VERDICTS: Mapping[str, str] = {
    "green": _("Every measure is in its green range. The numbers cannot see anatomy: look at the views below."),
    "amber": _("Look before you trust it: some measures are outside their green range."),
    "red": _("Do not rely on this result before you know why a measure is red."),
}


def time_left(seconds: float | None) -> str:
    """“about 20 s left”, or nothing where it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _("about {number} s left").format(number=max(1, round(seconds)))
    return _("about {number} min left").format(number=round(seconds / 60))


def gigabytes(size_mb: float) -> str:
    """A number of megabytes, for people."""
    return _("{number:.1f} GB").format(number=size_mb / 1024)
