"""Values that say nothing of the anatomy, set apart from all others: padding around the field of view, and lone extreme voxels.

Wherever a window of intensities is made of the values themselves, a few of these decide it. They are taken out for the
registration, which says so; what is delivered keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .inputs import Pair
from .warning import Warn

Values = NDArray[Any]
Mask = NDArray[np.bool_]

# An extreme value around the image that so many voxels share is a candidate for padding; so much at least must be something else.
PADDING_SHARE, LEAST_REST = 0.01, 0.2
# Values that mean something: the background of most images, and air in CT, whose smallest number is often -1024.
BACKGROUNDS = (0, -1000, -1024)
# Padding is at least half as far from the other values as these are wide: what is nearer costs a window a third of its width at most.
PADDING_GAP = 0.5
# More extreme voxels than this are no exception but part of the image.
MOST_LONE = 0.05
# Of the other values those that a width is made of; so many of them, evenly taken, do for that.
QUANTILES = (0.01, 0.99)
SAMPLED = 1_000_000


def plain_pair(pair: Pair, warn: Warn) -> Pair:
    """The pair with images that hold no lone extreme voxels; the very same pair where there are none.

    Padding stays in them, so that what prepares them can leave it out wherever values are compared; it is only told here.

    Args:
        warn: hears what does not count.
    """
    fixed, moving = (plain_image(image, name, warn) for image, name in zip(pair.images, ("fixed", "moving"), strict=True))
    is_plain = fixed is pair.fixed and moving is pair.moving
    return pair if is_plain else replace(pair, images=(fixed, moving))


def plain_image(image: sitk.Image, what: str, warn: Warn) -> sitk.Image:
    """One image as `plain_pair` makes it, each lone voxel the mean of its neighbours; the very same where there is none."""
    values = sitk.GetArrayViewFromImage(image)
    found = dict(_paddings(values))
    counted = _others(values, found)
    lone = _lone(values, counted)
    if not found and not lone.any():
        return image
    counted &= ~lone
    low, high = values[counted].min(), values[counted].max()
    for padding, share in found.items():
        warn(
            f"{what}: {100 * share:.3g} % of its voxels hold {padding:g}, far from all others ({low:g} to {high:g}); taken as padding, "
            "they did not count."
        )
    if not lone.any():
        return image
    warn(
        f"{what}: {int(lone.sum())} lone voxels are far from all others ({low:g} to {high:g}); their neighbours' mean was taken."
    )
    changed = sitk.GetArrayFromImage(image)
    changed[lone] = _of_neighbours(values, counted)[lone].astype(changed.dtype)
    return _like(image, changed)


def without_padding(image: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """The image with the nearest of the other values in the place of its padding, for interpolation, and 1 where it has none."""
    values = sitk.GetArrayViewFromImage(image)
    found = dict(_paddings(values))
    counted = _others(values, found)
    measured = _like(image, counted.astype(np.uint8))
    if not found:
        return image, measured
    filled, low, high = sitk.GetArrayFromImage(image), values[counted].min(), values[counted].max()
    for padding in found:
        filled[values == padding] = low if padding < low else high
    return _like(image, filled), measured


def _like(image: sitk.Image, values: Values) -> sitk.Image:
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def _others(values: Values, paddings: Iterable[float]) -> Mask:
    """Where the values are none of the paddings."""
    others = np.ones(values.shape, dtype=bool)
    for padding in paddings:
        others &= values != padding
    return others


def _paddings(values: Values) -> Iterator[tuple[float, float]]:
    """Values that are padding, the smallest or the largest of all, and their shares."""
    for extreme in (values.min(), values.max()):
        is_extreme = values == extreme
        share = float(is_extreme.mean())
        if extreme in BACKGROUNDS or not PADDING_SHARE <= share <= 1 - LEAST_REST:
            continue
        rest = values[~is_extreme]
        low, high = _range(rest)
        gap = min(abs(float(rest.min()) - float(extreme)), abs(float(rest.max()) - float(extreme)))
        if high > low and gap > PADDING_GAP * (high - low) and _is_outside(is_extreme) and not _is_scattered(is_extreme):
            yield float(extreme), share


def _range(values: Values) -> tuple[float, float]:
    flat = values.reshape(-1)
    low, high = np.quantile(flat[:: max(1, flat.size // SAMPLED)].astype(np.float64), QUANTILES)
    return float(low), float(high)


def _is_outside(chosen: Mask) -> bool:
    """Whether the chosen voxels lie around the image: at its border more than within."""
    within = chosen[tuple(slice(1, -1) for _ in chosen.shape)]
    border_count = chosen.size - within.size
    return float((chosen.sum() - within.sum()) / border_count) > float(within.mean())


def _is_scattered(chosen: Mask) -> bool:
    """Whether most of the chosen voxels have mostly others around them."""
    return bool((_share_around(chosen)[chosen] < 0.5).mean() > 0.5)


def _lone(values: Values, counted: Mask) -> Mask:
    """Voxels beyond a gap wider than all the other values, with mostly others around them."""
    extreme = np.zeros(values.shape, dtype=bool)
    within = values[counted]
    low, high = _core(within)
    if not high > low:
        return extreme
    for sign, end in ((1, high), (-1, low)):
        beyond = within[within > end] if sign > 0 else within[within < end]
        tail = np.sort(sign * beyond.astype(np.float64))
        gaps = np.flatnonzero(np.diff(np.concatenate([[sign * end], tail])) > high - low)
        if len(gaps):
            limit = sign * tail[gaps[0]]
            extreme |= counted & (values >= limit if sign > 0 else values <= limit)
    if not extreme.any() or extreme.mean() > MOST_LONE:
        return np.zeros(values.shape, dtype=bool)
    return extreme & (_share_around(extreme) < 0.5)


def _core(values: Values) -> tuple[float, float]:
    """The range of all but the extreme twentieths."""
    flat = values.reshape(-1)
    low, high = np.quantile(flat[:: max(1, flat.size // SAMPLED)].astype(np.float64), (MOST_LONE, 1 - MOST_LONE))
    return float(low), float(high)


def _share_around(chosen: Mask) -> NDArray[np.float64]:
    """The share of the voxels around each, itself left out, that is chosen."""
    around = 3**chosen.ndim
    return (_box_mean(chosen.astype(np.float32)) * around - chosen) / (around - 1)


def _of_neighbours(values: Values, counted: Mask) -> NDArray[np.float64]:
    """Around each voxel the mean of those that count."""
    weights = _box_mean(counted.astype(np.float32))
    means: NDArray[np.float64] = _box_mean(np.where(counted, values, 0).astype(np.float64)) / np.maximum(weights, 1e-6)
    return means


def _box_mean(values: Values) -> NDArray[np.float64]:
    """Means over 3 voxels along each axis; beyond the border its voxels go on."""
    image = sitk.GetImageFromArray(values)
    return sitk.GetArrayFromImage(sitk.BoxMean(image, [1] * values.ndim)).astype(np.float64)
