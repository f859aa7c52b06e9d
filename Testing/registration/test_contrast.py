"""One contrast or two, seen in an aligned pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.geometry.space import grid_of, image_on
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.contrast import EXPLAINED, Contrast, contrast_of, in_the_contrast_of, rising_means
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES

HEAD = head_phantom((46, 40), [6.0, 6.0], 0)
MANY = 10**6


def contrast(curve: np.ufunc | None, noise: float = 0.02) -> Contrast:
    random = np.random.default_rng(0)
    images = []
    for one in (lambda values: values, curve):
        array = sitk.GetArrayFromImage(HEAD.image)
        array = array if one is None else one(array)
        images.append(image_on(grid_of(HEAD.image), (array + noise * random.normal(size=array.shape)).astype(np.float32)))
    return contrast_of(*(prepared(image, QUANTILES) for image in images), np.eye(3))


@pytest.mark.parametrize("gamma", [0.6, 1.0, 1.6])
def test_brighter_and_darker_is_one_contrast(gamma: float) -> None:
    found = contrast(lambda values: values.clip(0) ** gamma)
    assert found.is_one
    assert "one contrast" in found.because()


def test_an_inverted_image_is_two_contrasts() -> None:
    found = contrast(lambda values: -values)
    assert found.positive < 0.1
    assert found.rising < 0.1
    assert "two contrasts" in found.because()


def test_tissues_in_another_order_are_two_contrasts() -> None:
    assert not contrast(lambda values: np.abs(values - 0.45)).is_one


def test_tissues_in_another_order_are_two_contrasts_where_most_edges_are_alike() -> None:
    """As between T1 and FLAIR, where fluid stays darker than tissue but grey matter is the brighter one."""
    assert contrast(lambda values: np.where(values > 0.55, 1.1 - values, values)).rising < 0.9
    assert not Contrast(0.99, 0.6, 0.93, MANY).is_one
    assert not Contrast(0.95, 0.5, 0.96, MANY).is_one  # labels painted twice at random, by which a head was led astray
    assert Contrast(0.99, 0.6, 0.98, MANY).is_one


def test_a_curve_that_says_much_asks_for_information_and_one_that_says_little_for_structure() -> None:
    much, little, small = (Contrast(0.5, 0.41, 0.5, MANY), Contrast(0.5, 0.39, 0.5, MANY), Contrast(0.5, 0.41, 0.5, 1000))
    assert (much.across, little.across, small.across) == ("mi", "mind", "mind")
    assert "41% of one image's variance follows from the other's intensities (at least 40%)" in much.because()
    assert "(less than 40%)" in little.because()
    assert "too small for a histogram (fewer than 16384 voxels)" in small.because()
    # The second image is not told by the first alone, but the first by the second.
    assert contrast(lambda values: np.abs(values - 0.45)).explained > EXPLAINED


def test_under_strong_shading_structure_is_compared() -> None:
    rows = np.linspace(-1, 1, 46)[:, None]
    assert contrast(lambda values: np.abs(values - 0.45) * np.exp(1.5 * rows)).explained < EXPLAINED


def test_means_that_fall_share_what_they_have_in_common() -> None:
    found = rising_means(np.array([1.0, 3.0, 2.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [1.0, 1.25, 1.25, 1.25, 5.0])


def test_images_without_any_correlation_keep_the_usual_choice() -> None:
    still = prepared(image_on(grid_of(HEAD.image), np.eye(46, 40, dtype=np.float32)), QUANTILES)
    assert contrast_of(still, replace(still, values=0 * still.values), np.eye(3)).is_one


def test_of_two_modalities_what_looks_like_one_contrast_is_compared_across_all_the_same() -> None:
    image = head_phantom((130, 130), [2.0, 2.0], 0).image
    similarity = register(
        image, image, fixed_modality="mr", moving_modality="other", steps=1, repeats=0, align=("rigid",)
    ).report()["inputs"]["similarity"]
    assert similarity["name"] == "mi"
    assert "but the modalities differ" in similarity["chosen_because"]


def test_an_image_is_brought_into_the_contrast_of_another_where_it_counts() -> None:
    like = prepared(HEAD.image, QUANTILES).values
    other, counted = 1 - like.sqrt(), like > 0.02
    found = in_the_contrast_of(like, other, counted, by=other)
    assert float((found - like)[counted].abs().mean()) < 0.02
    nowhere = in_the_contrast_of(like, other, torch.zeros_like(counted), by=other)
    assert torch.equal(nowhere, other)


@pytest.mark.parametrize(("times", "name"), [(("500", "12"), "lncc"), (("4200", "96"), "mi"), ((), "lncc")])
def test_headers_that_tell_two_weightings_are_believed(times: tuple[str, ...], name: str) -> None:
    """The image itself would pass for one contrast."""
    fixed, moving = (sitk.Image(head_phantom((130, 130), [2.0, 2.0], 0).image) for _ in range(2))
    for image, told in ((fixed, ("450", "10")), (moving, times)):
        image.SetMetaData("0008|0060", "MR")
        for tag, value in zip(("0018|0080", "0018|0081"), told, strict=False):
            image.SetMetaData(tag, value)
    found = register(fixed, moving, steps=1, repeats=0, align=("rigid",)).report()["inputs"]["similarity"]
    assert found["name"] == name
    assert ("the headers tell two contrasts, T1 and T2" in found["chosen_because"]) is (name == "mi")
