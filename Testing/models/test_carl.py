"""CARL and uniCARL beside the published networks at random weights, their files, losses and equivariance."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points
from RegistrationNetLib.losses.similarity import LNCC, SquaredLNCC
from RegistrationNetLib.models.carl import COMPOSITIONS, DiffusionLoss, carl_network
from RegistrationNetLib.models.catalogue import resource_folder
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network
from RegistrationNetLib.models.layers.features import CoarseFeatures, DilatedFeatures, lattice_rotations
from Testing.models.layers.published import randomize, smooth_pair
from Testing.models.published_carl import available, on_the_cpu, published, state_of

U1 = "netPhi.net.net.netPhi.net.netPhi.net.netPhi.net.netPhi.net."
LAYOUTS = [
    ("final", False, 129, 39_327_274, ("netPhi.net.net.net.net.", "netPsi.netPhi.net.net.", "netPsi.netPsi.net.")),
    ("final_final", False, 129, 39_327_274, ("netPhi.net.netPhi.net.net.net.", "netPhi.net.netPsi.net.", "netPsi.net.")),
    (
        "final_final",
        True,
        176,
        56_997_503,
        ("netPhi.netPhi.net.netPhi.net.net.net.", "netPhi.netPhi.net.netPsi.net.", "netPhi.netPsi.net.", "netPsi.net."),
    ),
    ("final_rotation", False, 135, 40_654_762, ("netPhi.net.net.net.net.net.", "netPsi.netPhi.net.net.", "netPsi.netPsi.net.")),
    ("final_rotation", True, 182, 58_324_991, ("netPhi.netPhi.net.net.net.net.net.", "netPsi.net.")),
    ("final_smolatt", False, 129, 39_327_274, ("netPhi.net.net.net.net.net.", "netPsi.netPhi.net.net.")),
    (
        "unicarl",
        False,
        343,
        142_287_326,
        (f"{U1}netPhi.net.net.net.convs0.", f"{U1}netPhi.net.net.cross2.mlp2.", f"{U1}netPsi.net.net."),
    ),
    ("unicarl_equivariant", False, 343, 142_287_326, (f"{U1}netPhi.net.net.net.net.convs0.", "netPsi.net.")),
]
# In 2-D the published average over rotations does not run.
IN_TWO_DIMENSIONS = [name for name in COMPOSITIONS if name != "final_rotation"]


def same_as(oracle: nn.Module, composition: str, **options: Any) -> nn.Module:
    """Our network with the parameters of the published one."""
    net = carl_network(composition, dim=oracle.identity_map.shape[1], **options).eval()  # type: ignore[union-attr, index]
    net.load_state_dict(state_of(oracle), strict=True)
    return net


def check_maps(composition: str, shape: Sequence[int], **options: Any) -> None:
    oracle = published(composition, shape, **options)
    net = same_as(oracle, composition, **options)
    images = smooth_pair(shape)
    maps = both_ways(net, *images)
    off_the_grid = torch.rand(1, len(shape), *(20,) * len(shape)) * 1.4 - 0.2
    lattice = identity_points(shape, images[0])
    for found, (moving, fixed) in ((maps.moving_from_fixed, images), (maps.fixed_from_moving, images[::-1])):
        with on_the_cpu():
            expected = oracle.regis_net(moving, fixed)  # type: ignore[operator]
        on_lattice = expected(lattice)
        assert float((on_lattice - lattice).abs().mean()) > 0.05
        torch.testing.assert_close(mapped_lattice(found, tuple(shape), fixed), on_lattice, rtol=0, atol=1e-5)
        torch.testing.assert_close(found(off_the_grid), expected(off_the_grid), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("composition", "has_fourth_step", "keys", "parameters", "prefixes"), LAYOUTS)
def test_the_file_has_the_published_size_and_names(
    composition: str, has_fourth_step: bool, keys: int, parameters: int, prefixes: Sequence[str]
) -> None:
    with torch.device("meta"):
        net = carl_network(composition, has_fourth_step=has_fourth_step)
    assert len(net.state_dict()) == keys
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert all(any(name.startswith(prefix) for name in net.state_dict()) for prefix in prefixes)


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_the_file_has_the_published_names_and_shapes(composition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("icon_registration")
    available("icon_registration.unicarl.fixed_point_carl")  # it computes while it is imported
    monkeypatch.setattr("Testing.models.published_carl.randomize", lambda *_, **__: None)  # on meta nothing can be
    with torch.device("meta"):
        net = carl_network(composition)
        oracle = published(composition, (32, 32, 32))
    expected = {name: value.shape for name, value in state_of(oracle).items()}
    assert {name: value.shape for name, value in net.state_dict().items()} == expected


@pytest.mark.parametrize("composition", IN_TWO_DIMENSIONS)
@pytest.mark.parametrize("shape", [(64, 70), (66, 75)])
@torch.no_grad()
def test_maps_both_ways_are_those_of_the_published_network(composition: str, shape: Sequence[int]) -> None:
    pytest.importorskip("icon_registration")
    check_maps(composition, shape)


@pytest.mark.slow
@pytest.mark.parametrize("composition", [name for name in COMPOSITIONS if name != "final_rotation"])
@torch.no_grad()
def test_maps_both_ways_are_those_of_the_published_network_in_three_dimensions(composition: str) -> None:
    pytest.importorskip("icon_registration")
    check_maps(composition, (68, 70, 72))


@pytest.mark.slow
@torch.no_grad()
def test_maps_of_the_rotation_network_are_those_of_the_published_one() -> None:
    pytest.importorskip("icon_registration")
    check_maps("final_rotation", (36, 38, 40))


@pytest.mark.parametrize("composition", ["final", "final_final"])
@torch.no_grad()
def test_a_fourth_step_is_the_published_one(composition: str) -> None:
    pytest.importorskip("icon_registration")
    check_maps(composition, (66, 75), has_fourth_step=True)


@pytest.mark.slow
@torch.no_grad()
def test_maps_of_unicarl_are_those_of_the_published_one_at_its_full_shape() -> None:
    pytest.importorskip("icon_registration")
    check_maps("unicarl", (160, 160, 160))


def test_a_composition_that_is_not_published_is_refused() -> None:
    with pytest.raises(
        InputError, match="no composition 'finale' of CARL; the published ones are final, final_final.*, and ours small"
    ):
        carl_network("finale")


@pytest.mark.parametrize(("has_fourth_step", "parameters"), [(False, 2_603_516), (True, 3_708_909)])
def test_the_small_network_is_small(has_fourth_step: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = carl_network("small", has_fourth_step=has_fourth_step)
    assert sum(one.numel() for one in network.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize("shape", [(30, 37), (17, 20, 24)])
def test_the_small_network_maps_images_of_any_shape_both_ways(shape: tuple[int, ...]) -> None:
    network = carl_network("small", has_fourth_step=True, dim=len(shape)).eval()
    randomize(network, displacement=0.01)
    images = smooth_pair(shape)
    maps = both_ways(network, *images)
    points = identity_points((5,) * len(shape), torch.zeros(()))
    there, alone = maps.moving_from_fixed(points), network(*images)(points)
    torch.testing.assert_close(there, alone, atol=1e-5, rtol=0)
    assert float((there - points).abs().max()) > 1e-3
    assert float((there - maps.fixed_from_moving(points)).abs().max()) > 1e-4


@torch.no_grad()
def test_images_too_small_for_unicarl_are_refused() -> None:
    with pytest.raises(InputError, match=r"blurs over 31 voxels .* got \[31, 40\]"):
        carl_network("unicarl", dim=2).eval()(torch.rand(1, 1, 62, 80), torch.rand(1, 1, 62, 80))


@torch.no_grad()
def test_images_smaller_than_the_padding_are_registered() -> None:
    # Two cells along each axis are enough; all else is padding.
    for composition in ("final", "final_rotation"):
        mapped = carl_network(composition, dim=2).eval()(torch.rand(1, 1, 5, 6), torch.rand(1, 1, 5, 6))
        assert bool(torch.isfinite(mapped(torch.rand(1, 2, 4))).all())


@torch.no_grad()
def test_images_of_one_cell_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 cells"):
        carl_network("final", dim=2).eval()(torch.rand(1, 1, 4, 30), torch.rand(1, 1, 4, 30))


def test_the_loss_of_the_first_steps_is_that_of_the_published_network_both_ways() -> None:
    """The published one takes one way twice; both of its ways, then, are ours in the mean."""
    oracle = pytest.importorskip("icon_registration")
    shape = (40, 40)
    net = carl_network("final", dim=2).eval()
    theirs = oracle.losses.DiffusionRegularizedNet(net, oracle.LNCC(sigma=4), lmbda=1.5)
    theirs.assign_identity_map((1, 1, *shape))
    moving, fixed = smooth_pair(shape)
    with on_the_cpu():
        one, other = theirs(moving, fixed), theirs(fixed, moving)
    found = DiffusionLoss(weight=1.5)(both_ways(net, moving, fixed), moving, fixed)
    larger = (40 / 39) ** 2  # they multiply differences by N instead of N - 1
    torch.testing.assert_close(found.regularity * larger, (one.bending_energy_loss + other.bending_energy_loss) / 2)
    torch.testing.assert_close(found.similarity, (one.similarity_loss + other.similarity_loss) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.total, found.similarity + 1.5 * found.regularity)


@pytest.mark.parametrize(
    ("composition", "loss"),
    [
        ("final", GradICONLoss(LNCC(sigma_vox=4), outside="border", stride=1)),
        ("final_smolatt", GradICONLoss(LNCC(sigma_vox=4), outside="border")),
        ("unicarl", GradICONLoss(SquaredLNCC(sigma_vox=4, epsilon=1e-4), outside="border")),
    ],
)
def test_loss_and_its_gradients_are_those_of_the_published_network(composition: str, loss: GradICONLoss) -> None:
    pytest.importorskip("icon_registration")
    shape = (66, 75)
    oracle = published(composition, shape)
    net = same_as(oracle, composition)
    moving, fixed = smooth_pair(shape)
    torch.manual_seed(1)
    with on_the_cpu():
        expected = oracle(moving, fixed)
    torch.manual_seed(1)
    found = loss(both_ways(net, moving, fixed), moving, fixed)
    torch.testing.assert_close(found.similarity, expected.similarity_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(found.regularity, expected.inverse_consistency_loss, rtol=1e-3, atol=0)
    expected.all_loss.backward()
    found.total.backward()
    theirs = {name: one.grad for name, one in oracle.regis_net.named_parameters()}  # type: ignore[union-attr]
    ours = {name: one.grad for name, one in net.named_parameters()}
    uncalled = {name for name, gradient in ours.items() if gradient is None}
    assert uncalled == {name for name, gradient in theirs.items() if gradient is None}
    assert len(uncalled) == (24 if composition == "unicarl" else 0)
    largest = max(float(gradient.norm()) for gradient in theirs.values() if gradient is not None)
    for name in set(ours) - uncalled:
        error = float((ours[name] - theirs[name]).norm())  # type: ignore[operator]
        assert error < 3e-2 * float(theirs[name].norm()) + 1e-4 * largest, name  # type: ignore[union-attr]


def turned_back(one: Any, mapped: Tensor) -> Tensor:
    """W⁻¹ of mapped points for a half turn W: it reverses the axes that it flips, and is its own inverse."""
    back = mapped.clone()
    for axis in one.flipped:
        back[:, axis] = 1 - back[:, axis]
    return back


def errors_of_turning(net: nn.Module, shape: Sequence[int]) -> list[float]:
    """How far maps of an image and of the turned image are from each other, for every half turn of moving."""
    moving, fixed = (image.double() for image in smooth_pair(shape))
    size = tuple(shape)
    before = mapped_lattice(net(moving, fixed), size, fixed)
    turns = [one for one in lattice_rotations(len(shape)) if one.is_half_turn and one.flipped]
    return [float((mapped_lattice(net(one(moving), fixed), size, fixed) - turned_back(one, before)).abs().max()) for one in turns]


@pytest.mark.parametrize(
    ("composition", "shape"),
    [
        ("final_rotation", (40, 52)),
        ("unicarl_equivariant", (72, 80)),
        pytest.param("final_rotation", (8, 12, 8), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_the_whole_map_turns_with_moving(composition: str, shape: Sequence[int]) -> None:
    # The first step turns exactly, and all later ones then see the same images.
    net = carl_network(composition, dim=len(shape)).double().eval()
    randomize(net, displacement=0.004)
    assert max(errors_of_turning(net, shape)) < 1e-9


@pytest.mark.parametrize("composition", ["final_final", "unicarl", "gradicon"])
@torch.no_grad()
def test_no_other_map_does(composition: str) -> None:
    net = gradicon_network(2) if composition == "gradicon" else carl_network(composition, dim=2)
    randomize(net.double().eval(), displacement=0.004)
    assert max(errors_of_turning(net, (72, 80))) > 0.01


@torch.no_grad()
def test_images_and_network_stay_as_they_are() -> None:
    net = carl_network("unicarl", dim=2).eval()
    randomize(net)
    moving, fixed = smooth_pair((64, 66))
    before = [value.clone() for value in (moving, fixed, *net.state_dict().values())]
    both_ways(net, moving, fixed)
    assert all(torch.equal(one, other) for one, other in zip((moving, fixed, *net.state_dict().values()), before, strict=True))


@pytest.mark.parametrize("name", ["carl", "unicarl"])
def test_the_card_describes_the_network(name: str) -> None:
    card = json.loads((resource_folder() / "Models" / f"{name}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        assert carl_network(**card["parameters"])
    loss = card["refine"]["network"]
    assert GradICONLoss(weight=loss["weight"], outside=loss["outside"], stride=loss["stride"])
    assert loss["sigma_vox"] == 4


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_both_directions_look_at_each_image_once(composition: str) -> None:
    """For the features that are compared, which are most of the work."""
    shape = (112, 96) if composition.startswith("unicarl") else (32, 24)
    net = carl_network(composition, dim=2).eval()
    features = next(one for one in net.modules() if isinstance(one, DilatedFeatures | CoarseFeatures))
    seen: list[Tensor] = []
    features.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    with torch.no_grad():
        both_ways(net, *smooth_pair(shape))
    turned = 2 if composition in ("final_rotation", "unicarl_equivariant") else 1
    assert len(seen) == 2 * turned
