"""Padding and lone extreme voxels are taken out before the registration, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from RegistrationNetLib import register
from RegistrationNetLib.io.outlying import plain_image, plain_pair, without_padding
from RegistrationNetLib.registration.prepare import prepared

from ..volumes import QUANTILES, noise, on_grid_of, pair_of, voxels

SHAPE = (20, 22, 24)


def smooth(dtype: type = np.int16) -> sitk.Image:
    """Smooth values from -1000 up, as of a CT."""
    image = sitk.SmoothingRecursiveGaussian(noise(SHAPE), 3.0)
    return sitk.Cast(sitk.RescaleIntensity(image, -1000, 800), {np.int16: sitk.sitkInt16, np.float32: sitk.sitkFloat32}[dtype])


def outside_a_cylinder() -> NDArray[np.bool_]:
    rows, columns = np.indices(SHAPE[1:])
    is_outside = np.hypot(rows - 10.5, columns - 11.5) > 9
    return np.broadcast_to(is_outside, SHAPE)


def with_values(image: sitk.Image, where: NDArray[np.bool_], value: float) -> sitk.Image:
    array = voxels(image).copy()
    array[where] = value
    return on_grid_of(image, array)


def scattered(share: float) -> NDArray[np.bool_]:
    return np.random.default_rng(3).random(SHAPE) < share


@pytest.mark.parametrize("padding", [-32768, -3024, -2000, 32767])
def test_padding_is_said_and_stays_for_the_preparation_to_leave_it_out(padding: int) -> None:
    image, where = smooth(), outside_a_cylinder()
    padded = with_values(image, where, padding)
    heard: list[str] = []
    found = plain_image(padded, "fixed", heard.append)
    assert found is padded
    assert f"% of its voxels hold {padding}, far from all others" in heard[0]
    counted = prepared(found, QUANTILES).mask
    assert counted is not None
    assert np.array_equal(counted[0, 0].numpy(), ~where)


@pytest.mark.parametrize("padding", [-32768, 32767])
def test_padding_is_the_nearest_other_value_where_it_would_be_mixed_with_others(padding: int) -> None:
    image, where = smooth(), outside_a_cylinder()
    padded = with_values(image, where, padding)
    filled, measured = without_padding(padded)
    inside = voxels(image)[~where]
    assert np.array_equal(voxels(filled)[~where], inside)
    assert set(voxels(filled)[where].tolist()) == {inside.min() if padding < 0 else inside.max()}
    assert np.array_equal(voxels(measured) != 0, ~where)
    assert voxels(padded)[where].min() == padding
    plain, everywhere = without_padding(image)
    assert plain is image
    assert voxels(everywhere).all()


def test_padding_and_lone_voxels_in_one_image_are_told_apart() -> None:
    """Lone extremes would make the other values seem so wide that the padding were near them."""
    where = outside_a_cylinder()
    lone = scattered(0.01) & ~where
    image = with_values(with_values(smooth(np.float32), where, -32768.0), lone, 1e9)
    heard: list[str] = []
    found = plain_image(image, "fixed", heard.append)
    assert len(heard) == 2
    assert np.array_equal(voxels(found)[where], voxels(image)[where])
    counted = prepared(found, QUANTILES).mask
    assert counted is not None
    assert np.array_equal(counted[0, 0].numpy(), ~where)


@pytest.mark.parametrize("share", [0.002, 0.02])
@pytest.mark.parametrize("value", [1e9, 60000.0, -1e9])
def test_lone_voxels_become_the_mean_of_their_neighbours_and_are_said(share: float, value: float) -> None:
    image, where = smooth(np.float32), scattered(share)
    heard: list[str] = []
    found = voxels(plain_image(with_values(image, where, value), "moving", heard.append))
    assert np.array_equal(found[~where], voxels(image)[~where])
    assert np.abs(found[where] - voxels(image)[where]).mean() < 0.1 * np.ptp(voxels(image))
    assert heard[0].startswith(f"moving: {where.sum()} lone voxels are far from all others")


def bright_spot() -> sitk.Image:
    return with_values(smooth(np.float32), np.add.reduce((np.indices(SHAPE) - 10) ** 2) < 30, 20000.0)


def binary() -> sitk.Image:
    return on_grid_of(smooth(), (~outside_a_cylinder()).astype(np.int16) * 1000)


def without_skull() -> sitk.Image:
    return with_values(smooth(np.float32) + 2000, outside_a_cylinder(), 0.0)


PLAIN = {
    "CT": smooth,
    "CT in air of one value": lambda: with_values(smooth(), outside_a_cylinder(), -1000),
    "a bright spot": bright_spot,
    "two values": binary,
    "a background of 0": without_skull,
    "noise": lambda: noise(SHAPE),
    "tiny values": lambda: smooth(np.float32) * 1e-9,
    "one voxel of another value": lambda: with_values(smooth() * 0, np.arange(np.prod(SHAPE)).reshape(SHAPE) == 7, 5),
}


@pytest.mark.parametrize("what", PLAIN)
def test_an_image_without_either_is_the_very_same(what: str) -> None:
    image = PLAIN[what]()
    heard: list[str] = []
    assert plain_image(image, "fixed", heard.append) is image
    assert heard == []


def test_a_pair_without_either_is_the_very_same() -> None:
    pair = pair_of(smooth(), smooth())
    assert plain_pair(pair, lambda _: None) is pair
    lone = pair_of(with_values(smooth(np.float32), scattered(0.002), 1e9), smooth())
    found = plain_pair(lone, lambda _: None)
    assert found.moving is lone.moving
    assert voxels(found.fixed).max() < 1e6


def test_the_registration_ignores_padding_and_delivers_it() -> None:
    """Without the care the padding takes nearly the whole window, and the images seem to lie well already."""
    size, centre = 32, 15.5
    points = np.stack(np.indices((size,) * 3)) - centre

    def ct(shift: float, padding: int, field: float) -> sitk.Image:
        body = np.exp(-(((points[0]) ** 2 + (points[1]) ** 2 + (points[2] - shift) ** 2) / 60.0))
        values = np.rint(-1000 + 1400 * body + 100 * np.sin(points[1] / 3)).astype(np.int16)
        values[:, np.hypot(points[1, 0], points[2, 0] - field) > 14] = padding
        return sitk.GetImageFromArray(values)

    def found(padding: int) -> tuple[float, list[str], sitk.Image]:
        result = register(ct(0, padding, 0), ct(3, padding, 2), steps=5, repeats=0, align=["centre", "rigid"])
        place = result.moving_from_fixed.TransformPoint((centre,) * 3)
        return place[0] - centre, result.facts["warnings"], result.warped

    plain, none, _ = found(-1100)
    padded, said, warped = found(-32768)
    assert none == []
    assert sum("taken as padding" in one for one in said) == 2
    assert plain == pytest.approx(3.0, abs=0.7)
    # Nearer than with the round edge of another grey, which lies 2 to the side.
    assert padded == pytest.approx(3.0, abs=0.1)
    assert voxels(warped).min() == -32768
