"""Files that appear whole or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, OutputError, ResourceError
from .native_messages import native_messages_dropped, native_reason
from .native_paths import is_plain, native_path, printable

# Formats that keep where an image lies; and those of pictures, which keep a plane of small whole numbers.
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff")
PICTURE_PIXELS = (sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkVectorUInt8, sitk.sitkVectorUInt16)
_MEGABYTE = 2**20
# What a registration writes at most: for each voxel of fixed (warped image, Jacobian, expected error), for each point of the field of
# the transform and of its inverse, and beside. A field has a margin around the image, and a bounded number of points.
IMAGE_BYTES, POINT_BYTES, REPORT_BYTES = 16, 24, 8 * _MEGABYTE
POINTS_PER_VOXEL, MOST_POINTS = 3, 5_000_000


def check_file_name(path: Path) -> None:
    """Before the work: is `path` a file in a folder that exists and can be written?

    Raises:
        InputError: its folder is missing or cannot be written, `path` is itself a folder, or its name is not valid Unicode.
    """
    if not is_plain(path) and not is_plain(Path(path.name)):
        raise InputError(f"The name {printable(path)} is not valid Unicode; an output needs a name that is. Choose another name.")
    if path.is_dir():
        raise InputError(f"{printable(path)} is a folder; the output is a file. Give a file name.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {printable(path.parent)} does not exist; outputs go into an existing one. Create it first.")
    _check_writable(path.parent)


def check_image_name(path: Path, *, dim: int = 3) -> None:
    """Before the work: can an image of `dim` dimensions be written under this name?

    Raises:
        InputError: as `check_file_name`, or no image format belongs to the suffix, or one that cannot hold such an image.
    """
    check_file_name(path)
    name = path.name.lower()
    if name.endswith(PICTURE_SUFFIXES) and dim > 2:
        raise InputError(
            f"{path.name} would be a picture, which holds a single plane without its place in the body; the result has {dim} dimensions. "
            f"Take one of {' '.join(IMAGE_SUFFIXES)}."
        )
    if not name.endswith(IMAGE_SUFFIXES + PICTURE_SUFFIXES):
        raise InputError(f"{path.name} names no image format; its suffix must be one of {' '.join(IMAGE_SUFFIXES)}. Rename it.")


def check_picture(path: Path, like: sitk.Image, pixel: int) -> None:
    """Before the work: where `path` is a picture, does it hold pixels of this type, on the grid of `like`?

    Raises:
        InputError: the type has no such pictures, or the grid has a place in the world, which would be lost.
    """
    if not path.name.lower().endswith(PICTURE_SUFFIXES):
        return
    remedy = f"Take one of {' '.join(IMAGE_SUFFIXES)}."
    if pixel not in PICTURE_PIXELS:
        raise InputError(
            f"{path.name} would be a picture, which holds whole numbers from 0 to 255 or 65535; the result has pixels of "
            f"{sitk.GetPixelIDValueAsString(pixel)}. {remedy}"
        )
    if (*like.GetSpacing(), *like.GetOrigin(), *like.GetDirection()) != (1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0):
        raise InputError(
            f"{path.name} would be a picture, which keeps neither spacing nor origin; the result has them (spacing "
            f"{like.GetSpacing()}, origin {like.GetOrigin()}). {remedy}"
        )


def check_folder_name(path: Path) -> None:
    """Before the work: is `path` a folder that can be written, or can it become one?

    Raises:
        InputError: `path`, or what should be a folder above it, is a file, or cannot be written.
    """
    if not _nearest_existing(path).is_dir():
        raise InputError(f"{printable(_nearest_existing(path))} is a file; the results go into a folder. Give another name.")
    _check_writable(_nearest_existing(path))


def check_not_read(path: Path, sources: Iterable[str | os.PathLike[str]]) -> None:
    """Before the work: is `path` none of the files that are read?

    Raises:
        InputError: it is one of them, and would be replaced by the result.
    """
    for source in sources:
        with suppress(OSError):
            if path.exists() and path.samefile(source):
                raise InputError(f"{printable(path)} is read, and the result would be written over it. Give another name.")


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"The folder {printable(folder)} cannot be written; outputs go into one that can. Choose another folder."
        )


def result_bytes(fixed_voxels: int, moving_voxels: int) -> int:
    """About how many bytes the results of a registration take at most."""
    points = sum(min(POINTS_PER_VOXEL * voxels, MOST_POINTS) for voxels in (fixed_voxels, moving_voxels))
    return fixed_voxels * IMAGE_BYTES + points * POINT_BYTES + REPORT_BYTES


def check_disk_space(path: Path, needed_bytes: float) -> None:
    """Before the work: has the disk of `path` space for about so much?

    Raises:
        ResourceError: there is not.
    """
    folder = _nearest_existing(path)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ResourceError(
            f"The results need about {needed_bytes / _MEGABYTE:.0f} MB; the disk of {printable(folder)} has {free / _MEGABYTE:.0f} MB "
            "free. Free some space, or choose a folder on another disk."
        )


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, whose files appear in `path` together when the block ends well, and not at all when it does not.

    `path` is made if it is missing. Files of the same names are replaced, others stay. The filled folder is a hidden one
    on the same disk, so that the last step is nothing but renaming.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".registrationnet-", dir=_nearest_existing(path)) as folder:
            new, old = Path(folder) / "new", Path(folder) / "old"
            new.mkdir()
            old.mkdir()
            yield new
            _move_all(new, path, old)
    except OSError as error:
        raise OutputError(
            f"Cannot write {printable(path)}: {error.strerror or error}. Free some space or choose another folder."
        ) from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file name to write to, that becomes `path` when the block ends well, and vanishes when it does not.

    The name is the same, so that writers go by its suffix; a second file that they add (.mhd and .raw) comes along.

    Raises:
        OutputError: as `staged_folder`.
    """
    with staged_folder(path.parent) as folder:
        yield folder / path.name


def write_image(image: sitk.Image, path: Path, *, digits: int | None = None) -> None:
    """`image` as `path`, compressed, whole or not at all. The suffix may be in capitals.

    Args:
        digits: float32 values are rounded to so many binary ones, since what is noise cannot be compressed; None keeps all 24.

    Raises:
        OutputError: it could not be written.
    """
    suffix = next((one for one in IMAGE_SUFFIXES + PICTURE_SUFFIXES if path.name.lower().endswith(one)), path.suffix)
    remedy = "Free some space, or choose another folder or format."
    image = image if digits is None else rounded(image, digits)
    with staged(path) as temporary:
        # Writers go by the suffix, in small letters only.
        written = temporary.with_name(temporary.name[: len(temporary.name) - len(suffix)] + suffix)
        try:
            with native_messages_dropped(), native_path(written.parent) as folder:
                sitk.WriteImage(image, str(Path(folder) / written.name), useCompression=True)
        except RuntimeError as error:
            raise OutputError(f"Cannot write {printable(path)}: {native_reason(error)}. {remedy}") from error
        if not _is_whole(written, image):
            raise OutputError(f"Cannot write {printable(path)}: the file came out too short. {remedy}")
        written.replace(temporary)


def rounded(image: sitk.Image, digits: int) -> sitk.Image:
    """A float32 image with its values rounded to so many binary digits, at most 23; zero, signs and what is no number stay."""
    values = sitk.GetArrayFromImage(image)
    dropped = 24 - digits
    for numbers in values.view(np.uint32):
        numbers += np.uint32(1 << (dropped - 1))
        numbers &= np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    result = sitk.GetImageFromArray(values, isVector=False)  # of four axes, too
    result.CopyInformation(image)
    return result


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """`transform` as an ITK transform file.

    Raises:
        OutputError: it could not be written.
    """
    try:
        with native_messages_dropped(), native_path(path.parent) as folder:
            sitk.WriteTransform(transform, str(Path(folder) / path.name))
    except RuntimeError as error:
        raise OutputError(
            f"The transform {path.name} cannot be written ({native_reason(error)}). Free some space or choose another folder."
        ) from error


def _is_whole(path: Path, image: sitk.Image) -> bool:
    """NIfTI alone is written without a look at whether the disk took it, so its length is counted."""
    if path.name.endswith(".nii.gz"):
        try:
            with gzip.open(path) as file:
                written = sum(map(len, iter(lambda: file.read(2**20), b"")))
        except (EOFError, OSError, zlib.error):
            return False
    elif path.name.endswith(".nii"):
        written = path.stat().st_size
    else:
        return True
    return written >= image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _move_all(new: Path, target: Path, old: Path) -> None:
    """Every file of `new` into `target`; what stood there goes to `old`, and comes back if anything fails."""
    made = [one for one in (target, *target.parents) if not one.exists()]
    names = sorted(one.name for one in new.iterdir())
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (target / name).exists():
                (target / name).replace(old / name)
            (new / name).replace(target / name)
    except BaseException:
        for name in names:
            if (old / name).exists():
                (old / name).replace(target / name)
            elif not (new / name).exists():
                _remove(target / name)
        for one in made:
            shutil.rmtree(one, ignore_errors=True)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
