"""Refining the velocity of a registration by construction: it registers, its maps stay inverse, and exchanged images invert it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import Cancelled, GeometryError, RefinementError
from RegistrationNetLib.geometry.deformation import identity_points, jacobian_determinant, sample
from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.geometry.space import Grid, grid_of, transform_from_map
from RegistrationNetLib.losses.similarity import LNCC, SSD
from RegistrationNetLib.models.composition import BothWays, both_ways, mapped_lattice
from RegistrationNetLib.models.constricon import constricon_network
from RegistrationNetLib.models.constricon_velocities import Middle, velocities_of
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import KnownMap, WarpOptions, error_mm
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.field_refinement import FieldOptions
from RegistrationNetLib.registration.network_lattice import NetworkPair, network_pair
from RegistrationNetLib.registration.prepare import Prepared, prepared
from RegistrationNetLib.registration.velocity_refinement import in_the_middle, middle_grid, refine_velocity

from ..models.layers.published import randomize
from ..volumes import QUANTILES

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES: dict[int, tuple[int, ...]] = {2: (40, 44), 3: (28, 32, 28)}
NETWORK: dict[int, tuple[int, ...]] = {2: (34, 36), 3: (24, 26, 28)}
OPTIONS = FieldOptions(LNCC(sigma_vox=1.5, epsilon=1e-4), steps=20)


def silent(_: float) -> None:
    """A report that nobody reads."""


@lru_cache
def warped_head(dim: int) -> tuple[Prepared, Prepared, KnownMap, sitk.Image]:
    """A head, the head warped by a smooth map, the map, and where the head is."""
    head = head_phantom([2 * size for size in SHAPES[dim]], [3.0] * dim, 0)
    grid = grid_of(head.image).resized(SHAPES[dim])
    warp = WarpOptions(0.0, 0.0, displacement_mm=12.0, correlation_mm=28.0, lattice_mm=3.0)
    pair = known_pair(head.image, grid, seed=1, warp=warp, appearance=AppearanceOptions(0.0, 0.0, 0.0))
    mask = sitk.Resample(head.labels, pair.fixed, sitk.Transform(dim, sitk.sitkIdentity), sitk.sitkNearestNeighbor)
    labels = torch.as_tensor(sitk.GetArrayFromImage(mask) > 0)[None, None].long()
    fixed, moving = prepared(pair.fixed, QUANTILES), prepared(pair.moving, QUANTILES)
    return replace(fixed, labels=labels), replace(moving, labels=labels), pair.known, mask


def heads(dim: int) -> tuple[Prepared, Prepared]:
    fixed, moving, *_ = warped_head(dim)
    return replace(fixed, labels=None), replace(moving, labels=None)


@lru_cache
def network(dim: int, *, displacement: float = 0.003) -> nn.Module:
    """With every step at random, affine ones too."""
    net = constricon_network(dim).eval()
    randomize(net, displacement=displacement)
    return net


@torch.no_grad()
def predicted(images: tuple[Prepared, Prepared], net: nn.Module | None = None) -> tuple[BothWays, NetworkPair]:
    dim = images[0].grid.dim
    pair = network_pair(*images, NETWORK[dim])
    return both_ways(net or network(dim), pair.moving.values, pair.fixed.values), pair


def refined(images: tuple[Prepared, Prepared], options: FieldOptions = OPTIONS, net: nn.Module | None = None) -> BothWays:
    maps, pair = predicted(images, net)
    return refine_velocity(maps, pair, images, options, silent)


@lru_cache
def refined_head(dim: int) -> BothWays:
    return refined(heads(dim))


def on_lattice(maps: BothWays, dim: int) -> Tensor:
    return mapped_lattice(maps.moving_from_fixed, SHAPES[dim], torch.zeros(()))


def round_trip_vox(maps: BothWays, dim: int) -> float:
    """The largest distance that both ways, one after the other, move a point within the image, in voxels of the network."""
    points = 0.2 + 0.6 * identity_points((15,) * dim, torch.zeros(()))
    there = maps.moving_from_fixed(maps.fixed_from_moving(points)) - points
    back = maps.fixed_from_moving(maps.moving_from_fixed(points)) - points
    return float(torch.stack([there, back]).norm(dim=2).max()) * (max(NETWORK[dim]) - 1)


# what it is for


@pytest.mark.parametrize("dim", [2, 3])
def test_a_smooth_warp_is_recovered_from_the_networks_map(dim: int) -> None:
    fixed, moving, known, mask = warped_head(dim)
    maps, _ = predicted(heads(dim))
    errors = [
        error_mm(transform_from_map(one.moving_from_fixed, fixed.grid, moving.grid), known, mask).mean
        for one in (maps, refined_head(dim))
    ]
    assert errors[0] > 5
    assert errors[1] < 0.35 * errors[0]


@pytest.mark.parametrize("dim", [2, 3])
def test_the_maps_stay_inverse_to_each_other_and_do_not_fold(dim: int) -> None:
    """Up to what linear interpolation and squaring leave, which is of the order that they leave of the network's own maps."""
    maps, _ = predicted(heads(dim))
    found = refined_head(dim)
    assert (on_lattice(found, dim) - on_lattice(maps, dim)).abs().max() * SHAPES[dim][0] > 1.5
    assert round_trip_vox(found, dim) < 0.05
    assert round_trip_vox(found, dim) < 20 * round_trip_vox(maps, dim)
    assert jacobian_determinant(on_lattice(found, dim)).min() > 0


@pytest.mark.parametrize("dim", [2, 3])
def test_exchanged_images_give_the_inverse(dim: int) -> None:
    fixed, moving = heads(dim)
    there, back = refined_head(dim), refined((moving, fixed))
    for one, other in ((there.moving_from_fixed, back.fixed_from_moving), (there.fixed_from_moving, back.moving_from_fixed)):
        found, expected = (mapped_lattice(way, SHAPES[dim], fixed.values) for way in (one, other))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.allclose(Middle(there).flow.velocity, -Middle(back).flow.velocity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_all_steps_but_the_innermost_stay(dim: int) -> None:
    maps, _ = predicted(heads(dim))
    found = refined_head(dim)
    assert torch.equal(velocities_of(found)[0], velocities_of(maps)[0])
    assert not torch.equal(velocities_of(found)[-1], velocities_of(maps)[-1])
    assert len(found.moving_from_fixed.maps) == len(maps.moving_from_fixed.maps) == 7


def test_no_steps_leave_the_velocity_on_the_finer_lattice() -> None:
    maps, pair = predicted(heads(2))
    found = refine_velocity(maps, pair, heads(2), replace(OPTIONS, steps=0), silent)
    assert Middle(found).flow.velocity.shape[2:] == torch.Size(SHAPES[2])
    torch.testing.assert_close(on_lattice(found, 2), on_lattice(maps, 2), rtol=0, atol=2e-4)


# the middle


def test_the_lattice_of_the_middle_is_that_of_the_exchanged_images() -> None:
    coarse, fine = (Prepared(torch.rand(1, 1, *shape), plain(shape, step)) for shape, step in (((20, 60), 4.0), ((50, 30), 2.0)))
    one = middle_grid(network_pair(coarse, fine, (24, 24)), (coarse, fine))
    other = middle_grid(network_pair(fine, coarse, (24, 24)), (fine, coarse))
    assert one.shape == other.shape == (20, 30)
    np.testing.assert_allclose(one.spacing_mm, other.spacing_mm)
    assert one.extent_mm[0] == pytest.approx(np.sqrt(20 * 4.0 * 50 * 2.0), rel=0.1)


def plain(shape: tuple[int, ...], spacing_mm: float) -> Grid:
    return Grid(shape, np.diag([*[spacing_mm] * len(shape), 1.0]))


def test_both_images_meet_in_the_middle_where_the_network_is_right() -> None:
    """Moving is made from fixed by the network's own map; in the middle only its innermost step is then between them."""
    fixed, moving = heads(2)
    fixed = replace(fixed, values=smooth_noise(SHAPES[2], 4, torch.Generator().manual_seed(0)))
    maps, pair = predicted((fixed, moving), network(2, displacement=0.02))
    warped = sample(fixed.values, mapped_lattice(maps.fixed_from_moving, SHAPES[2], fixed.values))
    images = fixed, replace(moving, values=warped)
    middle = Middle(maps)
    grid = middle_grid(pair, images)
    one, other = in_the_middle(middle, grid, pair, images)
    lattice = identity_points(grid.shape, fixed.values)

    def difference(points: Tensor) -> float:
        return float((one.values - sample(other.values, points))[..., 5:-5, 5:-5].square().mean())

    assert difference(middle.flow(lattice)) < 0.2 * difference(lattice)
    assert difference(lattice) < 0.1 * float((fixed.values - warped).square().mean())


def test_images_that_the_network_puts_side_by_side_are_refused() -> None:
    fixed, moving = heads(2)
    away = torch.zeros(1, 1, *SHAPES[2], dtype=torch.bool)
    left, right = away.clone(), away.clone()
    left[..., :3], right[..., -3:] = True, True
    images = replace(fixed, mask=left), replace(moving, mask=right)
    maps, pair = predicted(images)
    with pytest.raises(GeometryError, match="do not overlap where the network puts them"):
        refine_velocity(maps, pair, images, OPTIONS, silent)


def test_only_what_both_masks_hold_counts() -> None:
    fixed, moving = heads(2)
    mask = torch.zeros(1, 1, *SHAPES[2], dtype=torch.bool)
    mask[..., 10:30, 10:34] = True
    images = replace(fixed, mask=mask), replace(moving, mask=mask.roll(4, dims=3))
    maps, pair = predicted(images, constricon_network(2).eval())
    one, other = in_the_middle(Middle(maps), middle_grid(pair, images), pair, images)
    assert one.mask is not None
    assert other.mask is not None
    assert torch.equal(one.mask, other.mask)
    assert int(one.mask.sum()) == 20 * 20


# options


@pytest.mark.parametrize(
    "changed",
    [
        replace(OPTIONS, smoothness=5.0),
        replace(OPTIONS, steps=4),
        replace(OPTIONS, measure=SSD()),
        replace(OPTIONS, conserve_mass=True),
    ],
)
def test_options_change_the_result(changed: FieldOptions) -> None:
    assert (on_lattice(refined_head(2), 2) - on_lattice(refined(heads(2), changed), 2)).abs().max() > 1e-3


def test_a_larger_smoothness_gives_a_smoother_velocity() -> None:
    rough, smooth = (
        Middle(refined(heads(2), replace(OPTIONS, smoothness=factor), constricon_network(2).eval())).flow.velocity
        for factor in (0.1, 100.0)
    )
    assert smooth.diff(dim=2).square().mean() < 0.5 * rough.diff(dim=2).square().mean()


def test_labels_take_part() -> None:
    fixed, moving, *_ = warped_head(2)
    heavy, none = (on_lattice(refined((fixed, moving), replace(OPTIONS, label_weight=weight)), 2) for weight in (5.0, 0.0))
    assert (heavy - none).abs().max() > 1e-3


def test_masses_are_those_of_the_volumes_on_the_way() -> None:
    fixed, moving = heads(2)
    maps, pair = predicted((fixed, moving), network(2, displacement=0.006))
    grid = middle_grid(pair, (fixed, moving))
    plainly, by_mass = (in_the_middle(Middle(maps), grid, pair, (fixed, moving), conserve_mass=one) for one in (False, True))
    volumes = [
        jacobian_determinant(mapped_lattice(way, grid.shape, fixed.values))
        for way in (Middle(maps).fixed_from_middle, Middle(maps).moving_from_middle)
    ]
    for one, other, volume in zip(plainly, by_mass, volumes, strict=True):
        # Both cubes are as large as that of the middle, but for their rims of half a voxel.
        torch.testing.assert_close(other.values, one.values * volume, rtol=0.01, atol=1e-4)
    assert (volumes[0] - 1).abs().max() > 0.02


def test_progress_rises_to_the_end_and_can_cancel() -> None:
    told: list[float] = []
    maps, pair = predicted(heads(2))
    refine_velocity(maps, pair, heads(2), OPTIONS, told.append)
    assert told == sorted(told)
    assert told[-1] == 1

    def cancel(_: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        refine_velocity(maps, pair, heads(2), OPTIONS, cancel)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    fixed, moving = heads(2)
    maps, pair = predicted((fixed, moving))
    spoilt = replace(moving, values=moving.values * torch.nan)
    with pytest.raises(RefinementError, match="infinite or NaN"):
        refine_velocity(maps, pair, (fixed, spoilt), OPTIONS, silent)


def test_images_and_network_maps_stay_as_they_are() -> None:
    images = heads(2)
    maps, pair = predicted(images)
    kept = [images[0].values.clone(), images[1].values.clone(), Middle(maps).flow.velocity.clone()]
    refine_velocity(maps, pair, images, OPTIONS, silent)
    assert all(
        torch.equal(one, other)
        for one, other in zip(kept, (images[0].values, images[1].values, Middle(maps).flow.velocity), strict=True)
    )
