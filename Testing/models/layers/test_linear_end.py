"""The end of the U-net as one convolution, beside the steps that it stands for."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.models.layers import linear_end as module
from RegistrationNetLib.models.layers.coarse_input import SLOPE
from RegistrationNetLib.models.layers.layout import channels_last, cropped, shuffled, unshuffled
from RegistrationNetLib.models.layers.linear_end import CONV, CONV_TRANSPOSE, EndWeights, for_gradient_alone, linear_end

FEATURES, SKIP, WIDE, IMAGES = 5, 3, 4, 2
SHAPES = [(6, 8), (7, 9), (1, 2), (4, 6, 8), (5, 7, 3)]


def inputs(shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, EndWeights]:
    dim = len(shape)
    coarse = [-(-size // 2) for size in shape]

    def noise(*size: int) -> Tensor:
        return channels_last(torch.randn(*size, dtype=torch.float64)) if len(size) == dim + 2 else torch.randn(*size).double()

    weights = EndWeights(
        spread=noise(FEATURES + SKIP, WIDE, *(4,) * dim), shortcut=noise(WIDE), shift=noise(WIDE),
        gather=noise(dim, WIDE + IMAGES, *(3,) * dim), bias=noise(dim),
    )  # fmt: skip
    return noise(2, FEATURES, *coarse), noise(2, SKIP, *coarse), noise(2, IMAGES, *shape), weights


def step_by_step(features: Tensor, skip: Tensor, images: Tensor, weights: EndWeights) -> Tensor:
    """f = T a + U x + shift, then y = G [f, images] + bias."""
    dim, shape = weights.dim, images.shape[2:]
    activated = torch.cat([F.leaky_relu(features, SLOPE), skip], dim=1)
    per_channel = (1, -1, *(1,) * dim)
    mode = "bilinear" if dim == 2 else "trilinear"
    interpolated = F.interpolate(features[:, :WIDE], scale_factor=2, mode=mode, align_corners=False)
    wide = CONV_TRANSPOSE[dim](activated, weights.spread, stride=2, padding=1) + interpolated * weights.shortcut.view(per_channel)
    fine = cropped(wide + weights.shift.view(per_channel), shape)
    return CONV[dim](torch.cat([fine, images], dim=1), weights.gather, weights.bias, padding=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("points", [1, 12, 2**17])  # one layer at a time, some, all
def test_one_convolution_gives_what_the_steps_give(shape: Sequence[int], points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS_AT_A_TIME", points)
    given = inputs(shape)
    torch.testing.assert_close(linear_end(*given), step_by_step(*given), rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7, 3)])
@pytest.mark.parametrize("points", [1, 12, 2**17])
def test_gradients_are_those_of_the_steps_also_where_values_are_left_out(
    shape: Sequence[int], points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POINTS_AT_A_TIME", points)
    features, skip, images, weights = inputs(shape)
    asked = [features, skip, images, *vars(weights).values()]
    for one in asked:
        one.requires_grad_()
    by_displacement = torch.randn(2, len(shape), *shape, dtype=torch.float64)
    expected = torch.autograd.grad(step_by_step(features, skip, images, weights), asked, by_displacement)
    found = torch.autograd.grad(linear_end(features, skip, images, weights), asked, by_displacement)
    with for_gradient_alone():
        empty = linear_end(features, skip, images, weights)
    assert not empty.any()
    for one, alone, other in zip(found, torch.autograd.grad(empty, asked, by_displacement), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
        assert torch.equal(one, alone)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pixel_shuffle_and_back_is_the_identity(shape: Sequence[int]) -> None:
    fine = torch.randn(2, 3, *shape)
    assert torch.equal(shuffled(unshuffled(fine), shape), fine)


def test_the_pixel_shuffle_is_that_of_torch() -> None:
    coarse = torch.randn(2, 12, 3, 5)
    assert torch.equal(shuffled(coarse, (6, 10)), F.pixel_shuffle(coarse, 2))
    assert torch.equal(unshuffled(F.pixel_shuffle(coarse, 2)), coarse)
