"""Pairs for the worker's tests, as they travel."""

import numpy as np

from RegistrationNetLib.io.nrrd import Volume


def ball(centre_mm: tuple[float, float, float], size: int = 24, spacing_mm: float = 3.0) -> Volume:
    """A Gaussian ball in a cube around the origin of the world."""
    first_mm = -0.5 * spacing_mm * (size - 1)
    world = first_mm + spacing_mm * np.arange(size)
    z, y, x = np.meshgrid(world, world, world, indexing="ij")
    distance2 = (x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2
    matrix = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    matrix[:3, 3] = first_mm
    return Volume((1000 * np.exp(-distance2 / 300)).astype(np.int16), matrix)


def pair(size: int = 24) -> dict[str, Volume]:
    """Two balls, 5 mm apart."""
    return {"fixed": ball((0, 0, 0), size), "moving": ball((3, -4, 0), size)}
