"""Instance optimization of a network: against the published one, and what each option is for."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import Cancelled, RefinementError
from RegistrationNetLib.losses.direction import Direction, Side, both_directions
from RegistrationNetLib.losses.similarity import LNCC, MINDSSC, SSD, SquaredLNCC
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.composition import Downsample, FunctionFromVectorField, TwoStep, both_ways, mapped_lattice
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.models.icon import ICONLoss
from RegistrationNetLib.registration.network_refinement import (
    WINDOW_STEPS,
    NetworkOptions,
    NetworkRefined,
    network_options,
    refine_network,
)

from ..models.layers.published import randomize, smooth_pair

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (24, 26, 28)
QUICK = NetworkOptions(GradICONLoss(LNCC(2.0)), learning_rate=1e-3, steps=4)


def tiny_network() -> nn.Module:
    """Two steps of two convolutions each: what is refined need not be large to be refined."""

    network = TwoStep(Downsample(FunctionFromVectorField(stacked())), FunctionFromVectorField(stacked())).eval()
    randomize(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.1)
    return network


def stacked() -> Stacked:
    return Stacked(nn.Conv3d(2, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(6, 3, 3, padding=1))


class Stacked(nn.Sequential):
    """Takes the two images as two channels."""

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:  # type: ignore[override]
        displacement: Tensor = super().forward(torch.cat([moving, fixed], dim=1))
        return displacement


def silent(_: float) -> None:
    """A report that nobody reads."""


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return smooth_pair(SHAPE)


def directions_of(options: NetworkOptions, moving: Side, fixed: Side, volume: float = 1.0) -> tuple[Direction, Direction]:
    return both_directions(fixed, moving, options.directions(volume))


def refined(
    options: NetworkOptions = QUICK, *, sides: tuple[Side, Side] | None = None, volume: float = 1.0, seed: int = 0
) -> NetworkRefined:
    moving, fixed = sides or tuple(Side(image) for image in pair())
    network = tiny_network()
    return refine_network(network, directions_of(options, moving, fixed, volume), options, seed=seed, report=silent)


def forward_map(found: NetworkRefined) -> Tensor:
    return mapped_lattice(found.maps.moving_from_fixed, SHAPE, torch.zeros(())).detach()


def differs(one: NetworkRefined, other: NetworkRefined) -> bool:
    return not torch.allclose(forward_map(one), forward_map(other), atol=1e-6, rtol=0)


# against the published one


def published(shape: tuple[int, ...]) -> Any:
    """The networks of `tiny_network` within the loss and the composition of the published package."""
    unigradicon = pytest.importorskip("unigradicon")
    import icon_registration as icon

    coarse, fine = (icon.FunctionFromVectorField(stacked()) for _ in range(2))
    inner = icon.TwoStepRegistration(icon.DownsampleRegistration(coarse, dimension=3), fine)
    oracle = unigradicon.GradientICONSparse(inner, icon.LNCC(sigma=5), lmbda=1.5)
    oracle.assign_identity_map([1, 1, *shape])
    return oracle.eval()


def test_three_steps_are_those_of_the_published_package() -> None:
    oracle = published(SHAPE)
    network = tiny_network()
    oracle.regis_net.load_state_dict(network.state_dict())
    moving, fixed = pair()
    options = replace(network_options(card_named("unigradicon"), "lncc"), steps=3)
    before = both_ways(network, moving, fixed)
    torch.manual_seed(7)
    adam = torch.optim.Adam(oracle.parameters(), lr=2e-5)
    for _ in range(3):
        adam.zero_grad()
        oracle(moving, fixed).all_loss.backward()
        adam.step()
    with torch.no_grad():
        oracle(moving, fixed)
        expected = oracle.phi_AB(oracle.identity_map)
    # The published package draws its points from torch's own generator, in the same order.
    found = refine_network(network, directions_of(options, Side(moving), Side(fixed)), options, seed=7, report=silent)
    mapped = mapped_lattice(found.maps.moving_from_fixed, SHAPE, moving)
    started = mapped_lattice(before.moving_from_fixed, SHAPE, moving)
    assert (expected - started).abs().max() > 1e-6
    assert (mapped - expected).abs().mean() < 0.05 * (expected - started).abs().mean()


# the network stays


@pytest.mark.parametrize("grad", [True, False])
def test_network_and_images_stay_bit_for_bit(grad: bool) -> None:
    network = tiny_network().requires_grad_(grad)
    moving, fixed = pair()
    before = [value.clone() for value in (moving, fixed, *network.state_dict().values())]
    with torch.set_grad_enabled(grad):
        refine_network(network, directions_of(QUICK, Side(moving), Side(fixed)), QUICK, report=silent)
    after = (moving, fixed, *network.state_dict().values())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None and parameter.requires_grad is grad for parameter in network.parameters())


def test_a_report_that_cancels_leaves_the_network_as_it_was() -> None:
    network = tiny_network()
    before = copy.deepcopy(network.state_dict())

    def cancel(fraction: float) -> None:
        if fraction >= 0.5:
            raise Cancelled

    moving, fixed = pair()
    with pytest.raises(Cancelled):
        refine_network(network, directions_of(QUICK, Side(moving), Side(fixed)), QUICK, report=cancel)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# what it does


def test_the_loss_falls() -> None:
    moving, fixed = pair()
    network = tiny_network()
    directions = directions_of(QUICK, Side(moving), Side(fixed))
    found = refine_network(network, directions, replace(QUICK, steps=40), report=silent)

    def loss(maps: Any) -> float:
        with torch.no_grad():
            return float(QUICK.loss(maps, moving, fixed, generator=torch.Generator().manual_seed(1)).total)  # type: ignore[operator]

    assert loss(found.maps) < 0.97 * loss(both_ways(network, moving, fixed))


def test_it_ends_when_the_loss_no_longer_falls() -> None:
    still = replace(QUICK, loss=GradICONLoss(LNCC(2.0), weight=0.0), learning_rate=0.0, steps=100)
    assert refined(still).steps == 2 * WINDOW_STEPS


def test_the_reported_fractions_rise_to_one() -> None:
    fractions: list[float] = []
    moving, fixed = pair()
    refine_network(tiny_network(), directions_of(QUICK, Side(moving), Side(fixed)), QUICK, report=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_the_same_seed_gives_the_same_maps() -> None:
    assert torch.equal(forward_map(refined()), forward_map(refined()))
    assert differs(refined(), refined(seed=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": GradICONLoss(SSD())},
        {"loss": GradICONLoss(LNCC(2.0), weight=30.0)},
        {"loss": GradICONLoss(LNCC(2.0), outside="border")},
        {"loss": ICONLoss(LNCC(2.0))},
        {"learning_rate": 2e-3},
        {"steps": 3},
    ],
)
def test_every_option_changes_the_maps(changes: dict[str, Any]) -> None:
    assert differs(refined(), refined(replace(QUICK, **changes)))


@pytest.mark.slow
def test_masks_labels_and_mass_change_the_maps() -> None:
    moving, fixed = pair()
    plain = refined()
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., 8:18, 8:18, 8:18] = 1
    assert differs(plain, refined(sides=(Side(moving, mask), Side(fixed, mask))))
    labelled = Side(moving, classes=mask), Side(fixed, classes=mask.roll(3, 2))
    assert differs(plain, refined(sides=labelled))
    assert differs(refined(sides=labelled), refined(replace(QUICK, dice_weight=5.0), sides=labelled))
    conserving = replace(QUICK, conserve_mass=True)
    assert differs(plain, refined(conserving))
    assert differs(refined(conserving), refined(conserving, volume=1.3))


def test_a_loss_that_is_not_finite_is_told() -> None:
    network = tiny_network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    moving, fixed = pair()
    with pytest.raises(RefinementError, match="infinite or NaN"):
        refine_network(network, directions_of(QUICK, Side(moving), Side(fixed)), QUICK, report=silent)


# what the cards say


@pytest.mark.parametrize(
    ("card", "similarity", "expected"),
    [
        ("unigradicon", "lncc", GradICONLoss(LNCC(5), 1.5, "zeros", 2)),
        ("unigradicon", "mind", GradICONLoss(MINDSSC(2, 2), 1.5, "zeros", 2)),
        ("multigradicon", "lncc2", GradICONLoss(SquaredLNCC(5), 1.5, "zeros", 2)),
        ("gradicon-lung", "lncc", GradICONLoss(LNCC(5), 1.5, "border", 2)),
        ("icon-knee", "ssd", ICONLoss(SSD(), 3600, "border")),
    ],
)
def test_each_card_has_the_loss_that_was_published(card: str, similarity: str, expected: Any) -> None:
    options = network_options(card_named(card), similarity)
    assert options.loss == expected
    assert (options.learning_rate, options.steps) == (2e-5, 50)


def test_smoothness_multiplies_the_weight_of_the_regularity() -> None:
    assert network_options(card_named("unigradicon"), "lncc", smoothness=2.0).loss.weight == 3.0


def test_the_steps_asked_for_replace_those_of_the_card() -> None:
    assert network_options(card_named("unigradicon"), "lncc", steps=7).steps == 7
