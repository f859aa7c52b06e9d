"""The border of the library: everything that comes in is read and checked here, once."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import interop
from ..errors import GeometryError, InputError
from ..geometry.space import grid_of
from .native_messages import native_messages_dropped

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


def read_image(path: str | os.PathLike[str]) -> sitk.Image:
    """Whatever SimpleITK reads; a folder is read as one DICOM series.

    Raises:
        InputError: missing, unreadable, cut short, or a folder that does not hold exactly one series of evenly spaced slices.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"There is no file {path}; an image file or a folder of DICOM slices is needed. Check the path.")
        with native_messages_dropped():
            return _read_series(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}). Check the path and who may read it.") from error
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image ({_last_line(error)}). Check the file and its format.") from error


def _read_file(path: Path) -> sitk.Image:
    image = sitk.ReadImage(str(path))
    if image.HasMetaDataKey("bitpix") and path.name.lower().endswith((".nii", ".nii.gz")) and not _is_whole_nifti(path, image):
        raise InputError(
            f"{path} is cut short or damaged; the file must hold all voxels of its header. Copy or download it again."
        )
    return image


def _is_whole_nifti(path: Path, image: sitk.Image) -> bool:
    """NIfTI alone is read without a look at whether all of it is there: what is missing would become zeros."""
    values = math.prod(int(image.GetMetaData(f"dim[{axis}]")) for axis in range(1, 1 + int(image.GetMetaData("dim[0]"))))
    needed = float(image.GetMetaData("vox_offset")) + values * int(image.GetMetaData("bitpix")) / 8
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path.stat().st_size >= needed
    try:
        with gzip.open(path) as unpacked:
            return sum(map(len, iter(lambda: unpacked.read(2**20), b""))) >= needed
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False


def _read_series(folder: Path) -> sitk.Image:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(
            f"{folder} holds {len(series)} DICOM series; exactly one is needed. Put one series into a folder of its own."
        )
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    image = sitk.ReadImage(files)
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
        _check_slices(files, folder)
    return image


def _check_slices(files: Sequence[str], folder: Path) -> None:
    """Refuse a series in which a slice is missing: its slices would be spread evenly, each at a wrong place."""
    reader, positions = sitk.ImageFileReader(), []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin())
    steps_mm = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if steps_mm.max() > UNEVEN_SLICES * np.median(steps_mm):
        raise InputError(
            f"{folder} holds slices that lie {steps_mm.min():.3g} to {steps_mm.max():.3g} mm apart; they must be evenly spaced. "
            "A slice may be missing: export the series again."
        )


def read_transform(source: str | os.PathLike[str] | sitk.Transform) -> sitk.Transform:
    """A transform from an ITK transform file (.h5, .tfm, .mat, .txt), or the transform itself.

    Raises:
        InputError: missing or unreadable.
    """
    if isinstance(source, sitk.Transform):
        return source
    path = Path(source)
    if not path.is_file():
        raise InputError(f"There is no transform file {path}. Check the path.")
    try:
        with native_messages_dropped():
            return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an ITK transform ({_last_line(error)}). Check the file.") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")


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
