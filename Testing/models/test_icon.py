"""ICON's knee network and its loss beside icon_registration, with every parameter at random."""

import pytest
import torch
from torch import nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.losses.similarity import NCC
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.gradicon import gradicon_network
from RegistrationNetLib.models.icon import ICONLoss, KneeNetwork
from Testing.models.layers.published import randomize, smooth_pair

PREFIXES = {
    "regis_net.netPhi.netPhi.net.netPhi.net.": 51,
    "regis_net.netPhi.netPhi.net.netPsi.net.": 47,
    "regis_net.netPhi.netPsi.net.": 47,
    "regis_net.netPsi.net.": 47,
}


def published_knee() -> nn.Module:
    pytest.importorskip("itk")
    knees = pytest.importorskip("icon_registration.pretrained_models.OAI_knees")
    net: nn.Module = knees.OAI_knees_registration_model(pretrained=False)
    return net.eval()


def test_the_file_has_the_published_names_and_size() -> None:
    with torch.device("meta"):
        net = KneeNetwork()
    names = list(net.state_dict())
    assert len(names) == 192
    assert sum(parameter.numel() for parameter in net.parameters()) == 113_159_764
    assert {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES} == PREFIXES


@torch.no_grad()
def test_the_half_resolution_part_is_that_of_the_published_network() -> None:
    oracle = published_knee()
    with torch.device("meta"):
        net = KneeNetwork()
    net.load_state_dict(oracle.state_dict(), strict=True, assign=True)
    theirs, ours = oracle.regis_net.netPhi.netPhi.net, net.eval().regis_net.netPhi.netPhi.net
    randomize(theirs, displacement=0.02)  # ours shares its memory
    shape = (33, 66, 96)
    theirs.assign_identity_map([1, 1, *shape])
    moving, fixed = smooth_pair(shape)
    expected = theirs(moving, fixed)(theirs.identity_map)
    assert 0.01 < (expected - theirs.identity_map).abs().mean() < 0.05
    torch.testing.assert_close(mapped_lattice(ours(moving, fixed), shape, fixed), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(65, 130, 192), (80, 192, 192)])  # the second is the published one
@torch.no_grad()
def test_maps_and_loss_are_those_of_the_published_network(shape: tuple[int, ...]) -> None:
    oracle = published_knee()
    randomize(oracle, displacement=0.01)
    net = KneeNetwork().eval()
    net.load_state_dict(oracle.state_dict(), strict=True)
    oracle.assign_identity_map([1, 1, *shape])  # type: ignore[operator]
    moving, fixed = smooth_pair(shape)
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    maps = both_ways(net, moving, fixed)
    found = ICONLoss()(maps, moving, fixed)
    for ours, theirs in (
        (maps.moving_from_fixed, oracle.phi_AB_vectorfield),
        (maps.fixed_from_moving, oracle.phi_BA_vectorfield),
    ):
        torch.testing.assert_close(mapped_lattice(ours, shape, fixed), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.total, expected.all_loss, rtol=1e-4, atol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_loss_and_its_gradients_are_the_published_ones(batch: int) -> None:
    icon = pytest.importorskip("icon_registration")
    unigradicon = pytest.importorskip("unigradicon")
    shape = (65, 71)
    network = unigradicon.make_network([1, 1, *shape]).regis_net
    randomize(network)
    oracle = icon.losses.InverseConsistentNet(network, icon.losses.SSD(), 3600).eval()
    oracle.assign_identity_map([1, 1, *shape])
    net = gradicon_network(2, has_last_step=False).eval()
    net.load_state_dict(network.state_dict())
    moving, fixed = smooth_pair(shape, batch=batch)
    torch.manual_seed(1)
    expected = oracle(moving, fixed)
    torch.manual_seed(1)
    found = ICONLoss()(both_ways(net, moving, fixed), moving, fixed)
    torch.testing.assert_close(found.similarity, expected.similarity_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.total, expected.all_loss, rtol=1e-4, atol=0)
    expected.all_loss.backward()
    found.total.backward()
    theirs = dict(network.named_parameters())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - theirs[name].grad).norm() < 1e-2 * theirs[name].grad.norm(), name


@pytest.mark.parametrize("loss", [ICONLoss(NCC()), ICONLoss(weight=1.0)])
@torch.no_grad()
def test_every_option_of_the_loss_changes_it(loss: ICONLoss) -> None:
    net = gradicon_network(2).eval()
    randomize(net)
    moving, fixed = smooth_pair((40, 44))
    maps = both_ways(net, moving, fixed)
    assert loss(maps, moving, fixed).total != pytest.approx(ICONLoss()(maps, moving, fixed).total.item(), rel=1e-2)


def test_a_weight_that_is_no_weight_is_refused() -> None:
    with pytest.raises(InputError, match="must be 0 or more; got -1"):
        ICONLoss(weight=-1.0)


def test_images_that_the_dense_middle_cannot_take_are_refused() -> None:
    with torch.device("meta"):
        net = KneeNetwork()
    with pytest.raises(InputError, match="dense middle fits"):
        net(*smooth_pair((40, 96, 96)))
