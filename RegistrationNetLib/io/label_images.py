"""Masks and label images: whole numbers, brought onto the grid of the image that they belong to."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry.space import grid_of
from .image_sources import ImageLike, as_image
from .warning import Warn, python_warning

# Of the smallest spacing: grids that differ by less are one grid with rounding.
SAME_GRID = 0.01
# Scaled by a rounded factor, whole numbers come out as near to whole ones as this.
WHOLE_WITHIN = 1e-3
# A mask of probabilities counts from here on.
PROBABLE = 0.5
# Among so many values at most, and so many equal neighbours at least, an image looks like a label map.
MOST_LABELS, EQUAL_NEIGHBOURS = 500, 0.95


def is_real_scalar(image: sitk.Image) -> bool:
    """Whether each voxel is one real number."""
    return image.GetNumberOfComponentsPerPixel() == 1 and "complex" not in image.GetPixelIDTypeAsString()


def checked_mask(source: ImageLike, image: sitk.Image, what: str, warn: Warn = python_warning) -> sitk.Image:
    """A mask on the grid of `image`, nonzero where the similarity counts; of a segmentation in layers, the union of these.

    Probabilities (some number between 0 and 1, and none beyond) count from `PROBABLE` on.

    Args:
        warn: hears if it holds probabilities, and if it lay on another grid and was resampled.

    Raises:
        InputError: no mask, empty, or without overlap with its image.
    """
    mask = as_image(source, what, warn)
    if "vector" in mask.GetPixelIDTypeAsString():
        union = (sitk.GetArrayViewFromImage(mask) != 0).any(axis=-1).astype(np.uint8)
        layers, mask = mask, sitk.GetImageFromArray(union)
        mask.CopyInformation(layers)
    mask = checked_labels(_probable(mask, what, warn), image, what, warn)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(f"{what} is empty; at least one voxel must be nonzero. Check the mask.")
    return mask


def _probable(mask: sitk.Image, what: str, warn: Warn) -> sitk.Image:
    """1 where a map of probabilities says that it is likely, 0 elsewhere; any other image as it is."""
    values = sitk.GetArrayViewFromImage(mask)
    if not is_real_scalar(mask) or not np.issubdtype(values.dtype, np.floating) or np.isnan(values).all():
        return mask
    is_whole = np.abs(values - np.round(values)) <= WHOLE_WITHIN
    if (is_whole | np.isnan(values)).all() or not 0 <= np.nanmin(values) <= np.nanmax(values) <= 1 + WHOLE_WITHIN:
        return mask
    likely = values >= PROBABLE
    warn(
        f"{what} holds probabilities (numbers between 0 and 1); it was taken where they are {PROBABLE:g} or more, {_share(likely)}."
    )
    made = sitk.GetImageFromArray(np.where(np.isnan(values), np.nan, likely).astype(np.float32))
    made.CopyInformation(mask)
    return made


def checked_labels(source: ImageLike, image: sitk.Image, what: str, warn: Warn = python_warning) -> sitk.Image:
    """A label image (whole numbers) on the grid of `image`.

    Args:
        warn: hears if it lay on another grid and was resampled, and of NaN that became 0.

    Raises:
        InputError: values that are not whole numbers, or no overlap with its image.
    """
    labels = as_image(source, what, warn)
    if not is_real_scalar(labels):
        raise InputError(
            f"{what} has {labels.GetNumberOfComponentsPerPixel()} values per voxel ({labels.GetPixelIDTypeAsString()}); "
            "labels need one real number. Extract one channel (of a segmentation whose segments overlap, export one layer)."
        )
    return _on_grid_of(_whole_numbers(labels, what, warn), image, what, warn)


def _whole_numbers(labels: sitk.Image, what: str, warn: Warn) -> sitk.Image:
    array = sitk.GetArrayViewFromImage(labels)
    if not np.issubdtype(array.dtype, np.floating):
        return labels
    missing = np.isnan(array)
    if missing.any():
        warn(f"{what}: {_share(missing)} of its voxels are NaN; they count as 0.")
        array = np.where(missing, 0, array)
    rounded = np.round(array)
    if not np.isfinite(array).all() or (np.abs(array - rounded) > WHOLE_WITHIN).any() or np.abs(rounded).max() >= 2**31:
        raise InputError(f"{what} has values that are not whole numbers; a mask or label image needs them. Threshold it first.")
    whole = sitk.GetImageFromArray(rounded.astype(np.int32))
    whole.CopyInformation(labels)
    return whole


def _share(chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    return f"{100 * chosen.mean():.3g} %"


def _on_grid_of(labels: sitk.Image, image: sitk.Image, what: str, warn: Warn) -> sitk.Image:
    """The labels by the nearest voxel on the grid of the image, which is 0 where they do not reach."""
    owner = what.split()[0]
    if labels.GetDimension() != image.GetDimension():
        raise InputError(
            f"{what} has {labels.GetDimension()} dimensions and its image {image.GetDimension()}; both need the same. "
            f"Give one that was drawn on {owner}."
        )
    is_same_size = labels.GetSize() == image.GetSize()
    apart_mm = np.abs(grid_of(labels).world_from_unit - grid_of(image).world_from_unit).max()
    if is_same_size and apart_mm <= SAME_GRID * min(image.GetSpacing()):
        return labels
    if is_same_size and _has_no_geometry(labels):
        raise InputError(
            f"{what} has as many voxels as its image, but no place in the body (spacing 1, origin 0), {apart_mm:.3g} mm from its image; "
            f"it must lie where {owner} lies. Copy the geometry of {owner} to it (SimpleITK: CopyInformation)."
        )
    moved = sitk.Resample(labels, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, labels.GetPixelID())
    before, after = (np.unique(sitk.GetArrayViewFromImage(one)) for one in (labels, moved))
    if before.any() and not after.any():
        raise InputError(
            f"{what} does not overlap its image: none of its nonzero voxels lies in {owner}; some must. Check that it belongs to {owner}."
        )
    lost = sorted(set(before.tolist()) - set(after.tolist()) - {0})
    warn(
        f"{what} lies on another grid than {owner} ({_grid_words(labels)} instead of {_grid_words(image)}) and was resampled to it "
        f"by the nearest voxel{f'; nothing is left of the labels {lost}' if lost else ''}."
    )
    return moved


def _has_no_geometry(image: sitk.Image) -> bool:
    dim = image.GetDimension()
    return (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()) == (
        *[1.0] * dim,
        *[0.0] * dim,
        *np.eye(dim).flatten(),
    )


def _grid_words(image: sitk.Image) -> str:
    size = "×".join(map(str, image.GetSize()))
    return f"{size} voxels of {'×'.join(f'{value:.3g}' for value in image.GetSpacing())} mm"


def looks_like_labels(image: sitk.Image) -> bool:
    """Whether an image is a label map by its looks: few whole numbers, most neighbours equal."""
    array = sitk.GetArrayViewFromImage(image)
    if not is_real_scalar(image) or array.size < 2 or not np.isfinite(array).all() or (array != np.round(array)).any():
        return False
    values = np.unique(array)
    if not 2 <= len(values) <= MOST_LABELS:
        return False
    shares = [(np.diff(array, axis=axis) == 0).mean() for axis in range(array.ndim) if array.shape[axis] > 1]
    return float(np.mean(shares)) >= EQUAL_NEIGHBOURS
