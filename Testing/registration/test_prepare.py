"""Intensity windows, masks and labels, and the lattices that the methods see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.space import Grid, grid_of
from RegistrationNetLib.io.inputs import (
    checked_image,
)
from RegistrationNetLib.registration.prepare import Preparation, Prepared, prepared, prepared_pair, resized
from RegistrationNetLib.registration.volume import Intensity, scaled, window_of

from ..strategies import images, rotation
from ..volumes import QUANTILES, SHAPE, box, noise, on_grid_of, pair_of, state, voxels

# intensity windows


def windowed(values: torch.Tensor, intensity: Intensity) -> torch.Tensor:
    return scaled(values, window_of(values.numpy(), intensity))


def test_ct_is_cut_to_its_window() -> None:
    values = torch.tensor([-3000.0, -1000.0, -500.0, 0.0, 1000.0, 4000.0])
    assert windowed(values, {"window": [-1000, 1000]}).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert values[0] == -3000


@given(seed=st.integers(0, 99), size=st.integers(50, 700), quantiles=st.sampled_from([(0.01, 0.99), (0.0, 0.99), (0.0, 1.0)]))
def test_the_window_ends_at_the_quantiles_as_unigradicon_counts_them(
    seed: int, size: int, quantiles: tuple[float, float]
) -> None:
    unigradicon = pytest.importorskip("unigradicon")
    values = torch.as_tensor(np.random.default_rng(seed).normal(size=size) ** 3)
    low, high = (unigradicon.quantile(values, q) for q in quantiles)
    expected = ((values - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(windowed(values, {"quantiles": quantiles}), expected, atol=1e-12, rtol=0)


def test_the_largest_value_becomes_the_scaled_maximum_and_zero_stays() -> None:
    values = windowed(torch.tensor([0.0, 30.0, 60.0]), {"scaled_maximum": 0.9})
    torch.testing.assert_close(values, torch.tensor([0.0, 0.45, 0.9]))


def test_an_image_of_few_bright_voxels_keeps_its_contrast() -> None:
    array = np.zeros((20, 20), dtype=np.float32)
    array[3, 4] = 50.0
    assert float(prepared(sitk.GetImageFromArray(array), QUANTILES).values.max()) == 1.0


@pytest.mark.parametrize(
    "array",
    [
        1e9 + np.random.default_rng(0).random(SHAPE),
        2**53 + np.random.default_rng(0).integers(0, 100, SHAPE),
        1e300 * np.random.default_rng(0).random(SHAPE),
        np.float32(3e38) * (2 * np.random.default_rng(0).random(SHAPE, dtype=np.float32) - 1),
    ],
)
def test_extreme_intensities_keep_their_contrast(array: NDArray[np.generic]) -> None:
    values = prepared(checked_image(sitk.GetImageFromArray(array), "fixed"), QUANTILES).values
    assert (float(values.min()), float(values.max())) == (0.0, 1.0)
    assert 0.2 < float(values.std()) < 0.4


def test_no_contrast_within_the_window_is_refused() -> None:
    bright = on_grid_of(noise(), voxels(noise()) + 2000)
    with pytest.raises(InputError, match=r"no contrast within the window \[-1000, 1000\].*Check the modality"):
        prepared(bright, {"window": [-1000, 1000]})
    with pytest.raises(InputError, match=r"no contrast within the window \[5, 5\]"):
        windowed(torch.full((9,), 5.0), QUANTILES)


# what the methods see


@given(fixed=images(min_size=8, max_size=10), moving=images(min_size=8, max_size=10, max_degrees=40))
@settings(max_examples=15)
def test_moving_comes_in_the_axes_of_fixed_and_no_voxel_moves(fixed: sitk.Image, moving: sitk.Image) -> None:
    before = state(fixed), state(moving)
    mask, labels = box(moving), box(moving, dtype=np.int16, value=-4)
    pair = pair_of(fixed, moving, masks=(None, mask), labels=(box(fixed, dtype=np.int16, value=-4), labels))
    still, found = prepared_pair(pair, Preparation({"other": QUANTILES}))
    assert np.array_equal(still.grid.world_from_voxel, grid_of(fixed).world_from_voxel)
    cosines = unit_columns(still.grid).T @ unit_columns(found.grid)
    assert max(abs(np.diag(cosines, k=k)).max() for k in (-2, -1, 1, 2)) <= abs(np.diag(cosines)).max()
    assert np.diag(cosines).sum() == pytest.approx(best_trace(fixed, moving))
    # Every voxel is where it was: its value, mask and label are those of moving at its place in the world.
    assert found.mask is not None
    assert found.labels is not None
    window = windowed(torch.as_tensor(voxels(moving)).double(), QUANTILES).float().numpy()
    for voxel in np.ndindex(*found.grid.shape):
        if sum(voxel) % 7 == 0:
            place = found.grid.world_from_voxel @ (*voxel, 1.0)
            index = moving.TransformPhysicalPointToIndex(place[:-1].tolist())[::-1]
            assert float(found.values[0, 0][voxel]) == window[index]
            assert bool(found.mask[0, 0][voxel]) == bool(voxels(mask)[index])
            assert int(found.labels[0, 0][voxel]) == voxels(labels)[index]
    assert (state(fixed), state(moving)) == before


def unit_columns(grid: Grid) -> NDArray[np.floating]:
    return grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)


def best_trace(fixed: sitk.Image, moving: sitk.Image) -> float:
    """The largest sum of cosines over all ways to permute and flip the axes of moving."""
    cosines = abs(unit_columns(grid_of(fixed)).T @ unit_columns(grid_of(moving)))
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(sum(cosines[axis, order[axis]] for axis in range(3)) for order in orders)


def ramp_on(grid: Grid, slope: Sequence[float]) -> torch.Tensor:
    """slope · world position, at every voxel: [1, 1, *shape]."""
    index = np.indices(grid.shape).reshape(grid.dim, -1)
    world = grid.world_from_voxel @ np.vstack([index, np.ones_like(index[:1])])
    return torch.as_tensor((np.asarray(slope) @ world[:-1]).reshape(1, 1, *grid.shape), dtype=torch.float32)


@pytest.mark.parametrize("dim", [2, 3])
def test_carried_keeps_the_world_and_counts_only_where_there_are_voxels(dim: int) -> None:
    grid = grid_of(noise(SHAPE[:dim]))
    slope = (0.1, -0.2, 0.3)[:dim]
    labels = torch.zeros(1, 1, *grid.shape, dtype=torch.int64)
    labels[..., 4:] = 2**40 + 1
    mask = torch.ones(1, 1, *grid.shape, dtype=torch.bool)
    mask[..., :2] = False
    turned = np.eye(dim + 1)
    turned[:dim, :dim] = rotation(dim, (10.0, 5.0, -5.0))
    turned[:dim, dim] = 1.0
    target = Grid(tuple(size + 3 for size in grid.shape), turned @ grid.world_from_voxel)
    whole = Prepared(ramp_on(grid, slope), grid, labels=labels)
    found = whole.carried(target)
    assert found.grid is target
    assert found.mask is not None
    assert found.labels is not None
    # Within the outermost voxel centres the ramp is exact; half a voxel beyond still counts.
    voxel = np.linalg.inv(grid.world_from_voxel) @ target.world_from_voxel
    index = np.indices(target.shape).reshape(dim, -1)
    place = (voxel @ np.vstack([index, np.ones_like(index[:1])]))[:-1]
    top = np.array(grid.shape)[:, None] - 1
    within = ((place >= 0) & (place <= top)).all(axis=0).reshape(target.shape)
    counted = ((place >= -0.5) & (place <= top + 0.5)).all(axis=0).reshape(target.shape)
    assert counted.any()
    assert not counted.all()
    np.testing.assert_allclose(found.values[0, 0].numpy()[within], ramp_on(target, slope)[0, 0].numpy()[within], atol=1e-3)
    assert np.array_equal(found.mask[0, 0].numpy(), counted)
    nearest = tuple(np.clip(np.rint(place), 0, top).astype(int))
    expected = np.where(counted, labels[0, 0].numpy()[nearest].reshape(target.shape), 0)
    assert np.mean(found.labels[0, 0].numpy() == expected) > 0.999  # a tie of nearest voxels may fall either way
    masked = Prepared(whole.values, grid, mask).carried(target).mask
    assert masked is not None
    assert np.array_equal(masked[0, 0].numpy(), counted & mask[0, 0].numpy()[nearest].reshape(target.shape))


def test_carried_to_its_own_grid_is_the_same() -> None:
    image = prepared(noise(), QUANTILES, box(noise()), box(noise(), dtype=np.int16, value=5))
    found = image.carried(image.grid)
    assert image.mask is not None
    assert image.labels is not None
    assert torch.allclose(found.values, image.values, atol=1e-5)
    assert torch.equal(found.mask, image.mask)
    assert torch.equal(found.labels, image.labels)
    assert prepared(noise(), QUANTILES).carried(image.grid).mask is None


def test_resized_covers_the_same_extent_and_leaves_coarse_axes_alone() -> None:
    image = noise((32, 30, 16))
    image.SetSpacing((5.0, 2.0, 1.0))
    small = resized(prepared(image, QUANTILES, box(image)), 4.0)
    assert small.grid.shape == (8, 15, 16)
    for corner in (-0.5, 0.5):
        edges = [corner + 0.5] * 3
        place, expected = (
            one.world_from_voxel @ np.append(np.array(edges) * np.array(one.shape) - 0.5, 1.0)
            for one in (small.grid, grid_of(image))
        )
        np.testing.assert_allclose(place, expected)
    assert float(small.values.mean()) == pytest.approx(float(prepared(image, QUANTILES).values.mean()), abs=0.02)
    assert small.mask is not None
    assert 0 < int(small.mask.sum()) < small.mask.numel()


def test_resized_is_never_thinner_than_8_nor_finer_than_it_was() -> None:
    image = prepared(noise((40, 9, 8)), QUANTILES)
    assert resized(image, 1000.0).grid.shape == (8, 8, 8)
    assert resized(image, 0.1).grid.shape == (40, 9, 8)


def test_a_mask_too_small_for_the_coarse_lattice_keeps_its_place() -> None:
    image = noise((32, 32, 32))
    point = np.zeros((32, 32, 32), dtype=np.uint8)
    point[16, 16, 16] = 1
    small = resized(prepared(image, QUANTILES, on_grid_of(image, point)), 8.0)
    assert small.grid.shape == (10, 8, 8)
    assert small.mask is not None
    found = small.mask[0, 0].nonzero().double().mean(0).numpy()
    place = small.grid.world_from_voxel @ np.append(found, 1.0)
    np.testing.assert_allclose(place[:-1], image.TransformIndexToPhysicalPoint((16, 16, 16)), atol=4.0)


def test_everything_moves_to_a_device_together() -> None:
    image = prepared(noise(), QUANTILES, box(noise()), box(noise()))
    moved = image.to(torch.device("meta"))
    assert {moved.values.device.type, moved.mask.device.type, moved.labels.device.type} == {"meta"}  # type: ignore[union-attr]
    assert moved.grid is image.grid
    assert image.values.device.type == "cpu"
