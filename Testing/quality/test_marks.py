from __future__ import annotations

from dataclasses import replace

import pytest

from RegistrationNetLib.quality.assessment import (
    BeforeAfter,
    Displacement,
    ErrorStatistics,
    JacobianStatistics,
    LabelOverlap,
    LandmarkErrors,
    Quality,
)
from RegistrationNetLib.quality.marks import Limits, marks, worst

FINE = Quality(
    voxel_mm=(3.0, 1.0, 1.0),
    similarity_name="lncc",
    similarity=BeforeAfter(0.5, 0.7),
    jacobian=JacobianStatistics(0.5, 2.0, 1.0, 0.0, 0.1),
    inverse_consistency_mm=ErrorStatistics(0.1, 0.3, 2.0),
    displacement_mm=Displacement(2.0, 9.0),
    labels=LabelOverlap({1: BeforeAfter(0.6, 0.9)}),
    landmarks=LandmarkErrors(4, ErrorStatistics(9, 10, 11), ErrorStatistics(2, 3, 4)),
)


def jacobian(**changed):
    return replace(FINE, jacobian=replace(FINE.jacobian, **changed))


def landmarks(before, after):
    return replace(
        FINE, landmarks=LandmarkErrors(4, ErrorStatistics(before, before, before), ErrorStatistics(after, after, after))
    )


def test_a_fine_result_is_green_throughout():
    assert [mark.colour for mark in marks(FINE)] == ["green"] * 6
    assert worst(marks(FINE)) == "green"


@pytest.mark.parametrize(
    ("changed", "measure", "colour"),
    [
        (replace(FINE, similarity=BeforeAfter(0.5, 0.4)), "Similarity", "red"),
        (replace(FINE, similarity=BeforeAfter(-0.5, -0.6)), "Similarity", "red"),
        (jacobian(folded_percent=0.1), "Folded", "amber"),
        (jacobian(folded_percent=0.11), "Folded", "red"),
        (jacobian(min=0.19), "Strongest shrinking", "amber"),
        (jacobian(min=0.0), "Strongest shrinking", "red"),
        (jacobian(max=5.1), "Strongest growing", "amber"),
        (jacobian(max=10.1), "Strongest growing", "red"),
        (replace(FINE, inverse_consistency_mm=ErrorStatistics(0.1, 0.6, 9)), "Inverse transform", "amber"),
        (replace(FINE, inverse_consistency_mm=ErrorStatistics(0.1, 3.1, 9)), "Inverse transform", "red"),
        (replace(FINE, labels=LabelOverlap({1: BeforeAfter(0.6, 0.7)})), "Overlap", "amber"),
        (replace(FINE, labels=LabelOverlap({1: BeforeAfter(0.9, 0.85)})), "Overlap", "red"),
        (landmarks(9, 3.5), "Distance of landmarks", "amber"),
        (landmarks(2, 2.5), "Distance of landmarks", "amber"),
        (landmarks(4, 5), "Distance of landmarks", "red"),
    ],
)
def test_a_mark_follows_its_number_and_no_other_mark_changes(changed, measure, colour):
    marked = marks(changed)
    others = [mark.colour for mark in marked if not mark.measure.startswith(measure)]
    assert [mark.colour for mark in marked if mark.measure.startswith(measure)] == [colour]
    assert set(others) == {"green"}
    assert worst(marked) == colour


def test_without_labels_and_landmarks_there_is_no_mark_for_them():
    assert len(marks(replace(FINE, labels=None, landmarks=None))) == 4


@pytest.mark.parametrize("after", [0.5, 0.497, 0.9])
def test_that_the_similarity_did_not_fall_earns_no_mark(after):
    assert not any("Similarity" in mark.measure for mark in marks(replace(FINE, similarity=BeforeAfter(0.5, after))))


def test_the_mark_of_the_inverse_says_that_it_cannot_see_whether_the_transform_is_right():
    (inverse,) = [mark for mark in marks(FINE) if mark.measure.startswith("Inverse")]
    assert "whether the transform is right it cannot tell" in inverse.rule


def test_no_mark_of_the_map_alone_counts_as_evidence():
    assert not any(mark.is_evidence for mark in marks(FINE))


def test_what_is_not_green_says_in_a_sentence_what_is_wrong():
    poor = replace(
        jacobian(min=-1.0, max=20.0, folded_percent=4.0),
        similarity=BeforeAfter(0.5, 0.4), inverse_consistency_mm=ErrorStatistics(1, 9, 20), labels=None, landmarks=None,
    )  # fmt: skip
    assert all(mark.colour == "red" and len(mark.reason) > 20 for mark in marks(poor))


def test_a_single_folded_voxel_is_not_rounded_away():
    folded = marks(jacobian(folded_percent=100 / 512**3))[0]
    assert folded.colour == "amber"
    assert folded.value_text != "0 %"


def test_every_rule_names_its_three_colours_and_its_limits_in_a_sentence():
    for mark in marks(FINE, Limits(folded_percent_amber=0.25)):
        assert all(word in mark.rule.lower() for word in ("green:", "amber:", "red:"))
        assert mark.rule.endswith(".")
    assert "0.25 %" in marks(FINE, Limits(folded_percent_amber=0.25))[0].rule
