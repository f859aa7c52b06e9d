"""The mean of a group: unbiased in shape, and what an ended call has done is kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.cohort import template as module
from RegistrationNetLib.cohort.plan import Plan
from RegistrationNetLib.cohort.records import Failure
from RegistrationNetLib.cohort.run import Summary, run_one
from RegistrationNetLib.cohort.template import Course, build_template
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.progress import Progress

from .small import blob

FAST: dict[str, Any] = {"align": ("affine",), "steps": 0, "repeats": 0}


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


def run_here(plan: Plan, out: Path, **_: Any) -> Summary:
    """Without a cluster, whose processes take seconds to start."""
    parts = [run_one(plan, out, number + 1) for number in range(len(plan.pairs))]
    return Summary(
        sum(one.before for one in parts), sum(one.now for one in parts), tuple(f for one in parts for f in one.failures)
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_cohort", run_here)


@pytest.mark.usefixtures("here")
def test_the_mean_of_a_wide_and_a_tall_shape_is_between_whichever_comes_first(tmp_path: Path) -> None:
    shapes = [ellipse(15.0, 10.0), ellipse(9.0, 14.0, brightness=3.0)]
    for name, images in (("one", shapes), ("other", shapes[::-1])):
        (tmp_path / name).mkdir()
        heard: list[Progress] = []
        out = tmp_path / name / "out"
        template = build_template(
            written(tmp_path / name, images), out, course=Course(6, 0.1), options=FAST, progress=heard.append
        )
        inside = sitk.GetArrayFromImage(template.image) > 50
        across, down = (np.count_nonzero(inside.any(axis=axis)) / 2 for axis in (0, 1))
        assert (across, down) == pytest.approx((12.0, 12.0), abs=0.75)
        assert template.has_converged
        assert template.moved_mm[-1].p95 < 0.1 < template.moved_mm[0].p95
        assert {path.name for path in out.iterdir()} == {
            "template.nii.gz",
            "template.json",
            "transforms",
            "inverses",
            "iterations",
        }


@pytest.mark.usefixtures("here")
def test_a_second_call_does_nothing_again_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, out = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0)), blob((13.0, 12.0))]), tmp_path / "out"
    first = build_template(files, out, course=Course(2), options=FAST)
    assert not first.has_converged
    told = json.loads((out / "template.json").read_text())
    assert told["converged"] is False
    assert len(told["moved_mm"]) == 2
    for folder, maps in (("transforms", first.transforms), ("inverses", {})):
        assert {path.name for path in (out / folder).iterdir()} == {f"image{number}.h5" for number in range(3)}
        for name, file in maps.items():
            assert file.read_bytes() == (out / folder / f"{name}.h5").read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("a template is made again")

    monkeypatch.setattr(module, "_moved", never)
    seen: list[int] = []

    def counting(plan: Plan, folder: Path, **_: Any) -> Summary:
        summary = run_here(plan, folder)
        seen.append(summary.now)
        return summary

    monkeypatch.setattr(module, "run_cohort", counting)
    again = build_template(files, out, course=Course(2), options=FAST)
    assert seen == [0, 0]
    assert again.moved_mm == first.moved_mm
    assert (sitk.GetArrayFromImage(again.image) == sitk.GetArrayFromImage(first.image)).all()


def test_the_work_goes_from_coarse_to_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, [ellipse(15.0, 10.0), ellipse(9.0, 14.0)])
    asked: list[Any] = []

    def watching(plan: Plan, folder: Path, **_: Any) -> Summary:
        asked.append(plan.pairs[0].options.get("resolution"))
        return run_here(plan, folder)

    monkeypatch.setattr(module, "run_cohort", watching)
    build_template(files, tmp_path / "out", course=Course(3), options={**FAST, "align": ()})
    assert asked == [4.0, 2.0, None]


def test_intensities_of_scanners_are_brought_to_one_scale_and_those_of_ct_are_not() -> None:
    dark, bright = (module._scaled(ellipse(12.0, 12.0, brightness=factor), {}) for factor in (1.0, 7.0))
    assert sitk.GetArrayFromImage(dark) == pytest.approx(sitk.GetArrayFromImage(bright), abs=1e-3)
    ct = module._scaled(ellipse(12.0, 12.0, brightness=7.0), {"fixed_modality": "ct"})
    assert sitk.GetArrayFromImage(ct).max() > 600


@pytest.mark.usefixtures("here")
def test_what_makes_no_mean_is_told(tmp_path: Path) -> None:
    files, out = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0))]), tmp_path / "out"
    with pytest.raises(InputError, match="There are 1 images; a mean needs at least 2"):
        build_template(files[:1], out)
    with pytest.raises(InputError, match="2 images have only 1 names; each needs a file name of its own"):
        build_template([files[0], files[0]], out)
    sitk.WriteImage(blob((12.0, 12.0, 12.0)), str(tmp_path / "volume.nii.gz"))
    with pytest.raises(InputError, match="volume.nii.gz has 3 dimensions and .* 2; all need the same"):
        build_template([files[0], tmp_path / "volume.nii.gz"], out)
    for iterations, tolerance in ((0, 0.1), (3, 0.0)):
        with pytest.raises(InputError, match="at least 1 iteration and a tolerance above 0"):
            Course(iterations, tolerance)


def test_an_image_that_cannot_be_registered_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, [blob((12.0, 11.0)), blob((12.0, 13.0))])
    monkeypatch.setattr(module, "run_cohort", lambda *_, **__: Summary(0, 1, (Failure("image1", "because", 1.0),)))
    with pytest.raises(InputError, match="1 of 2 images could not be registered to the template; .* image1: because"):
        build_template(files, tmp_path / "out")
