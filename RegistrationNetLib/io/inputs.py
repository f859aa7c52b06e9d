"""The border of the library: everything that comes in is read and checked here, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import interop
from ..errors import GeometryError, InputError
from ..geometry.space import grid_of
from .image_files import read_image

ImageLike = Any
"""A path, a `SimpleITK.Image` or an `itk.Image`."""

Check = Callable[[ImageLike, sitk.Image, str], sitk.Image]

MODALITIES = ("ct", "mr", "other")
SMALLEST_SIDE_VOX = 8
# Positions in DICOM files are rounded; a missing slice leaves a gap of twice the usual distance.
UNEVEN_SLICES = 1.2


@dataclass(frozen=True)
class Pair:
    """The two images with all that came with them, checked: fixed first, moving second."""

    images: tuple[sitk.Image, sitk.Image]
    modalities: tuple[str, str]
    masks: tuple[sitk.Image | None, sitk.Image | None]
    labels: tuple[sitk.Image | None, sitk.Image | None]

    @property
    def fixed(self) -> sitk.Image:
        return self.images[0]

    @property
    def moving(self) -> sitk.Image:
        return self.images[1]


def checked_pair(
    images: tuple[ImageLike, ImageLike],
    *,
    modalities: tuple[str, str],
    masks: tuple[ImageLike | None, ImageLike | None],
    labels: tuple[ImageLike | None, ImageLike | None],
) -> Pair:
    """Everything that came in, read and checked.

    Raises:
        InputError: an image, mask or label image breaks a rule; the message names it.
    """
    names = ("fixed", "moving")
    for modality in modalities:
        if modality not in MODALITIES:
            raise InputError(
                f"There is no modality {modality!r}; the modalities are {', '.join(MODALITIES)}. Choose one of them."
            )
    if (labels[0] is None) != (labels[1] is None):
        raise InputError("Labels came for one image only; the Dice term needs them for fixed and moving. Give both or neither.")
    fixed, moving = (checked_image(source, name) for source, name in zip(images, names, strict=True))
    if fixed.GetDimension() != moving.GetDimension():
        raise GeometryError(
            f"fixed has {fixed.GetDimension()} dimensions and moving {moving.GetDimension()}; both need the same. "
            "Give two slices or two volumes."
        )

    def checked(sources: Sequence[ImageLike | None], check: Check, what: str) -> tuple[sitk.Image | None, sitk.Image | None]:
        one, two = (
            None if source is None else check(source, image, f"{name} {what}")
            for source, image, name in zip(sources, (fixed, moving), names, strict=True)
        )
        return one, two

    pair = Pair((fixed, moving), modalities, checked(masks, checked_mask, "mask"), checked(labels, checked_labels, "labels"))
    _check_shared_label(*pair.labels)
    return pair


def _check_shared_label(fixed: sitk.Image | None, moving: sitk.Image | None) -> None:
    if fixed is None or moving is None:
        return
    found = [set(np.unique(sitk.GetArrayViewFromImage(one)).tolist()) for one in (fixed, moving)]
    if not found[0] & found[1] - {0}:
        raise InputError(
            "fixed labels and moving labels have no label in common; Dice needs at least one besides background (0). "
            f"Got {sorted(found[0])} and {sorted(found[1])}. Check that both use one labelling."
        )


def as_image(source: ImageLike, what: str) -> sitk.Image:
    """`source` as a SimpleITK image; `what` names it in messages ("fixed", "moving mask").

    Raises:
        InputError: neither a readable path nor an image.
    """
    if isinstance(source, sitk.Image):
        # SimpleITK ends the whole process when the voxels of one are asked for.
        if source.GetPixelIDTypeAsString().startswith("label"):
            raise InputError(f"{what} is a label map; an image of voxels is needed. Convert it by SimpleITK.LabelMapToLabel.")
        return source
    if isinstance(source, str | os.PathLike):
        return read_image(source)
    if interop.is_itk_image(source):
        return interop.simpleitk_from_itk(source)
    raise InputError(
        f"{what} is a {type(source).__name__}; a path, a SimpleITK image or an ITK image is needed. Give one of these."
    )


def checked_image(source: ImageLike, what: str) -> sitk.Image:
    """`source` as an image fit for registration.

    Raises:
        InputError: not scalar, not two- or three-dimensional, not finite, or constant.
        GeometryError: too thin, or axes that are not orthogonal.
    """
    image = as_image(source, what)
    check_geometry(image, what)
    if not _is_real_scalar(image):
        raise InputError(
            f"{what} has {image.GetNumberOfComponentsPerPixel()} values per voxel ({image.GetPixelIDTypeAsString()}); "
            "registration needs one real number. Extract one channel first."
        )
    array = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(f"{what} has {count} voxels that are NaN or infinite; all must be finite. Replace them first.")
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(f"{what} has one value everywhere ({low:g}); registration needs contrast. Check the file or the mask.")
    return image


def _is_real_scalar(image: sitk.Image) -> bool:
    return image.GetNumberOfComponentsPerPixel() == 1 and "complex" not in image.GetPixelIDTypeAsString()


def check_geometry(image: sitk.Image, what: str) -> None:
    """Refuse what no map can be defined on."""
    dim = image.GetDimension()
    if dim not in (2, 3):
        raise GeometryError(f"{what} has {dim} dimensions; two or three are needed. Extract one volume first.")
    if min(image.GetSize()) < SMALLEST_SIDE_VOX:
        size = "×".join(map(str, image.GetSize()))
        raise GeometryError(
            f"{what} is {size} voxels; every side needs at least {SMALLEST_SIDE_VOX}. "
            "Register a single slice as a two-dimensional image, or choose a thicker volume."
        )
    if not np.isfinite([*image.GetOrigin(), *image.GetSpacing()]).all():
        raise GeometryError(
            f"{what} has an origin {image.GetOrigin()} and spacing {image.GetSpacing()}; both must be finite. Repair its header."
        )
    direction = np.array(image.GetDirection()).reshape(dim, dim)
    if not np.allclose(direction.T @ direction, np.eye(dim), atol=1e-3):
        raise GeometryError(
            f"The axes of {what} are not orthogonal (singular or sheared direction matrix); they must be. "
            "Resample the image to an orthogonal grid first."
        )


def checked_mask(source: ImageLike, image: sitk.Image, what: str) -> sitk.Image:
    """A mask on the grid of `image`, nonzero where the similarity counts.

    Raises:
        InputError: another grid than the image's, or empty.
    """
    mask = checked_labels(source, image, what)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise InputError(f"{what} is empty; at least one voxel must be nonzero. Check the mask.")
    return mask


def checked_labels(source: ImageLike, image: sitk.Image, what: str) -> sitk.Image:
    """A label image (whole numbers) on the grid of `image`.

    Raises:
        InputError: another grid than the image's, or values that are not whole numbers.
    """
    labels = as_image(source, what)
    _check_same_grid(labels, image, what)
    if not _is_real_scalar(labels):
        raise InputError(
            f"{what} has {labels.GetNumberOfComponentsPerPixel()} values per voxel ({labels.GetPixelIDTypeAsString()}); "
            "labels need one real number. Extract one channel."
        )
    array = sitk.GetArrayViewFromImage(labels)
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and (array == np.round(array)).all()):
            raise InputError(
                f"{what} has values that are not whole numbers; a mask or label image needs them. Threshold it first."
            )
        labels = sitk.Cast(labels, sitk.sitkInt32)
    return labels


def _check_same_grid(other: sitk.Image, image: sitk.Image, what: str) -> None:
    owner = what.split()[0]
    if other.GetSize() != image.GetSize():
        raise InputError(
            f"{what} is {other.GetSize()} voxels and its image {image.GetSize()}; both must lie on one grid. Resample it to {owner}."
        )
    corner = np.abs(grid_of(other).world_from_unit - grid_of(image).world_from_unit).max()
    tolerance_mm = 0.01 * min(image.GetSpacing())
    if corner > tolerance_mm:
        raise InputError(
            f"{what} lies up to {corner:.3g} mm away from its image; both must lie on one grid. Resample it to {owner}."
        )
