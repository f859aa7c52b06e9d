"""Whether the numbers of a transform that was read can be meant: damaged files hold numbers that are none, or far beyond any anatomy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from ..errors import InputError
from .native_paths import printable

# A kilometre, in mm. Squares and products of such numbers are still exact enough in single precision not to overflow.
LARGEST = 1e6


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
