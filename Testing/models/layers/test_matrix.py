"""The matrix network beside the published one, in both dimensions, at even and odd shapes, and what its file holds."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RegistrationNetLib.models.layers.linear_end import CONV
from RegistrationNetLib.models.layers.matrix import ConvolutionalMatrixNet, convolved_and_halved
from RegistrationNetLib.models.layers.unet import halved

from .published import randomize

SHAPES = [(40, 37), (33, 64), (65, 66), (33, 36, 34), (40, 47, 65)]


def published(dim: int) -> nn.Module:
    networks = pytest.importorskip("icon_registration.networks")
    net: nn.Module = networks.ConvolutionalMatrixNet(dimension=dim)
    randomize(net)
    return net.eval()


def same_as(oracle: nn.Module, dim: int) -> ConvolutionalMatrixNet:
    net = ConvolutionalMatrixNet(dim)
    net.load_state_dict(oracle.state_dict(), strict=True)
    return net.eval()


def images(shape: Sequence[int], *, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Noise with negative values too, which the first activation cuts."""
    return torch.randn(batch, 1, *shape), torch.randn(batch, 1, *shape)


def test_the_file_has_16_keys_and_4_873_368_parameters() -> None:
    with torch.device("meta"):
        net = ConvolutionalMatrixNet(3)
    assert len(net.state_dict()) == 16
    assert sum(parameter.numel() for parameter in net.parameters()) == 4_873_368


@pytest.mark.parametrize("dim", [2, 3])
def test_names_and_shapes_of_the_file_are_those_published(dim: int) -> None:
    expected = {name: value.shape for name, value in published(dim).state_dict().items()}
    assert {name: value.shape for name, value in ConvolutionalMatrixNet(dim).state_dict().items()} == expected


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_matrix_is_that_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published(len(shape))
    moving, fixed = images(shape)
    found = same_as(oracle, len(shape))(moving, fixed)
    torch.testing.assert_close(found, oracle(moving, fixed), rtol=0, atol=2e-6)
    assert (found - torch.eye(len(shape) + 1)).abs().max() > 0.05


@pytest.mark.parametrize("shape", [(40, 37), (33, 36, 34)])
def test_gradients_are_those_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published(len(shape))
    net = same_as(oracle, len(shape))
    moving, fixed = (image.requires_grad_() for image in images(shape))
    expected = torch.autograd.grad(oracle(moving, fixed).square().sum(), [moving, fixed, *oracle.parameters()])
    found = torch.autograd.grad(net(moving, fixed).square().sum(), [moving, fixed, *net.parameters()])
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (1, 5), (2, 1), (1, 1), (4, 6, 5), (5, 3, 7), (1, 2, 3)])
def test_convolution_and_halving_in_one_are_one_after_the_other(shape: Sequence[int]) -> None:
    dim = len(shape)
    values = torch.randn(2, 3, *shape, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, *(3,) * dim, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = halved(CONV[dim](values, weight, bias, padding=1))
    torch.testing.assert_close(convolved_and_halved(values, weight, bias), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_an_untrained_network_is_the_identity(dim: int) -> None:
    matrix = ConvolutionalMatrixNet(dim)(*images((33,) * dim))
    assert torch.equal(matrix, torch.eye(dim + 1).expand(2, -1, -1))


@pytest.mark.parametrize("dim", [2, 3])
def test_numbers_of_the_network_act_about_the_centre(dim: int) -> None:
    net = ConvolutionalMatrixNet(dim)
    offsets = 0.1 * torch.randn(dim, dim + 1)
    with torch.no_grad():
        net.dense3.bias.copy_(offsets.flatten())
    matrix = net(*images((17,) * dim, batch=1))[0]
    centre = F.pad(torch.full((dim,), 0.5), (0, 1), value=1.0)
    torch.testing.assert_close((matrix @ centre)[:dim] - 0.5, offsets[:, dim])
    torch.testing.assert_close(matrix[:dim, :dim], torch.eye(dim) + offsets[:, :dim])


def test_images_of_several_channels_are_taken() -> None:
    net = ConvolutionalMatrixNet(2, input_channels=3)
    randomize(net)
    moving, fixed = torch.rand(2, 1, 3, 20, 21).unbind()
    changed = moving.clone()
    changed[:, 2] += 0.5
    assert not torch.allclose(net(moving, fixed), net(changed, fixed))


def test_inputs_and_parameters_stay_as_they_are() -> None:
    net = ConvolutionalMatrixNet(2)
    randomize(net)
    moving, fixed = images((33, 40))
    before = [value.clone() for value in (moving, fixed, *net.state_dict().values())]
    net(moving, fixed)
    assert all(torch.equal(one, other) for one, other in zip((moving, fixed, *net.state_dict().values()), before, strict=True))
