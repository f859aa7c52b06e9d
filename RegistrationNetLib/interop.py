"""Images and transforms to and from ITK's own Python package, and images of nibabel; both packages are optional.

Without them this file still imports; only what needs one says so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import InputError

# What itk's wheels wrap on every platform, by numpy type and whether voxels hold channels. Asking for another takes itk half a
# minute, in which it loads everything it has to compose its message.
_CHANNELS = {"uint8", "uint16", "int16", "float32", "float64"}
_WRAPPED = {True: _CHANNELS, False: _CHANNELS | {"uint32", "int32", "uint64"}}

# What SimpleITK has no pixels for, by numpy type, and what holds the same values, or nearly.
_PIXELS = {"bool": "uint8", "float16": "float32", "float96": "float64", "float128": "float64", "complex256": "complex128"}

ItkImage = Any
ItkTransform = Any
NibabelImage = Any


def is_itk_image(source: object) -> bool:
    """Whether `source` is an image of the `itk` package; asks without importing it."""
    itk = sys.modules.get("itk")
    return itk is not None and isinstance(source, itk.DataObject) and hasattr(source, "GetLargestPossibleRegion")


def simpleitk_from_itk(image: ItkImage) -> sitk.Image:
    """The same voxels at the same places in the world; the origin becomes that of the first voxel, whatever its index was."""
    itk = _itk()
    array = itk.array_from_image(image)
    result = sitk.GetImageFromArray(array, isVector=array.ndim > image.GetImageDimension())
    first_index = image.GetLargestPossibleRegion().GetIndex()
    result.SetOrigin([float(value) for value in image.TransformIndexToPhysicalPoint(first_index)])
    result.SetSpacing([float(value) for value in image.GetSpacing()])
    result.SetDirection(itk.array_from_matrix(image.GetDirection()).flatten().tolist())
    return result


def itk_from_simpleitk(image: sitk.Image) -> ItkImage:
    """The same voxels at the same places in the world.

    Raises:
        InputError: `itk` is not installed, or its Python package has no image of this pixel type.
    """
    itk = _itk()
    array = sitk.GetArrayFromImage(image)
    has_channels = "vector" in image.GetPixelIDTypeAsString()
    if has_channels:
        # SimpleITK drops the last axis of a single channel.
        array = array.reshape(*image.GetSize()[::-1], -1)
    if array.dtype.name not in _WRAPPED[has_channels] or image.GetDimension() not in (2, 3):
        raise InputError(
            f"The itk package has no {image.GetDimension()}-D image of {image.GetPixelIDTypeAsString()}; "
            f"its pixels are {', '.join(sorted(_WRAPPED[has_channels]))}. Cast the image first."
        )
    result = itk.image_from_array(array, is_vector=has_channels)
    result.SetOrigin(image.GetOrigin())
    result.SetSpacing(image.GetSpacing())
    result.SetDirection(itk.matrix_from_array(np.array(image.GetDirection()).reshape(image.GetDimension(), -1)))
    return result


def itk_from_simpleitk_transform(transform: sitk.Transform) -> ItkTransform:
    """The same map, of the same class; a composite keeps its parts.

    Raises:
        InputError: `itk` is not installed.
    """
    itk = _itk()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "transform.h5")
        sitk.WriteTransform(transform, path)
        (result,) = itk.transformread(path)
    return result


def simpleitk_from_itk_transform(transform: ItkTransform) -> sitk.Transform:
    """The same map, of the same class; a composite keeps its parts.

    Raises:
        InputError: `itk` is not installed.
    """
    itk = _itk()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "transform.h5")
        itk.transformwrite([transform], path)
        return sitk.ReadTransform(path)


def is_nibabel_image(source: object) -> bool:
    """Whether `source` is an image of voxels of the `nibabel` package; asks without importing it."""
    nibabel = sys.modules.get("nibabel")
    return nibabel is not None and isinstance(source, nibabel.spatialimages.SpatialImage)


def simpleitk_from_nibabel(image: NibabelImage) -> sitk.Image:
    """The same voxels at the same places in the world, LPS in place of nibabel's RAS; values are those after the header's scaling.

    The affine that counts is `image.affine`, by which nibabel itself places voxels. A two-dimensional image must lie in the plane of the
    axes x and y; axes after the third become a fourth of the image.

    Raises:
        InputError: it has no affine, one that is singular, voxels that are no numbers, or is oblique in space and two-dimensional.
    """
    array = _voxels(image)
    dim = min(array.ndim, 3)
    if image.affine is None:
        raise InputError(
            "The nibabel image has no affine; voxels need a place in the world. It came as None. Give it one: "
            "nibabel.Nifti1Image(image.dataobj, affine)."
        )
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, dtype=np.float64)
    columns = affine[:dim, :dim]
    if dim == 2 and np.abs(affine[2, :2]).max() > 1e-3 * np.abs(columns).max():
        raise InputError(
            "The two-dimensional nibabel image lies obliquely in space; a plane needs the axes x and y. Its affine tilts it towards z. "
            "Give the volume that it comes from, or an affine without tilt."
        )
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(columns)) < 1e-12:
        raise InputError(
            "The affine of the nibabel image is singular or not finite; each axis of voxels needs a direction and a length of its own. "
            f"Got {np.asarray(image.affine).tolist()}. Correct its header."
        )
    result = sitk.GetImageFromArray(np.ascontiguousarray(array.T), isVector=False)
    rest = result.GetDimension() - dim
    result.SetSpacing([*spacing.tolist(), *[1.0] * rest])
    result.SetOrigin([*affine[:dim, 3].tolist(), *[0.0] * rest])
    direction = np.eye(dim + rest)
    direction[:dim, :dim] = columns / spacing
    result.SetDirection(direction.ravel().tolist())
    return result


def _voxels(image: NibabelImage) -> NDArray[Any]:
    """The values [x, y, z, …] in a type that SimpleITK has, without axes at the end that have one place."""
    array = np.asanyarray(image.dataobj)
    if array.dtype.kind not in "biufc":
        raise InputError(
            f"The voxels of the nibabel image are {array.dtype}; one number for each voxel is needed. Extract one channel first."
        )
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3, 4):
        raise InputError(f"The nibabel image has {array.ndim} dimensions; two or three are needed. Extract one volume first.")
    return array.astype(_PIXELS.get(array.dtype.name, array.dtype.newbyteorder("=")), copy=False)


def _itk() -> ModuleType:
    try:
        import itk
    except ImportError as error:
        raise InputError(
            "The Python package itk is not installed; converting to or from it needs it: pip install itk."
        ) from error
    return itk
