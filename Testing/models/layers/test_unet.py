"""The U-net beside the published one, in both dimensions, at even and odd shapes, and what its file holds."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.models.layers.unet import DenseMiddleUNet, TallUNet, halved

from .published import randomize

SHAPES = [(40, 37), (33, 64), (17, 90), (3, 5), (33, 36, 34), (20, 47, 33), (32, 32, 32), (35, 65, 17)]
# The reference cannot average a lattice of one voxel in 3-D, nor in its training mode normalize one.
TRAINING_SHAPES = [(40, 37), (64, 33), (33, 36, 34), (35, 17, 40)]


def published_unet(dim: int) -> nn.Module:
    networks = pytest.importorskip("icon_registration.networks")
    net: nn.Module = networks.tallUNet2(dimension=dim)
    randomize(net, displacement=0.02)
    return net


def published_dense_unet() -> nn.Module:
    networks = pytest.importorskip("icon_registration.networks")
    net: nn.Module = networks.tallUNet(unet=networks.UNet2ChunkyMiddle, dimension=3)
    randomize(net, displacement=0.02)
    return net


def images(shape: Sequence[int], *, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Noise with negative values too, so that the leaky side of every activation counts."""
    return torch.randn(batch, 1, *shape), torch.randn(batch, 1, *shape)


def same_as(oracle: nn.Module, net: nn.Module) -> nn.Module:
    net.load_state_dict(oracle.state_dict(), strict=True)
    return net


def parameter_count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_the_file_has_47_keys_and_17_670_229_parameters() -> None:
    with torch.device("meta"):
        net = TallUNet(3)
    assert len(net.state_dict()) == 47
    assert parameter_count(net) == 17_670_229


def test_the_file_with_a_dense_middle_has_51_keys_and_60_149_077_parameters() -> None:
    with torch.device("meta"):
        net = DenseMiddleUNet()
    assert len(net.state_dict()) == 51
    assert parameter_count(net) == 60_149_077


@pytest.mark.parametrize("dim", [2, 3])
def test_names_and_shapes_of_the_file_are_those_published(dim: int) -> None:
    published = {name: value.shape for name, value in published_unet(dim).state_dict().items()}
    assert {name: value.shape for name, value in TallUNet(dim).state_dict().items()} == published


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_displacement_is_that_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published_unet(len(shape)).eval()
    net = same_as(oracle, TallUNet(len(shape))).eval()
    moving, fixed = images(shape)
    torch.testing.assert_close(net(moving, fixed), oracle(moving, fixed), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", TRAINING_SHAPES)
def test_training_mode_is_that_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published_unet(len(shape)).train()
    net = same_as(oracle, TallUNet(len(shape))).train()
    moving, fixed = images(shape)
    torch.testing.assert_close(net(moving, fixed), oracle(moving, fixed), rtol=0, atol=2e-6)
    for name, value in oracle.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("is_training", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("shape", [(40, 37), (33, 36, 34)])
def test_gradients_are_those_of_the_published_network(shape: Sequence[int], is_training: bool) -> None:
    oracle = published_unet(len(shape)).train(is_training).double()
    net = same_as(oracle, TallUNet(len(shape))).train(is_training).double()
    moving, fixed = (image.double().requires_grad_() for image in images(shape))
    weight = torch.randn(2, len(shape), *shape, dtype=torch.float64)
    expected = torch.autograd.grad((oracle(moving, fixed) * weight).sum(), [moving, fixed, *oracle.parameters()])
    found = torch.autograd.grad((net(moving, fixed) * weight).sum(), [moving, fixed, *net.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 37), (33, 36, 34)])
def test_displacement_with_and_without_gradients_is_one(shape: Sequence[int]) -> None:
    net = TallUNet(len(shape)).eval()
    randomize(net)
    moving, fixed = images(shape)
    with torch.no_grad():
        expected = net(moving, fixed)
    torch.testing.assert_close(net(moving, fixed), expected)


@pytest.mark.parametrize(("narrowed", "parameters"), [(2, 4_418_813), (4, 1_105_393)])
def test_a_narrow_network_has_about_the_square_fewer_parameters(narrowed: int, parameters: int) -> None:
    with torch.device("meta"):
        assert parameter_count(TallUNet(3, narrowed=narrowed)) == parameters


@pytest.mark.parametrize("shape", [(40, 37), (33, 36, 34)])
@torch.no_grad()
def test_the_linear_end_of_a_narrow_network_is_what_its_layers_give(shape: Sequence[int]) -> None:
    net = TallUNet(len(shape), narrowed=4).eval()
    randomize(net)
    moving, fixed = images(shape)
    found = net(moving, fixed)
    net.training = True  # layer by layer, with the running statistics still
    torch.testing.assert_close(net(moving, fixed), found, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 37), (33, 36, 34)])
@torch.no_grad()
def test_half_precision_under_autocast_changes_the_displacement_by_some_percent(shape: Sequence[int]) -> None:
    net = TallUNet(len(shape)).eval()
    randomize(net)
    moving, fixed = images(shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(moving, fixed)
    expected = net(moving, fixed)
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.05


@torch.no_grad()
def test_images_of_several_channels_are_those_of_the_published_network() -> None:
    networks = pytest.importorskip("icon_registration.networks")
    oracle = networks.tallUNet2(dimension=2, input_channels=3).eval()
    randomize(oracle)
    net = same_as(oracle, TallUNet(2, input_channels=3)).eval()
    moving, fixed = torch.randn(2, 1, 3, 33, 40).unbind()
    torch.testing.assert_close(net(moving, fixed), oracle(moving, fixed), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(33, 66, 96), (64, 90, 96)])
@torch.no_grad()
def test_dense_middle_is_that_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published_dense_unet().eval()
    net = same_as(oracle, DenseMiddleUNet()).eval()
    moving, fixed = images(shape, batch=1)
    torch.testing.assert_close(net(moving, fixed), oracle(moving, fixed), rtol=0, atol=1e-6)


def test_dense_middle_refuses_images_that_it_does_not_fit() -> None:
    with torch.device("meta"):
        net = DenseMiddleUNet()
    with pytest.raises(InputError, match="fits images of 40×96×96 only; got \\[80, 96, 96\\]"):
        net(*images((80, 96, 96), batch=1))


@pytest.mark.parametrize("dim", [2, 3])
def test_an_untrained_network_is_the_identity(dim: int) -> None:
    assert torch.equal(TallUNet(dim).eval()(*images((33,) * dim)), torch.zeros(2, dim, *(33,) * dim))


@pytest.mark.parametrize("grad", [False, True])
def test_inputs_and_parameters_stay_as_they_are(grad: bool) -> None:
    net = TallUNet(2).eval()
    randomize(net)
    moving, fixed = images((33, 40))
    before = [value.clone() for value in (moving, fixed, *net.state_dict().values())]
    with torch.set_grad_enabled(grad):
        net(moving, fixed)
    assert all(torch.equal(one, other) for one, other in zip((moving, fixed, *net.state_dict().values()), before, strict=True))


def test_a_last_voxel_without_neighbour_stays_as_it_is_when_halved() -> None:
    assert halved(torch.tensor([[[[1.0, 3.0, 7.0]]]])).tolist() == [[[[2.0, 7.0]]]]
    assert halved(torch.full((1, 1, 1, 1, 1), 5.0)).item() == 5
