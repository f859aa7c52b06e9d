"""A result corrected near landmarks: right there, as it was elsewhere, without folds, and with an inverse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import Registration, register
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points
from RegistrationNetLib.geometry.space import displacements_mm, grid_of
from RegistrationNetLib.io.landmarks import mapped
from RegistrationNetLib.registration import correction, size
from RegistrationNetLib.registration.correction import FORGOTTEN_WITHIN_MM, REACH_MM, _Base, _least_determinant, _near
from RegistrationNetLib.registration.landmark_pairs import LandmarkPairs

from ..benchmarks.pushed_pairs import PushedPair, pushed_pair

pytestmark = pytest.mark.usefixtures("one_thread", "few_steps")

QUICK: dict[str, Any] = {"align": ("centre",), "repeats": 0}


@pytest.fixture(scope="module")
def few_steps() -> Iterator[None]:
    """Enough to follow, where there is nothing to be seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correction, "STEPS", 6)
        yield


@lru_cache
def case() -> PushedPair:
    """A slice of a head; in three dimensions the same code is run once, below."""
    return pushed_pair("blank", 3, shape=(110, 100), spacing_mm=2.0)


@lru_cache
def alone() -> Registration:
    return register(case().fixed, case().moving, **QUICK)


def pulled_by(points: np.ndarray, partners: np.ndarray, **given: Any) -> Registration:
    return register(
        case().fixed, case().moving, fixed_landmarks=points, moving_landmarks=partners, landmarks="pull", **{**QUICK, **given}
    )


@lru_cache
def corrected() -> Registration:
    points = case().around(3, 0)
    return register(
        case().fixed, case().moving, previous=alone(), fixed_landmarks=points, moving_landmarks=case().partners(points),
        landmarks="pull", repeats=0,
    )  # fmt: skip


def errors(result: Registration) -> tuple[float, float]:
    """Mean error within 15 mm of the place that failed, and beyond the reach of the correction."""
    off, away = case().errors_mm(result.moving_from_fixed)
    return float(off[away < 15].mean()), float(off[away > 60 + 15].mean())


def test_three_pairs_put_right_what_the_images_do_not_show() -> None:
    before, after = errors(alone()), errors(corrected())
    assert before[0] > 10
    assert after[0] < 2.5
    assert after[1] == pytest.approx(before[1], rel=0.02)
    assert corrected().quality.jacobian.folded_percent == 0
    assert corrected().quality.inverse_consistency_mm.p95 < 1.0


def test_nothing_moves_beyond_the_reach_of_the_points() -> None:
    grid = grid_of(case().fixed)
    moved = np.linalg.norm(
        displacements_mm(corrected().moving_from_fixed, grid) - displacements_mm(alone().moving_from_fixed, grid), axis=-1
    )
    places = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
    points = case().around(3, 0)
    away = np.linalg.norm(places[..., None, :] - points, axis=-1).min(axis=-1)
    assert moved[away < 10].max() > 10
    assert moved[away > 60].max() < 0.05


def test_the_report_tells_each_point_before_and_after_and_left_out() -> None:
    told = corrected().report()["landmarks"]
    assert told["use"] == "pull"
    assert [one["label"] for one in told["points"]] == ["1", "2", "3"]
    for one in told["points"]:
        assert one["followed"]
        assert one["after_mm"] < 1.5
        assert one["after_mm"] < one["left_out_mm"] < one["unpulled_mm"]
    assert told["error_mm"]["left_out"]["mean"] == pytest.approx(np.mean([one["left_out_mm"] for one in told["points"]]))
    assert corrected().facts["inputs"]["previous"] is True
    assert any(
        mark.measure == "Distance of landmarks that pull" and "left out in turn" in mark.value_text for mark in corrected().marks
    )
    assert corrected().facts["seconds"]["refine"] > 0


def test_one_misplaced_pair_among_twenty_costs_little_and_is_named() -> None:
    places = case().elsewhere(21, 1)
    partners = case().partners(places)
    right = pulled_by(places[:20], partners[:20])
    partners[20] += [-16.0, 12.0]
    one_wrong = pulled_by(places, partners, landmark_labels=[f"p{number}" for number in range(21)])
    cost = case().errors_mm(one_wrong.moving_from_fixed)[0].mean() - case().errors_mm(right.moving_from_fixed)[0].mean()
    assert cost < 0.3
    assert any("not followed" in told and "p20" in told for told in one_wrong.facts["warnings"])
    assert not one_wrong.report()["landmarks"]["points"][20]["followed"]


def test_a_single_pair_pulls_and_has_nothing_to_be_left_out_from() -> None:
    points = case().around(3, 0)[:1]
    result = register(
        case().fixed, case().moving, previous=alone(), fixed_landmarks=points, moving_landmarks=case().partners(points),
        landmarks="pull", repeats=0,
    )  # fmt: skip
    (told,) = result.report()["landmarks"]["points"]
    assert told["after_mm"] < 1.0 < told["unpulled_mm"]
    assert told["left_out_mm"] is None


def test_pairs_in_place_change_next_to_nothing() -> None:
    points = case().elsewhere(4, 2)
    partners = mapped(points, alone().moving_from_fixed)
    result = register(
        case().fixed,
        case().moving,
        previous=alone(),
        fixed_landmarks=points,
        moving_landmarks=partners,
        landmarks="pull",
        repeats=0,
    )
    before, after = (case().errors_mm(one.moving_from_fixed)[0] for one in (alone(), result))
    assert after.mean() < 1.05 * before.mean()


@pytest.mark.slow
def test_the_tolerance_says_how_exactly_points_are_met() -> None:
    """Two that contradict each other by 6 mm are met within 1 mm, or between them within 8."""
    points = case().around(3, 0)[:1] + np.array([[0.0, 0.0], [4.0, 0.0]])
    partners = case().partners(points[:1]) + np.array([[0.0, 0.0], [4.0, 6.0]])
    strict, loose = (
        register(
            case().fixed, case().moving, previous=alone(), fixed_landmarks=points, moving_landmarks=partners, landmarks="pull",
            repeats=0, tolerance=tolerance,
        )
        for tolerance in (1.0, 8.0)
    )  # fmt: skip
    assert strict.quality.landmarks is not None
    assert loose.quality.landmarks is not None
    assert strict.quality.landmarks.after.mean < 0.8 * loose.quality.landmarks.after.mean


def test_a_file_can_be_gone_on_from_and_its_inverse_lies_beside_it(tmp_path: Any) -> None:
    alone().save(tmp_path / "out")
    points = case().around(3, 0)
    result = register(
        case().fixed, case().moving, previous=tmp_path / "out" / "transform.h5", fixed_landmarks=points,
        moving_landmarks=case().partners(points), landmarks="pull", repeats=0,
    )  # fmt: skip
    assert errors(result)[0] == pytest.approx(errors(corrected())[0], abs=0.2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"align": ("rigid",)}, "came with an initial transform or stages of alignment"),
        ({"initial": sitk.TranslationTransform(2, (1.0, 0))}, "came with an initial transform or stages of alignment"),
        ({"landmarks": "judge"}, "came without anything to correct"),
        ({"previous": sitk.TranslationTransform(3, (1.0, 0, 0))}, "to go on from has 3 dimensions and the images 2"),
        ({"fixed_landmarks": None, "moving_landmarks": None}, "Landmarks are to pull, and none came"),
        ({"landmark_labels": ["one", "two"]}, "There are 2 labels for 3 pairs of landmarks"),
        ({"landmarks": "push"}, "There is no use 'push' of landmarks; the uses are judge, pull"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], message: str) -> None:
    points = case().around(3, 0)
    usual = {"previous": alone(), "fixed_landmarks": points, "moving_landmarks": case().partners(points), "landmarks": "pull"}
    with pytest.raises(InputError, match=message):
        register(case().fixed, case().moving, **{**usual, **given})


@pytest.mark.parametrize(("squeezed", "share"), [(0.3, 1.0), (0.8, 0.5), (0.95, 0.0)])
def test_what_was_wrong_is_made_smooth_as_far_as_nothing_folds(squeezed: float, share: float) -> None:
    """Tissue that is squeezed by so much, all the way to where smoothing ends."""
    grid = grid_of(case().fixed)
    along_mm = identity_points(grid.shape, torch.zeros((), dtype=torch.float64))[0, 0] * grid.extent_mm[0]
    place = np.array([[0.0, 0.0, 1.0]]) @ grid.world_from_unit.T
    waves = torch.zeros(1, 2, *grid.shape, dtype=torch.float64)
    waves[0, 0] = torch.from_numpy(np.interp(along_mm, [10, 58, 72], [0, -48 * squeezed, 0])) / grid.extent_mm[0]
    base = _Base(grid, waves, -waves, np.eye(3))
    kept = base.forgetting(LandmarkPairs(place[:, :2], place[:, :2] + 20.0, ("one",), 1.0))
    weight = _near(grid, place[:, :2], waves, FORGOTTEN_WITHIN_MM, REACH_MM)
    assert torch.equal(kept.forward, base._smoothed(share * weight).forward)
    assert _least_determinant(kept.forward) > 0


def test_the_reach_is_what_is_promised() -> None:
    assert REACH_MM < 60


def test_going_on_changes_nothing_of_a_result_that_is_held_on_fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "WHOLE_POINTS", 1000)
    first = register(case().fixed, case().moving, steps=4, **QUICK)
    assert first.facts["delivered_spacing_mm"][0] > 2.2
    points = case().around(3, 0)
    second = register(
        case().fixed, case().moving, previous=first, fixed_landmarks=points, moving_landmarks=mapped(points, first.moving_from_fixed),
        landmarks="pull", repeats=0,
    )  # fmt: skip
    lattice = grid_of(case().fixed)
    moved = displacements_mm(second.moving_from_fixed, lattice) - displacements_mm(first.moving_from_fixed, lattice)
    assert np.abs(moved).max() < 0.002


def test_the_progress_of_a_second_look_begins_with_the_correction() -> None:
    points, heard = case().around(3, 0), []
    register(
        case().fixed, case().moving, previous=alone(), fixed_landmarks=points, moving_landmarks=case().partners(points),
        landmarks="pull", repeats=0, progress=heard.append,
    )  # fmt: skip
    assert next(one.fraction for one in heard if one.stage == "correct") < 0.1


def test_the_repeats_follow_the_landmarks_too() -> None:
    points = case().around(3, 0)
    result = pulled_by(points, case().partners(points), repeats=1)
    assert len(result.evidence.repeats_off_mm) == 1
    assert not result.evidence.repeat_failure


def test_what_stays_rigid_and_what_keeps_its_volume_is_told() -> None:
    grid = grid_of(case().fixed)
    places = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
    masks = {}
    for name, centre in (("rigid", grid.centre_mm), ("keep_volume", grid.centre_mm + np.array([45.0, 0.0]))):
        inside = (np.linalg.norm(places - centre, axis=-1) < 10).astype(np.uint8)
        masks[name] = sitk.GetImageFromArray(inside)
        masks[name].CopyInformation(case().fixed)
    result = register(case().fixed, case().moving, previous=alone(), repeats=0, **masks)
    rigid, volume = result.facts["kept_shape"]
    assert (rigid["kind"], volume["kind"]) == ("rigid", "volume")
    assert rigid["from_rigid_mm"] < 0.1
    assert max(rigid["volume_change_percent"], volume["volume_change_percent"]) < 1
    assert result.quality.jacobian.folded_percent == 0
    assert alone().facts.get("kept_shape") is None


def test_pairs_that_the_images_have_already_change_nothing() -> None:
    points = case().around(3, 0)
    partners = np.array([alone().moving_from_fixed.TransformPoint(one) for one in points.tolist()]) + 0.3
    left = register(
        case().fixed, case().moving, previous=alone(), fixed_landmarks=points, moving_landmarks=partners, landmarks="pull",
        tolerance=1.0, repeats=0,
    )  # fmt: skip
    lattice = grid_of(case().fixed)
    moved = displacements_mm(left.moving_from_fixed, lattice) - displacements_mm(alone().moving_from_fixed, lattice)
    assert np.abs(moved).max() < 0.01
    told = left.report()["landmarks"]["points"]
    assert [one["left_out_mm"] for one in told] == pytest.approx([one["unpulled_mm"] for one in told])
