"""An image carried onto the grid of another by a transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..choices import INTERPOLATIONS
from ..errors import InputError
from ..geometry.deformation import sample
from ..geometry.space import grid_of, slab_of, slabs
from ..geometry.transform_slabs import WorldMap
from .native_paths import printable

# Voxels that are warped at a time: thick slabs, as what a tilted one needs of the image is converted for each of them.
SLAB_VOXELS = 2**22
LEAST_SHARE = 1e-4

# float32 holds every value of these; wider ones go through float64, which holds whole numbers up to 2⁵³.
_NARROW = {sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkFloat32}
_WIDE = {sitk.sitkUInt32, sitk.sitkInt32, sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat64}
_BY_ITK = {"bspline": sitk.sitkBSpline, "label-gaussian": sitk.sitkLabelGaussian}
# Keys that ITK's readers set of themselves.
_OF_READERS = ("ITK_", "NRRD_")


@dataclass(frozen=True)
class Reading:
    """How values are read from an image.

    Attributes:
        interpolation: between voxels, one of `choices.INTERPOLATIONS`. "label-gaussian" takes the label that has the most weight around,
            which gives smoother borders than the nearest voxel.
        fill: the value outside; None is 0 for labels ("nearest", "label-gaussian"), else the image's minimum.

    Raises:
        InputError: there is no such interpolation.
    """

    interpolation: str = "linear"
    fill: float | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"There is no interpolation {self.interpolation!r}; there are {', '.join(INTERPOLATIONS)}. Choose one of them."
            )

    @property
    def is_of_labels(self) -> bool:
        """Whether values are taken as they are, never mixed."""
        return self.interpolation in ("nearest", "label-gaussian")


IMAGE, LABELS = Reading(), Reading("nearest")


def warp_series(image: sitk.Image, like: sitk.Image, transform: sitk.Transform, reading: Reading = IMAGE) -> sitk.Image:
    """As `warp_image`, for volumes and series of volumes alike: each volume of a series (4-D) is warped; metadata come along.

    A series keeps its times; of a `like` that is a series the first volume's grid is taken.

    Raises:
        InputError: as for `warp_image`.
    """
    like = like[..., 0] if like.GetDimension() == 4 else like
    if image.GetDimension() != 4 or transform.GetDimension() != 3:
        warped = warp_image(image, like, transform, reading)
    else:
        volumes = [warp_image(image[..., moment], like, transform, reading) for moment in range(image.GetSize()[3])]
        warped = sitk.JoinSeries(volumes, image.GetOrigin()[3], image.GetSpacing()[3])
    for key, value in kept_metadata(image, warped).items():
        warped.SetMetaData(key, value)
    return warped


def kept_metadata(image: sitk.Image, warped: sitk.Image) -> dict[str, str]:
    """What the header of `image` says beside its geometry, as for `warped`: names of segments, whose extents are those of the new grid.

    Of NIfTI and DICOM nothing is kept: their headers speak of the old grid.
    """
    kept = {
        printable(key): printable(image.GetMetaData(key))
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


def warp_image(image: sitk.Image, like: sitk.Image, transform: sitk.Transform, reading: Reading = IMAGE) -> sitk.Image:
    """`image` seen on the grid of `like`, with its own pixel type; of `like` only the grid is read.

    Values are rounded to the nearest whole number that the pixel type holds, where it asks for one. Channels (RGB, vectors) are
    warped one by one. Beside image and result only a slab is held, but for "bspline", whose coefficients are another image.

    Args:
        transform: from points of `like` to points of `image`, LPS mm, as in `transform.h5` of a registration.

    Raises:
        InputError: dimensions differ, the pixels are neither numbers nor vectors of numbers, or the value outside is none of theirs.
    """
    _check_dimensions(image, like, transform)
    channels = image.GetNumberOfComponentsPerPixel()
    if "vector" in image.GetPixelIDTypeAsString():
        parts = [sitk.VectorIndexSelectionCast(image, channel) for channel in range(channels)]
        return sitk.Compose([warp_image(part, like, transform, reading) for part in parts])
    pixel = image.GetPixelID()
    if pixel not in _NARROW | _WIDE:
        raise InputError(
            f"Cannot warp an image of {image.GetPixelIDTypeAsString()}; pixels must be numbers or vectors of numbers. "
            "Convert the image first."
        )
    values, grid, source, outside = sitk.GetArrayViewFromImage(image), grid_of(like), grid_of(image), _outside(image, reading)
    _check_fill(outside, values.dtype)
    if reading.interpolation in _BY_ITK:
        return _resampled_by_itk(image, like, transform, reading.interpolation, outside)
    # Labels are not mixed, so that only their places count, to the last digit.
    dtype = torch.float64 if reading.is_of_labels or pixel in _WIDE else torch.float32
    seen = _nearest if reading.is_of_labels else _linear
    world_map, warped = WorldMap.of(transform, dtype), np.empty(grid.shape, dtype=values.dtype)
    for layers in slabs(grid, SLAB_VOXELS):
        places = world_map.voxels(source, slab_of(grid, layers))
        warped[layers] = seen(values, places.to(dtype), outside)
    # The geometry of `like` itself, not that of its grid, which has rounded.
    result = sitk.GetImageFromArray(warped)
    result.CopyInformation(like)
    return result


def _inside(places: Tensor, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which `places` [1, dim, *any], in voxels, lie within an image of `shape`, half a voxel around counted in: [*any]."""
    inside = torch.ones(places.shape[2:], dtype=torch.bool)
    for place, size in zip(places[0], shape, strict=True):
        inside &= (place >= -0.5) & (place <= size - 0.5)
    return inside.numpy()


def _nearest(values: NDArray[Any], places: Tensor, outside: float) -> NDArray[Any]:
    """The voxels nearest to `places`."""
    index = [
        (place + 0.5).floor_().clamp_(0, size - 1).long().numpy() for place, size in zip(places[0], values.shape, strict=True)
    ]
    found = values[tuple(index)]
    found[~_inside(places, values.shape)] = outside
    return found


def _linear(values: NDArray[Any], places: Tensor, outside: float) -> NDArray[Any]:
    """The values at `places`, between the voxels around each; rounded where they are whole numbers."""
    inside = _inside(places, values.shape)
    first = places[0, 0].clamp(0, values.shape[0] - 1)
    low, high = int(first.min()), min(int(first.max()) + 2, values.shape[0])
    # Two layers at least, as an axis of one has no length.
    low = max(0, min(low, high - 2))
    part = torch.from_numpy(values[low:high].astype(_numpy_type(places.dtype)))[None, None]
    start = places.new_tensor([low, *[0.0] * (values.ndim - 1)])
    lengths = places.new_tensor([max(size - 1, 1) for size in part.shape[2:]])
    column = (1, -1, *(1,) * (places.dim() - 2))
    places = (places - start.view(column)) / lengths.view(column)
    missing = torch.isnan(part)
    found = sample(part.masked_fill(missing, 0.0), places)[0, 0].numpy()
    if np.issubdtype(values.dtype, np.integer):
        found = np.floor(found + 0.5)
    elif bool(missing.any()):
        # What is no number counts where it has a share, not where its share is 0.
        found[sample(missing.to(part), places)[0, 0].numpy() > LEAST_SHARE] = np.nan
    found[~inside] = outside
    return found


def _resampled_by_itk(
    image: sitk.Image, like: sitk.Image, transform: sitk.Transform, interpolation: str, outside: float
) -> sitk.Image:
    """What ITK interpolates. B-splines swing beyond the values around an edge: what the pixel type cannot hold becomes its end."""
    values = sitk.GetArrayViewFromImage(image)
    if interpolation == "bspline" and np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise InputError(
            "The image has voxels that are no finite number; B-splines need a value everywhere, as one voxel counts in all. "
            "Replace them first, or take the interpolation linear."
        )
    whole = interpolation == "bspline" and np.issubdtype(values.dtype, np.integer)
    seen = sitk.Resample(sitk.Cast(image, sitk.sitkFloat64) if whole else image, like, transform, _BY_ITK[interpolation], outside)
    if not whole:
        return seen
    limits = np.iinfo(values.dtype)
    rounded = np.floor(sitk.GetArrayFromImage(seen) + 0.5).clip(limits.min, limits.max).astype(values.dtype)
    result = sitk.GetImageFromArray(rounded)
    result.CopyInformation(like)
    return result


def _outside(image: sitk.Image, reading: Reading) -> float:
    """The value where there is no image."""
    if reading.fill is not None:
        return reading.fill
    return 0.0 if reading.is_of_labels else _minimum(image)


def _check_fill(fill: float, dtype: np.dtype[Any]) -> None:
    """Refuse a value that a pixel cannot have."""
    if not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    if not (float(fill).is_integer() and limits.min <= fill <= limits.max):
        raise InputError(
            f"The value outside is {fill:g}; pixels of {dtype} are whole numbers from {limits.min} to {limits.max}. Choose one of them."
        )


def _numpy_type(dtype: torch.dtype) -> type[np.floating[Any]]:
    return np.float64 if dtype == torch.float64 else np.float32


def _minimum(image: sitk.Image) -> float:
    """The smallest value of `image` that is a number."""
    return float(np.fmin.reduce(sitk.GetArrayViewFromImage(image), axis=None))


def _check_dimensions(image: sitk.Image, like: sitk.Image, transform: sitk.Transform) -> None:
    dimensions = {"image": image.GetDimension(), "grid": like.GetDimension(), "transform": transform.GetDimension()}
    if len(set(dimensions.values())) > 1:
        came = ", ".join(f"{what} {dim}-D" for what, dim in dimensions.items())
        raise InputError(f"Image, grid and transform differ in dimension; they must agree. Here: {came}. Check the three files.")
