"""Everything that comes in is checked here, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import SimpleITK as sitk

from ..choices import SMALLEST_SIDE_VOX
from ..errors import GeometryError, InputError
from .image_sources import ImageLike, as_image
from .label_images import checked_labels, checked_mask, is_real_scalar
from .mr_weighting import weighting_of
from .warning import Warn, python_warning

Check = Callable[[ImageLike, sitk.Image, str], sitk.Image]


@dataclass(frozen=True)
class Pair:
    """The two images with all that came with them, checked: fixed first, moving second.

    `weightings` tells how MR images are weighted, as their headers say; "" where they say nothing.
    """

    images: tuple[sitk.Image, sitk.Image]
    modalities: tuple[str, str]
    masks: tuple[sitk.Image | None, sitk.Image | None]
    labels: tuple[sitk.Image | None, sitk.Image | None]
    weightings: tuple[str, str] = ("", "")

    @property
    def fixed(self) -> sitk.Image:
        """The fixed image."""
        return self.images[0]

    @property
    def moving(self) -> sitk.Image:
        """The moving image."""
        return self.images[1]


def checked_pair(
    images: tuple[ImageLike, ImageLike],
    *,
    modalities: tuple[str, str],
    masks: tuple[ImageLike | None, ImageLike | None],
    labels: tuple[ImageLike | None, ImageLike | None],
    warn: Warn = python_warning,
) -> Pair:
    """Everything that came in, read and checked.

    Args:
        modalities: as `image_sources.modality_of` gives them.
        warn: hears what was read with a doubt.

    Raises:
        InputError: an image, mask or label image breaks a rule; the message names it.
    """
    names = ("fixed", "moving")
    if (labels[0] is None) != (labels[1] is None):
        raise InputError("Labels came for one image only; the Dice term needs them for fixed and moving. Give both or neither.")
    fixed, moving = (checked_image(source, name, warn) for source, name in zip(images, names, strict=True))
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

    pair = Pair(
        (fixed, moving),
        modalities,
        checked(masks, partial(checked_mask, warn=warn), "mask"),
        checked(labels, partial(checked_labels, warn=warn), "labels"),
        # Kept apart from the images: what makes new ones of them keeps nothing of a header but the geometry.
        (_weighting(fixed, modalities[0]), _weighting(moving, modalities[1])),
    )
    _check_shared_label(*pair.labels)
    return pair


def _weighting(image: sitk.Image, modality: str) -> str:
    return weighting_of(image) if modality == "mr" else ""


def _check_shared_label(fixed: sitk.Image | None, moving: sitk.Image | None) -> None:
    if fixed is None or moving is None:
        return
    found = [set(np.unique(sitk.GetArrayViewFromImage(one)).tolist()) for one in (fixed, moving)]
    if not found[0] & found[1] - {0}:
        raise InputError(
            "fixed labels and moving labels have no label in common; Dice needs at least one besides background (0). "
            f"Got {sorted(found[0])} and {sorted(found[1])}. Check that both use one labelling."
        )


def checked_image(source: ImageLike, what: str, warn: Warn = python_warning) -> sitk.Image:
    """`source` as an image fit for registration.

    Args:
        warn: hears of NaN, which become the smallest value.

    Raises:
        InputError: not scalar, not two- or three-dimensional, infinite, or constant.
        GeometryError: too thin, or axes that are not orthogonal.
    """
    image = as_image(source, what, warn)
    check_geometry(image, what)
    if not is_real_scalar(image):
        raise InputError(
            f"{what} has {image.GetNumberOfComponentsPerPixel()} values per voxel ({image.GetPixelIDTypeAsString()}); "
            "registration needs one real number. Extract one channel first."
        )
    image = _finite(image, what, warn)
    array = sitk.GetArrayViewFromImage(image)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(f"{what} has one value everywhere ({low:g}); registration needs contrast. Check the file or the mask.")
    return image


def _finite(image: sitk.Image, what: str, warn: Warn) -> sitk.Image:
    """The image, with the smallest value where there is none (NaN, as programs write outside of a brain)."""
    array = sitk.GetArrayViewFromImage(image)
    if not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all():
        return image
    if infinite := int(np.isinf(array).sum()):
        raise InputError(f"{what} has {infinite} voxels that are infinite; all must be finite. Replace them first.")
    missing = np.isnan(array)
    if missing.all():
        raise InputError(f"{what} has no voxel with a value (all are NaN); registration needs contrast. Check the file.")
    smallest = np.nanmin(array)
    warn(
        f"{what}: {100 * missing.mean():.3g} % of its voxels are NaN (no value); they were taken as its smallest value, {smallest:g}."
    )
    filled = sitk.GetImageFromArray(np.where(missing, smallest, array).astype(array.dtype))
    filled.CopyInformation(image)
    return filled


def check_geometry(image: sitk.Image, what: str) -> None:
    """Refuse what no map can be defined on."""
    dim = image.GetDimension()
    if dim not in (2, 3):
        raise GeometryError(f"{what} has {dim} dimensions; two or three are needed. Extract one volume first.")
    if min(image.GetSize()) < SMALLEST_SIDE_VOX:
        size = "×".join(map(str, image.GetSize()))
        raise GeometryError(
            f"{what} is {size} voxels; every side needs at least {SMALLEST_SIDE_VOX}. "
            "Give the folder of the series if this is one slice of it, a single slice as a two-dimensional image, or a thicker volume."
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
