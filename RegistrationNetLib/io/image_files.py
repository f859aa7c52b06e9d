"""Images from files, each checked for what ITK's own reader does not look at."""

from __future__ import annotations

import math
import os
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from .dicom import read_dicom_file, read_dicom_folder
from .dicom_headers import is_dicom
from .metaimage_headers import has_short_pattern, has_sound_axes
from .native_messages import NATIVE_ERRORS, native_messages_dropped, native_reason
from .native_paths import native_path, printable
from .nifti_headers import check_nifti
from .nifti_missing import with_missing
from .warning import Warn, python_warning
from .whole_files import holds_all, image_beside, is_whole

DICOM_VOXEL_BYTES = 2


def read_image(path: str | os.PathLike[str], warn: Warn = python_warning) -> sitk.Image:
    """Whatever SimpleITK reads; a DICOM file or folder as one volume, each slice where its header says it lies.

    Args:
        warn: hears what was read with a doubt.

    Raises:
        InputError: missing, unreadable, cut short, contradicting itself, or a folder or file that does not hold exactly one volume.
    """
    path = Path(path)
    name = printable(path)
    try:
        if not path.exists():
            raise InputError(f"There is no file {name}; an image file or a folder of DICOM slices is needed. Check the path.")
        with native_messages_dropped():
            if path.is_dir():
                return read_dicom_folder(path, warn)
            return read_dicom_file(path, warn) if is_dicom(path) else _read_file(path, warn)
    except OSError as error:
        raise InputError(f"{name} cannot be opened ({error.strerror}). Check the path and who may read it.") from error
    except MemoryError as error:
        raise InputError(
            f"{name} says that it holds more voxels than this machine has memory for. Check the file, or crop the image."
        ) from error
    except NATIVE_ERRORS as error:
        raise InputError(f"{name} cannot be read as an image ({native_reason(error)}). Check the file and its format.") from error


def _read_file(path: Path, warn: Warn) -> sitk.Image:
    if path.stat().st_size == 0:
        raise InputError(f"{printable(path)} is empty; an image file is needed. Copy or download it again.")
    if not has_sound_axes(path):
        raise InputError(
            f"{printable(path)} does not say how many axes it has; NDims of a MetaImage is a whole number from 1 on. Copy or write it again."
        )
    if not has_short_pattern(path):
        raise InputError(
            f"{printable(path)} names the files of its voxels by a pattern with a word of more than 79 characters, which the reader cannot "
            "hold. Name them without their folder, or write the image as one file."
        )
    cut = f"{printable(path)} is cut short or damaged; the file must hold all voxels of its header. Copy or download it again."
    if not is_whole(path):
        raise InputError(cut)
    with native_path(path) as native:
        image = sitk.ReadImage(native)
    if not holds_all(path, image):
        raise InputError(cut)
    check_nifti(path, image, warn)
    return with_missing(path, image_beside(path), image) if image.HasMetaDataKey("bitpix") else image


def voxel_count(path: str | os.PathLike[str]) -> int:
    """About how many voxels an image file or a DICOM folder holds, by headers and sizes alone; 0 where reading will fail."""
    path = Path(path)
    try:
        if path.is_dir():
            return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) // DICOM_VOXEL_BYTES
        if not (has_sound_axes(path) and has_short_pattern(path)):
            return 0
        reader = sitk.ImageFileReader()
        with native_messages_dropped(), native_path(path) as native:
            reader.SetFileName(native)
            reader.ReadImageInformation()
        return math.prod(reader.GetSize())
    except (OSError, ValueError, RuntimeError):
        return 0
