"""Series in time from files of every kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.natural_order import natural
from RegistrationNetLib.io.series_files import Series, read_series, series_of

from ..dicom_files import write_series
from ..volumes import noise


def volumes(count: int = 3) -> list[sitk.Image]:
    return [noise(seed=seed, dtype=np.int16) for seed in range(count)]


def same(series: Series, expected: list[sitk.Image]) -> bool:
    pairs = zip(series.frames, expected, strict=True)
    return all((sitk.GetArrayFromImage(one) == sitk.GetArrayFromImage(other)).all() for one, other in pairs)


@pytest.mark.parametrize("name", ["series.nii.gz", "series.nrrd", "series.mha"])
def test_a_4d_image_is_a_series_with_its_times(name: str, tmp_path: Path) -> None:
    image = sitk.JoinSeries(volumes(), 5.0, 2.5)
    sitk.WriteImage(image, str(tmp_path / name))
    series = read_series(tmp_path / name)
    assert same(series, volumes())
    assert series.times[1] - series.times[0] == 2.5
    assert series.frames[0].GetSpacing() == pytest.approx(volumes()[0].GetSpacing())


def test_a_sequence_of_slicer_is_a_series(tmp_path: Path) -> None:
    """As Slicer writes sequences: the list is the first axis, and what it counts stands in the header."""
    data = np.stack([sitk.GetArrayFromImage(one) for one in volumes()], axis=-1)
    depth, height, width = data.shape[:3]
    header = (
        f"NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 {width} {height} {depth}\n"
        "space directions: none (1.5,0,0) (0,2,0) (0,0,2.5)\nkinds: list domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (10,-20,30)\naxis 0 index type:=numeric\naxis 0 index values:=0 33.5 67\n\n"
    )
    (tmp_path / "a.seq.nrrd").write_bytes(header.encode() + data.astype("<i2").tobytes())
    series = read_series(tmp_path / "a.seq.nrrd")
    assert same(series, volumes())
    assert series.times == (0.0, 33.5, 67.0)


def test_a_folder_of_images_is_a_series_in_the_order_of_names(tmp_path: Path) -> None:
    for name, image in zip(("b", "a", "c"), volumes(), strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    first, second, third = volumes()
    series = read_series(tmp_path)
    assert same(series, [second, first, third])
    assert series.times == (0.0, 1.0, 2.0)


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    for name, image in zip(("phase10", "phase1", "phase2"), volumes(), strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    tenth, first, second = volumes()
    assert same(read_series(tmp_path), [first, second, tenth])


@pytest.mark.parametrize(
    "ordered",
    [
        ["1", "2", "10"],
        ["a9b1", "a10b0", "b1"],
        ["A1", "a2"],
        ["x", "x1"],
        ["07", "7"],
        ["", "0"],
        ["50%", "100%"],
        ["9_b", "10_a"],
    ],
)
def test_names_are_ordered_as_people_count(ordered: list[str]) -> None:
    assert sorted(set(ordered), key=natural) == ordered


SLICES = [np.random.default_rng(seed).integers(0, 1000, (8, 9, 10)) for seed in range(3)]
POSITIONS = [(0, 0, 3 * place) for place in range(8)]


def telling(name: str, value: object) -> Callable[[Dataset, int], None]:
    """Sets an attribute of every slice."""
    return lambda one, _: setattr(one, name, value)


@pytest.mark.parametrize("name", ["TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber"])
def test_dicom_of_several_moments_is_read_by_what_tells_them_apart(name: str, tmp_path: Path) -> None:
    uid = ""
    for number, time in enumerate((20, 10, 30)):
        uid = write_series(tmp_path, SLICES[number], POSITIONS, series=uid, name=f"{number}-", extra=telling(name, time))
    series = read_series(tmp_path)
    assert series.times == (10.0, 20.0, 30.0)
    for frame, slices in zip(series.frames, (SLICES[1], SLICES[0], SLICES[2]), strict=True):
        assert (sitk.GetArrayFromImage(frame) == slices).all()


def test_breathing_phases_are_series_whose_titles_tell_them(tmp_path: Path) -> None:
    for number, percent in enumerate((50, 0, 30)):
        extra = telling("SeriesDescription", f"Thorax Gated {percent}% B30f")
        write_series(tmp_path / f"phase{number}", SLICES[number], POSITIONS, extra=extra)
    write_series(tmp_path / "localizer", SLICES[0][:1], POSITIONS[:1])
    series = read_series(tmp_path)
    assert series.times == (0.0, 30.0, 50.0)
    assert (sitk.GetArrayFromImage(series.frames[0]) == SLICES[1]).all()


def test_dicom_that_is_no_series_in_time_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, SLICES[0], POSITIONS)
    with pytest.raises(
        InputError, match=r"holds no series in time that its headers tell \(TemporalPositionIndex, .* as many slices"
    ):
        read_series(tmp_path)


@pytest.mark.parametrize("image", [noise(), noise((8, 9))])
def test_one_image_is_no_series(image: sitk.Image) -> None:
    with pytest.raises(InputError, match=f"It is one image of {image.GetDimension()} dimensions; a series has volumes in time"):
        series_of(image, "It")


def test_a_series_of_one_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The series has 1 volume; it needs at least 2"):
        series_of(sitk.JoinSeries(volumes(1)), "It")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no DICOM series; a series in time is needed"):
        read_series(tmp_path / "empty")


@pytest.mark.parametrize(("told", "times"), [("1 2 3", (1.0, 2.0, 3.0)), ("a b c", (0.0, 1.0, 2.0)), ("1 2", (0.0, 1.0, 2.0))])
def test_times_that_are_no_numbers_are_counted(told: str, times: tuple[float, ...]) -> None:
    image = sitk.Compose(volumes())
    image.SetMetaData("axis 0 index values", told)
    assert series_of(image, "It").times == times
