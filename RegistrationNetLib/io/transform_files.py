"""Transforms from and to files: those of ITK, and of the other programs of the field, each as points of fixed → points of moving."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from ..choices import TRANSFORM_FORMATS
from ..errors import InputError
from .displacement_images import displacement_transform, write_displacements
from .elastix_transforms import elastix_transform, is_elastix
from .freesurfer_transforms import is_lta, lta_transform
from .fsl_transforms import flirt_transform, fnirt_transform, is_fnirt
from .image_files import read_image
from .image_sources import ImageLike, as_image
from .matrix_files import is_matrix_text
from .native_messages import NATIVE_ERRORS, native_messages_dropped, native_reason
from .native_paths import native_path, printable
from .niftyreg_transforms import is_niftyreg, niftyreg_matrix, niftyreg_transform
from .outputs import IMAGE_SUFFIXES, check_file_name, staged, write_transform
from .transform_checks import check_matlab, check_transform, check_transform_image
from .warning import Warn, python_warning

ITK_SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt")
# So much of a text tells what it is.
_START = 4096


@dataclass(frozen=True)
class Between:
    """The two images of a transform, where it does not say itself what its numbers mean: paths, which are read where they are needed, or
    images; None where they are not known."""

    fixed: ImageLike | None = None
    moving: ImageLike | None = None


def read_transform(
    source: str | os.PathLike[str] | sitk.Transform,
    *,
    form: str = "auto",
    between: Between = Between(),
    warn: Warn = python_warning,
) -> sitk.Transform:
    """A transform from a file, or the transform itself, as points of fixed → points of moving in LPS mm.

    Read are transform files of ITK (.h5, .tfm, .mat, .txt), images of displacements (ANTs, ITK, Slicer), matrices and fields of FSL,
    LTA files of FreeSurfer, files of parameters of elastix, and matrices, fields and control points of NiftyReg.

    Args:
        form: one of `choices.TRANSFORM_FORMATS`; "auto" looks at the file, which of a bare matrix does not tell.
        between: the images, which transforms of FSL need.
        warn: hears what was read with a doubt.

    Raises:
        InputError: missing, unreadable, damaged, of a kind that is not read, or an image that it needs did not come.
    """
    if isinstance(source, sitk.Transform):
        return source
    path = Path(source)
    name = printable(path)
    if form not in TRANSFORM_FORMATS:
        raise InputError(
            f"There is no format {form!r} of transforms; the formats are {', '.join(TRANSFORM_FORMATS)}. Choose one of them."
        )
    if not path.is_file():
        raise InputError(f"There is no transform file {name}. Check the path.")
    try:
        if path.name.lower().endswith(IMAGE_SUFFIXES):
            transform = _from_image(path, form, between, warn)
        else:
            transform = _from_text(path, form, between, warn)
        check_transform(path, transform)
        return transform
    except OSError as error:
        raise InputError(f"{name} cannot be opened ({error.strerror}). Check the path and who may read it.") from error
    except NATIVE_ERRORS as error:
        raise InputError(
            f"{name} cannot be read as an ITK transform ({native_reason(error)}). Check the file and its format."
        ) from error


def _from_image(path: Path, form: str, between: Between, warn: Warn) -> sitk.Transform:
    image = read_image(path, warn)
    check_transform_image(path, image)
    if form == "fsl" or (form == "auto" and is_fnirt(image)):
        return fnirt_transform(path, image, partial(_needed, path, between.moving, "moving", warn))
    if form == "niftyreg" or (form == "auto" and is_niftyreg(image)):
        return niftyreg_transform(path, image)
    if form in ("auto", "itk"):
        return displacement_transform(path, image)
    raise _wrong_form(path, form, "an image")


def _from_text(path: Path, form: str, between: Between, warn: Warn) -> sitk.Transform:
    with path.open("rb") as file:
        text = file.read(_START).decode("utf-8", errors="replace")
    if form == "elastix" or (form == "auto" and is_elastix(text)):
        return elastix_transform(path)
    if form == "freesurfer" or (form == "auto" and is_lta(text)):
        return lta_transform(path)
    if form == "fsl":
        fixed, moving = (_needed(path, getattr(between, side), side, warn) for side in ("fixed", "moving"))
        return flirt_transform(path, fixed, moving)
    if form == "niftyreg":
        return niftyreg_matrix(path)
    if form == "auto" and is_matrix_text(text):
        raise InputError(
            f"{printable(path)} is a matrix that does not say whose it is; FLIRT and NiftyReg mean different transforms by the same numbers. Got "
            "four numbers in a line. Say --transform-format fsl, or --transform-format niftyreg."
        )
    if path.name.lower().endswith(".mat"):
        check_matlab(path)
    with native_messages_dropped(), native_path(path) as native:
        return sitk.ReadTransform(native)


def _needed(path: Path, source: ImageLike | None, side: str, warn: Warn) -> sitk.Image:
    """The image of one side, which was given as `register` takes it."""
    image = None if source is None else as_image(source, f"the {side} image of the transform", warn)
    if image is None or image.GetDimension() not in (3, 4):
        came = "None came" if image is None else f"It has {image.GetDimension()}"
        raise InputError(
            f"{printable(path)} is a transform of FSL, whose coordinates go by the voxels of its images; the {side} image is needed, of three "
            f"dimensions. {came}. Give it by --transform-{side}."
        )
    return image if image.GetDimension() == 3 else image[..., 0]


def _wrong_form(path: Path, form: str, what: str) -> InputError:
    return InputError(f"{printable(path)} is {what}; transforms of {form} come in text files. Leave --transform-format out.")


def check_transform_name(path: Path, *, has_grid: bool) -> None:
    """Before the work: can a transform be written under this name?

    Raises:
        InputError: its folder is missing, its suffix is of no format, or one of images and there is no grid for it.
    """
    check_file_name(path)
    name = path.name.lower()
    if not name.endswith((*ITK_SUFFIXES, *IMAGE_SUFFIXES)):
        raise InputError(
            f"{path.name} names no format of transforms; its suffix must be one of {' '.join(ITK_SUFFIXES)} (ITK) or "
            f"{' '.join(IMAGE_SUFFIXES)} (image of displacements). Rename it."
        )
    if name.endswith(IMAGE_SUFFIXES) and not has_grid:
        raise InputError(
            f"{path.name} would be an image of displacements, which needs a grid; none came. Add --like FIXED, the image whose grid it has."
        )


def write_transform_file(transform: sitk.Transform, path: Path, like: sitk.Image | None) -> None:
    """`transform` as a transform file of ITK, or by the suffix as an image of displacements on the grid of `like`; whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    if like is not None and path.name.lower().endswith(IMAGE_SUFFIXES):
        write_displacements(transform, like, path)
        return
    with staged(path) as temporary:
        write_transform(transform, temporary)
