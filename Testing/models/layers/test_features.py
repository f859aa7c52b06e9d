"""The feature networks beside the published ones, and the rotations they are averaged over."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.models.layers.features import CoarseFeatures, DilatedFeatures, Equivariantize, lattice_rotations
from Testing.models.layers.published import randomize
from Testing.models.published_carl import available, on_the_cpu

SHAPES = [(21, 18), (11, 12, 9)]
BROAD = (1, 2, 4, 8)


def broad(dim: int, channels: int) -> DilatedFeatures:
    return DilatedFeatures(dim, dilations=BROAD, channels=channels)


def dilated(dim: int, channels: int) -> DilatedFeatures:
    return DilatedFeatures(dim, channels=channels)


def coarse(dim: int, channels: int) -> CoarseFeatures:
    return CoarseFeatures(dim, channels=channels)


PUBLISHED: list[tuple[Callable[[int, int], nn.Module], str, str]] = [
    (dilated, "carl", "NoDownsampleNet"),
    (broad, "carl", "NoDownsampleNetBroad"),
    (coarse, "unicarl.fixed_point_carl", "SomeDownsampleNoDilationNet"),
]


def pair_of_networks(ours: Callable[[int, int], nn.Module], file: str, name: str, dim: int) -> tuple[nn.Module, nn.Module]:
    """Ours and the published one, of few channels and the same random weights."""
    pytest.importorskip("icon_registration")
    oracle: nn.Module = getattr(available(f"icon_registration.{file}"), name)(dimension=dim, output_dim=8)
    randomize(oracle)
    net = ours(dim, 8)
    net.load_state_dict(oracle.state_dict(), strict=True)
    return net, oracle


@pytest.mark.parametrize(
    ("net", "keys", "parameters"), [(dilated, 35, 3_986_816), (broad, 41, 5_314_304), (coarse, 37, 36_133_728)]
)
def test_the_file_has_the_published_size(net: Callable[[int, int], nn.Module], keys: int, parameters: int) -> None:
    with torch.device("meta"):
        made = net(3, 384 if net is coarse else 128)
    assert len(made.state_dict()) == keys
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters


@pytest.mark.parametrize(("ours", "file", "name"), PUBLISHED)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_features_are_those_of_the_published_network(
    shape: Sequence[int], ours: Callable[[int, int], nn.Module], file: str, name: str
) -> None:
    net, oracle = pair_of_networks(ours, file, name, len(shape))
    image = torch.rand(2, 1, *shape)
    before = image.clone()
    with on_the_cpu():
        torch.testing.assert_close(net.eval()(image), oracle.eval()(image), rtol=1e-4, atol=1e-5)
    assert torch.equal(image, before)


@pytest.mark.parametrize(("ours", "file", "name"), PUBLISHED)
def test_training_and_its_gradients_are_those_of_the_published_network(
    ours: Callable[[int, int], nn.Module], file: str, name: str
) -> None:
    net, oracle = pair_of_networks(ours, file, name, 2)
    image = torch.rand(2, 1, 21, 18)
    with on_the_cpu():
        found, expected = net.train()(image), oracle.train()(image)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    (found**2).sum().backward()
    (expected**2).sum().backward()
    theirs = dict(oracle.named_parameters())
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-2, atol=0.05, msg=key)
    for key, value in oracle.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize(("dim", "count", "halves"), [(2, 4, 2), (3, 24, 4)])
def test_rotations_are_all_different_and_none_is_a_reflection(dim: int, count: int, halves: int) -> None:
    cube = torch.arange(3.0**dim).view(1, 1, *(3,) * dim)
    turned = {tuple(one(cube).flatten().tolist()) for one in lattice_rotations(dim)}
    mirrored = {tuple(one(cube.flip(2)).flatten().tolist()) for one in lattice_rotations(dim)}
    assert len(turned) == len(mirrored) == count
    assert not turned & mirrored
    assert sum(one.is_half_turn for one in lattice_rotations(dim)) == halves


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rotation_is_undone(shape: Sequence[int]) -> None:
    image = torch.rand(1, 2, *shape)
    for one in lattice_rotations(len(shape)):
        assert torch.equal(one.undone(one(image)), image)


@torch.no_grad()
def test_averaged_features_are_those_of_the_published_network() -> None:
    net, oracle = pair_of_networks(broad, "carl", "NoDownsampleNetBroad", 3)
    assert isinstance(net, DilatedFeatures)
    averaged = available("icon_registration.carl").Equivariantize(oracle)
    image = torch.rand(1, 1, 9, 8, 10)
    ours = Equivariantize(net)
    assert set(ours.state_dict()) == set(averaged.state_dict())
    with on_the_cpu():
        torch.testing.assert_close(ours.eval()(image), averaged.eval()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [dilated, coarse])
@pytest.mark.parametrize("shape", [(20, 16), (8, 12, 8)])
@torch.no_grad()
def test_features_turn_with_the_image(shape: Sequence[int], make: Callable[[int, int], DilatedFeatures]) -> None:
    image = torch.rand(1, 1, *shape, dtype=torch.float64)
    net = make(len(shape), 4).double().eval()
    randomize(net)
    half, quarter = Equivariantize(net), Equivariantize(net, turns="quarter")

    def error(features: nn.Module, only_half: bool) -> float:
        turns = [one for one in lattice_rotations(len(shape)) if one.is_half_turn == only_half]
        return max(float((features(one(image)) - one(features(image))).abs().max()) for one in turns)

    assert error(half, True) < 1e-12
    assert error(quarter, True) < 1e-12
    assert error(quarter, False) < 1e-12
    assert error(half, False) > 0.01  # as published, quarter turns are left to training
    assert error(net, True) > 0.01


def test_turns_that_are_not_known_are_refused() -> None:
    with pytest.raises(InputError, match="no turns 'full'; features are averaged over half or quarter turns"):
        Equivariantize(dilated(2, 4), turns="full")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [dilated, coarse])
def test_features_with_and_without_gradients_are_the_same(make: Callable[[int, int], DilatedFeatures]) -> None:
    net = make(2, 4).eval()
    randomize(net)
    for one in (net, Equivariantize(net)):
        image = torch.rand(1, 1, 14, 13)
        with_gradients: Tensor = one(image)
        with torch.no_grad():
            torch.testing.assert_close(one(image), with_gradients.detach())
