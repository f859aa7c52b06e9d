"""Sampling by layers beside torch's own of volumes: the same values and gradients, also on the border and beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.geometry import deformation
from RegistrationNetLib.geometry import trilinear as layered_sampling
from RegistrationNetLib.geometry.deformation import Outside, identity_points, sample, sample_with_slopes

SHAPES = [(20, 21, 19), (33, 8, 5), (2, 9, 7), (9, 2, 2)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered_sampling, "MOST_POINTS", 700)
    monkeypatch.setattr(layered_sampling, "FEWEST_POINTS", 40)
    monkeypatch.setattr(deformation, "WORTH_LAYERS", 40)
    monkeypatch.setattr(deformation, "WORTH_LAYERS_ROUNDED", 40)


def plainly(image: Tensor, points: Tensor, outside: Outside = "border") -> Tensor:
    lattice = (2 * points.flip(1) - 1).movedim(1, -1)
    return F.grid_sample(image, lattice, padding_mode=outside, align_corners=True)


def displaced_lattice(shape: Sequence[int], *, batch: int = 1, size: float = 0.08) -> Tensor:
    identity = identity_points(shape, torch.zeros((), dtype=torch.float64))
    return identity + size * torch.randn(batch, 3, *shape, dtype=torch.float64)


@pytest.fixture
def volumes_sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many points each call of `grid_sample` took in three dimensions."""
    calls: list[int] = []
    plain = F.grid_sample

    def watched(image: Tensor, lattice: Tensor, **options: object) -> Tensor:
        if image.dim() == 5:
            calls.append(lattice[..., 0].numel())
        return plain(image, lattice, **options)

    monkeypatch.setattr(F, "grid_sample", watched)
    return calls


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_sampling_in_the_volume(
    shape: Sequence[int], batch: int, outside: Outside, threads: int, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    image = torch.randn(batch, 2, *shape, dtype=torch.float64, requires_grad=True)
    points = displaced_lattice((17, 13, 11), batch=batch).requires_grad_()
    weight = torch.randn(batch, 2, 17, 13, 11, dtype=torch.float64)
    found, expected = sample(image, points, outside=outside, rounded=rounded), plainly(image, points, outside)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad((values * weight).sum(), (image, points)) for values in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradients_at_the_voxels_of_the_border_are_those_of_sampling_in_the_volume() -> None:
    # The sizes are such that no coordinate is rounded: which side of a voxel counts is then torch's choice, and 0 at the border.
    image = torch.randn(1, 2, 17, 9, 17, dtype=torch.float64, requires_grad=True)
    points = identity_points((17, 9, 17), image).requires_grad_()
    weight = torch.randn(1, 2, 17, 9, 17, dtype=torch.float64)
    gradients = (
        torch.autograd.grad((values * weight).sum(), points)[0] for values in (sample(image, points), plainly(image, points))
    )
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_with_their_slopes_are_those_of_sampling_in_the_volume(
    shape: Sequence[int], outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layered_sampling, "POINTS_WITH_SLOPES", 700)
    image = torch.randn(1, 1, *shape, dtype=torch.float64)
    points = displaced_lattice((17, 13, 11)).requires_grad_()
    expected = plainly(image, points, outside)
    values, slopes = sample_with_slopes(image, points.detach(), outside)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(slopes, torch.autograd.grad(expected.sum(), points)[0])


def test_slopes_at_the_voxels_of_the_border_are_those_of_sampling_in_the_volume() -> None:
    image = torch.randn(1, 1, 17, 9, 17, dtype=torch.float64)
    points = identity_points((17, 9, 17), image).requires_grad_()
    (expected,) = torch.autograd.grad(plainly(image, points).sum(), points)
    torch.testing.assert_close(sample_with_slopes(image, points.detach())[1], expected)


def test_slopes_of_points_in_any_order_and_of_pictures_are_right_too() -> None:
    for image, points in (
        (torch.randn(1, 1, 175, 80, 9), torch.rand(1, 3, 1000, 3, 3)),
        (torch.randn(1, 1, 30, 20), torch.rand(1, 2, 9, 8)),
    ):
        places = points.clone().requires_grad_()
        (expected,) = torch.autograd.grad(plainly(image, places).sum(), places)
        torch.testing.assert_close(sample_with_slopes(image, points)[1], expected, rtol=1e-3, atol=1e-2)


def test_a_gradient_that_comes_with_any_strides_goes_its_way() -> None:
    image = torch.randn(1, 3, 20, 20, 20, dtype=torch.float64, requires_grad=True)
    points = displaced_lattice((20, 20, 20)).requires_grad_()
    weight = torch.randn(20, 20, 20, 3, 1, dtype=torch.float64)
    gradients = (
        torch.autograd.grad((values.permute(2, 3, 4, 1, 0) * weight).sum(), (image, points))
        for values in (sample(image, points), plainly(image, points))
    )
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("is_wanted", [(True, False), (False, True)])
def test_only_the_gradient_that_is_wanted_is_given(is_wanted: tuple[bool, bool]) -> None:
    image = torch.randn(1, 1, 20, 20, 20, dtype=torch.float64, requires_grad=is_wanted[0])
    points = displaced_lattice((20, 20, 20)).requires_grad_(is_wanted[1])
    wanted = image if is_wanted[0] else points
    gradients = (
        torch.autograd.grad(values.square().sum(), wanted)[0] for values in (sample(image, points), plainly(image, points))
    )
    torch.testing.assert_close(*gradients)


def test_points_in_order_are_sampled_by_layers_alone(volumes_sampled: list[int]) -> None:
    sample(torch.randn(1, 1, 40, 40, 40), displaced_lattice((40, 40, 40), size=0.02).float())
    assert not volumes_sampled


def test_points_in_any_order_keep_their_precision(volumes_sampled: list[int]) -> None:
    image = torch.randn(1, 1, 175, 80, 9)
    points = torch.rand(1, 3, 1000, 3, 3)
    torch.testing.assert_close(sample(image, points), plainly(image, points), rtol=0, atol=2e-4)
    assert sum(volumes_sampled) == 2 * 9000


@pytest.mark.parametrize(("rounded", "precision"), [(False, 2e-5), (True, 2e-4)])
def test_a_place_is_right_to_two_ten_thousandths_of_a_voxel_or_ten_times_better(rounded: bool, precision: float) -> None:
    shape = (175, 175, 9)
    rows = identity_points(shape, torch.zeros(()))[:, 1:2] * 174
    points = displaced_lattice(shape, size=0.01).float().clamp(0, 1)
    error = (sample(rows, points, rounded=rounded) - points[:, 1:2] * 174).abs().max().item()
    assert error < precision
    assert error > 5e-5 or not rounded


def test_points_that_are_no_numbers_give_values_that_are_none() -> None:
    points = displaced_lattice((20, 20, 20))
    points[0, :, 3, 4, 5] = float("nan")
    values = sample(torch.randn(1, 1, 20, 20, 20, dtype=torch.float64), points)
    assert values.isnan().nonzero().tolist() == [[0, 0, 3, 4, 5]]
