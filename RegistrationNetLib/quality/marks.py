"""What the numbers of `quality` mean: green, amber or red for each measure, with its rule in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .assessment import BeforeAfter, JacobianStatistics, LandmarkErrors, Quality

Colour = Literal["green", "amber", "red"]


@dataclass(frozen=True)
class Limits:
    """Where green ends and amber ends. They follow AAPM TG-132 (Brock et al., Med. Phys. 44, 2017), table of tolerances:
    no negative determinant, consistency and landmark error within the largest voxel edge, Dice of 0.8 to 0.9."""

    similarity_unchanged_percent: float = 1.0
    folded_percent_amber: float = 0.1
    shrinking_green: float = 0.2
    growing_green: float = 5.0
    growing_amber: float = 10.0
    inverse_voxels_green: float = 0.5
    dice_green: float = 0.8
    dice_unchanged: float = 0.01


@dataclass(frozen=True)
class Mark:
    """One measure, its value in words, its colour, and the rule behind the colour as a sentence.

    `reason` says in one sentence what is wrong where the colour is not green; "" where the value says it. `is_evidence` tells those
    that can see whether the registration is right from those that see only whether the map is plausible. `place` is the name under
    which `worst_places` tells where it is worst; "" where that is nowhere.
    """

    measure: str
    value_text: str
    colour: Colour
    rule: str
    reason: str = ""
    is_evidence: bool = False
    place: str = ""


def marks(quality: Quality, limits: Limits | None = None) -> list[Mark]:
    """Green, amber or red for every measure that can be judged without knowing the anatomy."""
    return list(_marks(quality, limits or Limits()))


ALARM: tuple[Colour, ...] = ("green", "amber", "red")


def worst(marks: list[Mark]) -> Colour:
    """The most alarming colour."""
    return max((mark.colour for mark in marks), key=ALARM.index)


def _marks(quality: Quality, limits: Limits) -> Iterator[Mark]:
    yield from _mark_similarity(quality, limits)
    yield from _marks_jacobian(quality.jacobian, limits)
    yield _mark_inverse(quality, limits)
    if quality.labels is not None:
        yield _mark_labels(quality.labels.mean, limits)
    if quality.landmarks is not None and quality.landmarks.is_pulling:
        yield _mark_pulling(quality.landmarks, max(quality.voxel_mm))
    elif quality.landmarks is not None:
        yield _mark_landmarks(quality.landmarks, max(quality.voxel_mm))


def _colour(*, green: bool, amber: bool) -> Colour:
    return "green" if green else "amber" if amber else "red"


def _mark_similarity(quality: Quality, limits: Limits) -> Iterator[Mark]:
    """Only where it fell: that it rose is no evidence, as every optimizer raises it, also between images of two bodies."""
    before, after = quality.similarity.before, quality.similarity.after
    if after < before - limits.similarity_unchanged_percent / 100 * abs(before):
        yield Mark(
            f"Similarity of the images ({quality.similarity_name})",
            f"{before:.3f} before, {after:.3f} after",
            "red",
            f"The images must not look less alike after registration than before. Red: similarity fell by more than "
            f"{limits.similarity_unchanged_percent:g} %.",
            "The images look less alike than before the registration",
        )


def _marks_jacobian(jacobian: JacobianStatistics, limits: Limits) -> Iterator[Mark]:
    folded = jacobian.folded_percent
    yield Mark(
        "Folded voxels (Jacobian determinant 0 or less)",
        f"{folded:.2g} %",
        _colour(green=folded == 0, amber=folded <= limits.folded_percent_amber),
        f"Tissue cannot fold through itself. Green: no folded voxel; amber: up to {limits.folded_percent_amber:g} %; red: more.",
        f"The map folds at {folded:.2g} % of the voxels",
        place="shrinking" if folded else "",
    )
    yield Mark(
        "Strongest shrinking (smallest Jacobian determinant)",
        f"{jacobian.min:.3g}",
        _colour(green=jacobian.min >= limits.shrinking_green, amber=jacobian.min > 0),
        "From fixed to moving, a piece of tissue keeps this share of its volume. "
        f"Green: at least {limits.shrinking_green:g}; amber: less, but above 0; red: 0 or less, it folds.",
        f"Somewhere tissue shrinks to {max(jacobian.min, 0):.2g} of its volume",
        place="shrinking",
    )
    yield Mark(
        "Strongest growing (largest Jacobian determinant)",
        f"{jacobian.max:.3g}",
        _colour(green=jacobian.max <= limits.growing_green, amber=jacobian.max <= limits.growing_amber),
        "From fixed to moving, a piece of tissue grows to this many times its volume. "
        f"Green: at most {limits.growing_green:g}; amber: at most {limits.growing_amber:g}; red: more.",
        f"Somewhere tissue grows to {jacobian.max:.3g} times its volume",
        place="growing",
    )


def _mark_inverse(quality: Quality, limits: Limits) -> Mark:
    error = quality.inverse_consistency_mm
    green_mm, amber_mm = limits.inverse_voxels_green * min(quality.voxel_mm), max(quality.voxel_mm)
    return Mark(
        "Inverse transform (way to moving and back)",
        f"{error.mean:.3f} mm mean, {error.p95:.3f} mm for 95 % of voxels, {error.max:.3f} mm largest",
        _colour(green=error.p95 <= green_mm, amber=error.p95 <= amber_mm),
        "The inverse must undo the transform; whether the transform is right it cannot tell. Green: 95 % of voxels come back within "
        f"{green_mm:.2g} mm ({limits.inverse_voxels_green:g} times the smallest voxel edge); "
        f"amber: within {amber_mm:.2g} mm (the largest voxel edge); red: farther.",
        f"The inverse misses by up to {error.p95:.2g} mm",
        place="inverse",
    )


def _mark_labels(dice: BeforeAfter, limits: Limits) -> Mark:
    fell = dice.after < dice.before - limits.dice_unchanged
    return Mark(
        "Overlap of structures (mean Dice)",
        f"{dice.before:.3f} before, {dice.after:.3f} after",
        _colour(green=dice.after >= limits.dice_green and not fell, amber=not fell),
        f"Outlined structures must coincide after registration (1 is full overlap). Green: at least {limits.dice_green:g}; "
        f"amber: less, but not worse than before; red: worse than before by more than {limits.dice_unchanged:g}.",
        place="labels",
    )


def _mark_landmarks(landmarks: LandmarkErrors, voxel_edge_mm: float) -> Mark:
    before, after = landmarks.before.mean, landmarks.after.mean
    return Mark(
        "Distance of landmarks (target registration error)",
        f"{before:.2f} mm before, {after:.2f} mm after (mean of {landmarks.count}), {landmarks.after.max:.2f} mm largest",
        _colour(green=after <= min(voxel_edge_mm, before), amber=after <= max(voxel_edge_mm, before)),
        "The same anatomical point must land in the same place. "
        f"Green: mean within the largest voxel edge ({voxel_edge_mm:.2g} mm) and no farther than before; "
        "amber: only one of the two; red: neither.",
        place="landmarks",
    )


def _mark_pulling(landmarks: LandmarkErrors, voxel_edge_mm: float) -> Mark:
    before, after, honest = landmarks.before.mean, landmarks.after.mean, landmarks.left_out
    told = f"{before:.2f} mm before, {after:.2f} mm after (mean of {landmarks.count})"
    off = math.inf if honest is None else honest.mean
    if honest is not None:
        told += f", {off:.2f} mm left out in turn"
    return Mark(
        "Distance of landmarks that pull",
        told,
        _colour(green=off <= voxel_edge_mm, amber=off <= before or honest is None),
        "What pulls cannot judge: each landmark is left out in turn, and the others must bring it to its place. "
        f"Green: mean within the largest voxel edge ({voxel_edge_mm:.2g} mm); amber: no farther than before, or a single landmark; "
        "red: farther.",
        f"Landmarks are missed by {off:.2g} mm when they are left out in turn" if honest is not None else "",
        place="landmarks",
    )
