"""A displacement field continued beyond its lattice, so that the map goes on smoothly where the image ends.

ITK takes a displacement field to be 0 outside its lattice, Slicer to go on as at its border. A margin in which it falls to 0 is read
alike by both: the map goes on as at the border at first, and ends in the affine that follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .deformation import DisplacementField, vector_length
from .space import Grid

# How wide the margin is, in largest displacements at the border: its Jacobian stays above 1 - 1.5 / 2.
WIDTH_IN_DISPLACEMENTS = 2.0
# But no wider than this share of the lattice, or these voxels: a map that moves the border by half the image would take all memory.
# Where that cuts it, the map may fold in the margin, outside the image.
WIDEST_SHARE, FEWEST_VOXELS = 0.5, 8
# Displacements at the border that are shorter than this share of a step of the lattice need no margin.
NEGLIGIBLE_STEPS = 1e-3


@dataclass(frozen=True, eq=False)
class HeldField:
    """A field in the unit cube of its lattice `grid`; `margin_mm` of it lie beyond where it was found."""

    field: DisplacementField
    grid: Grid
    margin_mm: float = 0.0


def with_margin(field: DisplacementField, grid: Grid) -> HeldField:
    """The field on a lattice that goes on around `grid` by a margin, in which it falls to nothing; the same where it ends in nothing."""
    displacement = field.displacement
    largest_mm = _largest_at_border(displacement, grid)
    if largest_mm <= NEGLIGIBLE_STEPS * min(grid.spacing_mm):
        return HeldField(field, grid)
    width_mm = WIDTH_IN_DISPLACEMENTS * largest_mm
    widest = [max(FEWEST_VOXELS, math.ceil(WIDEST_SHARE * size)) for size in grid.shape]
    counts = [min(most, math.ceil(width_mm / step)) for most, step in zip(widest, grid.spacing_mm, strict=True)]
    wide = F.pad(displacement, [count for count in reversed(counts) for _ in range(2)], mode="replicate")
    around = grid.cropped([slice(-count, size + count) for size, count in zip(grid.shape, counts, strict=True)])
    for axis, (count, size) in enumerate(zip(counts, grid.shape, strict=True)):
        line = (1, 1, *(-1 if axis == other else 1 for other in range(grid.dim)))
        wide = wide * _fading(count, size, wide).view(line)
        wide[:, axis] *= (size - 1) / (size + 2 * count - 1)
    margin_mm = min(count * step for count, step in zip(counts, grid.spacing_mm, strict=True))
    return HeldField(DisplacementField(wide), around, margin_mm)


def _fading(count: int, size: int, like: Tensor) -> Tensor:
    """1 at `size` points, and falling to 0 over `count` points on either side, smoothly at both ends."""
    away = torch.arange(1, count + 1, dtype=like.dtype, device=like.device) / count
    falling = 1 - away.square() * (3 - 2 * away)
    return torch.cat([falling.flip(0), like.new_ones(size), falling])


def _largest_at_border(displacement: Tensor, grid: Grid) -> float:
    matrix = torch.as_tensor(grid.world_from_unit[:-1, :-1]).to(displacement)
    faces = (displacement.select(2 + axis, end) for axis in range(grid.dim) for end in (0, -1))
    return max(float(vector_length(matrix @ face.flatten(2), axis=1).max()) for face in faces)
