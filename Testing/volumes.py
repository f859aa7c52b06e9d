"""Small volumes for tests of what comes in, and how to compare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from RegistrationNetLib.io.inputs import Pair, checked_pair

SHAPE = (8, 9, 10)
QUANTILES = {"quantiles": [0.01, 0.99]}


def noise(shape: Sequence[int] = SHAPE, *, seed: int = 0, dtype: type = np.float32) -> sitk.Image:
    """Random voxels with a geometry of their own."""
    image = sitk.GetImageFromArray((1000 * np.random.default_rng(seed).random(tuple(shape))).astype(dtype))
    image.SetSpacing([1.5, 2.0, 2.5][: len(shape)])
    image.SetOrigin([10.0, -20.0, 30.0][: len(shape)])
    return image


def on_grid_of(image: sitk.Image, array: NDArray[np.generic]) -> sitk.Image:
    other = sitk.GetImageFromArray(array)
    other.CopyInformation(image)
    return other


def box(image: sitk.Image, *, dtype: type = np.uint8, value: float = 1) -> sitk.Image:
    """`value` in the middle of the grid of `image`, 0 around."""
    array = np.zeros(image.GetSize()[::-1], dtype=dtype)
    array[tuple(slice(2, -3) for _ in array.shape)] = value
    return on_grid_of(image, array)


def voxels(image: sitk.Image) -> NDArray[np.generic]:
    return sitk.GetArrayFromImage(image)


def state(image: sitk.Image) -> tuple[object, ...]:
    """All that an image is, bit for bit."""
    geometry = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID()
    return (*geometry, voxels(image).tobytes())


Both = tuple[sitk.Image | None, sitk.Image | None]


def pair_of(fixed: sitk.Image, moving: sitk.Image, *, masks: Both = (None, None), labels: Both = (None, None)) -> Pair:
    return checked_pair((fixed, moving), modalities=("other", "other"), masks=masks, labels=labels)
