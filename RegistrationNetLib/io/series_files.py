"""Series of volumes in time from files: 4-D images, Slicer's sequences, DICOM folders by phase, folders of images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from .dicom import read_dicom_phases
from .dicom_headers import is_dicom
from .image_files import read_image
from .native_messages import native_messages_dropped
from .native_paths import printable
from .natural_order import natural
from .outputs import IMAGE_SUFFIXES
from .warning import Warn, python_warning

FEWEST_FRAMES = 2
# How NRRD files tell the times of a list of volumes; Slicer writes them so.
_TIMES_KEYS = ("axis 0 index values", "axis 3 index values", "MultiVolume.FrameLabels")


@dataclass(frozen=True)
class Series:
    """Volumes (or 2-D images) of one body at one time after the other.

    `times` are as the file counts them: seconds, milliseconds, percent of a cycle; without any, 0, 1, 2, ….
    """

    frames: tuple[sitk.Image, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.frames) < FEWEST_FRAMES:
            raise InputError(
                f"The series has {len(self.frames)} volume; it needs at least {FEWEST_FRAMES}. Give a 4-D image, or a folder of volumes."
            )
        assert len(self.frames) == len(self.times)


def read_series(path: str | os.PathLike[str], warn: Warn = python_warning) -> Series:
    """The series of a 4-D image, of a NRRD file with a list of volumes, of a DICOM folder, or of a folder of images in the
    order of their names, numbers as numbers.

    Args:
        warn: hears what was read with a doubt.

    Raises:
        InputError: missing, unreadable, or no series.
    """
    path = Path(path)
    if path.is_dir():
        images = (one for one in path.iterdir() if one.is_file() and one.name.lower().endswith(IMAGE_SUFFIXES))
        files = sorted(images, key=lambda one: natural(one.name))
        if files and not is_dicom(files[0]):
            return Series(tuple(read_image(one, warn) for one in files), tuple(map(float, range(len(files)))))
        with native_messages_dropped():
            phases = read_dicom_phases(path, warn)
        return Series(tuple(phases.values()), _numbers(list(phases)))
    return series_of(read_image(path, warn), printable(path))


def series_of(image: sitk.Image, what: str) -> Series:
    """The frames of a 4-D image, or of one whose voxels are lists of values in time.

    Raises:
        InputError: it is neither; `what` names it.
    """
    dim, channels = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dim == 4 and channels == 1:
        start, step = image.GetOrigin()[3], image.GetSpacing()[3]
        count = image.GetSize()[3]
        return Series(tuple(image[..., frame] for frame in range(count)), tuple(start + step * frame for frame in range(count)))
    if dim in (2, 3) and channels > 1:
        frames = tuple(sitk.VectorIndexSelectionCast(image, channel) for channel in range(channels))
        return Series(frames, _told_times(image, channels))
    raise InputError(
        f"{what} is one image of {dim} dimensions; a series has volumes in time. Give a 4-D image, a Slicer sequence, or a folder."
    )


def _told_times(image: sitk.Image, count: int) -> tuple[float, ...]:
    """What the header of a list of volumes says."""
    for key in _TIMES_KEYS:
        if image.HasMetaDataKey(key):
            times = _numbers(image.GetMetaData(key).replace(",", " ").replace("%20", " ").split())
            if len(times) == count:
                return times
    return tuple(map(float, range(count)))


def _numbers(texts: Sequence[str]) -> tuple[float, ...]:
    """The numbers that the texts are; where one is none, their places."""
    try:
        numbers = tuple(float(text.removesuffix("%")) for text in texts)
    except ValueError:
        numbers = (math.nan,)
    return numbers if all(map(math.isfinite, numbers)) else tuple(map(float, range(len(texts))))
