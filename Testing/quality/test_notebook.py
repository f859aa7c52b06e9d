"""A result in two lines, and as a notebook shows it."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RegistrationNetLib.quality.notebook import in_two_lines, notebook_html
from RegistrationNetLib.quality.verdict import Verdict
from RegistrationNetLib.registration.pipeline import Registration

from .test_report import Page, made


def shown(dim: int = 3, *, file: str | None = "/data/Doe^John/fixed<1>.nii.gz", colour: str = "amber") -> SimpleNamespace:
    result = made(dim)
    result.facts = {**result.report(), "warnings": ["moving: 3 % of its voxels are NaN <no value>."]}
    result.facts["inputs"] = {"fixed": {"file": file}, "moving": {"file": None}}
    result.verdict = Verdict(colour, "Two repeats end 40 mm apart & more")  # type: ignore[arg-type]
    return result


def test_two_lines_tell_images_method_and_verdict() -> None:
    first, second = in_two_lines(shown()).split("\n")
    assert first == (
        "Registration of moving (22×20×18 voxels of 1×1×1 mm) to fixed<1>.nii.gz (22×20×18 voxels of 1×1×1 mm) by direct and refinement of "
        "the field, 12.3 s on cpu"
    )
    assert second == "look closely: Two repeats end 40 mm apart & more"


def test_a_result_without_refinement_names_none_and_an_image_without_file_its_part() -> None:
    result = shown(file=None)
    result.facts["refine"] = "none"
    assert "to fixed (22" in in_two_lines(result)
    assert "refinement" not in in_two_lines(result)


def test_the_representation_of_a_registration_is_these_two_lines_and_this_html() -> None:
    result = shown(2)
    assert Registration.__repr__(result) == in_two_lines(result)  # type: ignore[arg-type]
    assert Registration._repr_html_(result) == notebook_html(result)  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [2, 3])
def test_a_notebook_shows_the_verdict_warnings_and_four_pictures(dim: int) -> None:
    page = Page(notebook_html(shown(dim)))
    assert "! Look closely : Two repeats end 40 mm apart & more" in page.text
    assert "Warning: moving: 3 % of its voxels are NaN <no value>." in page.text
    assert "fixed<1>.nii.gz" in page.text
    assert "Doe" not in page.text
    assert len(page.addresses) == 4
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "script" not in page.names


def test_the_pictures_are_those_of_the_images_they_name() -> None:
    """Moving lies three millimetres aside of fixed, and warped on it."""
    result = shown()
    result.moving = sitk.Resample(result.fixed, sitk.TranslationTransform(3, (3.0, 0.0, 0.0)))
    result.warped = result.fixed
    result.error_mm = sitk.Cast(result.fixed * 0 + 30.0, sitk.sitkFloat32)
    result.body = sitk.Cast(result.fixed * 0, sitk.sitkUInt8)
    result.body[: result.body.GetWidth() // 2, :, :] = 1
    page = Page(notebook_html(result))
    fixed, before, after, expected = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))).convert("RGB")).astype(int)
        for one in page.addresses
    )
    assert np.abs(fixed - after).mean() < 1 < np.abs(fixed - before).mean()
    assert (fixed == fixed[..., :1]).all()
    assert fixed.shape == expected.shape
    assert (np.ptp(expected, axis=-1) > 30).mean() == pytest.approx(0.5, abs=0.1)
    assert max(fixed.shape) == 192


@pytest.mark.parametrize(("colour", "symbol"), [("green", "✓ Fits"), ("amber", "! Look closely"), ("red", "✗ Does not fit")])
def test_each_verdict_has_its_symbol_and_words(colour: str, symbol: str) -> None:
    assert symbol in Page(notebook_html(shown(2, colour=colour))).text
