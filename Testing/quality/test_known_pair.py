"""Known maps are true both ways, and known pairs follow their truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import jacobian_determinant
from RegistrationNetLib.geometry.space import Grid, affine_matrix, displacements_mm, grid_of, image_on, points_of_transform
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import WarpOptions, error_mm, random_map

FINE = WarpOptions(margin_mm=25.0)
SMALL = replace(FINE, lattice_mm=4.0)
PLAIN = AppearanceOptions(contrast=0.0, bias=0.0, noise=0.0)
NO_WARP = WarpOptions(rotation_degrees=0.0, translation_mm=0.0, displacement_mm=0.0, margin_mm=10.0, lattice_mm=5.0)


def oblique_grid() -> Grid:
    """Unequal sizes and spacings, turned by 25 degrees, far from the origin."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.2, -0.1, 0.4)
    matrix = np.eye(4)
    matrix[:3, :3] = affine_matrix(turn)[:3, :3] @ np.diag([3.0, 2.0, 2.5])[::-1]
    matrix[:3, 3] = [-60.0, 30.0, 110.0]
    return Grid((20, 30, 24), matrix)


def length_mm(transform: sitk.Transform, grid: Grid) -> np.ndarray:
    return np.linalg.norm(displacements_mm(transform, grid), axis=-1)


def both_ways(first: sitk.Transform, then: sitk.Transform) -> sitk.CompositeTransform:
    return sitk.CompositeTransform([then, first])


@pytest.mark.parametrize("seed", [0, 1])
def test_there_and_back_misses_by_less_than_a_fiftieth_of_a_millimetre(seed: int) -> None:
    grid = oblique_grid()
    known = random_map(grid, seed, FINE)
    for first, then in [
        (known.moving_from_fixed, known.fixed_from_moving),
        (known.fixed_from_moving, known.moving_from_fixed),
    ]:
        miss = length_mm(both_ways(first, then), grid)
        assert miss.mean() < 0.02
        assert miss.max() < 0.2


def test_a_known_map_does_not_fold_in_either_direction() -> None:
    grid = oblique_grid()
    known = random_map(grid, 2, SMALL)
    for transform in (known.moving_from_fixed, known.fixed_from_moving):
        assert float(jacobian_determinant(points_of_transform(transform, grid, grid)).min()) > 0.05


def test_the_displacement_has_the_size_asked_for() -> None:
    grid = oblique_grid()
    options = replace(SMALL, rotation_degrees=0.0, translation_mm=0.0, displacement_mm=7.0)
    length = length_mm(random_map(grid, 3, options).moving_from_fixed, grid)
    assert np.quantile(length, 0.95) == pytest.approx(7.0, rel=0.15)


def test_without_displacement_the_map_is_a_rotation_about_the_centre_and_a_shift() -> None:
    grid = oblique_grid()
    known = random_map(grid, 4, replace(SMALL, displacement_mm=0.0))
    forward = np.array([known.moving_from_fixed.TransformPoint((grid.centre_mm + step).tolist()) for step in np.eye(3)])
    shift = np.array(known.moving_from_fixed.TransformPoint(grid.centre_mm.tolist())) - grid.centre_mm
    rotation = (forward - grid.centre_mm - shift).T
    assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert np.abs(shift).max() <= 6.0
    assert 0.1 < np.degrees(np.arccos((np.trace(rotation) - 1) / 2)) < 7.0


def test_far_outside_only_the_rigid_part_acts() -> None:
    grid = oblique_grid()
    known = random_map(grid, 5, replace(SMALL, rotation_degrees=0.0, translation_mm=0.0))
    far = (grid.centre_mm + 400.0).tolist()
    assert known.moving_from_fixed.TransformPoint(far) == pytest.approx(far)


def test_the_same_seed_gives_the_same_map_and_another_seed_another() -> None:
    grid = oblique_grid()
    one, same, other = (displacements_mm(random_map(grid, seed, SMALL).moving_from_fixed, grid) for seed in (6, 6, 7))
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"rotation_degrees": 8.0},
        {"translation_mm": 1.0},
        {"displacement_mm": 3.0},
        {"correlation_mm": 12.0},
        {"margin_mm": 15.0},
        {"lattice_mm": 3.0},
    ],
    ids=str,
)
def test_every_option_of_the_warp_changes_the_map(change: dict[str, float]) -> None:
    grid = oblique_grid()
    plain, changed = (random_map(grid, 8, options).moving_from_fixed for options in (SMALL, replace(SMALL, **change)))
    assert np.abs(displacements_mm(plain, grid) - displacements_mm(changed, grid)).max() > 0.01


def test_a_known_map_works_in_two_dimensions() -> None:
    grid = Grid((40, 50), np.array([[0.0, 2.0, -5.0], [2.0, 0.0, 9.0], [0.0, 0.0, 1.0]]))
    known = random_map(grid, 9, replace(FINE, displacement_mm=5.0))
    miss = length_mm(both_ways(known.moving_from_fixed, known.fixed_from_moving), grid)
    assert miss.mean() < 0.02
    assert length_mm(known.moving_from_fixed, grid).mean() > 1.0


def wavy_source() -> sitk.Image:
    """A smooth image, 0 at its border, finer than `oblique_grid` and on another lattice."""
    shape = (64, 72, 68)
    grid = oblique_grid()
    columns = grid.world_from_voxel[:3, :3] / np.array(grid.spacing_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = columns
    matrix[:3, 3] = grid.centre_mm - columns @ (0.5 * (np.array(shape) - 1))
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    window = np.clip(1 - z**2, 0, 1) * np.clip(1 - y**2, 0, 1) * np.clip(1 - x**2, 0, 1)
    return image_on(Grid(shape, matrix), (100 * window * (1.5 + np.sin(5 * x + 3 * y) * np.cos(4 * z))).astype(np.float32))


def test_moving_seen_through_the_truth_is_fixed() -> None:
    pair = known_pair(wavy_source(), oblique_grid(), seed=0, warp=SMALL, appearance=PLAIN)
    warped = sitk.Resample(pair.moving, pair.fixed, pair.known.moving_from_fixed, sitk.sitkBSpline, 0.0)
    fixed, moving, warped = (sitk.GetArrayFromImage(image) for image in (pair.fixed, pair.moving, warped))
    inside = (slice(4, -4),) * 3
    assert np.abs(warped - fixed)[inside].mean() < 0.05 * np.abs(moving - fixed)[inside].mean()


def test_both_images_of_a_pair_lie_on_the_grid_asked_for() -> None:
    grid = oblique_grid()
    pair = known_pair(wavy_source(), grid, seed=0, warp=NO_WARP)
    for image in (pair.fixed, pair.moving):
        assert grid_of(image).shape == grid.shape
        assert np.allclose(grid_of(image).world_from_voxel, grid.world_from_voxel)
        assert image.GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize("name", ["contrast", "bias", "noise"])
def test_every_option_of_the_appearance_changes_the_moving_image(name: str) -> None:
    source, grid = wavy_source(), oblique_grid()
    pair = known_pair(source, grid, seed=1, warp=NO_WARP, appearance=replace(PLAIN, **{name: 0.3}))
    difference = sitk.GetArrayFromImage(pair.moving) - sitk.GetArrayFromImage(pair.fixed)
    assert np.abs(difference).mean() > 1.0


def test_without_warp_and_change_moving_is_fixed() -> None:
    pair = known_pair(wavy_source(), oblique_grid(), seed=1, warp=NO_WARP, appearance=PLAIN)
    assert np.allclose(sitk.GetArrayFromImage(pair.moving), sitk.GetArrayFromImage(pair.fixed), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_contrast_keeps_the_order_of_intensities(seed: int) -> None:
    appearance = replace(PLAIN, contrast=0.9)
    pair = known_pair(wavy_source(), oblique_grid(), seed=seed, warp=NO_WARP, appearance=appearance)
    fixed, moving = (sitk.GetArrayFromImage(image).flatten() for image in (pair.fixed, pair.moving))
    assert np.diff(moving[np.argsort(fixed)]).min() > -1e-2


def test_a_pair_leaves_the_source_and_the_global_random_state_alone() -> None:
    source = wavy_source()
    copy, state = sitk.GetArrayFromImage(source), torch.get_rng_state()
    known_pair(source, oblique_grid(), seed=0, warp=NO_WARP)
    assert np.array_equal(sitk.GetArrayFromImage(source), copy)
    assert torch.equal(torch.get_rng_state(), state)


def test_error_is_zero_for_the_truth_and_the_shift_for_a_shifted_truth() -> None:
    grid = oblique_grid()
    known = random_map(grid, 0, SMALL)
    mask = image_on(grid, np.ones(grid.shape, dtype=np.uint8))
    assert error_mm(known.moving_from_fixed, known, mask).max == 0.0
    shifted = both_ways(known.moving_from_fixed, sitk.TranslationTransform(3, (2.0, 1.0, -2.0)))
    error = error_mm(shifted, known, mask)
    assert (error.mean, error.p95, error.max) == pytest.approx((3.0, 3.0, 3.0))


def test_error_counts_only_the_voxels_of_the_mask() -> None:
    grid = oblique_grid()
    known = random_map(grid, 0, replace(SMALL, displacement_mm=0.0, translation_mm=0.0))
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask[9:11, 14:16, 11:13] = 1
    identity = sitk.Transform(3, sitk.sitkIdentity)
    near = error_mm(identity, known, image_on(grid, mask)).mean
    everywhere = error_mm(identity, known, image_on(grid, np.ones_like(mask))).mean
    assert near < 0.2 * everywhere


def test_error_refuses_an_empty_mask() -> None:
    grid = oblique_grid()
    known = random_map(grid, 0, NO_WARP)
    with pytest.raises(InputError, match="mask is empty"):
        error_mm(known.moving_from_fixed, known, image_on(grid, np.zeros(grid.shape, dtype=np.uint8)))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", list(WarpOptions.__dataclass_fields__))
def test_options_of_the_warp_refuse_what_is_out_of_range(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is out of range"):
        WarpOptions(**{name: value})


@pytest.mark.parametrize("name", ["contrast", "bias", "noise"])
def test_options_of_the_appearance_refuse_what_is_out_of_range(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is out of range; it must be at least 0 and at most 0.9, got 1"):
        AppearanceOptions(**{name: 1.0})


def test_a_source_of_one_value_is_refused() -> None:
    with pytest.raises(InputError, match="one value everywhere"):
        known_pair(wavy_source() * 0, oblique_grid(), seed=0, warp=NO_WARP)


def test_a_source_that_is_not_finite_is_refused() -> None:
    source = wavy_source()
    source[3, 4, 5] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        known_pair(source, oblique_grid(), seed=0, warp=NO_WARP)
