"""Masks and label images: whole numbers, brought onto the grid of their image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.label_images import checked_labels, checked_mask, looks_like_labels
from RegistrationNetLib.io.warning import DataWarning
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES, box, noise, on_grid_of, voxels

# masks and labels


@pytest.mark.parametrize("check", [checked_mask, checked_labels])
def test_a_mask_on_another_grid_is_resampled_and_said(check: Callable[..., sitk.Image]) -> None:
    image = noise((12, 12, 12))
    image.SetSpacing((2, 2, 2))
    mask = box(image, value=3)
    fine = sitk.Resample(
        mask, [24] * 3, sitk.Transform(), sitk.sitkNearestNeighbor, [one - 0.5 for one in image.GetOrigin()], [1.0] * 3
    )
    for other in (fine, sitk.Crop(mask, (2, 1, 2), (2, 3, 3)), sitk.DICOMOrient(mask, "RAI"), sitk.PermuteAxes(mask, (2, 0, 1))):
        heard: list[str] = []
        found = check(other, image, "fixed mask", heard.append)
        assert np.array_equal(voxels(found), voxels(mask))
        if other.GetSize() != mask.GetSize():
            assert "fixed mask lies on another grid than fixed" in heard[0]
            assert "was resampled to it by the nearest voxel." in heard[0]


def test_labels_lost_by_resampling_are_named() -> None:
    image = noise((12, 12, 12))
    array = np.zeros((24, 24, 24), np.uint8)
    array[6:18, 6:18, 6:18], array[3, 3, 3] = 1, 9
    labels = sitk.GetImageFromArray(array)
    labels.SetOrigin([one - 0.2 for one in image.GetOrigin()])
    labels.SetSpacing([one / 2 for one in image.GetSpacing()])
    with pytest.warns(DataWarning, match=r"nothing is left of the labels \[9\]"):
        checked_labels(labels, image, "fixed labels")


def test_a_mask_that_does_not_overlap_its_image_is_refused() -> None:
    image, mask = noise(), box(noise())
    mask.SetOrigin((1000.0, 0.0, 0.0))
    with pytest.raises(InputError, match="fixed mask does not overlap its image: none of its nonzero voxels"):
        checked_mask(mask, image, "fixed mask")


def test_a_mask_of_another_dimension_is_refused() -> None:
    with pytest.raises(InputError, match="fixed mask has 2 dimensions and its image 3"):
        checked_mask(box(noise())[:, :, 4], noise(), "fixed mask")


def test_a_mask_that_has_lost_its_geometry_is_refused() -> None:
    image, bare = noise(), sitk.GetImageFromArray(voxels(box(noise())))
    with pytest.raises(InputError, match="no place in the body .spacing 1, origin 0.*Copy the geometry of fixed"):
        checked_mask(bare, image, "fixed mask")


def test_a_mask_of_several_layers_is_their_union() -> None:
    image = noise()
    first, second = box(image), box(image, value=0)
    second[0, 0, 0] = 1
    found = voxels(checked_mask(sitk.Compose([first, second]), image, "fixed mask"))
    assert found.sum() == voxels(first).sum() + 1


def test_a_mask_of_probabilities_counts_where_it_is_likely_and_says_so() -> None:
    image, where = noise(), voxels(box(noise())) != 0
    chances = np.where(where, 0.9, 0.2).astype(np.float32)
    chances[0, 0, 0] = 0.5
    with pytest.warns(DataWarning, match=r"fixed mask holds probabilities .*where they are 0\.5 or more, [\d.]+ %"):
        found = voxels(checked_mask(on_grid_of(image, chances), image, "fixed mask"))
    assert found[0, 0, 0]
    assert np.array_equal(found.astype(bool)[where], chances[where] >= 0.5)
    assert found.sum() == where.sum() + (not where[0, 0, 0])


@pytest.mark.parametrize("largest", [1.5, -0.5])
def test_numbers_beyond_0_and_1_are_no_probabilities(largest: float) -> None:
    image = noise()
    values = np.where(voxels(box(image)) != 0, 0.5, largest).astype(np.float32)
    with pytest.raises(InputError, match="fixed mask has values that are not whole numbers"):
        checked_mask(on_grid_of(image, values), image, "fixed mask")


def test_labels_are_no_probabilities() -> None:
    image = noise()
    values = np.where(voxels(box(image)) != 0, 0.9, 0).astype(np.float32)
    with pytest.raises(InputError, match="fixed labels has values that are not whole numbers"):
        checked_labels(on_grid_of(image, values), image, "fixed labels")


def test_an_unlikely_mask_is_empty() -> None:
    image = noise()
    values = np.where(voxels(box(image)) != 0, 0.3, 0).astype(np.float32)
    with pytest.warns(DataWarning, match="probabilities"), pytest.raises(InputError, match="fixed mask is empty"):
        checked_mask(on_grid_of(image, values), image, "fixed mask")


def test_nan_in_a_mask_is_0_and_said() -> None:
    image, mask = noise(), box(noise(), dtype=np.float32)
    mask[0, 0, 0] = np.nan
    with pytest.warns(DataWarning, match="fixed mask: .* of its voxels are NaN; they count as 0"):
        found = checked_mask(mask, image, "fixed mask")
    assert np.array_equal(voxels(found), voxels(box(noise())))


def test_whole_numbers_scaled_by_a_rounded_factor_are_whole() -> None:
    mask = box(noise(), dtype=np.float64, value=255 * 0.00392157)
    assert np.array_equal(voxels(checked_mask(mask, noise(), "fixed mask")), voxels(box(noise())))


def test_a_mask_off_by_rounding_is_taken() -> None:
    image, mask = noise(), box(noise())
    mask.SetOrigin((10.001, -20.0, 30.0))
    assert checked_mask(mask, image, "fixed mask").GetSize() == image.GetSize()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="moving mask is empty; at least one voxel must be nonzero"):
        checked_mask(box(noise(), value=0), noise(), "moving mask")


@pytest.mark.parametrize("value", [0.5, np.inf, 1e12])
def test_labels_that_are_not_whole_numbers_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="fixed labels has values that are not whole numbers"):
        checked_labels(box(noise(), dtype=np.float32, value=value), noise(), "fixed labels")


def test_labels_of_several_channels_are_refused() -> None:
    with pytest.raises(InputError, match="2 values per voxel .*labels need one real number"):
        checked_labels(sitk.Compose([box(noise())] * 2), noise(), "fixed labels")


def test_whole_numbers_in_floats_are_labels() -> None:
    labels = checked_labels(box(noise(), dtype=np.float64, value=-3), noise(), "fixed labels")
    assert set(np.unique(voxels(labels)).tolist()) == {-3, 0}
    assert labels.GetPixelID() == sitk.sitkInt32


@pytest.mark.parametrize("value", [1, 7, -1])
def test_whatever_is_not_zero_counts_in_a_mask(value: int) -> None:
    image = noise()
    mask = checked_mask(box(image, dtype=np.int8, value=value), image, "fixed mask")
    found = prepared(image, QUANTILES, mask).mask
    assert found is not None
    assert np.array_equal(found[0, 0].numpy(), voxels(box(image)) == 1)


def test_a_label_map_is_known_by_its_looks() -> None:
    image = noise((20, 20, 20), dtype=np.int16)
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[3:15, 3:15, 3:15] = 1
    labels[5:10, 5:12, 5:12] = 7
    assert looks_like_labels(on_grid_of(image, labels))
    assert looks_like_labels(on_grid_of(image, labels.astype(np.float32)))
    assert not looks_like_labels(image)
    assert not looks_like_labels(on_grid_of(image, np.where(labels > 0, voxels(image), 0)))
    assert not looks_like_labels(on_grid_of(image, labels + np.float32(0.5)))
    assert not looks_like_labels(sitk.Image(3, 3, 3, sitk.sitkUInt8))
    assert not looks_like_labels(sitk.Compose([image, image]))


@pytest.mark.parametrize(("shift_mm", "is_same"), [(0.009, True), (0.02, False)])
def test_a_mask_may_be_off_by_a_hundredth_of_the_smallest_voxel_edge(shift_mm: float, *, is_same: bool) -> None:
    image = noise()
    image.SetSpacing([5.0, 1.0, 3.0])
    mask = box(image)
    mask.SetOrigin(np.add(image.GetOrigin(), [shift_mm, 0.0, 0.0]).tolist())
    heard: list[str] = []
    checked_mask(mask, image, "fixed mask", heard.append)
    assert (not heard) == is_same
