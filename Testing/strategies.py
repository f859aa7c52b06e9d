"""Hypothesis strategies for lattices and images of any orientation."""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st
from numpy.typing import NDArray

from RegistrationNetLib.geometry.space import Grid, grid_of

Array = NDArray[np.float64]


def signed_permutations(dim: int) -> list[Array]:
    """Every direction along the axes of the world: 8 in 2-D, 48 in 3-D (reflections too)."""
    return [
        np.eye(dim)[list(order)] * np.array(signs)
        for order in itertools.permutations(range(dim))
        for signs in itertools.product((1.0, -1.0), repeat=dim)
    ]


def rotation(dim: int, degrees: tuple[float, ...]) -> Array:
    """Product of the rotations by `degrees` in the planes (0, 1), (0, 2), (1, 2); in 2-D only the first counts."""
    result = np.eye(dim)
    for (first, second), angle in zip(itertools.combinations(range(dim), 2), np.deg2rad(degrees), strict=False):
        turn = np.eye(dim)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def directions(dim: int, *, max_degrees: float = 45.0) -> st.SearchStrategy[Array]:
    """A signed permutation, turned by up to `max_degrees` in each plane."""
    angle = st.floats(-max_degrees, max_degrees)
    return st.builds(
        lambda axes, degrees: rotation(dim, degrees) @ axes,
        st.sampled_from(signed_permutations(dim)),
        st.tuples(angle, angle, angle),
    )


@st.composite
def images(draw: st.DrawFn, dim: int = 3, *, max_degrees: float = 45.0, min_size: int = 2, max_size: int = 7) -> sitk.Image:
    """A float32 image of random voxels with any orientation, anisotropic spacing and any origin."""
    size = draw(st.lists(st.integers(min_size, max_size), min_size=dim, max_size=dim))
    seed = draw(st.integers(0, 2**16))
    image = sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=size[::-1]).astype(np.float32))
    image.SetSpacing(draw(st.lists(st.floats(0.3, 6.0), min_size=dim, max_size=dim)))
    image.SetOrigin(draw(st.lists(st.floats(-300.0, 300.0), min_size=dim, max_size=dim)))
    image.SetDirection(draw(directions(dim, max_degrees=max_degrees)).flatten().tolist())
    return image


def grids(dim: int = 3, *, max_degrees: float = 45.0, min_size: int = 2, max_size: int = 7) -> st.SearchStrategy[Grid]:
    """The lattice of such an image."""
    return images(dim, max_degrees=max_degrees, min_size=min_size, max_size=max_size).map(grid_of)
