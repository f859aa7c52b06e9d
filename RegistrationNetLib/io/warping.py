"""An image carried onto the grid of another by a transform."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import InputError

# float32 holds every value of these; wider ones go through float64, which holds whole numbers up to 2⁵³.
_NARROW = {sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkFloat32}
_WIDE = {sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat64}
# Keys that ITK's readers set of themselves.
_OF_READERS = ("ITK_", "NRRD_")
_REAL = {sitk.sitkFloat32, sitk.sitkFloat64}


def warp_series(image: sitk.Image, like: sitk.Image, transform: sitk.Transform, *, labels: bool = False) -> sitk.Image:
    """As `warp_image`, for volumes and series of volumes alike: each volume of a series (4-D) is warped; metadata come along.

    A series keeps its times; of a `like` that is a series the first volume's grid is taken.

    Raises:
        InputError: as for `warp_image`.
    """
    like = like[..., 0] if like.GetDimension() == 4 else like
    if image.GetDimension() != 4 or transform.GetDimension() != 3:
        warped = warp_image(image, like, transform, labels=labels)
    else:
        volumes = [warp_image(image[..., moment], like, transform, labels=labels) for moment in range(image.GetSize()[3])]
        warped = sitk.JoinSeries(volumes, image.GetOrigin()[3], image.GetSpacing()[3])
    for key, value in kept_metadata(image, warped).items():
        warped.SetMetaData(key, value)
    return warped


def kept_metadata(image: sitk.Image, warped: sitk.Image) -> dict[str, str]:
    """What the header of `image` says beside its geometry, as for `warped`: names of segments, whose extents are those of the new grid.

    Of NIfTI and DICOM nothing is kept: their headers speak of the old grid.
    """
    kept = {
        key: image.GetMetaData(key)
        for key in image.GetMetaDataKeys()
        if not key.startswith(_OF_READERS) and "|" not in key and not image.HasMetaDataKey("nifti_type")
    }
    whole = " ".join(f"0 {size - 1}" for size in warped.GetSize()[:3])
    for key in kept:
        if key.startswith("Segment") and key.endswith("_Extent"):
            kept[key] = whole
        if key == "Segmentation_ReferenceImageExtentOffset":
            kept[key] = "0 0 0"
    return kept


def warp_image(image: sitk.Image, like: sitk.Image, transform: sitk.Transform, *, labels: bool = False) -> sitk.Image:
    """`image` seen on the grid of `like`, with its own pixel type; of `like` only the grid is read.

    Images are interpolated linearly and rounded to the nearest whole number where the pixel type asks for it; outside
    the image the value is its minimum. Labels take the nearest voxel, 0 outside. Channels (RGB, vectors) are warped one by one.

    Args:
        transform: from points of `like` to points of `image`, LPS mm, as in `transform.h5` of a registration.

    Raises:
        InputError: dimensions differ, or the pixels are neither numbers nor vectors of numbers.
    """
    _check_dimensions(image, like, transform)
    channels = image.GetNumberOfComponentsPerPixel()
    if "vector" in image.GetPixelIDTypeAsString():
        parts = [sitk.VectorIndexSelectionCast(image, channel) for channel in range(channels)]
        return sitk.Compose([warp_image(part, like, transform, labels=labels) for part in parts])
    pixel = image.GetPixelID()
    if pixel not in _NARROW | _WIDE:
        raise InputError(
            f"Cannot warp an image of {image.GetPixelIDTypeAsString()}; pixels must be numbers or vectors of numbers. "
            "Convert the image first."
        )
    if labels:
        return sitk.Resample(image, like, transform, sitk.sitkNearestNeighbor, 0.0, pixel)
    exact = pixel if pixel in _REAL else sitk.sitkFloat32 if pixel in _NARROW else sitk.sitkFloat64
    warped = sitk.Resample(image, like, transform, sitk.sitkLinear, _minimum(image), exact)
    # SimpleITK cuts the fraction off when it writes whole numbers: 1.9 would become 1.
    return warped if exact == pixel else sitk.Cast(sitk.Round(warped), pixel)


def _minimum(image: sitk.Image) -> float:
    """The smallest value of `image` that is a number."""
    return float(np.fmin.reduce(sitk.GetArrayViewFromImage(image), axis=None))


def _check_dimensions(image: sitk.Image, like: sitk.Image, transform: sitk.Transform) -> None:
    dimensions = {"image": image.GetDimension(), "grid": like.GetDimension(), "transform": transform.GetDimension()}
    if len(set(dimensions.values())) > 1:
        came = ", ".join(f"{what} {dim}-D" for what, dim in dimensions.items())
        raise InputError(f"Image, grid and transform differ in dimension; they must agree. Here: {came}. Check the three files.")
