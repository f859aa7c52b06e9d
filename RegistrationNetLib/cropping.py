"""Where an image holds anything: the ranges of its axes without the uniform slices at its borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


def ranges_within_border(values: NDArray[Any], *, margin_vox: int = 1, what: str = "the image") -> tuple[slice, ...]:
    """One slice per axis of `values`, without the slices at either end that hold a single value each, and without a margin.

    As in the preparation of uniCARL, where `margin_vox` more are cut at each end of every axis, uniform border or not. Two
    slices of different values are two uniform slices, and both go.

    Args:
        values: any number of axes, and of either kind of number.
        margin_vox: how many slices more go.
        what: names the image in messages.

    Raises:
        InputError: nothing would be left.
    """
    ranges = []
    for axis, size in enumerate(values.shape):
        slices = np.moveaxis(values, axis, 0)
        first, behind = _uniform_slices(slices), size - _uniform_slices(slices[::-1])
        if behind - first <= 2 * margin_vox:
            raise InputError(
                f"{what} has {max(0, behind - first)} slices between uniform ones along axis {axis}; of these {margin_vox} at each "
                "end are cut off, and at least one must be left. Check the image, or choose a network that does not crop."
            )
        ranges.append(slice(first + margin_vox, behind - margin_vox))
    return tuple(ranges)


def _uniform_slices(slices: NDArray[Any]) -> int:
    """How many hold a single value each before the first that does not."""
    return next((place for place, one in enumerate(slices) if (one != one.flat[0]).any()), len(slices))
