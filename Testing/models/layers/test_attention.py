"""Coordinate attention beside a slow twin and the published one, its memory, and how it follows a shift or a turn."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from RegistrationNetLib import devices
from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.models.composition import mapped_lattice
from RegistrationNetLib.models.gradicon import gradicon_network
from RegistrationNetLib.models.layers import attention
from RegistrationNetLib.models.layers.attention import (
    CoordinateAttention,
    attended_by_tiles,
    attended_displacement,
    attended_fused,
    features_memory_mb,
    padded_lattice,
)
from RegistrationNetLib.models.layers.features import CoarseFeatures, DilatedFeatures, Equivariantize, lattice_rotations
from Testing.models.layers.published import randomize, smooth_pair
from Testing.models.published_carl import available, on_the_cpu


def slowly(queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
    """The table of weights itself, in double precision."""
    scores = torch.einsum("bcq,bck->bqk", queries.double(), keys.double())
    return torch.einsum("bqk,dk->bdq", scores.softmax(dim=2), places.double())


def features(batch: int, channels: int, count: int, **options: Any) -> Tensor:
    values = torch.randn(batch, channels, count, **options)
    return 4 * values / values.norm(dim=1, keepdim=True)


def network(dim: int, *, channels: int = 8, **options: Any) -> DilatedFeatures:
    net = DilatedFeatures(dim, channels=channels, **options).eval()
    randomize(net)
    return net


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERIES_AT_A_TIME", 7)
    monkeypatch.setattr(attention, "KEYS_AT_A_TIME", 10)


@pytest.mark.parametrize("attended", [attended_by_tiles, attended_fused])
@pytest.mark.parametrize(("dim", "queries", "keys"), [(2, 30, 44), (3, 21, 50), (3, 1, 3)])
@pytest.mark.usefixtures("small_tiles")
def test_every_way_gives_the_mean_place_under_the_weights(
    attended: Callable[[Tensor, Tensor, Tensor], Tensor], dim: int, queries: int, keys: int
) -> None:
    some = features(2, 16, queries), features(2, 16, keys), torch.rand(dim, keys)
    torch.testing.assert_close(attended(*some), slowly(*some).float(), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_tiles")
def test_gradients_through_tiles_are_those_of_the_slow_twin() -> None:
    queries, keys = features(2, 6, 20, dtype=torch.float64), features(2, 6, 33, dtype=torch.float64)
    places, pull = torch.rand(3, 33, dtype=torch.float64), torch.randn(2, 3, 20, dtype=torch.float64)
    for one in (queries, keys):
        one.requires_grad_()
    expected = torch.autograd.grad((slowly(queries, keys, places) * pull).sum(), (queries, keys))
    found = torch.autograd.grad((attended_by_tiles(queries, keys, places) * pull).sum(), (queries, keys))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


class LargestTensor(TorchDispatchMode):
    """While entered, remembers the largest number of values that an operation put out."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.values = max([self.values, *(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor))])
        return out


@pytest.mark.parametrize("grad", [False, True])
def test_the_table_of_weights_is_never_made(grad: bool) -> None:
    queries, keys, places = features(1, 4, 3000), features(1, 4, 5000), torch.rand(3, 5000)
    queries.requires_grad_(grad)
    with LargestTensor() as largest:
        found = attended_by_tiles(queries, keys, places)
        if grad:
            found.sum().backward()
    tile = attention.QUERIES_AT_A_TIME * attention.KEYS_AT_A_TIME
    assert largest.values == tile < 3000 * 5000 / 10


@pytest.mark.parametrize("shape", [(7, 10), (5, 6, 9)])
def test_the_lattice_goes_on_around_the_image_as_published(shape: Sequence[int]) -> None:
    pytest.importorskip("icon_registration")
    carl = available("icon_registration.carl")
    expected = carl.pad_im(carl.make_im([1, 1, *shape]), 3)[0]
    torch.testing.assert_close(padded_lattice(shape, 3, torch.zeros(1)), expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 31), (6, 7, 5)])
@pytest.mark.parametrize("padding_vox", [2, 9])
@torch.no_grad()
def test_displacement_is_that_of_the_published_step(shape: Sequence[int], padding_vox: int) -> None:
    pytest.importorskip("icon_registration")
    net = network(len(shape))
    with on_the_cpu():
        oracle = available("icon_registration.carl").AttentionRegistration(net, dimension=len(shape))
        oracle.dim, oracle.padding = 8, padding_vox
        oracle.assign_identity_map([1, 1, *shape])
        moving, fixed = smooth_pair(shape, batch=2)
        expected = oracle(moving, fixed)
    found = CoordinateAttention(net, padding_vox=padding_vox)(moving, fixed)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Counting(DilatedFeatures):
    calls = 0

    def forward(self, image: Tensor) -> Tensor:
        Counting.calls += len(image)
        return super().forward(image)


@pytest.mark.parametrize(("is_training", "calls"), [(False, 2), (True, 4)])
def test_no_image_is_looked_at_twice_unless_its_statistics_are_taken(is_training: bool, calls: int) -> None:
    net = Counting(2, channels=4).train(is_training)
    one, other = smooth_pair((12, 14))
    Counting.calls = 0
    both = attended_displacement(net, torch.cat([one, other]), torch.cat([other, one]), padding_vox=3)
    assert Counting.calls == calls
    if not is_training:
        torch.testing.assert_close(both[1:], attended_displacement(net, other, one, padding_vox=3))


def test_equal_images_have_gradients_of_their_own() -> None:
    net = network(2, channels=4)
    moving = torch.rand(1, 1, 8, 9, requires_grad=True)
    fixed = moving.detach().clone().requires_grad_()
    attended_displacement(net, moving, fixed, padding_vox=2).square().sum().backward()
    assert moving.grad is not None
    assert fixed.grad is not None
    assert float((moving.grad - fixed.grad).abs().max()) > 1e-6


# Equivariance. Φ is the map of (moving ∘ W, fixed ∘ U); that of (moving, fixed) is φ, and Φ should be W⁻¹ ∘ φ ∘ U.

MARGIN, SIZE, SHIFT = 20, 64, (8, -4)


def image_with_margins() -> Tensor:
    image = torch.zeros(1, 1, SIZE, SIZE)
    image[..., MARGIN:-MARGIN, MARGIN:-MARGIN] = torch.rand(SIZE - 2 * MARGIN, SIZE - 2 * MARGIN)
    return image


def interior(values: Tensor) -> Tensor:
    return values[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def rolled(image: Tensor, by: Sequence[int] = SHIFT) -> Tensor:
    return image.roll(tuple(by), (2, 3))


@torch.no_grad()
def test_the_map_follows_when_fixed_is_shifted_by_whole_cells() -> None:
    net = network(2, channels=128)
    moving, fixed = image_with_margins(), image_with_margins()
    before = attended_displacement(net, moving, fixed, padding_vox=9)
    after = attended_displacement(net, moving, rolled(fixed), padding_vox=9)
    shift = torch.tensor(SHIFT).view(1, 2, 1, 1) / (SIZE - 1)
    assert interior(before).abs().mean() > 0.05
    back = rolled(after, [-step for step in SHIFT]) + shift
    torch.testing.assert_close(interior(back), interior(before), rtol=0, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_the_map_follows_when_moving_is_shifted_where_features_tell_cells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights spread over the whole window when features are alike, and the window does not shift along. Normalized as training
    # would, and three times as long as published, random features find their like and nothing else.
    monkeypatch.setattr(attention, "FEATURE_LENGTH", 12.0)
    net = network(2, channels=128).double()
    image = image_with_margins().double()
    for norm in net.batchnorms:
        norm.momentum = 1.0  # type: ignore[assignment]
    net.train()(F.pad(image, (9,) * 4))
    before, after = (attended_displacement(net.eval(), moving, image, padding_vox=9) for moving in (image, rolled(image)))
    shift = torch.tensor(SHIFT).view(1, 2, 1, 1) / (SIZE - 1)
    torch.testing.assert_close(interior(after - before), shift.expand_as(interior(after)).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "size", "margin", "cell_vox", "shifts"),
    [
        pytest.param(lambda: DilatedFeatures(2), 64, 20, 1, ((8, -4), (-3, 5)), marks=pytest.mark.slow),
        (lambda: DilatedFeatures(3, dilations=(1,), channels=32), 14, 5, 1, ((2, -2, 1), (-1, 2, -2))),
        pytest.param(lambda: CoarseFeatures(2, channels=128), 104, 40, 4, ((8, -4), (-4, 12)), marks=pytest.mark.slow),
    ],
    ids=["published", "3-D", "cells of 4 voxels"],
)
@torch.no_grad()
def test_the_map_follows_when_both_are_shifted_each_for_itself(
    monkeypatch: pytest.MonkeyPatch, net: Any, size: int, margin: int, cell_vox: int, shifts: Sequence[Sequence[int]]
) -> None:
    """[W, U] equivariance, by whole cells; features tell cells apart as in the test above."""
    monkeypatch.setattr(attention, "FEATURE_LENGTH", 12.0)
    features, dim, padding = net().double(), len(shifts[0]), 4 * cell_vox
    inside = (slice(None), slice(None), *[slice(margin, -margin)] * dim)
    image = torch.zeros(1, 1, *[size] * dim, dtype=torch.float64)
    image[inside] = torch.rand_like(image[inside])
    for norm in features.batchnorms:
        norm.momentum = 1.0
    features.train()(F.pad(image, (padding,) * 2 * dim))
    features.eval()
    axes = tuple(range(2, 2 + dim))
    moving, fixed = (image.roll(tuple(shift), axes) for shift in shifts)
    before = attended_displacement(features, image, image, padding_vox=padding, cell_vox=cell_vox)
    after = attended_displacement(features, moving, fixed, padding_vox=padding, cell_vox=cell_vox)
    back = after.roll(tuple(-step // cell_vox for step in shifts[1]), axes)
    apart = torch.tensor(shifts[0]) - torch.tensor(shifts[1])
    expected = apart.view(1, dim, *(1,) * dim) / cell_vox / (before.shape[2] - 1)
    cells = (slice(None), slice(None), *[slice(margin // cell_vox, -margin // cell_vox)] * dim)
    torch.testing.assert_close((back - before)[cells], expected.expand_as(before[cells]).double(), rtol=0, atol=1e-6)


def turned_back(one: Callable[[Tensor], Tensor], displacement: Tensor, places: Tensor) -> Tensor:
    """W⁻¹ ∘ φ for the turn `one` of the lattice: image(one) at x is the image at W(x)."""
    inverse = one(places[None])  # W at the lattice, [1, dim, n…]
    dim = len(places)
    corner = inverse.flatten(2)
    design = torch.cat([places.flatten(1), torch.ones_like(places[:1]).flatten(1)]).T
    matrix = torch.linalg.lstsq(design, corner[0].T).solution.T  # [dim, dim + 1]
    mapped = (places[None] + displacement).flatten(2)
    moved = torch.linalg.solve(matrix[:, :dim], mapped[0] - matrix[:, dim:])
    return moved.view_as(displacement) - places


def some_turns(dim: int, turns: str = "quarter") -> list[Any]:
    """Those of the lattice by half or by quarter turns; of the 24 in space every third."""
    chosen = [one for one in lattice_rotations(dim) if turns == "quarter" or one.is_half_turn]
    return chosen if len(chosen) < 24 else chosen[1::3]


@pytest.mark.parametrize(
    ("shape", "turns"), [((14, 14), "quarter"), ((12, 17), "half"), ((4, 4, 4), "quarter"), ((4, 6, 5), "half")]
)
@torch.no_grad()
def test_the_map_turns_with_moving(shape: Sequence[int], turns: Any) -> None:
    dim = len(shape)
    net = Equivariantize(network(dim, channels=4).double(), turns=turns)
    moving, fixed = (image.double() for image in smooth_pair(shape))
    places = padded_lattice(shape, 0, moving)
    before = attended_displacement(net, moving, fixed, padding_vox=3)
    for one in some_turns(dim, turns):
        after = attended_displacement(net, one(moving), fixed, padding_vox=3)
        torch.testing.assert_close(after, turned_back(one, before, places), rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_map_turns_with_fixed() -> None:
    net = Equivariantize(network(3, channels=4).double(), turns="quarter")
    moving, fixed = (image.double() for image in smooth_pair((5, 5, 5)))
    places = padded_lattice((5, 5, 5), 0, moving)
    before = attended_displacement(net, moving, fixed, padding_vox=3) + places
    for one in some_turns(3):
        after = attended_displacement(net, moving, one(fixed), padding_vox=3) + places
        torch.testing.assert_close(after, one(before), rtol=0, atol=1e-9)


@torch.no_grad()
def test_without_the_average_the_map_does_not_turn() -> None:
    net = network(2, channels=4).double()
    moving, fixed = (image.double() for image in smooth_pair((14, 14)))
    places = padded_lattice((14, 14), 0, moving)
    (half,) = (one for one in lattice_rotations(2) if one.is_half_turn and one.flipped)
    before, after = (attended_displacement(net, image, fixed, padding_vox=3) for image in (moving, half(moving)))
    assert float((after - turned_back(half, before, places)).abs().max()) > 0.01


@torch.no_grad()
def test_the_map_of_gradicon_follows_neither_shift_nor_turn() -> None:
    net = gradicon_network(2).eval()
    randomize(net, displacement=0.004)
    moving, fixed = image_with_margins(), image_with_margins()
    places = padded_lattice((SIZE, SIZE), 0, moving)
    (half,) = (one for one in lattice_rotations(2) if one.is_half_turn and one.flipped)
    before, shifted, turned = (
        mapped_lattice(net(image, fixed), (SIZE, SIZE), fixed) - places for image in (moving, rolled(moving), half(moving))
    )
    shift = torch.tensor(SHIFT).view(1, 2, 1, 1) / (SIZE - 1)
    assert float(interior(shifted - before - shift).abs().mean()) > 0.5 * float(shift.abs().mean())
    assert float(interior(turned - turned_back(half, before, places)).abs().mean()) > 0.05


@pytest.mark.parametrize("shape", [(1, 9), (6, 1, 7)])
def test_an_image_of_one_cell_is_refused(shape: Sequence[int]) -> None:
    with pytest.raises(InputError, match=r"needs at least 2 cells of 1 voxels along each axis; got images of \["):
        attended_displacement(network(len(shape)), torch.rand(1, 1, *shape), torch.rand(1, 1, *shape), padding_vox=9)


def test_cells_wider_than_the_image_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 cells of 4 voxels"):
        attended_displacement(
            CoarseFeatures(2, channels=8), torch.rand(1, 1, 9, 4), torch.rand(1, 1, 9, 4), padding_vox=16, cell_vox=4
        )


def test_features_that_do_not_fit_are_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        available = 2**20

    monkeypatch.setattr(devices.psutil, "virtual_memory", Little)
    with pytest.raises(
        ResourceError, match=r"needs about .* for 128 features per cell of images of 78×82 voxels .*resize the images"
    ):
        attended_displacement(network(2, channels=128), torch.rand(1, 1, 60, 64), torch.rand(1, 1, 60, 64), padding_vox=9)


def test_the_estimate_grows_with_images_features_and_gradients() -> None:
    def mb(net: Any = None, **options: Any) -> float:
        return features_memory_mb(net or DilatedFeatures(3, channels=16), (62, 62, 62), **options)

    assert mb(images=4) > mb()
    assert mb(keeps_gradients=True) > 2 * mb()
    assert mb(DilatedFeatures(3, channels=32)) == 2 * mb()
    assert mb(Equivariantize(DilatedFeatures(3, channels=16))) > mb()
    assert mb(CoarseFeatures(3, channels=16)) < mb()


@torch.no_grad()
def test_the_padding_changes_the_map() -> None:
    net, (moving, fixed) = network(2), smooth_pair((12, 14))
    narrow, wide = (CoordinateAttention(net, padding_vox=padding)(moving, fixed) for padding in (2, 9))
    assert float((narrow - wide).abs().max()) > 1e-3


def test_attention_has_no_parameters_but_those_of_its_network() -> None:
    assert {name.split(".")[0] for name in CoordinateAttention(network(2)).state_dict()} == {"net"}
    assert isinstance(CoordinateAttention(network(2)), nn.Module)
