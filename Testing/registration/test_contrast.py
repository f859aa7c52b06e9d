"""One contrast or two, seen in an aligned pair."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import grid_of, image_on
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.contrast import Contrast, contrast_of
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES

HEAD = head_phantom((46, 40), [6.0, 6.0], 0)


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
    assert found.positive_share < 0.1
    assert "two contrasts" in found.because()


def test_tissues_in_another_order_are_two_contrasts() -> None:
    assert not contrast(lambda values: np.abs(values - 0.45)).is_one


def test_images_without_any_correlation_keep_the_usual_choice() -> None:
    assert Contrast(1.0).is_one
