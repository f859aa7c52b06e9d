"""The panel's words: what each choice is called, and what the stages of the work are, in the language of the application."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from ..choices import SIMILARITIES

_MODALITIES = {"other": _("Other"), "ct": _("CT"), "mr": _("MR")}
# By parameter: its choices, in the order of the parameter node, and what the list shows for each.
CHOICES: Mapping[str, Mapping[str, str]] = {
    "fixedModality": _MODALITIES,
    "movingModality": _MODALITIES,
    "landmarks": {
        "judge": _("Measure the error"),
        "pull": _("Bring the volumes together"),
    },
    "alignment": {
        "default": _("As the network needs it"),
        "none": _("None"),
        "centre": _("Centres"),
        "pose": _("Any pose"),
        "rigid": _("Rigid"),
        "similarity": _("Rigid and size"),
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
    "correct": _("Following the landmarks"),
    "repeats": _("Registering again, to see how far to trust it"),
    "finish": _("Measuring the result"),
    "download": _("Downloading"),
    "check": _("Checking the file"),
}
VERDICTS: Mapping[str, str] = {
    "green": _("Every measure is in its green range. The numbers cannot see anatomy: look at the views below."),
    "amber": _("Look before you trust it."),
    "red": _("Do not rely on this result before you know why."),
}
VIEW_NAMES: Mapping[str, str] = {
    "fixed": _("The fixed volume. Press again to have the views as they were."),
    "moving": _("The moving volume, as it lay before. Press again to have the views as they were."),
    "warped": _("The moving volume, brought onto fixed. Press again to have the views as they were."),
    "flicker": _("Fixed and warped in turn. Press again to have the views as they were."),
    "checkerboard": _("Fields of fixed and warped in turn. Press again to have the views as they were."),
    "difference": _("Warped minus fixed. Press again to have the views as they were."),
    "jacobian": _("How much tissue grows or shrinks at each place. Press again to have the views as they were."),
    "error": _("The error to expect at each place, in mm. Press again to have the views as they were."),
    "grid": _("The deformable part of the transform, as a bent grid. Press again to have the views as they were."),
}
# What the colours of a view mean, whatever fits into the view itself; no line breaks between a colour and its meaning.
VIEW_LEGENDS: Mapping[str, str] = {
    "difference": _(
        '<span style="color:#146ec8">■</span>&nbsp;fixed&nbsp;is&nbsp;brighter, black:&nbsp;equal, <span style="color:#d75f0a">■</span>&nbsp;warped&nbsp;is&nbsp;brighter'
    ),
    "jacobian": _(
        'Volume: <span style="color:#145ac8">■</span>&nbsp;≤&nbsp;0.25&nbsp;shrinks, clear:&nbsp;kept, <span style="color:#cd2323">■</span>&nbsp;≥&nbsp;4&nbsp;grows, '
        '<span style="color:#d2b400">■</span>&nbsp;≤&nbsp;0&nbsp;folds'
    ),
    "error": _(
        'Expected error: clear below a voxel, <span style="color:#d2b400">■</span>&nbsp;above, <span style="color:#fa9f32">■</span>&nbsp;'
        '<span style="color:#de2828">■</span>&nbsp;to <span style="color:#78006e">■</span>&nbsp;20&nbsp;mm&nbsp;and&nbsp;more'
    ),
    "grid": _(
        'The deformable part, without the alignment: <span style="color:#386bb8">■</span>&nbsp;moves&nbsp;little, white:&nbsp;moves&nbsp;most'
    ),
    "flicker": _("Fixed and warped in turn; two warped volumes where results are compared."),
}

# What marks and verdicts say, with {} where a number stands: the worker speaks English, and the panel the language of the application.
SENTENCES: tuple[str, ...] = (
    _("fits"),
    _("look closely"),
    _("does not fit"),
    _("Folded voxels (Jacobian determinant {} or less)"),
    _("{} %"),
    _("Tissue cannot fold through itself. Green: no folded voxel; amber: up to {} %; red: more."),
    _("The map folds at {} % of the voxels"),
    _("Strongest shrinking (smallest Jacobian determinant)"),
    _("{}"),
    _(
        "From fixed to moving, a piece of tissue keeps this share of its volume. Green: at least {}; amber: less, but above {}; red: {} or less, it folds."
    ),
    _("Somewhere tissue shrinks to {} of its volume"),
    _("Strongest growing (largest Jacobian determinant)"),
    _(
        "From fixed to moving, a piece of tissue grows to this many times its volume. Green: at most {}; amber: at most {}; red: more."
    ),
    _("Somewhere tissue grows to {} times its volume"),
    _("Inverse transform (way to moving and back)"),
    _("{} mm mean, {} mm for {} % of voxels, {} mm largest"),
    _(
        "The inverse must undo the transform; whether the transform is right it cannot tell. Green: {} % of voxels come back within {} mm ({} times the smallest voxel edge); amber: within {} mm (the largest voxel edge); red: farther."
    ),
    _("The inverse misses by up to {} mm"),
    _("Overlap of structures (mean Dice)"),
    _("{} before, {} after"),
    _(
        "Outlined structures must coincide after registration ({} is full overlap). Green: at least {}; amber: less, but not worse than before; red: worse than before by more than {}."
    ),
    _("Distance of landmarks (target registration error)"),
    _("{} mm before, {} mm after (mean of {}), {} mm largest"),
    _(
        "The same anatomical point must land in the same place. Green: mean within the largest voxel edge ({} mm) and no farther than before; amber: only one of the two; red: neither."
    ),
    _("Distance of landmarks that pull"),
    _("{} mm before, {} mm after (mean of {})"),
    _("{} mm before, {} mm after (mean of {}), {} mm left out in turn"),
    _(
        "What pulls cannot judge: each landmark is left out in turn, and the others must bring it to its place. Green: mean within the largest voxel edge ({} mm); amber: no farther than before, or a single landmark; red: farther."
    ),
    _("Landmarks are missed by {} mm when they are left out in turn"),
    _("Landmarks that pull are missed by {} mm in the mean when they are left out in turn"),
    _("Similarity of the images ({})"),
    _("The images must not look less alike after registration than before. Red: similarity fell by more than {} %."),
    _("The images look less alike than before the registration"),
    _("Size of the bodies (determinant of the alignment)"),
    _("The alignment must not blow one body up to match the other. Green: within a factor of {}; amber: of {}; red: more."),
    _("Overlap of the bodies"),
    _(
        "Share of the body in one image that lies in the other's field of view; nothing can be said of the rest. Green: at least {} %; amber: at least {} %; red: less."
    ),
    _("Best other pose (mirrored, turned by {}° or shifted)"),
    _("{} as found, {} moved by {} mm"),
    _(
        "The images must match better as they were found than in any other pose, which is what unrelated tissue reaches. Green: what does not match is at most {} times what does not match there; amber: at most {} times; red: more."
    ),
    _("Repeats (registered again from the other side and from changed images)"),
    _("{} and {} mm from the result (median over the body)"),
    _(
        "A right result is found again. Green: every repeat ends within {} % of the body's size; amber: within {} %; red: farther."
    ),
    _("Likeness of the bodies (mean squared local correlation)"),
    _(
        "Around each place, the share of one image that the other explains; unrelated tissue reaches little even when it was deformed to match. Green: at least {}; amber: at least {}; red: less."
    ),
    _("Expected error"),
    _("{} mm in the median, {} mm for {} % of the body"),
    _(
        "What registrations with such evidence were off by. Green: at most {} mm in the median over the body; amber: at most {} mm; red: more."
    ),
    _("Two repeats end within {} mm; the expected error is {} mm in the median, {} mm for {} % of the body"),
    _(
        "Tissue of fixed would take up {} times the volume in moving: check the voxel sizes and whether both show the same part of the body"
    ),
    _("The two images overlap by {} %"),
    _("{} as found, {} mirrored"),
    _("The images match nearly as well when moving is mirrored"),
    _("The images match better when moving is mirrored"),
    _("{} as found, {} turned by {}°"),
    _("The images match nearly as well when moving is turned by {}°"),
    _("The images match better when moving is turned by {}°"),
    _("The images match nearly as well when moving is moved by {} mm"),
    _("The images match better when moving is moved by {} mm"),
    _("Two repeats end up to {} mm from the result"),
    _("{} mm from the result (median over the body)"),
    _("One repeat ends up to {} mm from the result"),
    _("{} and {} and {} mm from the result (median over the body)"),
    _("Three repeats end up to {} mm from the result"),
    _("The bodies hardly look alike after registration (local correlation {})"),
    _("The expected error is {} mm in the median over the body"),
    _(
        "No repeat was made, so this rests on the images alone; the expected error is {} mm in the median, {} mm for {} % of the body"
    ),
    _("One repeat ends within {} mm; the expected error is {} mm in the median, {} mm for {} % of the body"),
    _("Three repeats end within {} mm; the expected error is {} mm in the median, {} mm for {} % of the body"),
    _("{} landmarks lie {} mm from the true place in the mean, {} mm at most"),
    _("One landmark lies {} mm from the true place in the mean, {} mm at most"),
    _("The outlined structures overlap by a Dice of {} ({} before)"),
)
_NUMBER = re.compile(rf"-?\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b|\b(?:{'|'.join(sorted(SIMILARITIES, key=len, reverse=True))})\b(?=\))")


def template_of(sentence: str) -> tuple[str, list[str]]:
    """A sentence with {} in the place of each number and name of a measure, and what stood there."""
    return _NUMBER.sub("{}", sentence), _NUMBER.findall(sentence)


def translated(sentence: str) -> str:
    """A sentence of the worker in the language of the application; as it is where that has no words for it."""
    template, numbers = template_of(sentence)
    said = str(_(template))
    return said.format(*numbers) if said.count("{}") == len(numbers) else sentence


def unbroken(sentence: str) -> str:
    """The sentence with every number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|mm\b)", "\N{NO-BREAK SPACE}", sentence)


def verdict_of(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """Colour ("green", "amber", "red"), words and reason: those of the report, else by the most alarming mark."""
    if (verdict := report.get("verdict")) is not None:
        return str(verdict["colour"]), translated(str(verdict["words"])), translated(str(verdict["reason"]))
    marks: Mapping[str, Mapping[str, str]] = report["marks"]
    order = list(VERDICTS)
    worst = max((mark["colour"] for mark in marks.values()), key=order.index, default="amber")
    reasons = [f"{translated(name)}: {translated(mark['value'])}" for name, mark in marks.items() if mark["colour"] == worst]
    return worst, VERDICTS[worst], "" if worst == "green" else "; ".join(reasons)


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
