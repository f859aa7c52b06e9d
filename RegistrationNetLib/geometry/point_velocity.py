"""A stationary velocity whose flow takes given points to given places: smooth between them, and nothing far from them.

The points go straight and at constant speed: the velocity is interpolated by kernels (Wendland's of compact support, as kriging
does) between places along their ways. Its flow cannot fold, however near they are to each other and however far they go.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Places at which a way is followed: one for each of these shares of the kernels' reach, and no more of them.
STEP_SHARE, MOST_STEPS = 0.1, 7
# Pairs of places whose kernels are held at once.
HELD = 4_000_000


def velocity_through(
    starts_mm: Points, ends_mm: Points, places_mm: Points, *, reach_mm: float, noise_mm: float, weights: Points | None = None
) -> Points:
    """The velocity in mm per unit time at `places_mm` [M, dim] whose flow takes `starts_mm` [N, dim] to `ends_mm`: [M, dim].

    Args:
        reach_mm: beyond this distance from every way it is nothing.
        noise_mm: standard deviation of the places that are given; ends that contradict each other within it are averaged.
        weights: of each pair; 1 is the usual one.
    """
    ways = ends_mm - starts_mm
    longest = float(np.linalg.norm(ways, axis=1).max(initial=0.0))
    if longest == 0.0:
        return np.zeros_like(places_mm)
    steps = min(MOST_STEPS, 2 + math.floor(longest / (STEP_SHARE * reach_mm)))
    centres = np.concatenate([starts_mm + share * ways for share in np.linspace(0, 1, steps)])
    values = np.tile(ways, (steps, 1))
    # Kriging: the noise counts beside how far the points go; that of one way is shared by its places.
    strength = float(np.square(ways).sum(axis=1).mean())
    noise = max(noise_mm**2 / strength, 1e-6) * steps / np.tile(np.ones(len(ways)) if weights is None else weights, steps)
    coefficients = np.linalg.solve(wendland(centres, centres, reach_mm) + np.diag(noise), values)
    found = np.empty_like(places_mm)
    at_a_time = max(1, HELD // len(centres))
    for first in range(0, len(places_mm), at_a_time):
        some = slice(first, first + at_a_time)
        found[some] = wendland(places_mm[some], centres, reach_mm) @ coefficients
    return found


def wendland(one: Points, other: Points, reach: float) -> Points:
    """The kernel (1 - r)⁴ (4 r + 1) of r = distance / reach, nothing from r = 1 on: [len(one), len(other)].

    Positive definite in up to three dimensions, and twice differentiable (Wendland, 1995).
    """
    squares = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * one @ other.T
    share = np.minimum(np.sqrt(np.maximum(squares, 0.0)) / reach, 1.0)
    return (1 - share) ** 4 * (4 * share + 1)


def nearness(places_mm: Points, points_mm: Points, *, full_mm: float, none_mm: float) -> NDArray[np.float64]:
    """1 within `full_mm` of any of the points [N, dim], smoothly falling to 0 at `none_mm`: [M] for `places_mm` [M, dim]."""
    nearest = np.full(len(places_mm), np.inf)
    at_a_time = max(1, HELD // max(1, len(points_mm)))
    for first in range(0, len(places_mm), at_a_time):
        some = slice(first, first + at_a_time)
        squares = np.square(places_mm[some]).sum(axis=1)[:, None] + np.square(points_mm).sum(axis=1)
        nearest[some] = (squares - 2 * places_mm[some] @ points_mm.T).min(axis=1, initial=np.inf)
    away = np.clip((np.sqrt(np.maximum(nearest, 0.0)) - full_mm) / (none_mm - full_mm), 0.0, 1.0)
    return 1 - away**2 * (3 - 2 * away)
