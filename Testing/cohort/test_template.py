"""The mean of a group: unbiased in shape, and what an ended call has done is kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from RegistrationNetLib.cohort import template as module
from RegistrationNetLib.cohort.plan import Plan
from RegistrationNetLib.cohort.records import Failure
from RegistrationNetLib.cohort.run import Summary
from RegistrationNetLib.cohort.template import Course, build_template
from RegistrationNetLib.errors import InputError, OutputError
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.quality.phantom import head_phantom

from .small import blob


def ellipse(width: float, height: float, *, brightness: float = 1.0) -> sitk.Image:
    """A soft ellipse in the middle of 48 by 48 voxels of 1 mm, half axes in mm."""
    y, x = np.mgrid[:48, :48] - 23.5
    radius = np.hypot(x / width, y / height)
    return sitk.GetImageFromArray((brightness * 100 / (1 + np.exp(8 * (radius - 1)))).astype(np.float32))


def written(folder: Path, images: Sequence[sitk.Image]) -> list[Path]:
    files = [folder / f"image{number}.nii.gz" for number in range(len(images))]
    for file, image in zip(files, images, strict=True):
        sitk.WriteImage(image, str(file))
    return files


def half_axes(image: sitk.Image) -> NDArray[np.float64]:
    """Across and down, in voxels, by the second moments."""
    weight = sitk.GetArrayFromImage(image).astype(float)
    weight -= weight.min()
    y, x = np.indices(weight.shape)
    return np.array([2 * np.sqrt(np.average((axis - np.average(axis, weights=weight)) ** 2, weights=weight)) for axis in (x, y)])


class Oracle:
    """In place of registrations, which take time and are off by a little: the scaling from ellipse to ellipse, exactly."""

    def __init__(self) -> None:
        self.resolutions: list[Any] = []
        self.registered: list[int] = []

    def __call__(self, plan: Plan, folder: Path, **_: Any) -> Summary:
        self.resolutions.append(plan.pairs[0].options.get("resolution"))
        made = 0
        for pair in plan.pairs:
            fixed, moving = (sitk.ReadImage(str(pair.files[side])) for side in ("fixed", "moving"))
            scale = half_axes(moving) / half_axes(fixed)
            for result, factors in (("transform.h5", scale), ("inverse.h5", 1 / scale)):
                file = pair.layout.path(folder, result)
                file.parent.mkdir(parents=True, exist_ok=True)
                made += not file.exists()
                transform = sitk.AffineTransform(2)
                transform.SetMatrix(np.diag(factors).ravel().tolist())
                transform.SetCenter((23.5, 23.5))
                sitk.WriteTransform(transform, str(file))
        self.registered.append(made // 2)
        return Summary(0, made // 2, ())


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    made = Oracle()
    monkeypatch.setattr(module, "run_cohort", made)
    return made


@pytest.mark.usefixtures("oracle")
def test_the_shape_is_the_mean_shape_not_that_of_the_first_image(tmp_path: Path) -> None:
    shapes = [ellipse(15.0, 10.0), ellipse(9.0, 14.0, brightness=3.0), ellipse(12.0, 9.0)]
    mean = np.mean([half_axes(one) for one in shapes], axis=0)
    heard: list[Progress] = []
    template = build_template(written(tmp_path, shapes), tmp_path / "out", course=Course(8, 0.1), progress=heard.append)
    assert half_axes(template.image) == pytest.approx(mean, abs=0.2)
    assert template.has_converged
    moved = [one.p95 for one in template.moved_mm]
    assert moved[-1] < 0.1 < moved[0]
    assert 3 <= len(moved) < 8
    inside = sitk.GetArrayFromImage(template.image)
    assert inside.max() == pytest.approx(module.BRIGHT, rel=0.05)


def test_what_moves_in_the_dark_around_does_not_count() -> None:
    mean, shift_mm = ellipse(15.0, 10.0), np.zeros((48, 48, 2))
    shift_mm[..., 0] = np.where(sitk.GetArrayFromImage(mean) > 1.0, 0.25, 9.0)
    off = module.off_mean_shape(mean, shift_mm)
    assert (off.mean, off.p95, off.max) == (0.25, 0.25, 0.25)


def test_a_second_call_does_nothing_again_and_gives_the_same(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out = written(tmp_path, [ellipse(15.0, 10.0), ellipse(9.0, 14.0)]), tmp_path / "out"
    first = build_template(files, out, course=Course(2))
    assert not first.has_converged
    assert {path.name for path in out.iterdir()} == {"template.nii.gz", "template.json", "transforms", "inverses", "iterations"}
    told = json.loads((out / "template.json").read_text())
    assert told["converged"] is False
    assert [one["p95"] for one in told["moved_mm"]] == [one.p95 for one in first.moved_mm]
    for name, file in first.transforms.items():
        assert file.read_bytes() == (out / "transforms" / f"{name}.h5").read_bytes()
        assert (out / "inverses" / f"{name}.h5").is_file()

    def never(*_: object) -> None:
        raise AssertionError("a template is made again")

    monkeypatch.setattr(module, "_moved", never)
    again = build_template(files, out, course=Course(2))
    assert oracle.registered == [2, 2, 0, 0]
    assert again.moved_mm == first.moved_mm
    assert (sitk.GetArrayFromImage(again.image) == sitk.GetArrayFromImage(first.image)).all()


def test_the_work_goes_from_coarse_to_fine(oracle: Oracle, tmp_path: Path) -> None:
    build_template(written(tmp_path, [ellipse(15.0, 10.0), ellipse(9.0, 14.0)]), tmp_path / "out", course=Course(4, 1e-6))
    assert oracle.resolutions == [4.0, 2.0, None, None]


def stretched(head: sitk.Image, across: float, down: float) -> sitk.Image:
    """The head as many times as wide and as high, about the middle of its image."""
    scale = sitk.ScaleTransform(2, (1 / across, 1 / down))
    scale.SetCenter(head.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in head.GetSize()]))
    return sitk.Resample(head, head, scale, sitk.sitkBSpline)


@pytest.mark.slow
def test_registrations_give_the_mean_shape_too(tmp_path: Path) -> None:
    """Of a head, as an ellipse fits a disc in any turn."""
    head = head_phantom((64, 64), (3.0, 3.0), 0).image
    files = written(tmp_path, [stretched(head, 1.12, 0.92), stretched(head, 0.88, 1.08)])
    template = build_template(files, tmp_path / "out", course=Course(6), options={"align": ("affine",), "repeats": 0})
    found, *given = (
        outlined(one) for one in (template.image, *(module._scaled(sitk.ReadImage(str(file)), {}) for file in files))
    )
    assert np.abs(given[0] - given[1]).min() > 4
    assert found == pytest.approx(np.mean(given, axis=0), abs=0.5)


def outlined(image: sitk.Image) -> NDArray[np.float64]:
    """The half axes of what is brighter than a fifth."""
    return half_axes(sitk.Cast(image > 0.2 * module.BRIGHT, sitk.sitkUInt8))


def test_intensities_of_scanners_are_brought_to_one_scale_and_those_of_ct_are_not() -> None:
    dark, bright = (module._scaled(ellipse(12.0, 12.0, brightness=factor), {}) for factor in (1.0, 7.0))
    assert sitk.GetArrayFromImage(dark) == pytest.approx(sitk.GetArrayFromImage(bright), abs=1e-3)
    ct = module._scaled(ellipse(12.0, 12.0, brightness=7.0), {"fixed_modality": "ct"})
    assert sitk.GetArrayFromImage(ct).max() > 600


def test_what_makes_no_mean_is_told(tmp_path: Path) -> None:
    files, out = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0))]), tmp_path / "out"
    with pytest.raises(InputError, match="A mean needs at least 2 images, each a file or a folder of DICOM slices; 1 came"):
        build_template(files[:1], out)
    with pytest.raises(InputError, match="2 images have only 1 names; each needs a file name of its own"):
        build_template([files[0], files[0]], out)
    sitk.WriteImage(blob((12.0, 12.0, 12.0)), str(tmp_path / "volume.nii.gz"))
    with pytest.raises(InputError, match="volume.nii.gz has 3 dimensions and .* 2; all need the same"):
        build_template([files[0], tmp_path / "volume.nii.gz"], out)
    for iterations, tolerance in ((0, 0.1), (3, 0.0)):
        with pytest.raises(InputError, match="at least 1 iteration and a tolerance above 0"):
            Course(iterations, tolerance)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0))])

    def failing(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", failing)
    with pytest.raises(OutputError, match="Read-only file system"):
        build_template(files, tmp_path / "out")


def test_an_image_that_cannot_be_registered_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0))])
    monkeypatch.setattr(module, "run_cohort", lambda *_, **__: Summary(0, 1, (Failure("image1", "because", 1.0),)))
    with pytest.raises(InputError, match="1 of 2 images could not be registered to the template; .* image1: because"):
        build_template(files, tmp_path / "out")
