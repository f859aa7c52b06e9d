"""What may be given as an image, brought to one type; and how to bring what may not."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .. import interop
from ..choices import MODALITIES
from ..errors import InputError
from .dicom import MODALITY_TAG
from .dicom_headers import is_dicom, read_header
from .image_files import read_image
from .native_paths import printable
from .warning import Warn, python_warning

ImageLike = Any
"""A path, a `SimpleITK.Image`, an `itk.Image`, or an image of nibabel."""

# How to bring an image of another package, by the first part of its class's module.
_BRINGING = {
    "numpy": "Make it an image by SimpleITK.GetImageFromArray, and give it its SetSpacing, SetOrigin and SetDirection.",
    "torch": "Make it an image by SimpleITK.GetImageFromArray(tensor.numpy()), and give it its SetSpacing, SetOrigin and SetDirection.",
    "nibabel": "Of nibabel, only images of voxels are taken.",
    "torchio": "Call its as_sitk().",
    "monai": "Make it an image by SimpleITK.GetImageFromArray, and give it its SetSpacing, SetOrigin and SetDirection.",
    "pydicom": "Give the path of its file or folder.",
    "ants": "Write it by ants.image_write, and give the path.",
    "vtkmodules": "In Slicer give the node to the module's logic; else write it to a file, and give the path.",
    "builtins": "Give its path, or make it an image by SimpleITK.GetImageFromArray.",
}


def as_image(source: ImageLike, what: str, warn: Warn = python_warning) -> sitk.Image:
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
        return _one_moment(read_image(source, lambda text: warn(_named(text, printable(Path(source)), what))))
    if interop.is_itk_image(source):
        return interop.simpleitk_from_itk(source)
    if interop.is_nibabel_image(source):
        return _from_nibabel(source, what)
    package = type(source).__module__.partition(".")[0]
    bringing = _BRINGING.get(package, "Give one of these.")
    if isinstance(source, dict):
        bringing = "Give what it holds: the path or the image, and the others by their own names."
    raise InputError(
        f"{what} is a {type(source).__name__}; a path, or an image of SimpleITK, ITK or nibabel is needed. {bringing}"
    )


def _from_nibabel(source: interop.NibabelImage, what: str) -> sitk.Image:
    try:
        return interop.simpleitk_from_nibabel(source)
    except (OSError, EOFError, zlib.error) as error:  # its voxels are read from the file only now
        raise InputError(
            f"The file of {what} cannot be read ({' '.join(str(error).split())}). Copy or download it again."
        ) from error


def _named(text: str, path: str, what: str) -> str:
    """A warning that begins with a path, about `what` instead: reports name no paths, which may tell of patients."""
    return what + text.removeprefix(path) if text.startswith(path) else text


def _one_moment(image: sitk.Image) -> sitk.Image:
    """A volume that is stored as a series of one, as the volume; anything else as it is."""
    return image[..., 0] if image.GetDimension() == 4 and image.GetSize()[3] == 1 else image


def modality_of(source: ImageLike, stated: str | None) -> str:
    """The modality that the caller has stated, else that of the DICOM header, else "other".

    Raises:
        InputError: there is no such modality.
    """
    if stated is not None:
        if stated not in MODALITIES:
            raise InputError(
                f"There is no modality {stated!r}; the modalities are {', '.join(MODALITIES)}. Choose one of them, or None."
            )
        return stated
    return {"CT": "ct", "MR": "mr"}.get(_dicom_modality(source), "other")


def _dicom_modality(source: ImageLike) -> str:
    """The tag Modality of an image, a file or the first file in a folder; "" where there is none, or where reading will fail."""
    if isinstance(source, sitk.Image):
        return source.GetMetaData(MODALITY_TAG).strip() if source.HasMetaDataKey(MODALITY_TAG) else ""
    if not isinstance(source, str | os.PathLike):
        return ""
    try:
        path = Path(source)
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        headers = (read_header(one) for one in files if one.is_file() and is_dicom(one))
        return next((header.modality for header in headers if header is not None), "")
    except (OSError, ValueError):
        return ""
