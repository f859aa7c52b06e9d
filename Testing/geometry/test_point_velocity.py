"""A velocity through points: its flow brings them where they belong, folds nowhere, and is nothing far from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from RegistrationNetLib.geometry.deformation import VelocityField, jacobian_determinant, sample
from RegistrationNetLib.geometry.point_velocity import Points, nearness, velocity_through, wendland

SIDE, SPACING_MM, REACH_MM = 31, 4.0, 50.0


def lattice_mm(dim: int) -> Points:
    line = SPACING_MM * np.arange(SIDE)
    return np.stack(np.meshgrid(*[line] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


def flow_of(starts: Points, ends: Points, *, noise_mm: float = 0.1, weights: Points | None = None) -> torch.Tensor:
    """Displacements [1, dim, *shape] in unit-cube coordinates."""
    dim = starts.shape[1]
    velocity = velocity_through(starts, ends, lattice_mm(dim), reach_mm=REACH_MM, noise_mm=noise_mm, weights=weights)
    unit = velocity.T.reshape(1, dim, *[SIDE] * dim) / (SPACING_MM * (SIDE - 1))
    return VelocityField(torch.from_numpy(unit)).displacement_field().displacement


def moved(flow: torch.Tensor, points: Points) -> Points:
    length = SPACING_MM * (SIDE - 1)
    unit = torch.from_numpy((points / length).T.copy())[None]
    return (unit + sample(flow, unit))[0].numpy().T * length


STARTS = {2: np.array([[50.0, 60.0], [70.0, 55.0]]), 3: np.array([[50.0, 60.0, 58.0], [70.0, 55.0, 64.0], [60.0, 72.0, 50.0]])}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("far_mm", [2.0, 25.0])
def test_the_flow_takes_the_points_to_their_places_without_folding(dim: int, far_mm: float) -> None:
    starts = STARTS[dim]
    ends = starts + far_mm * np.eye(dim)[0] + np.linspace(-1, 1, starts.size).reshape(starts.shape)
    flow = flow_of(starts, ends)
    assert np.linalg.norm(moved(flow, starts) - ends, axis=1).max() < 0.1 * far_mm**0.5
    lattice = torch.from_numpy(lattice_mm(dim).T.reshape(1, dim, *[SIDE] * dim) / (SPACING_MM * (SIDE - 1)))
    assert float(jacobian_determinant(lattice + flow).min()) > 0


def test_points_that_pass_each_other_closely_do_not_fold() -> None:
    starts = np.array([[50.0, 60.0], [58.0, 60.0]])
    ends = starts + np.array([[0.0, 20.0], [0.0, -20.0]])
    flow = flow_of(starts, ends)
    lattice = torch.from_numpy(lattice_mm(2).T.reshape(1, 2, SIDE, SIDE) / (SPACING_MM * (SIDE - 1)))
    assert float(jacobian_determinant(lattice + flow).min()) > 0
    assert np.linalg.norm(moved(flow, starts) - ends, axis=1).max() < 8


def test_far_from_the_ways_nothing_moves() -> None:
    starts, places = np.array([[60.0, 60.0, 60.0]]), lattice_mm(3)
    ends = starts + np.array([20.0, 0.0, 0.0])
    velocity = velocity_through(starts, ends, places, reach_mm=REACH_MM, noise_mm=0.1)
    along = np.clip(places[:, :1] - 60.0, 0, 20.0) * np.array([[1.0, 0, 0]])
    away = np.linalg.norm(places - starts - along, axis=1)
    assert np.abs(velocity[away > REACH_MM]).max() == 0
    assert np.linalg.norm(velocity[away < 5], axis=1).min() > 15


def test_ends_that_contradict_each_other_within_the_noise_are_averaged_by_their_weights() -> None:
    starts = np.array([[60.0, 60.0], [60.0, 60.0]])
    ends = starts + np.array([[10.0, 0.0], [6.0, 0.0]])
    even, uneven = (
        moved(flow_of(starts, ends, noise_mm=1.0, weights=weights), starts)[0, 0] - 60 for weights in (None, np.array([9.0, 1.0]))
    )
    assert even == pytest.approx(8.0, abs=0.5)
    assert uneven == pytest.approx(9.6, abs=0.5)


def test_points_in_place_ask_for_nothing() -> None:
    starts = STARTS[3]
    assert not velocity_through(starts, starts, lattice_mm(3)[:50], reach_mm=REACH_MM, noise_mm=1.0).any()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_kernel_is_one_at_its_centre_nothing_beyond_its_reach_and_positive_definite(dim: int) -> None:
    points = 100 * np.random.default_rng(dim).random((60, dim))
    kernel = wendland(points, points, 30.0)
    assert np.diag(kernel) == pytest.approx(1.0)
    assert (kernel[np.linalg.norm(points[:, None] - points, axis=-1) >= 30.0] == 0).all()
    assert np.linalg.eigvalsh(kernel).min() > -1e-9


def test_nearness_falls_smoothly_from_one_to_nothing() -> None:
    line = np.linspace(0, 50, 101)[:, None]
    near = nearness(line, np.array([[0.0], [2.0]]), full_mm=10.0, none_mm=30.0)
    assert (near[line[:, 0] <= 12] == 1).all()
    assert (near[line[:, 0] >= 32] == 0).all()
    assert (np.diff(near) <= 0).all()
    assert near[44] == pytest.approx(0.5)
    assert not nearness(line, np.zeros((0, 1)), full_mm=10.0, none_mm=30.0).any()
