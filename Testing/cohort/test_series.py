"""Series in time: every frame to a reference, and what is carried along."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import Registration, register_series
from RegistrationNetLib.cohort import series as module
from RegistrationNetLib.cohort.series import Frame, SeriesRegistration, as_one_field, check_carried, joined
from RegistrationNetLib.errors import Cancelled, InputError, OutputError
from RegistrationNetLib.geometry.space import displacements_mm, grid_of
from RegistrationNetLib.io.image_files import read_image
from RegistrationNetLib.io.series_files import Series
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.quality.verdict import Verdict

# A pattern that moves along x by so many mm, on 32 by 32 voxels of 2 mm.
SHIFTS_MM = (0.0, 2.0, 4.0)
TIMES = (10.0, 20.0, 30.0)
FAST: dict[str, Any] = {"align": ["rigid"], "repeats": 0}


def frames() -> tuple[sitk.Image, ...]:
    pattern = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32))
    pattern.SetSpacing((2.0, 2.0))
    smooth = sitk.Cast(1000 * sitk.SmoothingRecursiveGaussian(pattern, 6.0), sitk.sitkInt16)
    grid = sitk.Image([32, 32], sitk.sitkInt16)
    grid.SetSpacing((2.0, 2.0))
    places = (sitk.TranslationTransform(2, (28.0 - shift, 28.0)) for shift in SHIFTS_MM)
    return tuple(sitk.Resample(smooth, grid, place, sitk.sitkBSpline) for place in places)


@pytest.fixture(scope="module")
def result() -> SeriesRegistration:
    return register_series(Series(frames(), TIMES), reference="first", **FAST)


def test_a_series_shows_itself_in_two_lines() -> None:
    verdicts = [None, Verdict("green", "good"), Verdict("red", "it is upside down"), Verdict("green", "good")]
    judged = [None if one is None else SimpleNamespace(verdict=one) for one in verdicts]
    made = SeriesRegistration(frames()[0], 0, tuple(Frame(n, 0.0, frames()[0], one) for n, one in enumerate(judged)), ())  # type: ignore[arg-type]
    assert repr(made) == (
        "Series of 4 frames registered to frame 0\n2 fits, 1 does not fit; the worst is frame 2: it is upside down"
    )
    alone = SeriesRegistration(frames()[0], None, made.frames[:1], ())
    assert repr(alone) == "Series of 1 frames registered to the mean of all\nno frame beside the reference"


@pytest.mark.slow
def test_points_of_the_reference_follow_the_motion(result: SeriesRegistration) -> None:
    points = np.array([[20.0, 30.0], [40.0, 36.0]])
    followed = result.points(points)
    assert followed.shape == (3, 2, 2)
    for places, shift_mm in zip(followed, SHIFTS_MM, strict=True):
        assert np.abs(places - points - (shift_mm, 0.0)).max() < 0.5


@pytest.mark.slow
def test_the_reference_stays_and_the_others_have_a_displacement_and_a_verdict(result: SeriesRegistration) -> None:
    reference, *others = result.frames
    assert result.reference_number == 0
    assert reference.registration is None
    assert reference.displacement_mm.max == 0
    assert reference.moving_from_fixed.TransformPoint((3.0, 4.0)) == (3.0, 4.0)
    assert others[0].displacement_mm.mean == pytest.approx(2.0, abs=0.1)
    told = result.report()
    assert told["reference"] == 0
    assert [one["time"] for one in told["frames"]] == list(TIMES)
    assert ["verdict" in one for one in told["frames"]] == [False, True, True]


@pytest.mark.slow
def test_warped_frames_are_a_series_on_the_reference(result: SeriesRegistration) -> None:
    warped = result.warped()
    assert warped.GetSize() == (32, 32, 3)
    assert (warped.GetOrigin()[2], warped.GetSpacing()[2]) == (10.0, 10.0)
    values = sitk.GetArrayFromImage(warped).astype(float)[..., 3:-3]
    before = np.abs(sitk.GetArrayFromImage(frames()[2]).astype(float)[..., 3:-3] - values[0]).mean()
    assert np.abs(values - values[0]).mean(axis=(1, 2)).max() < 0.25 * before


@pytest.mark.slow
def test_labels_of_the_reference_come_to_every_frame(result: SeriesRegistration) -> None:
    carried = sitk.GetArrayFromImage(result.labels(sitk.Cast(frames()[0] > 0, sitk.sitkUInt8) * 7))
    assert set(np.unique(carried)) == {0, 7}
    for labels, image in zip(carried, frames(), strict=True):
        true = sitk.GetArrayFromImage(image > 0).astype(bool)
        assert (true == (labels == 7))[:, 4:-4].mean() > 0.95


@pytest.mark.slow
def test_a_head_is_followed_and_the_loop_closes() -> None:
    """Where tissue comes in at the border of the image, as in the pattern, nothing is to be followed there."""
    head = head_phantom((64, 64), (3.0, 3.0), 0)
    moved = tuple(
        sitk.Resample(head.image, head.image, sitk.TranslationTransform(2, (-shift, 0.0)), sitk.sitkBSpline)
        for shift in SHIFTS_MM
    )
    found = register_series(Series(moved, TIMES), reference="first", **FAST)
    inside = sitk.GetArrayViewFromImage(head.labels) > 0
    for frame, shift_mm in zip(found.frames, SHIFTS_MM, strict=True):
        off = displacements_mm(frame.moving_from_fixed, grid_of(head.image))[inside] - (shift_mm, 0.0)
        assert np.linalg.norm(off, axis=1).mean() < 0.4
    (drift,) = found.drift_mm
    assert drift.mean < 0.1 * SHIFTS_MM[-1]


class Fake:
    """In place of a registration: where it began, with a shift of 1 mm more."""

    calls: list[tuple[sitk.Image, sitk.Image, sitk.Transform | None]]

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, fixed: sitk.Image, moving: sitk.Image, *, initial: sitk.Transform | None, progress: Any, **_: Any) -> Any:
        self.calls.append((fixed, moving, initial))
        progress(Progress("", 1.0, None))
        shift = sitk.TranslationTransform(2, (1.0, 0.0))
        moved = shift if initial is None else sitk.CompositeTransform([shift, initial])
        return SimpleNamespace(moving_from_fixed=moved, body=fixed >= sitk.GetArrayViewFromImage(fixed).min())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(module, "register", made)
    return made


def test_each_chain_goes_away_from_the_reference_and_starts_from_the_neighbour(fake: Fake) -> None:
    images, heard = frames(), list[Progress]()
    result = register_series(Series(images, TIMES), reference="middle", progress=heard.append)
    numbers = [next(place for place, image in enumerate(images) if image is moving) for _, moving, _ in fake.calls]
    assert numbers == [2, 1, 0, 1], "the frame behind, back to the reference, the frame before, back to the reference"
    assert all(fixed is images[1] for fixed, _, _ in fake.calls)
    assert [initial is not None for _, _, initial in fake.calls] == [False, True, False, True]
    assert [one.mean for one in result.drift_mm] == pytest.approx([2.0, 2.0])
    assert [one.fraction for one in heard] == [0.25, 0.5, 0.75, 1.0]
    fake.calls.clear()
    result = register_series(Series(images, TIMES), reference=2)
    assert result.reference_number == 2
    assert [moving is image for (_, moving, _), image in zip(fake.calls, (images[1], images[0], images[2]), strict=True)] == [
        True
    ] * 3
    start = fake.calls[2][2]
    assert start is not None
    assert start.TransformPoint((30.0, 30.0)) == pytest.approx((32.0, 30.0)), "two frames of 1 mm each"


def test_the_mean_of_all_can_be_the_reference(fake: Fake) -> None:
    images = frames()
    result = register_series(Series(images, TIMES), reference="mean")
    assert result.reference_number is None
    assert len(fake.calls) == 4
    mean = np.mean([sitk.GetArrayFromImage(image) for image in images], axis=0)
    assert sitk.GetArrayFromImage(result.reference) == pytest.approx(mean)
    images[1].SetOrigin((5.0, 0.0))
    with pytest.raises(InputError, match="The frames of the series lie on different grids; their mean needs one grid"):
        register_series(Series(images, TIMES), reference="mean")


@pytest.mark.parametrize("reference", ["end", 3, -1])
def test_a_reference_that_is_not_there_is_told(reference: str | int) -> None:
    with pytest.raises(
        InputError, match=f"There is no reference {reference!r}; it is one of first, middle, last, mean, or a frame"
    ):
        register_series(Series(frames(), TIMES), reference=reference)


def test_a_series_can_be_stopped() -> None:
    def enough(_: Progress) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        register_series(Series(frames(), TIMES), progress=enough, **FAST)


@pytest.mark.slow
def test_everything_is_saved_or_nothing(result: SeriesRegistration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = sitk.Cast(frames()[0] > 0, sitk.sitkUInt8)
    points = (("a", "b"), np.array([[20.0, 30.0], [40.0, 36.0]]))
    out = tmp_path / "out"
    result.save(out, labels=labels, points=points)
    names = {"reference.nii.gz", "warped.nii.gz", "jacobian.nii.gz", "error_mm.nii.gz", "labels.nii.gz", "points.csv"}
    names |= {"series.csv", "series.json"}
    assert {path.name for path in out.iterdir()} == names | {"frame001", "frame002"}
    assert (out / "frame002" / "transform.h5").is_file()
    with (out / "series.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] == "reference" for row in rows] == [True, False, False]
    for row, frame in zip(rows[1:], result.frames[1:], strict=True):
        assert frame.registration is not None
        quality, jacobian = frame.registration.quality, sitk.GetArrayViewFromImage(frame.registration.jacobian)
        assert float(row["displacement_mm_mean"]) == pytest.approx(quality.displacement_mm.mean, rel=1e-5)
        assert float(row["error_mm_median"]) == pytest.approx(frame.registration.expected_error.median, rel=1e-5)
        assert float(row["jacobian_max"]) == pytest.approx(jacobian.max(), rel=1e-4)
        assert float(row["folded_percent"]) == pytest.approx(100 * (jacobian <= 0).mean(), rel=1e-5)
        assert float(row["similarity_after"]) == pytest.approx(quality.similarity.after, rel=1e-5)
    assert rows[0]["displacement_mm_max"] == "0"
    assert rows[0]["error_mm_median"] == "", "nothing is known of what was not registered"
    jacobians, errors = (sitk.GetArrayFromImage(read_image(out / name)) for name in ("jacobian.nii.gz", "error_mm.nii.gz"))
    assert (jacobians[0].min(), jacobians[0].max(), errors[0].max()) == (1.0, 1.0, 0.0)
    assert jacobians[2] == pytest.approx(sitk.GetArrayFromImage(result.frames[2].jacobian), rel=1e-4)
    assert errors[1] == pytest.approx(sitk.GetArrayFromImage(result.frames[1].error_mm), rel=1e-2)
    with (out / "points.csv").open() as file:
        followed = list(csv.DictReader(file))
    assert [row["label"] for row in followed] == ["a", "b"] * 3
    assert float(followed[4]["x"]) == pytest.approx(result.points(points[1])[2, 0, 0], abs=1e-5)
    assert json.loads((out / "series.json").read_text()) == json.loads(json.dumps(result.report()))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Registration, "save", failing)
    with pytest.raises(OutputError, match="No space left on device"):
        result.save(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_what_is_carried_along_is_checked_before_the_work() -> None:
    series = Series(frames(), TIMES)
    check_carried(series, labels=frames()[0], points_mm=np.zeros((1, 2)))
    with pytest.raises(InputError, match="The labels to carry along have 3 dimensions and the frames of the series 2"):
        check_carried(series, labels=sitk.Image([4, 4, 4], sitk.sitkUInt8))
    smaller = Series((*frames()[:2], frames()[2][1:]), TIMES)
    check_carried(smaller, points_mm=np.zeros((1, 2)))
    with pytest.raises(InputError, match="The frames of the series lie on different grids; labels carried to them need one grid"):
        check_carried(smaller, labels=frames()[0])
    with pytest.raises(InputError, match="The points to carry along have 3 dimensions and the frames of the series 2"):
        check_carried(series, points_mm=np.zeros((1, 3)))


def test_a_series_of_volumes_is_saved_with_its_determinants(tmp_path: Path) -> None:
    ball = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32))
    still = tuple(Frame(number, float(number), ball, None) for number in range(2))
    SeriesRegistration(ball, 0, still, ()).save(tmp_path / "out")
    determinants = read_image(tmp_path / "out" / "jacobian.nii.gz")
    assert determinants.GetSize() == (6, 6, 6, 2)
    assert set(np.unique(sitk.GetArrayFromImage(determinants))) == {1.0}


def test_a_transform_becomes_one_field() -> None:
    image = frames()[0]
    turn = sitk.Euler2DTransform((20.0, 20.0), 0.1, (1.0, 2.0))
    chain = sitk.CompositeTransform([turn, sitk.TranslationTransform(2, (0.5, -0.5))])
    field = as_one_field(chain, image)
    for place in ((3, 4), (10, 20)):
        point = image.TransformIndexToPhysicalPoint(place)
        assert field.TransformPoint(point) == pytest.approx(chain.TransformPoint(point), abs=1e-9)


def test_frames_of_several_pixel_types_become_a_series_that_holds_all_values() -> None:
    whole, parts = (sitk.Image([4, 4], pixel) for pixel in (sitk.sitkInt16, sitk.sitkFloat32))
    whole[1, 1], parts[1, 1] = -1000, 0.25
    made = joined([whole, parts, sitk.Image([4, 4], sitk.sitkUInt8)], (0.0, 1.0, 2.0))
    assert (made.GetPixelID(), made[1, 1, 0], made[1, 1, 1]) == (sitk.sitkFloat32, -1000.0, 0.25)
    assert joined([whole, whole], (0.0, 1.0)).GetPixelID() == sitk.sitkInt16


def test_times_that_do_not_rise_are_counted() -> None:
    assert joined(frames()[:2], (3.0, 3.0)).GetSpacing()[2] == 1.0
