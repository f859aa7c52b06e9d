"""The verdict: what each kind of evidence does to it, what decides, and what truth does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from RegistrationNetLib.quality.assessment import BeforeAfter, ErrorStatistics, JacobianStatistics, LabelOverlap, LandmarkErrors
from RegistrationNetLib.quality.likeness import Pose
from RegistrationNetLib.quality.marks import marks
from RegistrationNetLib.quality.verdict import Verdict, trust_marks, verdict_on

from .made_evidence import FITTING, evidence
from .test_marks import FINE

BARE = replace(FINE, labels=None, landmarks=None)
VOXEL_MM = 1.0


def verdict(quality=BARE, expected=FITTING, **changed) -> Verdict:
    found = evidence(**changed)
    return verdict_on(found, expected, quality, [*trust_marks(found, expected, VOXEL_MM), *marks(quality)])


def test_a_right_registration_fits_and_says_on_what_that_rests() -> None:
    assert verdict().colour == "green"
    assert str(verdict()) == (
        "fits: Two repeats end within 0.5 mm; the expected error is 0.6 mm in the median, 1.1 mm for 95 % of the body"
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"volume_factor": 0.02}, "take up 2.00e-02 times the volume in moving: check the voxel sizes"),
        ({"volume_factor": -1.0}, "times the volume"),
        ({"overlap": 0.02}, "The two images overlap by 2 %"),
        ({"pose_score": 0.5, "other_pose": Pose((2,), (0, 0, 0), 0.8)}, "The images match better when moving is mirrored"),
        ({"pose_score": 0.5, "other_pose": Pose((0, 2), (0, 0, 0), 0.8)}, "match better when moving is turned by 180°"),
        ({"pose_score": 0.5, "other_pose": Pose((), (0, 3, 4), 0.8)}, "match better when moving is moved by 20 mm"),
        ({"repeats_off_mm": (40.0, 0.4)}, "Two repeats end up to 40 mm from the result"),
        ({"likeness": 0.02}, "hardly look alike after registration"),
    ],
)
def test_one_kind_of_evidence_is_enough_to_say_that_it_does_not_fit(changed, reason) -> None:
    said = verdict(**changed)
    assert said.words == "does not fit"
    assert reason in said.reason


def test_an_expected_error_beyond_what_is_right_is_looked_at_and_a_large_one_does_not_fit() -> None:
    assert verdict(expected=replace(FITTING, median=5.0)).words == "look closely"
    assert verdict(expected=replace(FITTING, median=30.0)).words == "does not fit"
    assert "The expected error is 30 mm" in verdict(expected=replace(FITTING, median=30.0)).reason


def test_two_kinds_of_doubt_weigh_as_much_as_one_alarm() -> None:
    doubt = {"repeats_asked": 3}  # one of three failed
    assert verdict(**doubt).words == "look closely"
    assert verdict(**doubt, expected=replace(FITTING, median=5.0)).words == "does not fit"


def test_a_repeat_that_failed_is_told() -> None:
    said = verdict(repeats_asked=3, repeat_failure="The loss became infinite")
    assert said == Verdict("amber", "1 of 3 failed: The loss became infinite")


def test_without_repeats_the_verdict_says_that_it_rests_on_the_images_alone() -> None:
    said = verdict(repeats_asked=0, repeats_off_mm=(), spread_vox=None)
    assert said.colour == "green"
    assert said.reason.startswith("No repeat was made, so this rests on the images alone")


def test_folds_are_looked_at() -> None:
    folded = replace(BARE, jacobian=JacobianStatistics(-1.0, 2.0, 1.0, 3.0, 0.1))
    assert verdict(folded).words == "look closely"
    assert "folds at 3 % of the voxels" in verdict(folded).reason


def landmarks(after_mm: float, count: int = 4):
    error = ErrorStatistics(after_mm, after_mm, 2 * after_mm)
    return replace(BARE, landmarks=LandmarkErrors(count, ErrorStatistics(30, 40, 50), error))


@pytest.mark.parametrize(("after_mm", "words"), [(1.0, "fits"), (5.0, "look closely"), (20.0, "does not fit")])
def test_enough_landmarks_decide_as_the_truth_that_they_are(after_mm, words) -> None:
    assert verdict(landmarks(after_mm)).words == words
    assert verdict(landmarks(after_mm), likeness=0.02).words == words
    assert "4 landmarks lie" in verdict(landmarks(after_mm)).reason


def test_too_few_landmarks_for_a_pose_can_only_make_it_worse() -> None:
    assert verdict(landmarks(1.0, count=1), likeness=0.02).words == "does not fit"
    assert verdict(landmarks(20.0, count=1)).reason.startswith("One landmark lies 20 mm from the true place")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(0.5, 0.9, "fits"), (0.5, 0.7, "look closely"), (0.8, 0.7, "does not fit"), (0.1, 0.2, "does not fit")],
)
def test_labels_that_do_not_coincide_make_it_worse(before, after, words) -> None:
    assert verdict(replace(BARE, labels=LabelOverlap({1: BeforeAfter(before, after)}))).words == words


def test_labels_that_coincide_do_not_hide_a_wrong_pose() -> None:
    """A head turned by 180° covers the same place."""
    labels = LabelOverlap({1: BeforeAfter(0.9, 0.95)})
    assert verdict(replace(BARE, labels=labels), likeness=0.02).words == "does not fit"


def test_what_is_required_is_compared_by_order() -> None:
    green, amber, red = (Verdict(colour, "") for colour in ("green", "amber", "red"))
    assert green.is_as_good_as("fits")
    assert not amber.is_as_good_as("fits")
    assert amber.is_as_good_as("look closely")
    assert not red.is_as_good_as("look closely")
    assert red.is_as_good_as("does not fit")


def test_every_rule_of_the_evidence_names_its_three_colours() -> None:
    for mark in trust_marks(evidence(), FITTING, VOXEL_MM):
        assert mark.is_evidence
        assert all(re.search(word, mark.rule, re.IGNORECASE) for word in ("green:", "amber:", "red:"))
