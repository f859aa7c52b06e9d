"""ConstrICON beside icon_registration, with every parameter at random, and the property it is made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Affine, Composition, identity_points
from RegistrationNetLib.geometry.regularity import diffusion
from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.losses.similarity import LNCC, SSD
from RegistrationNetLib.models.composition import BothWays, Downsample, both_ways, mapped_lattice
from RegistrationNetLib.models.constricon import (
    FunctionExponential,
    InverseConsistent,
    MatrixExponential,
    PerceptronFromWeights,
    RigidGenerator,
    TwoStepInverseConsistent,
    VelocityDiffusionLoss,
    VelocityExponential,
    affine_part,
    constricon_network,
    velocity_diffusion,
)
from RegistrationNetLib.models.constricon_resolution import check_resolved, round_trip_vox, squaring_error_vox
from RegistrationNetLib.models.constricon_velocities import Middle, velocities_of
from RegistrationNetLib.models.gradicon import gradicon_network
from RegistrationNetLib.models.layers.exponential import Flow, flows, matrix_exponentials
from RegistrationNetLib.models.layers.matrix import ConvolutionalMatrixNet
from RegistrationNetLib.models.layers.unet import TallUNet
from Testing.models.layers.published import smooth_pair

from . import published_constricon as published

SHAPES = [(64, 80), (65, 71), (40, 56, 40), pytest.param((41, 55, 39), marks=pytest.mark.slow)]
PREFIXES = {"net.netPhi.net.": 16, "net.netPsi.netPhi.net.": 16}
PREFIXES |= {"net.netPsi.netPsi.netPhi.net.": 47, "net.netPsi.netPsi.netPsi.net.": 47}


def affine(dim: int, *, rigid: bool = False) -> MatrixExponential:
    net = ConvolutionalMatrixNet(dim)
    return MatrixExponential(RigidGenerator(net) if rigid else net)


def velocity(dim: int, *, squarings: int = 7) -> VelocityExponential:
    return VelocityExponential(TallUNet(dim), squarings=squarings)


def random(net: nn.Module, dim: int) -> nn.Module:
    published.randomize_all(net, dim)
    return net.eval()


def deep(dim: int) -> nn.Module:
    """Three levels, of which two at coarser resolutions."""
    quarter = Downsample(TwoStepInverseConsistent(affine(dim, rigid=True), velocity(dim)))
    return InverseConsistent(
        TwoStepInverseConsistent(Downsample(TwoStepInverseConsistent(quarter, velocity(dim))), velocity(dim))
    )


def affine_only(dim: int) -> nn.Module:
    return InverseConsistent(
        TwoStepInverseConsistent(TwoStepInverseConsistent(affine(dim), affine(dim)), affine(dim, rigid=True))
    )


def inner(shape: Sequence[int], like: Tensor, *, margin: float = 0.25) -> Tensor:
    return margin + (1 - 2 * margin) * identity_points(shape, like)


def round_trip(maps: BothWays, points: Tensor) -> float:
    """The largest distance that both ways, one after the other, move a point; in either order."""
    there = maps.moving_from_fixed(maps.fixed_from_moving(points)) - points
    back = maps.fixed_from_moving(maps.moving_from_fixed(points)) - points
    return float(torch.stack([there, back]).norm(dim=2).max())


def test_the_file_has_the_published_names_and_size() -> None:
    with torch.device("meta"):
        net = constricon_network()
    names = list(net.state_dict())
    assert len(names) == 126
    assert sum(parameter.numel() for parameter in net.parameters()) == 45_087_194
    assert {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES} == PREFIXES


def test_a_file_of_each_network_loads_in_the_other() -> None:
    oracle = published.whole(3)
    net = constricon_network()
    net.load_state_dict(oracle.state_dict(), strict=True)
    oracle.load_state_dict(net.state_dict(), strict=True)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in oracle.state_dict().items())


def assert_maps_are_those_of(oracle: nn.Module, net: nn.Module, shape: Sequence[int], *, tolerance: float = 2e-5) -> None:
    net.load_state_dict(oracle.state_dict(), strict=True)
    moving, fixed = smooth_pair(shape, batch=2)
    lattice = identity_points(shape, fixed)
    off_the_grid = torch.rand(2, len(shape), *(9,) * len(shape)) * 1.1 - 0.05
    with torch.no_grad():
        maps = both_ways(InverseConsistent(net).eval(), moving, fixed)
        expected = published.maps_of(oracle, moving, fixed)
        for found, other in zip((maps.moving_from_fixed, maps.fixed_from_moving), expected, strict=True):
            on_lattice = other(lattice.expand(2, *lattice.shape[1:]))
            assert 0.004 < (on_lattice - lattice).abs().mean() < 0.1
            torch.testing.assert_close(mapped_lattice(found, tuple(shape), fixed), on_lattice, rtol=0, atol=tolerance)
            torch.testing.assert_close(found(off_the_grid), other(off_the_grid), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [*SHAPES, pytest.param((96, 128, 105), marks=pytest.mark.slow)])
def test_maps_both_ways_are_those_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published.ready(published.whole(len(shape)), shape)
    assert_maps_are_those_of(oracle.net, constricon_network(len(shape)).net, shape)  # type: ignore[arg-type]


def test_steps_at_several_resolutions_are_those_published() -> None:
    coarse = published.half(published.two_step(published.affine(2, rigid=True), published.velocity(2)), 2)
    three = published.two_step(published.half(published.two_step(coarse, published.velocity(2)), 2), published.velocity(2))
    assert_maps_are_those_of(published.ready(three, (65, 71)), deep(2).net, (65, 71))  # type: ignore[arg-type]


@pytest.mark.slow
def test_steps_at_several_resolutions_are_those_published_in_3_d() -> None:
    shape = (41, 55, 39)
    coarse = published.half(published.two_step(published.velocity(3), published.velocity(3)), 3)
    oracle = published.ready(published.two_step(coarse, published.affine(3)), shape)
    net = TwoStepInverseConsistent(Downsample(TwoStepInverseConsistent(velocity(3), velocity(3))), affine(3))
    assert_maps_are_those_of(oracle, net, shape)


SPREAD = 0.2  # the perceptrons then move points by a fifth of the cube


class Weights(nn.Module):
    """A perceptron's weights from the images' means: small enough to be read, and not symmetric in the images."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.dense = nn.Linear(2, count)
        for parameter in self.dense.parameters():
            nn.init.uniform_(parameter, -SPREAD, SPREAD)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        means = torch.cat([moving.flatten(2).mean(2), 3 * fixed.flatten(2).mean(2)], dim=1)
        weights: Tensor = self.dense(means)
        return weights


def perceptron_step(dim: int, *, steps: int = 6) -> FunctionExponential:
    return FunctionExponential(PerceptronFromWeights(Weights(PerceptronFromWeights.weight_count(dim)), dim=dim), steps=steps)


def different_pair(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A pair whose means differ clearly."""
    moving, fixed = smooth_pair(shape, batch=2)
    return moving * 0.3, fixed


@torch.no_grad()
def test_flow_of_a_perceptron_is_that_published() -> None:
    constricon = published.module()
    oracle = constricon.IntegrateMLP(constricon.FunctionFromMLPWeights(Weights(PerceptronFromWeights.weight_count(2))))
    net = perceptron_step(2)
    net.load_state_dict(oracle.state_dict(), strict=True)
    moving, fixed = different_pair((9, 8))
    points = torch.rand(2, 2, 6, 7)
    maps = net(moving, fixed)
    for found, expected in zip((maps.moving_from_fixed, maps.fixed_from_moving), oracle(moving, fixed), strict=True):
        assert (expected(points) - points).abs().max() > 0.01
        torch.testing.assert_close(found(points), expected(points), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
@torch.no_grad()
def test_flow_of_a_perceptron_comes_back_with_the_fifth_power_of_its_steps(dim: int) -> None:
    net = perceptron_step(dim).double()
    moving, fixed = (image.double() for image in different_pair((9,) * dim))
    points = torch.rand(2, dim, 50, dtype=torch.float64)
    errors = []
    for steps in (3, 6, 12):
        net.steps = steps
        errors.append(round_trip(net(moving, fixed), points))
    assert errors[0] > 1e-9
    assert all(25 < few / many < 40 for few, many in pairwise(errors))


@pytest.mark.parametrize("make", [constricon_network, deep, affine_only])
@pytest.mark.parametrize("shape", [(40, 51), pytest.param((33, 24, 26), marks=pytest.mark.slow)])
@torch.no_grad()
def test_exchanging_the_images_gives_the_other_map_to_the_last_bit(make: Any, shape: Sequence[int]) -> None:
    net = random(make(len(shape)), len(shape))
    moving, fixed = smooth_pair(shape)
    maps, reverse = both_ways(net, moving, fixed), both_ways(net, fixed, moving)
    lattice = identity_points(shape, fixed)
    assert not torch.allclose(maps.moving_from_fixed(lattice), maps.fixed_from_moving(lattice), atol=1e-3)
    assert torch.equal(reverse.moving_from_fixed(lattice), maps.fixed_from_moving(lattice))
    assert torch.equal(reverse.fixed_from_moving(lattice), maps.moving_from_fixed(lattice))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(40, 51), (12, 14, 11)])
@torch.no_grad()
def test_affine_steps_undo_each_other_up_to_rounding(shape: Sequence[int], seed: int) -> None:
    dim = len(shape)
    torch.manual_seed(seed)
    net = random(affine_only(dim), dim).double()
    maps = both_ways(net, *(image.double() for image in smooth_pair(shape)))
    points = torch.rand(1, dim, 200, dtype=torch.float64) * 2 - 0.5
    assert (maps.moving_from_fixed(points) - points).norm(dim=1).max() > 0.05
    assert round_trip(maps, points) < 1e-11


def linear_velocity(dim: int, *, size: int = 9) -> Tensor:
    """A velocity that interpolation on its lattice gives exactly, so that only the squarings err."""
    rate = torch.diag(torch.linspace(-0.4, 0.3, dim, dtype=torch.float64)) + 0.1
    return torch.einsum("ij,bj...->bi...", rate, identity_points((size,) * dim, rate) - 0.5)


class Given(nn.Module):
    """A velocity that does not look at the images but at their order."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        return self.values if moving.mean() < fixed.mean() else torch.zeros_like(self.values)


@pytest.mark.parametrize("dim", [2, 3])
def test_round_trip_of_velocity_steps_halves_with_each_squaring(dim: int) -> None:
    moving, fixed = (torch.full((1, 1, *(9,) * dim), value, dtype=torch.float64) for value in (0.0, 1.0))

    def error(squarings: int) -> float:
        steps = [VelocityExponential(Given(factor * linear_velocity(dim)), squarings=squarings) for factor in (1.0, -0.7)]
        maps = both_ways(InverseConsistent(TwoStepInverseConsistent(*steps)), moving, fixed)
        return round_trip(maps, inner((7,) * dim, linear_velocity(dim), margin=0.4))

    errors = [error(squarings) for squarings in (4, 5, 6, 7, 8)]
    assert errors[0] > 1e-3
    for more, less in pairwise(errors):
        assert 1.9 < more / less < 2.1


@pytest.mark.parametrize("shape", [(64, 72), pytest.param((40, 44, 42), marks=pytest.mark.slow)])
@torch.no_grad()
def test_round_trip_of_a_random_network_is_small_and_that_of_gradicon_is_not(shape: Sequence[int]) -> None:
    """Both move points by several voxels."""
    dim = len(shape)
    moving, fixed = smooth_pair(shape)
    points = inner((20,) * dim, fixed)
    errors = []
    for net in (constricon_network(dim), gradicon_network(dim)):
        maps = both_ways(random(net, dim), moving, fixed)
        moved_vox = (maps.moving_from_fixed(points) - points).norm(dim=1).mean() * shape[0]
        assert moved_vox > 0.5
        errors.append(round_trip(maps, points) * shape[0])
    assert errors[0] < 0.25
    assert errors[1] > 10 * errors[0]


@pytest.mark.parametrize("dim", [2, 3])
@torch.no_grad()
def test_a_rigid_generator_gives_a_rotation_and_a_shift(dim: int) -> None:
    net = random(affine(dim, rigid=True), dim).double()
    maps = net(*(image.double() for image in smooth_pair((24,) * dim)))
    (one,) = maps.moving_from_fixed.maps
    linear = one.matrix[0, :, :dim]
    identity = torch.eye(dim, dtype=torch.float64)
    assert (linear - identity).abs().max() > 0.01
    assert one.matrix[0, :, dim].abs().max() > 0.01
    torch.testing.assert_close(linear @ linear.T, identity)
    assert float(torch.linalg.det(linear)) == pytest.approx(1)


def test_exponential_of_a_quarter_turn_is_the_quarter_turn() -> None:
    generator = torch.zeros(1, 3, 3, dtype=torch.float64)
    generator[0, 0, 1], generator[0, 1, 0] = -math.pi / 2, math.pi / 2
    forward, backward = matrix_exponentials(generator)
    points = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    torch.testing.assert_close(forward(points), torch.tensor([[[0.0], [1.0]]], dtype=torch.float64))
    torch.testing.assert_close(backward(points), torch.tensor([[[0.0], [-1.0]]], dtype=torch.float64))


@pytest.mark.parametrize("make", [constricon_network, deep, affine_only])
@pytest.mark.parametrize("shape", [(40, 51), pytest.param((33, 24, 26), marks=pytest.mark.slow)])
@torch.no_grad()
def test_the_affine_part_is_the_affine_steps_alone(make: Any, shape: Sequence[int]) -> None:
    dim = len(shape)
    net = random(make(dim), dim).double()
    maps = both_ways(net, *(image.double() for image in smooth_pair(shape, batch=2)))
    part = affine_part(maps)
    points = torch.rand(2, dim, 30, dtype=torch.float64)
    affines = Composition(tuple(one for one in maps.moving_from_fixed.maps if isinstance(one, Affine)))
    assert len(affines.maps) > 1
    assert len(part.moving_from_fixed.maps) == 1
    torch.testing.assert_close(part.moving_from_fixed(points), affines(points))
    assert round_trip(part, points) < 1e-13


@torch.no_grad()
def test_the_affine_part_of_flows_is_the_identity() -> None:
    maps = both_ways(InverseConsistent(random(velocity(2), 2)), *smooth_pair((24, 24)))
    points = torch.rand(1, 2, 5)
    assert torch.equal(affine_part(maps).moving_from_fixed(points), points)


@pytest.mark.parametrize("make", [constricon_network, deep])
def test_training_mode_is_that_of_evaluation_but_for_the_normalization(make: Any) -> None:
    """Both ways are one computation there too, so that exchanging the images still gives the other map."""
    net = random(make(2), 2).train()
    moving, fixed = smooth_pair((40, 51), batch=2)
    points = torch.rand(2, 2, 30)
    maps, reverse = both_ways(net, moving, fixed), both_ways(net, fixed, moving)
    torch.testing.assert_close(reverse.moving_from_fixed(points), maps.fixed_from_moving(points))


def test_training_mode_is_that_of_the_published_network() -> None:
    shape = (64, 71)
    oracle = published.ready(published.whole(2), shape).train()
    net = constricon_network(2).train()
    net.load_state_dict(oracle.state_dict(), strict=True)
    moving, fixed = smooth_pair(shape, batch=2)
    found, expected = net(moving, fixed).moving_from_fixed, oracle(moving, fixed)
    lattice = identity_points(shape, fixed).expand(2, -1, -1, -1)
    torch.testing.assert_close(found(lattice), expected(lattice), rtol=0, atol=1e-4)
    for name, value in oracle.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("shape", [(64, 71), pytest.param((40, 36, 44), marks=pytest.mark.slow)])
def test_loss_and_its_gradients_are_those_of_the_published_network(shape: Sequence[int]) -> None:
    """The published loss takes one way's similarity twice; that of both ways is the mean of the published one both ways."""
    icon = pytest.importorskip("icon_registration")
    oracle = published.ready(published.whole(len(shape)), shape)
    model = published.module().VelocityFieldDiffusion(oracle, icon.LNCC(sigma=5), 5)
    model.assign_identity_map([1, 1, *shape])
    net = constricon_network(len(shape)).eval()
    net.load_state_dict(oracle.state_dict(), strict=True)
    moving, fixed = smooth_pair(shape)
    one, other = model(moving, fixed), model(fixed, moving)
    found = VelocityDiffusionLoss()(both_ways(net, moving, fixed), moving, fixed)
    expected = (one.all_loss + other.all_loss) / 2
    torch.testing.assert_close(found.regularity, one.bending_energy_loss, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.similarity, (one.similarity_loss + other.similarity_loss) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.total, expected, rtol=1e-3, atol=0)
    found.total.backward()
    expected.backward()
    theirs = dict(oracle.named_parameters())
    for name, parameter in net.named_parameters():
        assert (parameter.grad - theirs[name].grad).norm() <= 0.02 * theirs[name].grad.norm(), name  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("option", [{"similarity": SSD()}, {"similarity": LNCC(3)}, {"weight": 0.5}, {"outside": "zeros"}])
@torch.no_grad()
def test_every_option_of_the_loss_changes_it(option: dict[str, Any]) -> None:
    moving, fixed = smooth_pair((40, 44))
    maps = both_ways(random(constricon_network(2), 2), moving, fixed)
    values = [loss(maps, moving, fixed).total.item() for loss in (VelocityDiffusionLoss(), VelocityDiffusionLoss(**option))]
    assert values[0] != pytest.approx(values[1], rel=1e-5)


@torch.no_grad()
def test_loss_of_affine_steps_has_no_diffusion() -> None:
    moving, fixed = smooth_pair((40, 44))
    terms = VelocityDiffusionLoss()(both_ways(random(affine_only(2), 2), moving, fixed), moving, fixed)
    assert terms.regularity == 0
    assert terms.total == terms.similarity


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="must be 0 or more"):
        VelocityDiffusionLoss(weight=weight)


@pytest.mark.parametrize("dim", [2, 3])
def test_diffusion_of_a_cube_is_the_mean_squared_gradient(dim: int) -> None:
    field = torch.randn(2, dim, *(12,) * dim)
    torch.testing.assert_close(velocity_diffusion(field), diffusion(field) * (12 / 11) ** 2)


@torch.no_grad()
def test_more_squarings_change_the_maps_and_input_channels_are_taken() -> None:
    moving, fixed = torch.rand(2, 1, 3, 40, 44).unbind()
    nets = [constricon_network(2, input_channels=3, squarings=squarings) for squarings in (7, 3)]
    one, other = (both_ways(random(net, 2), moving, fixed).moving_from_fixed for net in nets)
    points = torch.rand(1, 2, 100)
    assert 1e-6 < (one(points) - other(points)).abs().max() < 0.05


@pytest.mark.parametrize("grad", [False, True])
def test_images_and_network_stay_as_they_are(grad: bool) -> None:
    net = random(constricon_network(2), 2)
    moving, fixed = smooth_pair((40, 44))
    before = [value.clone() for value in (moving, fixed, *net.state_dict().values())]
    with torch.set_grad_enabled(grad):
        VelocityDiffusionLoss()(both_ways(net, moving, fixed), moving, fixed)
    assert all(torch.equal(one, other) for one, other in zip((moving, fixed, *net.state_dict().values()), before, strict=True))


def smooth_velocity(shape: Sequence[int], *, amplitude_vox: float, seed: int = 0) -> Tensor:
    """A random velocity with features some 16 voxels wide that vanishes at the border, [1, dim, *shape] float64."""
    values = smooth_noise(shape, 16, torch.Generator().manual_seed(seed), channels=len(shape)).double()
    for axis, size in enumerate(shape):
        values *= torch.linspace(0, math.pi, size, dtype=torch.float64).sin().view(-1, *(1,) * (len(shape) - 1 - axis))
    return values / values.abs().max() * amplitude_vox / (shape[0] - 1)


def both(velocity: Tensor, *, squarings: int = 7) -> BothWays:
    forward, backward = flows(velocity, squarings=squarings)
    return BothWays(Composition((forward,)), Composition((backward,)))


def test_the_round_trip_is_that_of_every_lattice_point() -> None:
    forward, backward = flows(smooth_velocity((48, 64), amplitude_vox=12), squarings=4)
    lattice = identity_points((48, 64), forward.velocity)
    moved = (forward(backward(lattice)) - lattice) * torch.tensor([47.0, 63.0]).view(1, 2, 1, 1)
    assert round_trip_vox(forward, backward, stride=1) == pytest.approx(float(moved.norm(dim=1).max()))
    assert 0.8 < round_trip_vox(forward, backward) / round_trip_vox(forward, backward, stride=1) <= 1


def test_points_that_leave_the_cube_do_not_count_as_unresolved() -> None:
    lattice = identity_points((33, 33), torch.zeros(1, dtype=torch.float64))
    forward, backward = flows(0.6 * (lattice - 0.5))
    assert (backward(forward(lattice)) - lattice).abs().max() * 32 > 1
    assert round_trip_vox(backward, forward) < 0.2


@pytest.mark.parametrize("amplitude_vox", [8, 16, 32])
def test_what_squaring_adds_to_the_round_trip_is_foretold(amplitude_vox: float) -> None:
    velocity = smooth_velocity((64, 64), amplitude_vox=amplitude_vox)
    for squarings in (3, 4):
        forward, backward = flows(velocity, squarings=squarings)
        assert 0.6 < squaring_error_vox(forward) / round_trip_vox(forward, backward) < 1.2


def test_a_velocity_that_needs_more_squarings_is_refused_and_they_help() -> None:
    velocity = smooth_velocity((64, 64), amplitude_vox=24)
    check_resolved(both(velocity))
    with pytest.raises(
        InputError, match=r"must meet within 1 voxel; they miss by 3.* Use 6 squarings instead of 3: they are a parameter"
    ):
        check_resolved(both(velocity, squarings=3))
    check_resolved(both(velocity, squarings=6))


def test_a_velocity_that_the_lattice_does_not_resolve_is_refused() -> None:
    velocity = smooth_velocity((64, 64), amplitude_vox=100)
    with pytest.raises(InputError, match=r"too large to be resolved.* The lattice is too coarse for it: align the images better"):
        check_resolved(both(velocity, squarings=12))


def test_the_tolerance_decides() -> None:
    maps = both(smooth_velocity((64, 64), amplitude_vox=24))
    with pytest.raises(InputError, match=r"meet within 0\.01 voxel"):
        check_resolved(maps, tolerance_vox=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_velocity_that_is_not_finite_is_refused(value: float) -> None:
    velocity = torch.zeros(1, 2, 8, 8)
    velocity[0, 1, 3, 3] = value
    with pytest.raises(InputError, match="A velocity is not finite"):
        check_resolved(both(velocity))


@pytest.mark.parametrize(
    ("generator", "came"),
    [
        (torch.diag(torch.tensor([5.0, 0, 0])), "got 1 to 148"),
        (torch.full((3, 3), 1e5), "got .* not finite"),
        (torch.full((3, 3), torch.nan), "got .* not finite"),
    ],
)
def test_a_degenerate_matrix_is_refused(generator: Tensor, came: str) -> None:
    forward, backward = matrix_exponentials(generator[None])
    with pytest.raises(InputError, match=f"The affine part is degenerate: it must stretch by 0.1 to 10; {came}"):
        check_resolved(BothWays(Composition((forward,)), Composition((backward,))))


@torch.no_grad()
def test_maps_of_a_usual_network_are_resolved() -> None:
    check_resolved(both_ways(random(constricon_network(2), 2), *smooth_pair((64, 72))))


@pytest.mark.parametrize("make", [constricon_network, deep])
@torch.no_grad()
def test_the_network_s_own_velocity_in_the_middle_gives_its_maps(make: Any) -> None:
    maps = both_ways(random(make(2), 2), *smooth_pair((48, 52)))
    middle = Middle(maps)
    again = middle.both_ways(middle.flow.velocity)
    points = torch.rand(1, 2, 100)
    assert middle.flow.velocity is velocities_of(maps)[-1]
    assert torch.equal(again.moving_from_fixed(points), maps.moving_from_fixed(points))
    assert torch.equal(again.fixed_from_moving(points), maps.fixed_from_moving(points))


@pytest.mark.parametrize("make", [constricon_network, deep])
@torch.no_grad()
def test_moving_goes_to_the_middle_and_fixed_by_the_inverse(make: Any) -> None:
    maps = both_ways(random(make(2), 2), *smooth_pair((48, 52)))
    middle = Middle(maps)
    points = inner((20, 20), middle.flow.velocity)
    moved = middle.moving_from_middle(middle.flow(points))
    torch.testing.assert_close(moved, maps.moving_from_fixed(middle.fixed_from_middle(points)), rtol=0, atol=2e-3)
    assert (moved - points).abs().max() > 0.02


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
@torch.no_grad()
def test_another_velocity_on_another_lattice_keeps_the_property(dim: int) -> None:
    shape = (40, 44, 42)[:dim]
    maps = both_ways(random(constricon_network(dim), dim).double(), *(image.double() for image in smooth_pair(shape)))
    velocity = smooth_velocity((20,) * dim, amplitude_vox=0.8, seed=1)
    changed = Middle(maps).both_ways(velocity)
    points = inner((9,) * dim, velocity)
    assert (changed.moving_from_fixed(points) - maps.moving_from_fixed(points)).abs().max() > 0.01
    assert round_trip(changed, points) * shape[0] < 0.1
    assert affine_part(changed).moving_from_fixed.maps[0].matrix.equal(affine_part(maps).moving_from_fixed.maps[0].matrix)  # type: ignore[attr-defined]


def test_maps_are_differentiable_in_the_velocity() -> None:
    maps = both_ways(random(deep(2), 2).double(), *(image.double() for image in smooth_pair((20, 24))))
    middle = Middle(maps)
    points = torch.rand(1, 2, 4, dtype=torch.float64)

    def moved(velocity: Tensor) -> Tensor:
        changed = middle.both_ways(velocity)
        return torch.cat([changed.moving_from_fixed(points), changed.fixed_from_moving(points)])

    velocity = (torch.randn_like(middle.flow.velocity) * 0.002).requires_grad_()
    assert torch.autograd.gradcheck(moved, (velocity,), fast_mode=True)


def test_one_velocity_serves_both_ways() -> None:
    maps = both(torch.zeros(1, 2, 5, 5))
    forward, backward = (composition.maps[0] for composition in (maps.moving_from_fixed, maps.fixed_from_moving))
    assert isinstance(forward, Flow)
    assert isinstance(backward, Flow)
    assert forward.velocity is backward.velocity
