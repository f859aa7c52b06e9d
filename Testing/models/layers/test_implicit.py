"""NePhi's networks: names and sizes as published, values by independent slow versions, derivatives by finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.interpolation import crossings, interpolated
from RegistrationNetLib.geometry.separable import apply_along_axes, bspline_matrix, on
from RegistrationNetLib.models.layers.implicit import GlobalAndLocalEncoder, LocalMLP
from RegistrationNetLib.models.layers.latent import LatentCodes, random_codes

from .published import randomize

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES: dict[int, tuple[int, ...]] = {2: (5, 4), 3: (5, 4, 3)}


def by_grid_sample(values: Tensor, points: Tensor) -> Tensor:
    """Points [1, dim, N] as torch interpolates them: [N, C]."""
    dim = points.shape[1]
    lattice = (2 * points[0].T.flip(-1) - 1).view(1, -1, *(1,) * (dim - 1), dim)
    sampled = F.grid_sample(values, lattice, padding_mode="border", align_corners=True)
    return sampled.flatten(2)[0].T


@pytest.mark.parametrize("dim", [2, 3])
def test_interpolation_is_that_of_torch_inside_and_beyond_the_border(dim: int) -> None:
    values, points = torch.randn(1, 3, *SHAPES[dim]).double(), 1.6 * torch.rand(1, dim, 200).double() - 0.3
    torch.testing.assert_close(interpolated(values, points)[0], by_grid_sample(values, points))


def test_nodes_themselves_are_met() -> None:
    values = torch.randn(1, 2, 4, 6)
    corners = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])[None]
    expected = torch.stack([values[0, :, 0, 0], values[0, :, 3, 0], values[0, :, 3, 5]])
    torch.testing.assert_close(interpolated(values, corners)[0], expected)


def test_an_axis_of_one_node_is_constant() -> None:
    values, points = torch.randn(1, 2, 1, 4), torch.rand(1, 2, 7)
    moved = points.clone()
    moved[:, 0] = 0.9
    torch.testing.assert_close(interpolated(values, points), interpolated(values, moved))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.bool])
def test_values_of_any_dtype_are_read_as_they_are(dtype: torch.dtype) -> None:
    values, points = torch.randint(0, 2, (1, 1, 5, 6)).to(dtype), torch.rand(1, 2, 3, 4)
    torch.testing.assert_close(interpolated(values, points), interpolated(values.float(), points))


def test_every_entry_of_a_batch_reads_its_own_values() -> None:
    values, points = torch.randn(2, 3, 4, 5), torch.rand(2, 2, 9)
    both = interpolated(values, points)
    for entry in range(2):
        torch.testing.assert_close(both[entry], interpolated(values[entry : entry + 1], points[entry : entry + 1])[0])
    torch.testing.assert_close(interpolated(values, points[:1])[1], interpolated(values[1:], points[:1])[0])
    torch.testing.assert_close(interpolated(values[:1], points)[1], interpolated(values[:1], points[1:])[0])


@pytest.mark.parametrize("dim", [2, 3])
def test_first_and_second_derivatives_are_those_of_differences(dim: int) -> None:
    values = torch.randn(1, 2, *SHAPES[dim]).double().requires_grad_()
    points = (0.05 + 0.9 * torch.rand(1, dim, 6).double()).requires_grad_()
    assert torch.autograd.gradcheck(interpolated, (values, points))
    assert torch.autograd.gradgradcheck(interpolated, (values, points))


def smooth_codes(dim: int) -> LatentCodes:
    return random_codes((2, 3), (6, 5, 7)[:dim], torch.Generator().manual_seed(0), like=torch.zeros(()).double(), smooth=True)


@pytest.mark.parametrize("dim", [2, 3])
def test_smooth_codes_are_splines_inside_and_constant_beyond_the_border(dim: int) -> None:
    codes, lines = smooth_codes(dim), [torch.linspace(0, 1, count).double() for count in (9, 6, 5)[:dim]]
    matrices = [bspline_matrix(len(line), size - 3) for line, size in zip(lines, codes.local.shape[2:], strict=True)]
    expected = apply_along_axes(codes.local, on(matrices, codes.local)).movedim(1, -1)
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]
    torch.testing.assert_close(codes.at(points)[..., 2:], expected)
    beyond = torch.tensor([-0.3, 1.2, 0.5][:dim]).double().view(1, dim, 1)
    torch.testing.assert_close(codes.at(beyond), codes.at(beyond.clamp(0, 1)))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_codes_along_lines_are_those_at_their_crossings(dim: int, smooth: bool) -> None:
    codes = replace(smooth_codes(dim), smooth=smooth)
    lines = [torch.rand(2, count).double() * 1.4 - 0.2 for count in (4, 3, 5)[:dim]]
    torch.testing.assert_close(codes.on_lines(lines), codes.at(crossings(lines)))


@pytest.mark.parametrize("dim", [2, 3])
def test_derivatives_of_smooth_codes_are_those_of_differences(dim: int) -> None:
    values = torch.randn(1, 1, *(4, 5, 4)[:dim]).double().requires_grad_()
    points = (0.05 + 0.9 * torch.rand(1, dim, 2).double()).requires_grad_()
    read = partial(interpolated, smooth=True)
    assert torch.autograd.gradcheck(read, (values, points))
    assert torch.autograd.gradgradcheck(read, (values, points))


def test_finer_smooth_codes_say_the_same() -> None:
    codes, points = smooth_codes(2), torch.rand(1, 2, 30).double()
    torch.testing.assert_close(codes.on((2 * 3 + 3, 2 * 2 + 3)).at(points), codes.at(points))


def test_codes_are_that_of_the_pair_and_then_the_local_ones() -> None:
    codes = random_codes((3, 4), (5, 6), torch.Generator().manual_seed(1), like=torch.zeros(()))
    points = torch.rand(1, 2, 8)
    read = codes.at(points)
    assert codes.channels == 7
    torch.testing.assert_close(read[0, :, :3], codes.of_pair.expand(8, 3))
    torch.testing.assert_close(read[0, :, 3:], interpolated(codes.local, points)[0])


def test_the_length_of_codes_is_a_mean_over_pairs_plus_one_over_nodes() -> None:
    codes = LatentCodes(torch.tensor([[3.0, 4.0]]), torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]]))
    assert float(codes.norm()) == pytest.approx(5 + 1.5)


def test_finer_codes_say_the_same_and_random_ones_have_length_one() -> None:
    codes = random_codes((400, 400), (3, 4), torch.Generator().manual_seed(1), like=torch.zeros(()))
    assert float(codes.norm()) == pytest.approx(2, abs=0.1)
    points = torch.rand(1, 2, 50)
    torch.testing.assert_close(codes.on((5, 7)).at(points), codes.at(points), atol=1e-5, rtol=1e-4)


LOCAL_MLP_NAMES = [
    "embed.B",
    "synthesis_nw.first_layer.linear.weight",
    "synthesis_nw.hidden_layer_0.linear.bias",
    "synthesis_nw.hidden_layer_1.linear.weight",
    "synthesis_nw.final_layer.weight",
    "modulation_nw.first_layer.linear.weight",
    "modulation_nw.layer_1.linear.bias",
]


def test_the_point_network_has_the_published_names_and_sizes() -> None:
    state = LocalMLP(3).state_dict()
    assert set(LOCAL_MLP_NAMES) <= set(state)
    assert len(state) == 15
    assert sum(value.numel() for value in state.values()) == 140_803
    assert state["embed.B"].shape == (3, 128)
    assert state["modulation_nw.first_layer.linear.weight"].shape == (128, 320)


def test_an_untrained_point_network_moves_nothing_and_its_frequencies_are_not_trained() -> None:
    network = LocalMLP(2, latent_channels=3, width=8, frequencies=4)
    assert not network(torch.rand(5, 2), torch.rand(5, 3)).any()
    assert [name for name, one in network.named_parameters() if not one.requires_grad] == ["embed.B"]


def one_displacement(state: dict[str, Tensor], place: Sequence[float], code: Sequence[float]) -> list[float]:
    """The published formula for one point, number by number."""

    def linear(prefix: str, features: Sequence[float], omega: float) -> list[float]:
        rows, shifts = state[f"{prefix}.weight"].tolist(), state[f"{prefix}.bias"].tolist()
        return [
            omega * (sum(a * b for a, b in zip(row, features, strict=True)) + shift)
            for row, shift in zip(rows, shifts, strict=True)
        ]

    def sines(prefix: str, features: Sequence[float], omega: float = 30.0) -> list[float]:
        return [math.sin(one) for one in linear(f"{prefix}.linear", features, omega)]

    angles = [2 * math.pi * sum(a * b for a, b in zip(place, column, strict=True)) for column in state["embed.B"].T.tolist()]
    embedded = [math.sin(one) for one in angles] + [math.cos(one) for one in angles]
    first = sines("modulation_nw.first_layer", [*code, *embedded])
    gate, features = first, sines("synthesis_nw.first_layer", embedded, 1.0)
    for index in range(2):
        gate = [a + b for a, b in zip(sines(f"modulation_nw.layer_{index}", gate), first, strict=True)]
        features = [a * b for a, b in zip(gate, sines(f"synthesis_nw.hidden_layer_{index}", features), strict=True)]
    return linear("synthesis_nw.final_layer", features, 1.0)


def test_the_point_network_is_the_published_formula() -> None:
    network = LocalMLP(3, latent_channels=4, width=6, frequencies=5).double()
    torch.nn.init.normal_(network.synthesis_nw.final_layer.weight)
    places, codes = 2 * torch.rand(3, 3).double() - 1, torch.randn(3, 4).double()
    state = {name: value.double() for name, value in network.state_dict().items()}
    expected = [one_displacement(state, place, code) for place, code in zip(places.tolist(), codes.tolist(), strict=True)]
    torch.testing.assert_close(network(places, codes), torch.tensor(expected).double(), atol=1e-9, rtol=1e-7)


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="takes latent codes of 64 channels; got 24"):
        LocalMLP(3)(torch.rand(5, 3), torch.rand(5, 24))


def test_the_encoder_has_the_published_names_and_sizes() -> None:
    with torch.device("meta"):
        network = GlobalAndLocalEncoder((175, 175, 175))
    assert len(network.state_dict()) == 53
    assert sum(one.numel() for one in network.parameters()) == 2_986_136
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["feature_encoder.0.conv.weight"] == (8, 2, 3, 3, 3)
    assert shapes["feature_encoder.5.bn.running_var"] == (256,)
    assert shapes["local_encoder.conv.weight"] == (32, 32, 3, 3, 3)
    assert shapes["global_encoder.1.fc.weight"] == (256, 6912)
    assert shapes["global_encoder.2.fc.bias"] == (32,)


def test_a_larger_image_gets_more_blocks() -> None:
    with torch.device("meta"):
        assert len(GlobalAndLocalEncoder((256, 256)).feature_encoder) == 7


def encoded_slowly(
    state: dict[str, Tensor], moving: Tensor, fixed: Tensor, blocks: int, local_block: int
) -> tuple[Tensor, Tensor]:
    """The published chain, written with functions."""

    def block(prefix: str, features: Tensor, stride: int) -> Tensor:
        part = {name: state[f"{prefix}.{name}"] for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias")}
        features = F.conv2d(features, part["conv.weight"], part["conv.bias"], stride=stride, padding=1)
        mean, variance = (state[f"{prefix}.bn.running_{name}"].view(1, -1, 1, 1) for name in ("mean", "var"))
        features = (features - mean) / (variance + 1e-5).sqrt() * part["bn.weight"].view(1, -1, 1, 1)
        features = features + part["bn.bias"].view(1, -1, 1, 1)
        return torch.where(features > 0, features, 0.2 * features)

    features = torch.cat([moving, fixed], dim=1)
    for index in range(blocks):
        features = block(f"feature_encoder.{index}", features, 2)
        if index == local_block:
            local = block("local_encoder", features, 1)
    flat = features.flatten(1) @ state["global_encoder.1.fc.weight"].T + state["global_encoder.1.fc.bias"]
    flat = torch.where(flat > 0, flat, 0.2 * flat)
    return flat @ state["global_encoder.2.fc.weight"].T + state["global_encoder.2.fc.bias"], local


def test_the_encoder_is_the_published_chain() -> None:
    network = GlobalAndLocalEncoder((64, 50)).eval()
    randomize(network)
    moving, fixed = torch.rand(2, 1, 64, 50), torch.rand(2, 1, 64, 50)
    with torch.no_grad():
        codes = network(moving, fixed)
        of_pair, local = encoded_slowly(network.state_dict(), moving, fixed, blocks=6, local_block=1)
    assert codes.of_pair.shape == (2, 32)
    assert codes.local.shape == (2, 32, 16, 13)
    torch.testing.assert_close(codes.of_pair, of_pair, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codes.local, local, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["moving", "fixed"])
def test_images_of_another_shape_are_refused(name: str) -> None:
    network = GlobalAndLocalEncoder((64, 64))
    images = {"moving": torch.rand(1, 1, 64, 64), "fixed": torch.rand(1, 1, 64, 64), name: torch.rand(1, 1, 64, 60)}
    with pytest.raises(InputError, match=rf"{name} must be \[B, 1, 64, 64\] for this network; got \[1, 1, 64, 60\]"):
        network(images["moving"], images["fixed"])
