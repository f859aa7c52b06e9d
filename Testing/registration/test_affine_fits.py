"""Matrices from points: a known motion is found again, and what the points do not tell is left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from RegistrationNetLib.registration.affine_fits import rigid_fit, volume_keeping_fit


def turned(dim: int, degrees: float = 25.0) -> np.ndarray:
    angle, turn = np.deg2rad(degrees), np.eye(dim)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def points(dim: int, count: int = 12) -> np.ndarray:
    return 50 * np.random.default_rng(dim).random((count, dim))


def through(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    return places @ matrix[:-1, :-1].T + matrix[:-1, -1]


@pytest.mark.parametrize("dim", [2, 3])
def test_a_rigid_motion_is_found(dim: int) -> None:
    places = points(dim)
    partners = places @ turned(dim).T + np.arange(1.0, dim + 1)
    assert np.allclose(through(rigid_fit(places, partners), places), partners)
    assert np.allclose(through(volume_keeping_fit(places, partners), places), partners)


def test_what_is_not_rigid_is_fitted_by_a_rotation_and_never_mirrored() -> None:
    places = points(3)
    for partners in (1.4 * places @ turned(3).T, places * [1, 1, -1]):
        linear = rigid_fit(places, partners)[:3, :3]
        assert np.allclose(linear @ linear.T, np.eye(3))
        assert np.linalg.det(linear) == pytest.approx(1.0)


def test_a_weight_of_nothing_leaves_a_pair_out() -> None:
    places = points(3)
    partners = places @ turned(3).T
    partners[0] += 30.0
    weights = np.ones(len(places))
    weights[0] = 0.0
    assert np.allclose(through(rigid_fit(places, partners, weights), places)[1:], partners[1:])


@pytest.mark.parametrize("places", [[[1.0, 2.0, 3.0]], [[0.0, 0, 0], [5.0, 0, 0]], [[0.0, 0, 0], [5.0, 0, 0], [10.0, 0, 0]]])
def test_points_that_tell_no_rotation_give_a_shift(places: list[list[float]]) -> None:
    matrix = rigid_fit(np.array(places), np.array(places) + np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(matrix[:3, :3], np.eye(3))
    assert matrix[:3, 3] == pytest.approx([1.0, 2.0, 3.0])


@pytest.mark.parametrize("dim", [2, 3])
def test_a_shear_keeps_its_form_and_a_growth_is_taken_back(dim: int) -> None:
    places, shear = points(dim), np.eye(dim)
    shear[0, 1] = 0.3
    assert np.allclose(volume_keeping_fit(places, 1.2 * places @ shear.T)[:-1, :-1], shear)
    assert np.linalg.det(volume_keeping_fit(places, places * ([1.5] + [1.0] * (dim - 1)))[:-1, :-1]) == pytest.approx(1.0)


def test_points_in_a_plane_and_mirrored_ones_keep_their_volume_rigidly() -> None:
    flat = points(3) * [1, 1, 0]
    assert np.allclose(through(volume_keeping_fit(flat, flat @ turned(3).T), flat), flat @ turned(3).T)
    assert np.linalg.det(volume_keeping_fit(points(3), points(3) * [1, 1, -1])) == pytest.approx(1.0)
