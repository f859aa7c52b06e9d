"""DICOM files and folders as one image, each slice where its header says it lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..errors import InputError
from .dicom_headers import Header, Slice, is_dicom, read_header
from .dicom_series import Stack, phases_of, stacked
from .mr_weighting import TAGS
from .native_messages import NATIVE_ERRORS, native_reason
from .native_paths import native_path, printable
from .warning import Warn

MODALITY_TAG = "0008|0060"
MOST_FILES = 20_000


def read_dicom_file(path: Path, warn: Warn) -> sitk.Image:
    """A file with many frames as a volume; one with a single frame, as SimpleITK reads it.

    Raises:
        InputError: it holds no image, or what is not one volume.
    """
    header = read_header(path)
    if header is None:
        raise InputError(
            f"{printable(path)} is a DICOM file without an image (a structure set, report or directory); one with voxels is needed. "
            "Give the file or folder of the images."
        )
    if len(header.slices) == 1:
        image = _read(header)
        _tell_what_it_is(image, header)
        return image
    return _volume([header], path, warn)


def read_dicom_folder(folder: Path, warn: Warn) -> sitk.Image:
    """The one volume that the DICOM files of `folder` hold; of its subfolders, where none lies in itself.

    Raises:
        InputError: there is none, or several, or what is not one volume.
    """
    headers = _headers(path for path in folder.iterdir() if path.is_file())
    if not headers:
        headers = _headers(path for path in folder.rglob("*") if path.is_file())
    if not headers:
        raise InputError(
            f"{printable(folder)} holds 0 DICOM series; exactly one is needed. Put one series into a folder of its own, "
            "or give the file of an image."
        )
    return _volume(headers, folder, warn)


def read_dicom_phases(folder: Path, warn: Warn) -> dict[str, sitk.Image]:
    """The volumes in time that the DICOM files of `folder` and its subfolders hold, in order, by what tells them apart.

    That is a number of the headers (temporal position, phase of the heart, trigger time), or else the series, whose titles may
    tell a phase of breathing ("10%").

    Raises:
        InputError: there is no DICOM file, or what is not one volume at several moments.
    """
    headers = _headers(path for path in folder.rglob("*") if path.is_file())
    slices = [one for header in headers for one in header.slices]
    if not slices:
        raise InputError(f"{printable(folder)} holds no DICOM series; a series in time is needed. Check the folder.")
    phases = phases_of(slices, folder)
    return {phase: _volume(headers, folder, warn, among) for phase, among in phases.items()}


def _headers(paths: Iterable[Path]) -> list[Header]:
    found = []
    for number, path in enumerate(sorted(paths)):
        if number >= MOST_FILES:
            raise InputError(
                f"The folder holds more than {MOST_FILES} files; a series has fewer. Put one series into a folder of its own."
            )
        if path.name != "DICOMDIR" and is_dicom(path) and (header := read_header(path)) is not None:
            found.append(header)
    return found


def _volume(headers: Sequence[Header], source: Path, warn: Warn, among: Sequence[Slice] | None = None) -> sitk.Image:
    """The one volume of several files, or of some of their slices."""
    _refuse_mosaics(headers, source)
    stack = stacked([one for header in headers for one in header.slices] if among is None else among, source, warn)
    by_file = {header.file: header for header in headers}
    values = _values(stack, by_file)
    if not stack.is_straight:
        angle = np.degrees(np.arctan2(np.linalg.norm(stack.aside_mm), stack.distance_mm))
        warn(
            f"{printable(source)}: its slices lie aside of each other, as with a gantry tilted by {angle:.1f}°; the volume was "
            "resampled to where they lie."
        )
        values, first_mm = _straightened(values, stack)
    else:
        first_mm = stack.slices[0].position_mm
    first = stack.slices[0]
    image = sitk.GetImageFromArray(values, isVector=values.ndim > 3)
    image.SetSpacing((*first.spacing_mm, stack.distance_mm))
    image.SetOrigin([float(value) for value in first_mm])
    image.SetDirection(np.stack([*first.axes, first.normal]).T.flatten().tolist())
    _tell_what_it_is(image, by_file[first.file])
    return image


def _tell_what_it_is(image: sitk.Image, header: Header) -> None:
    """What the header says of the modality and of the times of MR goes with the image, by the numbers of its tags."""
    image.SetMetaData(MODALITY_TAG, printable(header.modality))
    for name, text in header.times.items():
        image.SetMetaData(TAGS[name], printable(text))


def _refuse_mosaics(headers: Sequence[Header], source: Path) -> None:
    if any("MOSAIC" in one.kind.get("ImageType", "") for header in headers for one in header.slices):
        raise InputError(
            f"{printable(source)} holds mosaics (many slices drawn as one picture); a volume with its slices apart is needed. "
            "Convert it with dcm2niix, and give the NIfTI file."
        )


def _values(stack: Stack, headers: dict[Path, Header]) -> NDArray[Any]:
    """Voxels [D, H, W] (or [D, H, W, C]), each slice scaled by its own header: of the files' type where all are whole numbers."""
    frames: dict[Path, NDArray[Any]] = {}
    planes = []
    for one in stack.slices:
        if one.file not in frames:
            if len(headers[one.file].slices) == 1:
                frames.clear()  # many files of one frame each need not all be held twice
            frames[one.file] = _frames(headers[one.file])
        planes.append(frames[one.file][one.frame])
    kind = np.result_type(*{plane.dtype for plane in planes})
    if kind == np.float64 and headers[stack.slices[0].file].bits <= 16:
        kind = np.dtype(np.float32)  # holds every value of 16 bits, scaled
    return np.stack([plane.astype(kind, copy=False) for plane in planes])


def _frames(header: Header) -> NDArray[Any]:
    """The frames of a file [N, H, W] (or [N, H, W, C]), scaled."""
    image = _read(header)
    values, shape = sitk.GetArrayFromImage(image), (len(header.slices), *header.slices[0].shape, *_channels(image))
    if values.size != math.prod(shape):
        raise InputError(
            f"{printable(header.file)} holds {values.size} values, and its header tells of {math.prod(shape)}: the file is damaged. "
            "Export it again."
        )
    return _rescaled(values.reshape(shape), header)


def _channels(image: sitk.Image) -> tuple[int, ...]:
    channels = image.GetNumberOfComponentsPerPixel()
    return (channels,) if channels > 1 else ()


def _rescaled(values: NDArray[Any], header: Header) -> NDArray[Any]:
    """The values as each slice's header scales them.

    GDCM, beneath SimpleITK, scales every frame of a file as the first, and doses not at all.
    """
    done = (1.0, 0.0) if header.is_dose else header.slices[0].rescale
    if all(one.rescale == done for one in header.slices):
        return values
    planes = [
        (plane.astype(np.float64) - done[1]) / done[0] * one.rescale[0] + one.rescale[1]
        for plane, one in zip(values, header.slices, strict=True)
    ]
    return np.stack(planes)


def _read(header: Header) -> sitk.Image:
    if header.missing_bytes:  # GDCM would make zeros of them
        raise InputError(
            f"{printable(header.file)} is cut short; a DICOM file holds all the voxels that its header tells of. {header.missing_bytes} bytes "
            "are missing. Copy or export the file again."
        )
    try:
        with native_path(header.file) as name:
            return sitk.ReadImage(name, imageIO="GDCMImageIO")
    except NATIVE_ERRORS as error:
        raise InputError(
            f"The voxels of {printable(header.file)} cannot be read (transfer syntax {header.syntax or 'unknown'}: "
            f"{native_reason(error)}). Export the series uncompressed, or convert it with dcm2niix."
        ) from error


def _straightened(values: NDArray[Any], stack: Stack) -> tuple[NDArray[Any], Any]:
    """Slices that lie aside of each other on an orthogonal lattice around them all, and where its first voxel lies.

    Within each slice linear; outside it, where nothing was measured, a value that counts as padding.
    """
    values, outside = _with_padding_value(values)
    first, count = stack.slices[0], len(stack.slices)
    spacing = np.array(first.spacing_mm)
    farthest = stack.aside_mm * (count - 1) / spacing  # in pixels, along columns and rows
    before = np.ceil(np.maximum(0, -farthest) - 1e-6).astype(int)
    behind = np.ceil(np.maximum(0, farthest) - 1e-6).astype(int)
    columns, rows = first.shape[1] + before[0] + behind[0], first.shape[0] + before[1] + behind[1]
    planes = []
    for number, plane in enumerate(values):
        shift = (-before - stack.aside_mm / spacing * number).tolist()
        moved = sitk.Resample(
            sitk.GetImageFromArray(plane.astype(np.float64), isVector=plane.ndim > 2),
            (int(columns), int(rows)), sitk.TranslationTransform(2, shift), sitk.sitkLinear, (0, 0), (1, 1), (1, 0, 0, 1), outside,
        )  # fmt: skip
        seen = sitk.GetArrayFromImage(moved)
        planes.append((np.rint(seen) if np.issubdtype(values.dtype, np.integer) else seen).astype(values.dtype))
    return np.stack(planes), first.position_mm - before * spacing @ first.axes


def _with_padding_value(values: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The values, in a wider type where theirs is full, and one that lies as far below them as they are wide: it counts as padding."""
    low, high = float(values.min()), float(values.max())
    outside = low - max(1.0, high - low)
    if np.issubdtype(values.dtype, np.integer):
        values = values.astype(np.promote_types(values.dtype, np.min_scalar_type(int(outside))), copy=False)
    return values, float(values.dtype.type(outside))
