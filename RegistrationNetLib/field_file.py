"""A displacement field as a file, written slab by slab: how large it is does not count, as it is never held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .deformation import Map
from .errors import InputError
from .models.nephi import slabs
from .outputs import check_file_name, staged
from .space import Array, Grid

SUFFIX = ".nrrd"


def write_displacement_field(path: Path, map_: Map, grid: Grid, alignment: Array, *, like: Tensor) -> None:
    """`map_` of the unit cube of `grid`, then the world matrix `alignment`, as displacements in mm on the lattice of `grid`.

    NRRD, raw float32, LPS: `SimpleITK.ReadImage` gives a vector image, and Slicer reads it as a transform. Whole or not at all.

    Args:
        like: dtype and device in which the map works.

    Raises:
        InputError: the name is no .nrrd, or its folder is missing.
        OutputError: the file cannot be written.
    """
    check_file_name(path)
    if path.suffix.lower() != SUFFIX:
        raise InputError(
            f"{path.name} names no NRRD file, the one format that is written in slabs; got {path.suffix!r}. Use {SUFFIX}."
        )
    moved, still = (torch.as_tensor(one.world_from_unit[:-1]).double() for one in (grid.moved(alignment), grid))
    with staged(path) as temporary, temporary.open("wb") as file:
        file.write(_header(grid).encode("ascii"))
        for _, points, mapped in slabs(map_, grid.shape, like):
            displacement = _world(moved, mapped) - _world(still, points)
            file.write(displacement.numpy().astype("<f4").tobytes())


def _world(world_from_unit: Tensor, points: Tensor) -> Tensor:
    """Points [1, dim, *shape] in mm: [*shape, dim], float64 on the CPU."""
    linear, shift = world_from_unit[:, :-1], world_from_unit[:, -1]
    return torch.einsum("wd,d...->...w", linear, points[0].double().cpu()) + shift


def _header(grid: Grid) -> str:
    """NRRD's header for displacements on `grid`; the fastest axis comes first there, so ours are backwards."""
    sizes = " ".join(map(str, (grid.dim, *grid.shape[::-1])))
    directions = " ".join(map(_vector, np.asarray(grid.world_from_voxel)[:-1, :-1].T[::-1]))
    space = "space: left-posterior-superior" if grid.dim == 3 else f"space dimension: {grid.dim}"
    lines = ["NRRD0004", "type: float", f"dimension: {grid.dim + 1}", space, f"sizes: {sizes}"]
    lines += [f"space directions: none {directions}", f"kinds: vector{' domain' * grid.dim}", "endian: little", "encoding: raw"]
    lines += [f"space origin: {_vector(np.asarray(grid.world_from_voxel)[:-1, -1])}"]
    return "\n".join(lines) + "\n\n"


def _vector(numbers: Array) -> str:
    return f"({','.join(repr(float(one)) for one in numbers)})"
