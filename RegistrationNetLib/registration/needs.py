"""About how much memory a registration takes, known before anything starts; without torch, so that a panel can tell it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..models.catalogue import NEPHI

# Megabytes of the program, and bytes for each voxel, as measured.
FIELD_BASE_MB, FIELD_BYTES_PER_VOXEL, INVERSE_BYTES_PER_VOXEL = 500, 400, 250
NETWORK_BASE_MB, NETWORK_BYTES_PER_VOXEL, NETWORK_BYTES_PER_VOXEL_STEP = 1000, 300, 800
IMPLICIT_BASE_MB, IMPLICIT_BYTES_PER_VOXEL, IMPLICIT_BYTES_PER_DELIVERED_VOXEL = 1100, 40, 250
GRAPHICS_BASE_MB, GRAPHICS_BYTES_PER_VOXEL, GRAPHICS_BYTES_PER_DELIVERED_VOXEL = 800, 10, 64
# NePhi's map is delivered, and judged, on no more voxels a side than this: it is smoother than a lattice that fine.
FINEST_IMPLICIT_SIDE_VOX = 256


def needed_mb(
    fixed_shape: Sequence[int],
    inverse_shape: Sequence[int],
    *,
    method: str,
    input_shape: Sequence[int] | None,
    refine: str,
    on_graphics: bool = False,
) -> float:
    """What registering takes, with its inverse on a lattice of `inverse_shape`; the program included.

    Args:
        method, input_shape: of the model's card.
        refine: "none", "field" or "network".
        on_graphics: of a graphics card, where that is where the work is done; counted and not measured.
    """
    if method == NEPHI:
        return graphics_implicit_mb(fixed_shape) if on_graphics else implicit_mb(fixed_shape, inverse_shape)
    needed = field_mb(fixed_shape, inverse_shape)
    if input_shape is None:
        return needed
    bytes_per_voxel = NETWORK_BYTES_PER_VOXEL_STEP if refine == "network" else NETWORK_BYTES_PER_VOXEL
    return max(needed, NETWORK_BASE_MB + math.prod(input_shape) * bytes_per_voxel / 2**20)


def field_mb(fixed_shape: Sequence[int], inverse_shape: Sequence[int]) -> float:
    """What refining a field takes, and its inverse after that."""
    most = max(math.prod(fixed_shape) * FIELD_BYTES_PER_VOXEL, math.prod(inverse_shape) * INVERSE_BYTES_PER_VOXEL)
    return FIELD_BASE_MB + most / 2**20


def implicit_mb(fixed_shape: Sequence[int], inverse_shape: Sequence[int]) -> float:
    """What NePhi's fit takes, with the writing down of its map."""
    delivered = max(math.prod(bounded_shape(shape)) for shape in (fixed_shape, inverse_shape))
    most = math.prod(fixed_shape) * IMPLICIT_BYTES_PER_VOXEL + delivered * IMPLICIT_BYTES_PER_DELIVERED_VOXEL
    return IMPLICIT_BASE_MB + most / 2**20


def graphics_implicit_mb(fixed_shape: Sequence[int]) -> float:
    """What NePhi's fit takes of a graphics card: the images with their coarser ones, and both maps; the rest is done elsewhere."""
    most = (
        math.prod(fixed_shape) * GRAPHICS_BYTES_PER_VOXEL
        + math.prod(bounded_shape(fixed_shape)) * GRAPHICS_BYTES_PER_DELIVERED_VOXEL
    )
    return GRAPHICS_BASE_MB + most / 2**20


def bounded_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Of the lattice on which NePhi's map for a fixed image of `shape` is delivered."""
    return tuple(min(size, FINEST_IMPLICIT_SIDE_VOX) for size in shape)


def inverse_shape(shape: Sequence[int], spacing_mm: Sequence[float], fixed_spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Of the lattice of the inverse: that of moving (`shape`, `spacing_mm`), but no finer than fixed, as more would hold nothing new."""
    finest_mm = min(fixed_spacing_mm)
    return tuple(
        size if step >= finest_mm else max(2, math.ceil(step * (size - 1) / finest_mm) + 1)
        for size, step in zip(shape, spacing_mm, strict=True)
    )
