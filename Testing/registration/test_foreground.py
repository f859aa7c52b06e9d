"""Padding and air."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.registration.foreground import foreground_of, padding_of
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES


def ct(padding: float) -> torch.Tensor:
    """A body of tissue in air, with `padding` outside a round field of view."""
    place = torch.linspace(-1, 1, 40)
    radius = (place[:, None] ** 2 + place**2).sqrt()
    noise = 15 * torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    values = torch.where(radius < 0.5, 40.0, -1000.0) + noise
    return torch.where(radius < 0.9, values, padding)[None, None].double()


@pytest.mark.parametrize("value", [-32768.0, -3024.0, 32767.0])
def test_padding_of_any_value_is_found(value: float) -> None:
    values = ct(value).numpy()
    found = padding_of(values)
    assert found is not None
    assert np.array_equal(found, values == value)


@pytest.mark.parametrize("values", [ct(-1000.0), torch.tensor([[0.0, 1.0]] * 50)[None, None], torch.rand(1, 1, 30, 30)])
def test_air_two_values_and_noise_are_no_padding(values: torch.Tensor) -> None:
    assert padding_of(values.numpy()) is None


def test_padding_counts_neither_in_the_window_nor_in_the_mask() -> None:
    image = sitk.GetImageFromArray(ct(-32768.0)[0, 0].numpy())
    one = prepared(image, QUANTILES)
    plain = prepared(sitk.GetImageFromArray(ct(-1000.0)[0, 0].numpy()), QUANTILES)
    assert one.mask is not None
    assert torch.equal(one.mask[0, 0], ct(-32768.0)[0, 0] != -32768.0)
    # Tissue differs from air as without the padding.
    inside = (slice(None), slice(None), slice(14, 26), slice(14, 26))
    torch.testing.assert_close(one.values[inside], plain.values[inside], atol=0.05, rtol=0)


def test_a_mask_of_padding_alone_leaves_nothing() -> None:
    values = ct(-32768.0)[0, 0].numpy()
    mask = np.zeros(values.shape, dtype=np.uint8)
    mask[0, :2] = 1
    with pytest.raises(InputError, match="holds nothing within its mask but the value -32768.*Check the mask"):
        prepared(sitk.GetImageFromArray(values), QUANTILES, sitk.GetImageFromArray(mask))


@pytest.mark.parametrize("air", [0.0, 0.6, 1.0])
def test_the_object_is_what_differs_from_the_border(air: float) -> None:
    values = torch.full((1, 1, 20, 20), air)
    values[..., 5:12, 5:12] = 0.3
    assert torch.equal(foreground_of(values), values != air)


def test_an_image_from_within_a_body_is_all_object() -> None:
    values = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert bool(foreground_of(values).all())
    counted = torch.zeros_like(values, dtype=torch.bool)
    counted[..., 5:9, 5:9] = True
    assert torch.equal(foreground_of(values, counted), counted)
