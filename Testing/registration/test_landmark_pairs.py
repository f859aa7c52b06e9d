"""Pairs of landmarks that are to guide a registration: what cannot be meant is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.registration.landmark_pairs import LandmarkPairs, checked_pairs


def image(size: int = 20, spacing_mm: float = 5.0) -> sitk.Image:
    one = sitk.Image([size] * 3, sitk.sitkUInt8)
    one.SetSpacing([spacing_mm] * 3)
    one.SetOrigin([-10.0, 0.0, 20.0])
    return one


FIXED = [[0.0, 10.0, 30.0], [40.0, 50.0, 60.0], [80.0, 20.0, 100.0]]
MOVING = [[1.0, 12.0, 33.0], [44.0, 50.0, 61.0], [80.0, 24.0, 99.0]]


def checked(fixed=FIXED, moving=MOVING, **given) -> LandmarkPairs:
    return checked_pairs(fixed, moving, (image(), image()), **{"tolerance_mm": 1.0, **given})


def test_pairs_are_called_by_their_labels_else_by_their_numbers() -> None:
    assert checked().labels == ("1", "2", "3")
    named = checked(labels=["tip", "horn", "base"])
    assert named.only([2, 0]).labels == ("base", "tip")
    assert named.only(np.array([1])).moving_mm.tolist() == [MOVING[1]]
    assert len(named) == 3
    assert named.exchanged().fixed_mm.tolist() == MOVING


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_landmark_outside_its_image_is_refused_by_name(side: str) -> None:
    points = [*map(list, FIXED[:2]), [86.0, 20.0, 100.0]]  # the last voxel is centred on 85, and ends at 87.5
    assert len(checked(**{side: points})) == 3
    points[2][0], points[1][1] = 87.6, -3.0
    with pytest.raises(
        InputError, match=rf"landmark 2 of {side} lies outside the image at \(40.0, -3.0, 60.0\) mm, as do 1 more"
    ):
        checked(**{side: points})


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_pairs_that_contradict_each_other_are_refused_by_name(side: str) -> None:
    other = {"fixed": "moving", "moving": "fixed"}[side]
    same, apart = [FIXED[0], FIXED[1], [40.5, 50.0, 60.0]], [MOVING[0], MOVING[1], [44.0, 50.0, 70.0]]
    given = {side: same, other: apart, "labels": ["a", "b", "c"]}
    with pytest.raises(
        InputError, match=f"landmarks b and c contradict each other: in {side} they lie 0.5 mm apart, and their partners 9.0 mm"
    ):
        checked(**given)
    assert len(checked(**{**given, "tolerance_mm": 2.0})) == 3
