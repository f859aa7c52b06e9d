"""Images and transforms to and from ITK's own Python package, which is optional.

Without `itk` installed this file still imports; only what needs it says so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError

# What itk's wheels wrap on every platform, by numpy type and whether voxels hold channels. Asking for another takes itk half a
# minute, in which it loads everything it has to compose its message.
_CHANNELS = {"uint8", "uint16", "int16", "float32", "float64"}
_WRAPPED = {True: _CHANNELS, False: _CHANNELS | {"uint32", "int32", "uint64"}}

ItkImage = Any
ItkTransform = Any


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


def _itk() -> ModuleType:
    try:
        import itk
    except ImportError as error:
        raise InputError(
            "The Python package itk is not installed; converting to or from it needs it: pip install itk."
        ) from error
    return itk
