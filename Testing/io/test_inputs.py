"""The border of the library: what is checked, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.io.inputs import checked_image
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES, SHAPE, box, noise, on_grid_of, pair_of, state, voxels

# checking images


def with_value(value: float) -> sitk.Image:
    array = voxels(noise()).copy()
    array[3, 4, 5] = value
    return on_grid_of(noise(), array)


def with_direction(*direction: float) -> sitk.Image:
    image = noise(SHAPE if len(direction) == 9 else SHAPE[:2])
    image.SetDirection(direction)
    return image


def with_geometry(*, origin: float = 0.0, spacing: float = 1.0) -> sitk.Image:
    image = noise()
    image.SetOrigin((0.0, origin, 0.0))
    image.SetSpacing((1.0, 1.0, spacing))
    return image


BAD: dict[str, tuple[Callable[[], sitk.Image], type[InputError], str]] = {
    "all NaN": (lambda: noise() * np.nan, InputError, "fixed has no voxel with a value"),
    "inf": (lambda: with_value(np.inf), InputError, "fixed has 1 voxels that are infinite; all must be finite"),
    "constant": (lambda: noise() * 0 + 7, InputError, r"one value everywhere \(7\); registration needs contrast"),
    "constant int": (lambda: noise(dtype=np.int16) * 0, InputError, r"one value everywhere \(0\)"),
    "vector": (lambda: sitk.Compose([noise()] * 3), InputError, "3 values per voxel.*one real number"),
    "RGB": (lambda: sitk.Compose([noise(dtype=np.uint8)] * 3), InputError, "3 values per voxel"),
    "complex": (lambda: sitk.RealToHalfHermitianForwardFFT(noise((8, 8, 16))), InputError, "complex.*one real number"),
    "thin": (
        lambda: noise((7, 20, 20)),
        GeometryError,
        "20×20×7 voxels; every side needs at least 8. Give the folder of the series.*two-dimensional",
    ),
    "one slice": (lambda: noise((1, 20, 20)), GeometryError, "20×20×1 voxels"),
    "thin 2-D": (lambda: noise((20, 7)), GeometryError, "7×20 voxels"),
    "4-D": (lambda: sitk.JoinSeries([noise()] * 9), GeometryError, "4 dimensions; two or three are needed"),
    "sheared": (lambda: with_direction(1, 0.1, 0, 0, 1, 0, 0, 0, 1), GeometryError, "axes of fixed are not orthogonal"),
    "sheared 2-D": (lambda: with_direction(1, 0.1, 0, 1), GeometryError, "axes of fixed are not orthogonal"),
    "NaN origin": (lambda: with_geometry(origin=np.nan), GeometryError, "origin .*nan.*must be finite"),
    "infinite origin": (lambda: with_geometry(origin=np.inf), GeometryError, "origin .*inf.*must be finite"),
    "infinite spacing": (lambda: with_geometry(spacing=np.inf), GeometryError, "spacing .*inf.*must be finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_image_is_refused(what: str) -> None:
    make, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        checked_image(make(), "fixed")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float64])
def test_a_good_image_of_any_type_comes_through_untouched(dtype: type) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype))
    before = state(image)
    assert checked_image(image, "fixed") is image
    found = prepared(image, QUANTILES)
    assert found.values.dtype == torch.float32
    assert (float(found.values.min()), float(found.values.max())) == (0.0, 1.0)
    assert state(image) == before


def test_dimensions_must_agree() -> None:
    with pytest.raises(GeometryError, match="fixed has 3 dimensions and moving 2; both need the same"):
        pair_of(noise(), noise((20, 20)))


def test_nan_is_taken_as_the_smallest_value_and_said() -> None:
    heard: list[str] = []
    image = with_value(np.nan)
    found = checked_image(image, "fixed", heard.append)
    smallest = np.nanmin(voxels(image))
    assert voxels(found)[3, 4, 5] == smallest
    assert (voxels(found) == voxels(image)).sum() == voxels(image).size - 1
    assert np.isnan(voxels(image)[3, 4, 5]), "what came in stays as it was"
    assert heard == [f"fixed: 0.139 % of its voxels are NaN (no value); they were taken as its smallest value, {smallest:g}."]


# pairs


def test_labels_for_one_image_only_are_refused() -> None:
    for labels in ((box(noise()), None), (None, box(noise()))):
        with pytest.raises(InputError, match="Labels came for one image only.*Give both or neither"):
            pair_of(noise(), noise(), labels=labels)


def test_labels_without_a_common_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"no label in common.*Got \[0, 1\] and \[0, 2\]"):
        pair_of(noise(), noise(), labels=(box(noise()), box(noise(), value=2)))


def test_a_bad_mask_is_named_by_its_side() -> None:
    with pytest.raises(InputError, match="^moving mask is empty"):
        pair_of(noise(), noise(), masks=(box(noise()), box(noise(), value=0)))
