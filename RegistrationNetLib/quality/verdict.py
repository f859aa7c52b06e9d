"""One verdict on a registration: it fits, look closely, or it does not fit, with the one reason that decided.

The evidence is judged by limits that were found on pairs whose truth is known (`trust.json`; docs/trust.md). Where landmarks or
labels come with the pair, they are the truth, as far as they reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .assessment import LabelOverlap, LandmarkErrors, Quality
from .error_map import ExpectedError, trust_facts
from .evidence import Evidence
from .likeness import Pose
from .marks import ALARM, Colour, Mark

WORDS: Mapping[Colour, str] = {"green": "fits", "amber": "look closely", "red": "does not fit"}
# What is wrong beyond doubt is off by more than this, or by more than this share of the body.
WRONG_MM, WRONG_SHARE = 10.0, 0.1
# What is right is off by less than a voxel or this.
RIGHT_MM = 2.0
# So many kinds of evidence against a registration weigh as much as one alarm.
DOUBTS_THAT_DECIDE = 2
DICE_FITS, DICE_FELL = 0.8, 0.01


@dataclass(frozen=True)
class Verdict:
    """`colour`, the same in `words`, and the `reason` that decided it, a sentence."""

    colour: Colour
    reason: str

    @property
    def words(self) -> str:
        """fits, look closely or does not fit."""
        return WORDS[self.colour]

    def __str__(self) -> str:
        return f"{self.words}: {self.reason}"

    def as_dict(self) -> dict[str, str]:
        """The part of `report.json` that is called `verdict`."""
        return {"colour": self.colour, "words": self.words, "reason": self.reason}

    def is_as_good_as(self, words: str) -> bool:
        """Whether it is at least as good as the verdict of these words."""
        asked = next(colour for colour, one in WORDS.items() if one == words)
        return ALARM.index(self.colour) <= ALARM.index(asked)


def verdict_on(evidence: Evidence, expected: ExpectedError, quality: Quality, marks: Sequence[Mark]) -> Verdict:
    """The verdict on a registration.

    Enough landmarks to tell a pose (one more than there are dimensions) decide alone. Fewer, and labels, whose overlap a wrong pose
    can leave high, can only make it worse.

    Args:
        marks: those of the evidence (`trust_marks`) and those of `quality`.
    """
    folds = [mark for mark in marks if mark.colour == "red" and not mark.is_evidence]
    judged = verdict_by_evidence(evidence, expected, [mark for mark in marks if mark.is_evidence])
    if judged.colour == "green" and folds:
        judged = Verdict("amber", folds[0].reason)
    said = list(_truths(quality))
    truth = quality.landmarks
    if truth is not None and not truth.is_pulling and truth.count > len(quality.voxel_mm):
        return said[0]
    return max((judged, *said), key=lambda one: ALARM.index(one.colour))


def verdict_by_evidence(evidence: Evidence, expected: ExpectedError, marks: Sequence[Mark]) -> Verdict:
    """The verdict by the `marks` of the evidence: red if one of them is, or if two kinds of evidence are amber."""
    doubts = [mark for mark in marks if mark.colour != "green"]
    if not doubts:
        return Verdict("green", _why_it_fits(evidence, expected))
    alarms = [mark for mark in doubts if mark.colour == "red"]
    if alarms or len({mark.measure for mark in doubts}) >= DOUBTS_THAT_DECIDE:
        return Verdict("red", (alarms or doubts)[0].reason)
    return Verdict("amber", doubts[0].reason)


def _why_it_fits(evidence: Evidence, expected: ExpectedError) -> str:
    error = f"the expected error is {expected.median:.2g} mm in the median, {expected.p95:.2g} mm for 95 % of the body"
    if not evidence.repeats_off_mm:
        return f"No repeat was made, so this rests on the images alone; {error}"
    farthest = max(evidence.repeats_off_mm)
    return f"{_repeats(evidence)} within {farthest:.2g} mm; {error}"


def _repeats(evidence: Evidence) -> str:
    """Subject and verb: how many repeats end somewhere."""
    count = len(evidence.repeats_off_mm)
    return "One repeat ends" if count == 1 else f"{_number(count)} repeats end"


def _number(count: int) -> str:
    names = ("No", "One", "Two", "Three", "Four", "Five")
    return names[count] if count < len(names) else str(count)


def _truths(quality: Quality) -> Iterator[Verdict]:
    if quality.landmarks is not None and quality.landmarks.is_pulling:
        yield from _by_left_out(quality.landmarks, max(quality.voxel_mm))
    elif quality.landmarks is not None:
        yield _by_landmarks(quality.landmarks, max(quality.voxel_mm))
    if quality.labels is not None:
        yield _by_labels(quality.labels)


def _by_landmarks(errors: LandmarkErrors, voxel_mm: float) -> Verdict:
    off = errors.after.mean
    colour: Colour = "green" if off <= max(voxel_mm, RIGHT_MM) else "amber" if off <= WRONG_MM else "red"
    what = "One landmark lies" if errors.count == 1 else f"{errors.count} landmarks lie"
    return Verdict(colour, f"{what} {off:.2g} mm from the true place in the mean, {errors.after.max:.2g} mm at most")


def _by_left_out(errors: LandmarkErrors, voxel_mm: float) -> Iterator[Verdict]:
    """Landmarks that pulled stand where the images alone went wrong: they say what the correction is worth there, not whether all fits."""
    if errors.left_out is None:
        return
    off = errors.left_out.mean
    colour: Colour = "green" if off <= max(voxel_mm, RIGHT_MM) else "amber"
    yield Verdict(colour, f"Landmarks that pull are missed by {off:.2g} mm in the mean when they are left out in turn")


def _by_labels(overlap: LabelOverlap) -> Verdict:
    before, after = overlap.mean.before, overlap.mean.after
    colour: Colour = "green" if after >= DICE_FITS else "amber"
    if after < before - DICE_FELL or after < 0.5 * DICE_FITS:
        colour = "red"
    return Verdict(colour, f"The outlined structures overlap by a Dice of {after:.2f} ({before:.2f} before)")


def trust_marks(
    evidence: Evidence, expected: ExpectedError, voxel_mm: float, facts: Mapping[str, Any] | None = None
) -> list[Mark]:
    """The evidence, judged; what weighs most comes first.

    Args:
        voxel_mm: the largest edge of fixed's voxels.
        facts: the limits; those of `trust.json` if not others are given.
    """
    limits = (facts or trust_facts())["limits"]
    wrong_mm = min(WRONG_MM, WRONG_SHARE * evidence.body_mm)
    judged = [
        _volume(evidence.volume_factor, limits["volume"]),
        _overlap(evidence.overlap, limits["overlap"]),
        _pose(evidence, limits["pose"]),
        *_repeated(evidence, limits["repeats"]),
        _likeness(evidence, limits["likeness"]),
        _expected(expected, voxel_mm, wrong_mm, limits["expected"]),
    ]
    return [replace(mark, is_evidence=True) for mark in judged]


def _colour(value: float, limits: Mapping[str, float]) -> Colour:
    """Green up to the limit "amber", amber up to "red"."""
    return "green" if value <= limits["amber"] else "amber" if value <= limits["red"] else "red"


def _volume(factor: float, limits: Mapping[str, float]) -> Mark:
    change = max(factor, 1 / factor) if factor > 0 else math.inf
    how = f"{factor:.3g} times the volume" if 0.1 <= factor <= 10 else f"{factor:.2e} times the volume"
    return Mark(
        "Size of the bodies (determinant of the alignment)",
        f"{factor:.3g}",
        _colour(change, limits),
        "The alignment must not blow one body up to match the other. "
        f"Green: within a factor of {limits['amber']:.2g}; amber: of {limits['red']:.2g}; red: more.",
        f"Tissue of fixed would take up {how} in moving: check the voxel sizes and whether both show the same part of the body",
    )


def _overlap(share: float, limits: Mapping[str, float]) -> Mark:
    return Mark(
        "Overlap of the bodies",
        f"{100 * share:.0f} %",
        _colour(1 - share, {name: 1 - value for name, value in limits.items()}),
        "Share of the body in one image that lies in the other's field of view; nothing can be said of the rest. "
        f"Green: at least {100 * limits['amber']:.0f} %; amber: at least {100 * limits['red']:.0f} %; red: less.",
        f"The two images overlap by {100 * share:.0f} %",
    )


def _pose(evidence: Evidence, limits: Mapping[str, float]) -> Mark:
    gain = evidence.other_pose.score - evidence.pose_score
    return Mark(
        "Best other pose (mirrored, turned by 180° or shifted)",
        f"{evidence.pose_score:.2f} as found, {evidence.other_pose.score:.2f} {pose_words(evidence.other_pose, evidence)}",
        _colour(evidence.pose_doubt, limits),
        "The images must match better as they were found than in any other pose, which is what unrelated tissue reaches. "
        f"Green: what does not match is at most {limits['amber']:.2f} times what does not match there; "
        f"amber: at most {limits['red']:.2f} times; red: more.",
        f"The images match {'better' if gain > 0 else 'nearly as well'} when moving is {pose_words(evidence.other_pose, evidence)}",
    )


def pose_words(pose: Pose, evidence: Evidence) -> str:
    """How another pose comes from the one that was found."""
    if not pose.mirrored:
        steps = zip(pose.shift_vox, evidence.grid.spacing_mm, strict=True)
        return f"moved by {math.hypot(*(count * step for count, step in steps)):.0f} mm"
    return "turned by 180°" if len(pose.mirrored) == 2 else "mirrored"


def _repeated(evidence: Evidence, limits: Mapping[str, float]) -> Iterator[Mark]:
    if not evidence.repeats_asked:
        return
    off_mm = evidence.repeats_off_mm
    missing = evidence.repeats_asked - len(off_mm)
    measure = "Repeats (registered again from the other side and from changed images)"
    rule = (
        "A right result is found again. Green: every repeat ends within "
        f"{100 * limits['amber']:.2g} % of the body's size; amber: within {100 * limits['red']:.2g} %; red: farther."
    )
    if missing:
        value = f"{missing} of {evidence.repeats_asked} failed"
        yield Mark(measure, value, "amber", rule, f"{value}: {evidence.repeat_failure}")
    if off_mm:
        farthest = max(off_mm)
        where = " and ".join(f"{off:.2g}" for off in sorted(off_mm))
        yield Mark(
            measure, f"{where} mm from the result (median over the body)", _colour(farthest / evidence.body_mm, limits), rule,
            f"{_repeats(evidence)} up to {farthest:.2g} mm from the result", place="repeats",
        )  # fmt: skip


def _likeness(evidence: Evidence, limits: Mapping[str, float]) -> Mark:
    return Mark(
        "Likeness of the bodies (mean squared local correlation)",
        f"{evidence.likeness:.2f}",
        _colour(-evidence.likeness, {name: -value for name, value in limits.items()}),
        "Around each place, the share of one image that the other explains; unrelated tissue reaches little even when it was "
        f"deformed to match. Green: at least {limits['amber']:.2f}; amber: at least {limits['red']:.2f}; red: less.",
        f"The bodies hardly look alike after registration (local correlation {evidence.likeness:.2f})",
        place="likeness",
    )


def _expected(expected: ExpectedError, voxel_mm: float, wrong_mm: float, limits: Mapping[str, float]) -> Mark:
    green_mm = max(voxel_mm, RIGHT_MM) * limits["amber"]
    red_mm = max(wrong_mm * limits["red"], green_mm)
    return Mark(
        "Expected error",
        f"{expected.median:.2g} mm in the median, {expected.p95:.2g} mm for 95 % of the body",
        _colour(expected.median, {"amber": green_mm, "red": red_mm}),
        f"What registrations with such evidence were off by. Green: at most {green_mm:.2g} mm in the median over the body; "
        f"amber: at most {red_mm:.2g} mm; red: more.",
        f"The expected error is {expected.median:.2g} mm in the median over the body",
        place="expected",
    )
