"""GradICON's network and loss beside unigradicon and icon_registration, with every parameter at random."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points
from RegistrationNetLib.losses.similarity import LNCC, SSD, SquaredLNCC
from RegistrationNetLib.memory import recomputed
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network
from Testing.models.layers.published import randomize, smooth_pair

# The last three: half of what the brain, and the lung and universal networks are published with, and the whole of the knee's, whose
# half the published code refuses.
SHAPES = [
    (96, 80),
    (65, 71),
    (70, 66, 65),
    pytest.param((65, 78, 65), marks=pytest.mark.slow),
    pytest.param((88, 88, 88), marks=pytest.mark.slow),
    pytest.param((80, 192, 192), marks=pytest.mark.slow),
]
FINAL = ("netPhi.netPhi.net.netPhi.net.net.", "netPhi.netPhi.net.netPsi.net.", "netPhi.netPsi.net.", "netPsi.net.")
FIRST = ("netPhi.net.netPhi.net.net.", "netPhi.net.netPsi.net.", "netPsi.net.")


def published(shape: Sequence[int], **options: Any) -> nn.Module:
    unigradicon = pytest.importorskip("unigradicon")
    net: nn.Module = unigradicon.make_network([1, 1, *shape], **{"include_last_step": True, **options})
    randomize(net.regis_net, displacement=0.004 if len(shape) == 2 else 0.01)
    return net.eval()


def same_as(oracle: nn.Module, **options: Any) -> nn.Module:
    """Our network with the parameters of `oracle`, an unigradicon model."""
    net = gradicon_network(oracle.identity_map.shape[1], **options).eval()  # type: ignore[union-attr, index]
    net.load_state_dict(oracle.regis_net.state_dict(), strict=True)  # type: ignore[union-attr]
    return net


@pytest.mark.parametrize(("has_last_step", "keys", "parameters"), [(True, 188, 70_680_916), (False, 141, 53_010_687)])
def test_the_file_has_the_published_size(has_last_step: bool, keys: int, parameters: int) -> None:
    with torch.device("meta"):
        net = gradicon_network(has_last_step=has_last_step)
    assert len(net.state_dict()) == keys
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize(("has_last_step", "prefixes"), [(True, FINAL), (False, FIRST)])
def test_the_file_has_the_published_names_and_shapes(has_last_step: bool, prefixes: Sequence[str]) -> None:
    unigradicon = pytest.importorskip("unigradicon")
    with torch.device("meta"):
        net = gradicon_network(has_last_step=has_last_step)
    oracle = unigradicon.make_network([1, 1, 8, 8, 8], include_last_step=has_last_step)
    expected = {name: value.shape for name, value in oracle.regis_net.state_dict().items()}
    assert {name: value.shape for name, value in net.state_dict().items()} == expected
    assert {name for prefix in prefixes for name in expected if name.startswith(prefix)} == set(expected)


def test_a_file_that_is_saved_loads_in_the_published_network() -> None:
    oracle = published((66, 66))
    net = gradicon_network(2)
    randomize(net, seed=5)
    oracle.regis_net.load_state_dict(net.state_dict(), strict=True)  # type: ignore[union-attr]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in oracle.regis_net.state_dict().items())  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_maps_both_ways_and_the_loss_are_those_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published(shape)
    moving, fixed = smooth_pair(shape)
    torch.manual_seed(1)
    expected_loss = oracle(moving, fixed).all_loss
    maps = both_ways(same_as(oracle), moving, fixed)
    torch.manual_seed(1)
    assert relative_difference(GradICONLoss()(maps, moving, fixed).total, expected_loss) < 1e-4
    moved = oracle.phi_AB_vectorfield - oracle.identity_map  # type: ignore[operator]
    assert 0.01 < moved.abs().mean() < 0.05
    off_the_grid = torch.rand(1, len(shape), *(20,) * len(shape)) * 1.1 - 0.05
    for found, expected in ((maps.moving_from_fixed, oracle.phi_AB), (maps.fixed_from_moving, oracle.phi_BA)):
        on_lattice = expected(identity_points(shape, fixed))  # type: ignore[operator]
        torch.testing.assert_close(
            mapped_lattice(found, tuple(shape), fixed), on_lattice, rtol=0, atol=2e-5
        )  # some points are rounded
        torch.testing.assert_close(found(identity_points(shape, fixed)), on_lattice, rtol=0, atol=1e-5)
        torch.testing.assert_close(found(off_the_grid), expected(off_the_grid), rtol=0, atol=1e-5)  # type: ignore[operator]


@torch.no_grad()
def test_maps_of_the_first_stage_of_training_are_those_of_the_published_network() -> None:
    oracle = published((65, 71), include_last_step=False)
    moving, fixed = smooth_pair((65, 71))
    oracle(moving, fixed)
    maps = both_ways(same_as(oracle, has_last_step=False), moving, fixed)
    found = mapped_lattice(maps.moving_from_fixed, (65, 71), fixed)
    torch.testing.assert_close(found, oracle.phi_AB_vectorfield, rtol=0, atol=1e-5)


def relative_difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.parametrize("shape", [(96, 80), (65, 71), pytest.param((70, 66, 65), marks=pytest.mark.slow)])
def test_loss_and_its_gradients_are_those_of_the_published_network(shape: Sequence[int]) -> None:
    oracle = published(shape)
    net = same_as(oracle)
    moving, fixed = smooth_pair(shape)
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    found = GradICONLoss()(both_ways(net, moving, fixed), moving, fixed)
    assert relative_difference(found.similarity, expected.similarity_loss) < 1e-5
    assert relative_difference(found.regularity, expected.inverse_consistency_loss) < 1e-4
    assert relative_difference(found.total, expected.all_loss) < 1e-4
    expected.all_loss.backward()
    found.total.backward()
    theirs = dict(oracle.regis_net.named_parameters())  # type: ignore[union-attr]
    for name, parameter in net.named_parameters():
        assert relative_difference(parameter.grad, theirs[name].grad) < 1e-2, name  # type: ignore[arg-type]


@torch.no_grad()
def test_loss_of_a_batch_is_that_of_the_published_network() -> None:
    oracle = published((65, 71))
    moving, fixed = smooth_pair((65, 71), batch=3)
    net = same_as(oracle)
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    found = GradICONLoss()(both_ways(net, moving, fixed), moving, fixed)
    assert relative_difference(found.total, expected.all_loss) < 1e-4


@torch.no_grad()
def test_loss_with_squared_lncc_is_that_of_multigradicon() -> None:
    icon = pytest.importorskip("icon_registration")
    oracle = published((65, 71), loss_fn=icon.losses.SquaredLNCC(sigma=5))
    moving, fixed = smooth_pair((65, 71))
    net = same_as(oracle)
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    found = GradICONLoss(SquaredLNCC())(both_ways(net, moving, fixed), moving, fixed)
    assert relative_difference(found.total, expected.all_loss) < 1e-4


@pytest.mark.parametrize(("kind", "stride"), [("GradientICONSparse", 2), ("GradientICON", 1)])
@torch.no_grad()
def test_losses_of_the_gradicon_package_are_its_own(kind: str, stride: int) -> None:
    icon = pytest.importorskip("icon_registration")
    unigradicon_model = published((65, 71))
    oracle = getattr(icon.losses, kind)(unigradicon_model.regis_net, icon.LNCC(sigma=5), 1.5)
    oracle.assign_identity_map([1, 1, 65, 71])
    net = same_as(unigradicon_model)
    moving, fixed = smooth_pair((65, 71))
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    loss = GradICONLoss(outside="border", stride=stride)
    found = loss(both_ways(net, moving, fixed), moving, fixed)
    assert relative_difference(found.total, expected.all_loss) < 1e-4


def test_training_mode_is_that_of_the_published_network() -> None:
    oracle = published((80, 71)).train()
    net = same_as(oracle).train()
    moving, fixed = smooth_pair((80, 71), batch=2)
    torch.manual_seed(1)
    expected = oracle(moving, fixed).all_loss
    torch.manual_seed(1)
    found = GradICONLoss()(both_ways(net, moving, fixed), moving, fixed).total
    assert relative_difference(found, expected) < 1e-3
    for name, value in oracle.regis_net.state_dict().items():  # type: ignore[union-attr]
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "option", [{"similarity": SSD()}, {"similarity": LNCC(3)}, {"weight": 0.0}, {"outside": "border"}, {"stride": 1}]
)
@torch.no_grad()
def test_every_option_of_the_loss_changes_it(option: dict[str, Any]) -> None:
    net = gradicon_network(2).eval()
    randomize(net)
    moving, fixed = smooth_pair((40, 44))
    maps = both_ways(net, moving, fixed)
    values = [
        loss(maps, moving, fixed, generator=torch.Generator().manual_seed(0)).total.item()
        for loss in (GradICONLoss(), GradICONLoss(**option))
    ]
    assert values[0] != pytest.approx(values[1], rel=1e-4)


@torch.no_grad()
def test_the_seed_gives_the_loss() -> None:
    net = gradicon_network(2).eval()
    randomize(net)
    moving, fixed = smooth_pair((40, 44))
    maps = both_ways(net, moving, fixed)
    one, same, other = (
        GradICONLoss()(maps, moving, fixed, generator=torch.Generator().manual_seed(seed)).total for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="must be 0 or more"):
        GradICONLoss(weight=weight)


@pytest.mark.parametrize("grad", [False, True])
def test_images_and_network_stay_as_they_are(grad: bool) -> None:
    net = gradicon_network(2).eval()
    randomize(net)
    moving, fixed = smooth_pair((40, 44))
    before = [value.clone() for value in (moving, fixed, *net.state_dict().values())]
    with torch.set_grad_enabled(grad):
        GradICONLoss()(both_ways(net, moving, fixed), moving, fixed)
    assert all(torch.equal(one, other) for one, other in zip((moving, fixed, *net.state_dict().values()), before, strict=True))


def test_what_is_made_anew_in_the_backward_pass_is_not_kept_and_gives_the_same_gradients() -> None:
    net = gradicon_network(2).double().eval()
    randomize(net)
    moving, fixed = (image.double() for image in smooth_pair((66, 71)))

    def gradients(context: AbstractContextManager[None]) -> tuple[list[Tensor], int]:
        kept: dict[int, int] = {}

        def watch(values: Tensor) -> Tensor:
            kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
            return values

        with context, torch.autograd.graph.saved_tensors_hooks(watch, lambda values: values):
            loss = GradICONLoss()(both_ways(net, moving, fixed), moving, fixed, generator=torch.Generator().manual_seed(1)).total
        return list(torch.autograd.grad(loss, list(net.parameters()))), sum(kept.values())

    (usual, most), (anew, fewer) = gradients(nullcontext()), gradients(recomputed())
    for one, other in zip(usual, anew, strict=True):
        torch.testing.assert_close(one, other)
    assert fewer < 0.8 * most
