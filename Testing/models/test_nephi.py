"""NePhi's maps, its loss against closed forms and differences, and its checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.errors import InputError, WeightsError
from RegistrationNetLib.geometry.deformation import Affine, identity_points
from RegistrationNetLib.geometry.regularity import gradicon_loss
from RegistrationNetLib.losses.similarity import NCC, SSD
from RegistrationNetLib.models import nephi
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.checkpoint import load_into
from RegistrationNetLib.models.layers.implicit import LocalMLP
from RegistrationNetLib.models.layers.latent import LatentCodes, random_codes
from RegistrationNetLib.models.nephi import ImplicitMap, NePhi, both_implicit, slabs
from RegistrationNetLib.models.nephi_loss import NePhiLoss, gradient_inconsistency
from RegistrationNetLib.models.nephi_parameters import ParameterRow

from .layers.published import randomize, smooth_pair

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (64, 50)


def small_map(dim: int, seed: int = 0) -> ImplicitMap:
    """A map in double precision that moves points by some hundredths of the cube."""
    torch.manual_seed(seed)
    network = LocalMLP(dim, latent_channels=6, width=8, frequencies=4)
    torch.nn.init.normal_(network.synthesis_nw.final_layer.weight, std=0.02)
    codes = random_codes((2, 4), (4,) * dim, torch.Generator().manual_seed(seed), like=torch.zeros(()))
    return ImplicitMap(network.double(), LatentCodes(codes.of_pair.double(), codes.local.double()))


# maps


def test_the_network_sees_places_from_minus_one_to_one_and_answers_in_the_same_unit() -> None:
    codes = LatentCodes(torch.zeros(1, 1), torch.zeros(1, 1, 2, 2))
    seen: list[Tensor] = []

    def network(places: Tensor, _: Tensor) -> Tensor:
        seen.append(places)
        return torch.tensor([0.2, -0.4]).expand(places.shape)

    points = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    torch.testing.assert_close(ImplicitMap(network, codes)(points), points + torch.tensor([0.1, -0.2]).view(1, 2, 1))
    torch.testing.assert_close(seen[0], torch.tensor([[[-1.0, 0.0], [1.0, -0.5]]]))


@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 4)])
@pytest.mark.parametrize("points_at_a_time", [1, 23, 1000])
def test_slabs_together_are_the_mapped_lattice(
    shape: tuple[int, ...], points_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nephi, "POINTS_AT_A_TIME", points_at_a_time)
    map_ = small_map(len(shape))
    calls: list[int] = []

    def counted(points: Tensor) -> Tensor:
        calls.append(points[0, 0].numel())
        return map_(points)

    lattice = identity_points(shape, torch.zeros(()).double())
    parts = list(slabs(counted, shape, lattice))
    torch.testing.assert_close(torch.cat([points for _, points, _ in parts], dim=2), lattice)
    torch.testing.assert_close(torch.cat([mapped for _, _, mapped in parts], dim=2), map_(lattice))
    assert [layers.start for layers, _, _ in parts][1:] == [layers.stop for layers, _, _ in parts][:-1]
    assert max(calls) <= points_at_a_time


@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 4)])
@pytest.mark.parametrize("points_at_a_time", [1, 23, 1000])
def test_slabs_of_a_network_are_its_map_and_hold_a_bounded_number_of_points(
    shape: tuple[int, ...], points_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nephi, "POINTS_AT_A_TIME", points_at_a_time)
    map_ = small_map(len(shape))
    calls: list[int] = []

    def counted(places: Tensor, codes: Tensor) -> Tensor:
        calls.append(places[..., 0].numel())
        return map_.network(places, codes)

    lattice = identity_points(shape, torch.zeros(()).double())
    parts = list(slabs(replace(map_, network=counted), shape, lattice))
    torch.testing.assert_close(torch.cat([mapped for _, _, mapped in parts], dim=2), map_(lattice))
    # A row is never cut.
    assert max(calls) <= max(points_at_a_time, *shape[2:], 1)


def test_an_untrained_network_is_the_identity_both_ways_and_shares_its_codes() -> None:
    network = NePhi(SHAPE).eval()
    with torch.no_grad():
        maps = network(*smooth_pair(SHAPE))
    points = torch.rand(1, 2, 30)
    for one in (maps.moving_from_fixed, maps.fixed_from_moving):
        torch.testing.assert_close(one(points), points)
        assert isinstance(one.maps[0], ImplicitMap)
        assert one.maps[0].codes is maps.codes


def test_the_two_directions_are_the_two_networks() -> None:
    network = NePhi(SHAPE).eval()
    randomize(network)
    points = torch.rand(1, 2, 30)
    with torch.no_grad():
        maps = network(*smooth_pair(SHAPE))
        assert torch.equal(maps.moving_from_fixed(points), ImplicitMap(network.phi, maps.codes)(points))
        assert torch.equal(maps.fixed_from_moving(points), ImplicitMap(network.phi_inv, maps.codes)(points))


# the regularizer


@pytest.mark.parametrize("dim", [2, 3])
def test_the_inconsistency_of_affine_maps_has_a_closed_form(dim: int) -> None:
    first, second = (Affine(torch.randn(dim, dim + 1).double()) for _ in range(2))
    wanted = first.matrix[:, :dim] @ second.matrix[:, :dim] - torch.eye(dim)
    points = torch.rand(1, dim, 11).double()
    torch.testing.assert_close(gradient_inconsistency(first, second, points), wanted.square().mean())
    extent = torch.tensor([3.0, 2.0, 5.0][:dim]).double()
    scaled = wanted * extent[:, None] / extent
    torch.testing.assert_close(gradient_inconsistency(first, second, points, extent=extent.tolist()), scaled.square().mean())


@pytest.mark.parametrize("dim", [2, 3])
def test_the_inconsistency_is_that_of_differences(dim: int) -> None:
    first, second = small_map(dim, 1), small_map(dim, 2)
    points = torch.rand(1, dim, 200).double()
    by_differences = gradicon_loss(first, second, points, delta=1e-7).detach() / dim
    assert float(by_differences) > 1e-4
    torch.testing.assert_close(gradient_inconsistency(first, second, points).detach(), by_differences, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dim", [2, 3])
def test_over_all_signs_the_estimate_is_the_inconsistency(dim: int) -> None:
    first, second = small_map(dim, 1), small_map(dim, 2)
    points = torch.rand(1, dim, 20).double()
    estimates = [
        gradient_inconsistency(first, second, points, extent=[2.0, 1.0, 3.0][:dim], signs=torch.tensor(signs).view(1, dim, 1))
        for signs in itertools.product((-1.0, 1.0), repeat=dim)
    ]
    exact = gradient_inconsistency(first, second, points, extent=[2.0, 1.0, 3.0][:dim])
    torch.testing.assert_close(torch.stack(estimates).mean(), exact)


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_gradient_of_the_inconsistency_is_that_of_differences(dim: int) -> None:
    first, second = small_map(dim, 1), small_map(dim, 2)
    points = torch.rand(1, dim, 5).double()

    def loss(of_pair: Tensor, local: Tensor) -> Tensor:
        codes = LatentCodes(of_pair, local)
        return gradient_inconsistency(replace(first, codes=codes), replace(second, codes=codes), points)

    assert torch.autograd.gradcheck(loss, (first.codes.of_pair.requires_grad_(), first.codes.local.requires_grad_()))


# the loss


def test_the_loss_is_made_of_its_published_terms() -> None:
    moving, fixed = smooth_pair(SHAPE)
    phi, phi_inv = small_map(2, 1), small_map(2, 2)
    codes = LatentCodes(phi.codes.of_pair.float(), phi.codes.local.float())
    maps = both_implicit(phi.network.float(), phi_inv.network.float(), codes)
    loss = NePhiLoss(weight=7.0, prior=0.3, similarity_points=40, regularity_points=20)
    terms = loss(maps, moving, fixed, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)

    def correlation(map_: Callable[[Tensor], Tensor], sampled: Tensor, compared: Tensor) -> Tensor:
        points = torch.rand(1, 2, 40, generator=generator)
        one, two = (
            F.grid_sample(image, (2 * at.movedim(1, -1).flip(-1) - 1)[:, None], align_corners=True).flatten()
            for image, at in ((sampled, map_(points)), (compared, points))
        )
        return torch.corrcoef(torch.stack([one, two]))[0, 1]

    there, back = maps.moving_from_fixed, maps.fixed_from_moving
    similarity = 1 - 0.5 * (correlation(there, moving, fixed) + correlation(back, fixed, moving))
    points = [torch.rand(1, 2, 10, generator=generator) for _ in range(2)]
    regularity = 0.5 * (gradient_inconsistency(back, there, points[0]) + gradient_inconsistency(there, back, points[1]))
    torch.testing.assert_close(terms.similarity, similarity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(terms.regularity, regularity)
    torch.testing.assert_close(terms.total, terms.similarity + 7 * terms.regularity + 0.3 * codes.norm())


@pytest.mark.parametrize(
    "change", [{"weight": 1.0}, {"prior": 1.0}, {"similarity_points": 30}, {"regularity_points": 10}, {"similarity": SSD()}]
)
def test_every_option_of_the_loss_changes_it(change: dict[str, Any]) -> None:
    moving, fixed = smooth_pair((400, 400))
    phi, phi_inv = (small_map(2, seed).network.float() for seed in (1, 2))
    codes = random_codes((2, 4), (4, 4), torch.Generator().manual_seed(0), like=moving)
    maps = both_implicit(phi, phi_inv, codes)

    def total(loss: NePhiLoss) -> float:
        return float(loss(maps, moving, fixed, generator=torch.Generator().manual_seed(5)).total.detach())

    assert total(NePhiLoss()) != pytest.approx(total(NePhiLoss(**change)), rel=1e-6)


def test_the_published_configuration_is_the_default() -> None:
    loss = NePhiLoss()
    assert (loss.similarity, loss.weight, loss.prior) == (NCC(), 10.0, 0.01)
    assert (loss.similarity_points, loss.regularity_points) == (100_000, 500)


@pytest.mark.parametrize("name", ["regularity_points", "similarity_points"])
def test_too_few_points_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 9; it must be 10 or more"):
        NePhiLoss(**{name: 9})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["weight", "prior"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_weight_that_is_no_number_from_zero_up_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match="weight of the regularizer must be 0 or more"):
        NePhiLoss(**{name: value})  # type: ignore[arg-type]


# one row of numbers


def test_a_row_gives_the_maps_it_was_made_of_to_either_thread() -> None:
    first, second = small_map(2, 1), small_map(2, 2)
    assert isinstance(first.network, LocalMLP)
    assert isinstance(second.network, LocalMLP)
    row = ParameterRow(first.network, second.network, first.codes, code_ratio=10.0)
    points = torch.rand(1, 2, 9).double()
    for thread in range(2):
        torch.testing.assert_close(row.maps(thread)[0](points), first(points))
        torch.testing.assert_close(row.maps(thread)[1](points), replace(second, codes=first.codes)(points))


def test_a_change_of_the_row_is_in_what_it_gives_in_the_end_and_not_in_what_was_given() -> None:
    first, second = small_map(2, 1), small_map(2, 2)
    assert isinstance(first.network, LocalMLP)
    assert isinstance(second.network, LocalMLP)
    before = {name: value.clone() for name, value in first.network.state_dict().items()}
    row = ParameterRow(first.network, second.network, first.codes, code_ratio=10.0)
    with torch.no_grad():
        row.values += 0.01
    phi, _, codes = row.finished()
    torch.testing.assert_close(codes.local, first.codes.local + 0.1)
    torch.testing.assert_close(phi.state_dict()["synthesis_nw.final_layer.bias"], before["synthesis_nw.final_layer.bias"] + 0.01)
    assert torch.equal(phi.state_dict()["embed.B"], before["embed.B"])
    assert all(torch.equal(value, before[name]) for name, value in first.network.state_dict().items())
    points = torch.rand(1, 2, 9).double()
    torch.testing.assert_close(ImplicitMap(phi, codes)(points), row.maps(0)[0](points).detach())


# checkpoints


def published_file(tmp_path: Path, **changes: Any) -> tuple[Path, NePhi]:
    """A checkpoint as the published training writes it, and the network that it holds."""
    network = NePhi(SHAPE)
    randomize(network)
    parts: dict[str, Any] = {name: getattr(network, name).state_dict() for name in ("encoder", "phi", "phi_inv")}
    path = tmp_path / "net_00000"
    torch.save({**parts, "epochs": 0, **changes}, path)
    return path, network


def test_a_published_checkpoint_is_loaded(tmp_path: Path) -> None:
    path, network = published_file(tmp_path)
    loaded = NePhi(SHAPE)
    load_into(loaded, card_named("nephi"), path)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_checkpoint_of_another_layout_is_refused(tmp_path: Path) -> None:
    renamed = {f"net.{name}": value for name, value in LocalMLP(2).state_dict().items()}
    path, _ = published_file(tmp_path, phi=renamed)
    with pytest.raises(WeightsError, match=r"does not fit nephi: .* without phi\.embed\.B.* with phi\.net\.embed\.B"):
        load_into(NePhi(SHAPE), card_named("nephi"), path)


def test_a_checkpoint_for_images_of_another_size_is_refused(tmp_path: Path) -> None:
    path, _ = published_file(tmp_path)
    with pytest.raises(WeightsError, match=r"global_encoder\.1\.fc\.weight must have the shape \[256, 512\], got \[256, 256\]"):
        load_into(NePhi((64, 70)), card_named("nephi"), path)


def test_a_checkpoint_without_its_inverse_is_refused(tmp_path: Path) -> None:
    path, network = published_file(tmp_path)
    torch.save({"encoder": network.encoder.state_dict(), "phi": network.phi.state_dict(), "epochs": 3}, path)
    with pytest.raises(WeightsError, match="must hold tensors by name; under 'encoder' it holds a dict"):
        load_into(NePhi(SHAPE), card_named("nephi"), path)
