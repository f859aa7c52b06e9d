"""Series in time: every frame to a reference, and what is carried along."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import register_series
from RegistrationNetLib.cohort import series as module
from RegistrationNetLib.cohort.series import SeriesRegistration, as_one_field, joined
from RegistrationNetLib.errors import Cancelled, InputError
from RegistrationNetLib.io.series_files import Series
from RegistrationNetLib.progress import Progress

from .small import blob

# A blob that moves along x by so many voxels of 2 mm.
SHIFTS = (0.0, 1.5, 3.0, 1.0)
TIMES = (10.0, 20.0, 30.0, 40.0)
FAST: dict[str, Any] = {"align": ["centre", "affine"], "steps": 10, "repeats": 0}


def frames() -> tuple[sitk.Image, ...]:
    return tuple(blob((12.0, 10.0 + shift)) for shift in SHIFTS)


@pytest.fixture(scope="module")
def result() -> SeriesRegistration:
    return register_series(Series(frames(), TIMES), reference="first", **FAST)


def test_points_of_the_reference_follow_the_motion(result: SeriesRegistration) -> None:
    points = result.points(np.array([[20.0, 24.0], [24.0, 22.0]]))
    assert points.shape == (4, 2, 2)
    for places, shift in zip(points, SHIFTS, strict=True):
        assert places[:, 0] == pytest.approx([20.0 + 2 * shift, 24.0 + 2 * shift], abs=0.7)
        assert places[:, 1] == pytest.approx([24.0, 22.0], abs=0.7)


def test_the_reference_stays_and_the_others_have_a_displacement_and_a_verdict(result: SeriesRegistration) -> None:
    reference, *others = result.frames
    assert result.reference_number == 0
    assert reference.registration is None
    assert reference.displacement_mm.max == 0
    assert reference.moving_from_fixed.TransformPoint((3.0, 4.0)) == (3.0, 4.0)
    assert [frame.displacement_mm.mean for frame in others] == pytest.approx([3.0, 6.0, 2.0], abs=0.7)
    told = result.report()
    assert told["reference"] == 0
    assert [one["time"] for one in told["frames"]] == list(TIMES)
    assert ["verdict" in one for one in told["frames"]] == [False, True, True, True]


def test_warped_frames_are_a_series_on_the_reference(result: SeriesRegistration) -> None:
    warped = result.warped()
    assert warped.GetSize() == (24, 24, 4)
    assert (warped.GetOrigin()[2], warped.GetSpacing()[2]) == (10.0, 10.0)
    values = sitk.GetArrayFromImage(warped).astype(float)
    before = np.abs(sitk.GetArrayFromImage(frames()[2]).astype(float) - values[0]).mean()
    assert np.abs(values - values[0]).mean(axis=(1, 2)).max() < 0.25 * before


def test_labels_of_the_reference_come_to_every_frame(result: SeriesRegistration) -> None:
    carried = sitk.GetArrayFromImage(result.labels(sitk.Cast(frames()[0] > 500, sitk.sitkUInt8) * 7))
    assert set(np.unique(carried)) == {0, 7}
    for labels, image in zip(carried, frames(), strict=True):
        true = sitk.GetArrayFromImage(image > 500).astype(bool)
        assert 2 * (true & (labels == 7)).sum() / (true.sum() + (labels == 7).sum()) > 0.85


def test_the_drift_is_how_far_the_loop_is_from_closing(result: SeriesRegistration) -> None:
    (drift,) = result.drift_mm
    assert 0 < drift.mean < 0.7


def test_each_chain_goes_away_from_the_reference_and_starts_from_the_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool]] = []
    real, images = module.register, frames()

    def watching(fixed: sitk.Image, moving: sitk.Image, **options: Any) -> Any:
        number = next(place for place, image in enumerate(images) if image is moving)
        calls.append((number, options["initial"] is not None))
        return real(fixed, moving, **{**options, "align": [], "steps": 0})

    monkeypatch.setattr(module, "register", watching)
    heard: list[Progress] = []
    result = register_series(Series(images, TIMES), reference="middle", progress=heard.append, **FAST)
    assert calls == [(3, False), (2, True), (1, False), (0, True), (2, True)]
    assert len(result.drift_mm) == 2
    fractions = [one.fraction for one in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    calls.clear()
    assert register_series(Series(images, TIMES), reference=3, **FAST).reference_number == 3
    assert [number for number, _ in calls] == [2, 1, 0, 3]


def test_the_mean_of_all_can_be_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.register
    monkeypatch.setattr(module, "register", lambda *images, **options: real(*images, **{**options, "align": [], "steps": 0}))
    images = frames()
    result = register_series(Series(images, TIMES), reference="mean", **FAST)
    assert result.reference_number is None
    assert all(frame.registration is not None for frame in result.frames)
    mean = np.mean([sitk.GetArrayFromImage(image) for image in images], axis=0)
    assert sitk.GetArrayFromImage(result.reference) == pytest.approx(mean)
    images[1].SetOrigin((5.0, 0.0))
    with pytest.raises(InputError, match="The frames of the series lie on different grids; their mean needs one grid"):
        register_series(Series(images, TIMES), reference="mean", **FAST)


@pytest.mark.parametrize("reference", ["end", 4, -1])
def test_a_reference_that_is_not_there_is_told(reference: str | int) -> None:
    with pytest.raises(
        InputError, match=f"There is no reference {reference!r}; it is one of first, middle, last, mean, or a frame"
    ):
        register_series(Series(frames(), TIMES), reference=reference, **FAST)


def test_a_series_can_be_stopped() -> None:
    def enough(_: Progress) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        register_series(Series(frames(), TIMES), progress=enough, **FAST)


def test_everything_is_saved_or_nothing(result: SeriesRegistration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = sitk.Cast(frames()[0] > 500, sitk.sitkUInt8)
    points = (("a", "b"), np.array([[20.0, 24.0], [24.0, 22.0]]))
    out = tmp_path / "out"
    result.save(out, labels=labels, points=points)
    names = {"reference.nii.gz", "warped.nii.gz", "labels.nii.gz", "points.csv", "series.csv", "series.json"}
    assert {path.name for path in out.iterdir()} == names | {f"frame{number:03d}" for number in (1, 2, 3)}
    assert (out / "frame002" / "transform.h5").is_file()
    with (out / "series.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] == "reference" for row in rows] == [True, False, False, False]
    with (out / "points.csv").open() as file:
        followed = list(csv.DictReader(file))
    assert [row["label"] for row in followed] == ["a", "b"] * 4
    assert float(followed[4]["x"]) == pytest.approx(result.points(points[1])[2, 0, 0], abs=1e-5)
    assert json.loads((out / "series.json").read_text()) == json.loads(json.dumps(result.report()))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    def failing(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(module, "_write_table", failing)
    with pytest.raises(Exception, match="full"):
        result.save(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_transform_becomes_one_field() -> None:
    image = frames()[0]
    turn = sitk.Euler2DTransform((20.0, 20.0), 0.1, (1.0, 2.0))
    chain = sitk.CompositeTransform([turn, sitk.TranslationTransform(2, (0.5, -0.5))])
    field = as_one_field(chain, image)
    for place in ((3, 4), (10, 20)):
        point = image.TransformIndexToPhysicalPoint(place)
        assert field.TransformPoint(point) == pytest.approx(chain.TransformPoint(point), abs=1e-9)


def test_times_that_do_not_rise_are_counted() -> None:
    assert joined(frames()[:2], (3.0, 3.0)).GetSpacing()[2] == 1.0
