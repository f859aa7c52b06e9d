"""Files that appear whole or not at all."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError, OutputError
from .native_messages import native_messages_dropped

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff", ".png")


def check_file_name(path: Path) -> None:
    """Before the work: is `path` a file in a folder that exists?

    Raises:
        InputError: its folder is missing, or `path` is itself a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; the output is a file. Give a file name.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; outputs go into an existing one. Create it first.")


def check_image_name(path: Path) -> None:
    """Before the work: can an image be written under this name?

    Raises:
        InputError: as `check_file_name`, or no image format belongs to the suffix.
    """
    check_file_name(path)
    if not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise InputError(f"{path.name} names no image format; its suffix must be one of {' '.join(IMAGE_SUFFIXES)}. Rename it.")


def check_folder_name(path: Path) -> None:
    """Before the work: is `path` a folder, or can it become one?

    Raises:
        InputError: `path`, or what should be a folder above it, is a file.
    """
    if not _nearest_existing(path).is_dir():
        raise InputError(f"{_nearest_existing(path)} is a file; the results go into a folder. Give another name.")


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
        raise OutputError(f"Cannot write {path}: {error.strerror or error}. Free some space or choose another folder.") from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file name to write to, that becomes `path` when the block ends well, and vanishes when it does not.

    The name is the same, so that writers go by its suffix; a second file that they add (.mhd and .raw) comes along.

    Raises:
        OutputError: as `staged_folder`.
    """
    with staged_folder(path.parent) as folder:
        yield folder / path.name


def write_image(image: sitk.Image, path: Path) -> None:
    """`image` as `path`, compressed, whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    with staged(path) as temporary:
        remedy = "Free some space, or choose another folder or format."
        try:
            with native_messages_dropped():
                sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OutputError(f"Cannot write {path}: {str(error).strip().splitlines()[-1]}. {remedy}") from error
        if not _is_whole(temporary, image):
            raise OutputError(f"Cannot write {path}: the file came out too short. {remedy}")


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
                (target / name).unlink()
        for one in made:
            shutil.rmtree(one, ignore_errors=True)
        raise
