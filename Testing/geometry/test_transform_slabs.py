"""A transform at the voxels of a lattice, slab by slab, is ITK's, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.geometry.space import Grid, affine_transform, displacements_mm, field_transform, slab_of, slabs
from RegistrationNetLib.geometry.transform_slabs import WorldMap

from ..strategies import rotation


def grid(dim: int, shape: tuple[int, ...], spacing: float, *, start: float = 0.0) -> Grid:
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = rotation(dim, (20.0, -10.0, 5.0)) * spacing
    matrix[:-1, -1] = [3.0, 4.0, 5.0][:dim] + matrix[:-1, :-1] @ np.full(dim, start)
    return Grid(shape[:dim], matrix)


def affine(dim: int) -> sitk.Transform:
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = rotation(dim, (9.0, 4.0, -12.0)) * 1.1
    matrix[:-1, -1] = [7.0, -3.0, 2.0][:dim]
    return affine_transform(matrix)


def field(on: Grid) -> sitk.Transform:
    return field_transform(np.random.default_rng(0).normal(size=(*on.shape, on.dim)), on)


def composite(*transforms: sitk.Transform) -> sitk.CompositeTransform:
    return sitk.CompositeTransform(list(transforms))


def expected_voxels(transform: sitk.Transform, target: Grid, lattice: Grid) -> torch.Tensor:
    points = (
        displacements_mm(transform, lattice)
        + np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing="ij"), axis=-1) @ lattice.world_from_voxel[:-1, :-1].T
        + lattice.world_from_voxel[:-1, -1]
    )
    back = np.linalg.inv(target.world_from_voxel)
    return torch.as_tensor(np.moveaxis(points @ back[:-1, :-1].T + back[:-1, -1], -1, 0))[None]


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("what", ["affine after field", "field", "affine", "two fields", "across"])
def test_places_are_those_of_itk(dim: int, what: str) -> None:
    # The lattice of the field is coarser, and ends within the other one.
    lattice, coarse = grid(dim, (13, 11, 12), 2.0), grid(dim, (6, 5, 4), 3.7, start=0.7)
    turn = np.eye(dim + 1)
    turn[:-1, :-1] = rotation(dim, (3.0, 2.0, 1.0))
    across = coarse.moved(turn)
    transform = {
        "affine after field": composite(affine(dim), affine(dim), field(coarse)),
        "field": field(coarse),
        "affine": affine(dim),
        "two fields": composite(field(lattice), affine(dim), field(coarse)),
        "across": composite(affine(dim), field(across)),
    }[what]  # fmt: skip
    world_map, target = WorldMap.of(transform, torch.float64), grid(dim, (9, 9, 9), 1.3)
    is_fast = what not in ("two fields", "across")
    assert (world_map.displacement_on(lattice) is not None) == is_fast
    for layers in slabs(lattice, 40):
        slab = slab_of(lattice, layers)
        torch.testing.assert_close(world_map.voxels(target, slab), expected_voxels(transform, target, slab), atol=1e-7, rtol=1e-7)


def test_slabs_are_the_whole_lattice_once() -> None:
    lattice = grid(3, (23, 5, 7), 1.0)
    found = list(slabs(lattice, 100))
    assert [layers.start for layers in found] == [0, *(layers.stop for layers in found[:-1])]
    assert found[-1].stop == 23
    assert slab_of(lattice, slice(4, 9)).shape == (5, 5, 7)
