"""Whether the numbers of a transform that was read can be meant: damaged files hold numbers that are none, or far beyond any anatomy."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from ..errors import InputError
from .native_paths import printable

# A kilometre, in mm. Squares and products of such numbers are still exact enough in single precision not to overflow.
LARGEST = 1e6
# Of MATLAB files of level 4: bytes before a matrix's name, the longest name that a class of ITK may have, and bytes of a number by its kind.
_MATRIX_HEADER, _LONGEST_NAME = 20, 127
_BYTES_OF_NUMBERS = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}


def are_sound(numbers: ArrayLike) -> bool:
    """Whether all are finite, and none is beyond `LARGEST`."""
    array = np.asarray(numbers)
    # An array is not copied, as a field of displacements may be large; what is no number is no end of a range either.
    return array.size == 0 or bool(array.min() >= -LARGEST and array.max() <= LARGEST)


def check_transform_image(path: Path, image: sitk.Image) -> None:
    """Of an image of displacements, positions or coefficients, read from `path`: its values, and the lattice on which they lie.

    Raises:
        InputError: one is not finite, or beyond `LARGEST`; or the lattice has no length.
    """
    if not are_sound(sitk.GetArrayViewFromImage(image)):
        raise _unsound(path, "values")
    spacing = image.GetSpacing()
    if not are_sound([*spacing, *image.GetOrigin(), *image.GetDirection()]) or min(spacing) < 1 / LARGEST:
        raise InputError(
            f"{printable(path)} says that its voxels are {'×'.join(f'{one:g}' for one in spacing)} mm apart from {image.GetOrigin()} on; all must "
            f"be finite and none beyond {LARGEST:g} mm, and voxels at least {1 / LARGEST:g} mm apart. Repair its header, or write it again."
        )


def check_matlab(path: Path) -> None:
    """Of an ITK transform in a MATLAB file (level 4): that each of its matrices lies in the file; ITK would write beyond its memory.

    Raises:
        InputError: one does not, or has no name.
    """
    content = path.read_bytes()
    start = 0
    while start < len(content):
        end = _end_of_matrix(content, start)
        if end is None:
            raise InputError(
                f"{printable(path)} cannot be read as an ITK transform: it is no MATLAB file of level 4, or the matrix at byte {start} is not "
                "whole. Copy or write it again."
            )
        start = end


def _end_of_matrix(content: bytes, start: int) -> int | None:
    """Where a matrix ends that begins at `start`; None where its header tells what cannot be."""
    if start + _MATRIX_HEADER > len(content):
        return None
    for order in "<>":
        kind, rows, columns, has_imaginary, name = struct.unpack_from(f"{order}5i", content, start)
        size = _BYTES_OF_NUMBERS.get(kind // 10 % 10)
        if (
            not 0 <= kind < 5000
            or size is None
            or has_imaginary not in (0, 1)
            or min(rows, columns) < 0
            or not 0 < name <= _LONGEST_NAME
        ):
            continue
        end = start + _MATRIX_HEADER + name + rows * columns * size * (1 + has_imaginary)
        return end if end <= len(content) else None
    return None


def check_transform(path: Path, transform: sitk.Transform) -> None:
    """Of a transform, read from `path`: its parameters, displacements and coefficients, and those of all that it is chained of.

    Raises:
        InputError: one is not finite, or beyond `LARGEST`; or splines have fewer control points than one piece of them needs.
    """
    for part in _parts(transform):
        if not (are_sound(part.GetFixedParameters()) and all(are_sound(one) for one in _numbers(part))):
            raise _unsound(path, "numbers")
        if isinstance(part, sitk.BSplineTransform) and min(part.GetCoefficientImages()[0].GetSize()) <= part.GetOrder():
            raise InputError(
                f"{printable(path)} holds splines on too few control points; along each axis there must be more of them than the order of the "
                f"splines. Got {part.GetCoefficientImages()[0].GetSize()} of the order {part.GetOrder()}. Copy or write it again."
            )


def _parts(transform: sitk.Transform) -> Iterator[sitk.Transform]:
    """Those that a transform is chained of, each as what it is."""
    whole = transform.Downcast()
    if not isinstance(whole, sitk.CompositeTransform):
        yield whole
        return
    for index in range(whole.GetNumberOfTransforms()):
        yield from _parts(whole.GetNthTransform(index))


def _numbers(part: sitk.Transform) -> Iterator[ArrayLike]:
    if isinstance(part, sitk.DisplacementFieldTransform):
        yield sitk.GetArrayViewFromImage(part.GetDisplacementField())
    elif isinstance(part, sitk.BSplineTransform):
        yield from map(sitk.GetArrayViewFromImage, part.GetCoefficientImages())
    else:
        yield part.GetParameters()


def _unsound(path: Path, what: str) -> InputError:
    return InputError(
        f"{printable(path)} holds {what} that are not finite or beyond {LARGEST:g}; those of a transform in mm are neither. It seems damaged. "
        "Copy or write it again."
    )
