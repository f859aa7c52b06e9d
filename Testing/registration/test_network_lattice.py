"""The pair on a network's lattices, and its maps back in the world."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Composition, DisplacementField, identity_points
from RegistrationNetLib.geometry.space import anatomical_grid, grid_of, transform_from_map
from RegistrationNetLib.interop import itk_from_simpleitk, simpleitk_from_itk
from RegistrationNetLib.models.composition import BothWays
from RegistrationNetLib.registration.network_lattice import NetworkPair, affine_part, network_pair, placed
from RegistrationNetLib.registration.prepare import Prepared, prepared

from ..volumes import QUANTILES, box, noise

SHAPE = (14, 12, 16)
BOTH_SIDES = ("fixed", "moving")


def one(seed: int, shape: tuple[int, ...] = (9, 11, 10), **parts: Any) -> Prepared:
    image = noise(shape, seed=seed)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1 * seed, -0.05, 0.2)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin([3.0 * seed, -2.0, 5.0])
    mask = box(image) if parts.get("mask") else None
    labels = box(image, dtype=np.int16, value=7) if parts.get("labels") else None
    return prepared(image, QUANTILES, mask, labels)


def random_field(amplitude: float, seed: int) -> DisplacementField:
    generator = torch.Generator().manual_seed(seed)
    coarse = amplitude * torch.randn(1, 3, 4, 4, 4, generator=generator)
    return DisplacementField(torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=True))


def maps(amplitude: float = 0.02) -> BothWays:
    forward, backward = (Composition((random_field(amplitude, seed), random_field(amplitude, seed + 1))) for seed in (0, 2))
    return BothWays(forward, backward)


def world(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.floating]:
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def unit_points(count: int = 200) -> NDArray[np.floating]:
    return np.random.default_rng(0).random((count, 3))


def applied(composition: Composition, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """The map as its lattice has it, linear between the points."""
    lattice = identity_points(SHAPE, torch.zeros(()))
    field = DisplacementField(composition(lattice) - lattice)
    return field(torch.as_tensor(points).float().T[None])[0].T.numpy()


def test_each_image_fills_the_lattice_with_its_own_extent_as_torch_resizes() -> None:
    fixed, moving = one(0), one(1, (8, 13, 9))
    pair = network_pair(fixed, moving, SHAPE)
    for was, now in ((fixed, pair.fixed), (moving, pair.moving)):
        expected = torch.nn.functional.interpolate(was.values, SHAPE, mode="trilinear", align_corners=False)
        torch.testing.assert_close(now.values, expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(now.grid.world_from_voxel, was.grid.resized(SHAPE).world_from_voxel)


def test_masks_and_labels_come_by_the_nearest_voxel() -> None:
    pair = network_pair(one(0, mask=True, labels=True), one(1, mask=True, labels=True), SHAPE)
    assert pair.fixed.mask is not None
    assert pair.fixed.labels is not None
    assert pair.fixed.mask.dtype == torch.bool
    assert pair.fixed.labels.unique().tolist() == [0, 7]
    assert torch.equal(pair.fixed.mask, pair.fixed.labels == 7)
    fixed, moving = pair.sides()
    assert fixed.classes is not None
    assert torch.equal(fixed.classes, pair.fixed.mask.float())
    assert moving.mask is pair.moving.mask


def test_labels_of_one_image_alone_say_nothing() -> None:
    fixed, _ = network_pair(one(0, labels=True), one(1), SHAPE).sides()
    assert fixed.classes is None


def test_the_volume_ratio_is_that_of_the_extents() -> None:
    fixed, moving = one(0), one(1, (18, 11, 10))
    pair = network_pair(fixed, moving, SHAPE)
    sizes = [
        np.prod([step * size for step, size in zip(part.grid.spacing_mm, part.grid.shape, strict=True)])
        for part in (fixed, moving)
    ]
    assert pair.moving_volume == pytest.approx(sizes[1] / sizes[0])


def in_a_frame(seed: int, direction: Sequence[int]) -> sitk.Image:
    """Noise within a uniform border, stored along other axes of the body, a little oblique."""
    array = np.zeros((12, 14, 13), dtype=np.float32)
    array[2:-1, 1:-3, 2:-2] = 100 * np.random.default_rng(seed).random((9, 10, 9)) + 5
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([1.5, 2.0, 1.2])
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1, -0.05, 0.2)
    image.SetDirection((np.array(turn.GetMatrix()).reshape(3, 3) @ np.reshape(direction, (3, 3))).flatten().tolist())
    return image


@pytest.mark.slow
@pytest.mark.parametrize(
    "direction", [(0, 0, -1, 1, 0, 0, 0, 1, 0), pytest.param((-1, 0, 0, 0, 0, 1, 0, 1, 0), marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore:WrapITK warning:DeprecationWarning")  # the published package calls ITK by old names
def test_unicarl_sees_what_the_published_preparation_gives(direction: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("footsteps", "torchvision", "torchvision.utils"):  # which it imports and does not use here
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    register = pytest.importorskip("icon_registration.unicarl.register")
    image = in_a_frame(0, direction)
    expected = register.preprocess(itk_from_simpleitk(image))
    quantiles = {"quantiles": [0.01, 0.99]}
    found = prepared(image, quantiles, crops_border=True).cropped().towards(anatomical_grid("RAS"))
    other = simpleitk_from_itk(expected)
    np.testing.assert_allclose(found.values[0, 0], sitk.GetArrayViewFromImage(other), atol=1e-5)
    np.testing.assert_allclose(found.grid.world_from_voxel, grid_of(other).world_from_voxel, atol=1e-9)


def test_the_network_sees_the_content_in_its_own_axes_and_masks_and_labels_come_along() -> None:
    image = in_a_frame(1, (0, 0, -1, 1, 0, 0, 0, 1, 0))
    one = prepared(image, QUANTILES, box(image), box(image, value=3), crops_border=True)
    pair = network_pair(one, one, SHAPE, orientation="RAS")
    directions = pair.fixed.grid.world_from_voxel[:3, :3] / np.array(pair.fixed.grid.spacing_mm)
    assert (np.diag(directions[:, ::-1]) * [1, 1, -1] > 0.9).all()
    assert pair.fixed.mask is not None
    assert pair.fixed.labels is not None
    assert torch.equal(pair.fixed.mask, pair.fixed.labels == 3)
    plain = network_pair(prepared(image, QUANTILES), prepared(image, QUANTILES), SHAPE)
    assert max(pair.fixed.grid.extent_mm) < max(plain.fixed.grid.extent_mm)


def test_an_alignment_shows_moving_on_the_lattice_of_fixed() -> None:
    fixed, moving = one(0), one(1)
    shift = np.eye(4)
    shift[:3, 3] = 4.0, -3.0, 2.0
    pair = network_pair(fixed, moving, SHAPE, alignment=shift)
    np.testing.assert_allclose(pair.moving.grid.world_from_voxel, shift @ pair.fixed.grid.world_from_voxel)


def test_slices_are_refused_by_a_network_of_volumes() -> None:
    flat = prepared(noise((12, 13)), QUANTILES)
    with pytest.raises(InputError, match="takes images of 3 dimensions; got 2"):
        network_pair(flat, flat, SHAPE)


@pytest.mark.parametrize("seen", [{}, {"mirror_axis": 0}, {"mirror_axis": 2}, {"orientation": "RAS"}, {"orientation": "LPI"}])
@pytest.mark.parametrize("is_coarse", [True, False])
def test_placed_maps_take_every_point_of_the_world_where_the_network_takes_it(seen: dict[str, Any], is_coarse: bool) -> None:
    pair = network_pair(one(0), one(1, (8, 13, 9)), SHAPE, **seen)
    # A lattice of the network's size holds the map exactly; a finer one nearly.
    lattice = one(0).grid.resized(SHAPE if is_coarse else [4 * size for size in SHAPE])
    is_exact = is_coarse and "orientation" not in seen
    both = maps()
    found = placed(both, pair, lattice)
    transform = transform_from_map(found.fields.moving_from_fixed, lattice, lattice.moved(found.alignment))
    points = unit_points()
    starts = world(pair.fixed.grid.world_from_unit, points)
    expected = world(pair.moving.grid.world_from_unit, applied(both.moving_from_fixed, points))
    mapped = np.array([transform.TransformPoint(start.tolist()) for start in starts])
    np.testing.assert_allclose(mapped, expected, atol=2e-4 if is_exact else 0.2)
    # The reverse: alignment first undone, then the field.
    starts = world(pair.moving.grid.world_from_unit, points)
    expected = world(pair.fixed.grid.world_from_unit, applied(both.fixed_from_moving, points))
    unit = world(lattice.unit_from_world @ np.linalg.inv(found.alignment), starts)
    back = found.fields.fixed_from_moving(torch.as_tensor(unit).float().T[None])[0].T.numpy()
    inside = ((unit >= 0) & (unit <= 1)).all(axis=1)
    assert inside.sum() > 100
    np.testing.assert_allclose(world(lattice.world_from_unit, back)[inside], expected[inside], atol=0.4)


def test_the_affine_part_of_an_affine_map_is_the_map() -> None:
    matrix = np.array([[1.1, 0.05, 0.0, -0.03], [0.0, 0.9, 0.1, 0.02], [-0.04, 0.0, 1.0, 0.01], [0.0, 0.0, 0.0, 1.0]])
    points = identity_points(SHAPE, torch.zeros(()))
    moved = torch.einsum("ij,bj...->bi...", torch.as_tensor(matrix[:3, :3]).float(), points)
    field = DisplacementField(moved + torch.as_tensor(matrix[:3, 3]).float().view(1, 3, 1, 1, 1) - points)
    np.testing.assert_allclose(affine_part(field), matrix, atol=1e-5)


def test_a_map_that_collapses_has_no_affine_part_but_the_identity() -> None:
    points = identity_points(SHAPE, torch.zeros(()))
    np.testing.assert_array_equal(affine_part(DisplacementField(0.5 - points)), np.eye(4))


def test_a_mirrored_map_has_no_affine_part_but_the_identity() -> None:
    points = identity_points(SHAPE, torch.zeros(()))
    mirrored = torch.cat([1 - points[:, :1], points[:, 1:]], dim=1)
    np.testing.assert_array_equal(affine_part(DisplacementField(mirrored - points)), np.eye(4))


def test_the_volume_ratio_is_positive_though_the_axes_of_one_image_are_left_handed() -> None:
    mirrored = noise((9, 11, 10), seed=1)
    mirrored.SetDirection([-1, 0, 0, 0, 1, 0, 0, 0, 1])
    pair = NetworkPair(one(0), prepared(mirrored, QUANTILES))
    assert pair.moving_volume > 0


def test_the_field_apart_from_its_affine_part_is_small() -> None:
    pair: NetworkPair = network_pair(one(0), one(1), SHAPE)
    stretched = DisplacementField(0.2 * (identity_points(SHAPE, torch.zeros(())) - 0.5))
    both = BothWays(Composition((stretched,)), Composition((stretched,)))
    found = placed(both, pair, pair.fixed.grid)
    assert float(found.fields.moving_from_fixed.displacement.abs().max()) < 1e-5
