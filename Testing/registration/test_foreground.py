"""Padding and air."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.registration.aligned_pair import counted_in_both, seen_on_fixed
from RegistrationNetLib.registration.foreground import foreground_of, padding_of
from RegistrationNetLib.registration.prepare import on_lattice, prepared
from RegistrationNetLib.registration.volume import continued

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


@pytest.mark.parametrize("resolution_mm", [0.0, 2.5])
def test_padding_makes_no_edge_and_a_network_sees_the_image_as_it_came(resolution_mm: float) -> None:
    """Tissue that rises evenly goes on evenly where the field of view ends, on every lattice."""
    rising = np.tile(np.linspace(0.0, 100.0, 40, dtype=np.float32), (40, 40, 1))
    is_padding = np.hypot(*np.mgrid[-1:1:40j, -1:1:40j]) > 0.8
    image = sitk.GetImageFromArray(np.where(is_padding, np.float32(-3024), rising))
    one = prepared(image, {"window": [0.0, 100.0]}, resolution_mm=resolution_mm)
    wanted = torch.linspace(0, 1, one.grid.shape[2]).expand(1, 1, *one.grid.shape)
    assert one.mask is not None
    assert 0.3 < one.mask.double().mean() < 0.7
    steps = [(other.roll(-1, 4) - other)[..., :-1].abs().max() for other in (one.values, wanted)]
    assert steps[0] < 3 * steps[1]
    assert torch.allclose(one.values[one.mask], wanted[one.mask], atol=0.04)
    as_it_came = on_lattice(one, (40, 40, 40)).values[0, 0].numpy()
    assert np.array_equal(as_it_came, np.where(is_padding, np.float32(0), rising / np.float32(100)))


def test_what_is_not_known_is_told_by_its_neighbours() -> None:
    values = torch.tensor([0.25, 0.0, 0.0, 0.75, 0.0])[None, None, None].expand(1, 1, 3, 5).contiguous()
    found = continued(values, values > 0)[0, 0, 0]
    assert found[[0, 3]].tolist() == [0.25, 0.75]
    assert 0.25 <= found[1] < found[2] <= 0.75
    assert found[4] == pytest.approx(0.75, abs=0.1)


def test_what_only_one_image_has_measured_is_not_compared_from_the_places_next_to_it() -> None:
    """Fixed shows a bright rim where moving has padding: both show the same there, and neither counts there."""
    values = np.random.default_rng(0).uniform(39.5, 40.5, (24, 24, 24)).astype(np.float32)
    values[12, 12, 12] = 60
    rim, padded = values.copy(), values.copy()
    rim[:, :, 18:] += 58.0
    padded[:, :, 16:] = -3000.0
    window = {"window": [0.0, 100.0]}
    fixed, moving = (prepared(sitk.GetImageFromArray(one), window) for one in (rim, padded))
    grid = fixed.grid
    for one, other in ((fixed, moving), (moving, fixed)):
        sides = counted_in_both(one, seen_on_fixed(other, grid, np.eye(4)))
        for side in sides:
            assert side.mask is not None
            assert torch.equal(side.mask[0, 0], torch.from_numpy(padded > -3000.0))
            assert side.values[..., 5:, :, 17:].max() == pytest.approx(0.4, abs=0.02)
            assert side.values[0, 0, 12, 12, 12] == pytest.approx(0.6)


@pytest.mark.parametrize("shape", [(16, 17), (33, 34, 35), (1, 12, 9), (2, 3)])
def test_what_is_continued_does_not_depend_on_the_order_of_the_axes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 1, *shape, generator=generator)
    is_known = torch.rand(1, 1, *shape, generator=generator) > 0.9
    is_known.flatten()[0] = True
    axes = list(range(2, 2 + len(shape)))
    found = continued(values, is_known)
    flipped = continued(values.flip(axes), is_known.flip(axes)).flip(axes)
    torch.testing.assert_close(flipped, found)
    turned = continued(values.transpose(2, 3), is_known.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(turned, found)
