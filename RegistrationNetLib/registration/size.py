"""How large a registration is, from which a method tells beforehand what it takes; without torch, as the panel asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..choices import SMALLEST_SIDE_VOX
from ..models.catalogue import Card

# The first of the levels, from coarse to fine, on which a refinement works has about so many voxels along the longest side.
COARSEST_SIDE_VOX = 28
# How coarse the whole work may become, along the longest edge, where the memory allows no more.
COARSEST_WORK_SIDE_VOX = 64
# A deformation of more voxels than this is held on every second of them along each axis, which costs about a hundredth of a voxel.
WHOLE_FIELD_VOXELS = 1_000_000
# A field of more points than the first is delivered on a lattice so much coarser, which for a head of 1 mm is 2.5 mm where its splines
# have a knot every 4; and of so many points at most, besides its margin: 58 MB, in a file.
WHOLE_POINTS, COARSER_DELIVERED, DELIVERED_POINTS = 500_000, 1.25, 2_400_000


@dataclass(frozen=True)
class Size:
    """What is to be done, and on how many voxels.

    Attributes:
        fixed: of the lattice on which fixed is worked on, along each axis.
        inverse: of the lattice of the inverse.
        refine: the refinement, or "none".
        on_graphics: the work is done on a graphics card, whose memory is asked for.
        moving: of the lattice on which moving is worked on; None is that of fixed.
        image_voxels: of fixed as it came; None is that of its lattice.
        pixel_bytes: of a voxel of moving.
        labels: 1 where both images have labels that guide the work, else 0.
        measure: the name of the similarity.
        is_whole: images are compared as a whole, whatever the similarity.
    """

    fixed: tuple[int, ...]
    inverse: tuple[int, ...]
    card: Card
    refine: str = "none"
    on_graphics: bool = False
    moving: tuple[int, ...] | None = None
    image_voxels: int | None = None
    pixel_bytes: int = 4
    labels: int = 0
    measure: str = "lncc"
    is_whole: bool = False

    @property
    def result_mb(self) -> float:
        """What is held of the result at the end: warped image, determinant and expected error, and what the last one is made from."""
        return self.fixed_voxels * (self.pixel_bytes + 12) / 2**20

    @property
    def fixed_voxels(self) -> int:
        """Of fixed as it came."""
        return math.prod(self.fixed) if self.image_voxels is None else self.image_voxels

    @property
    def worked(self) -> int:
        """Voxels of both images as they are worked on."""
        return math.prod(self.fixed) + math.prod(self.moving or self.fixed)


def inverse_shape(shape: Sequence[int], spacing_mm: Sequence[float], fixed_spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The shape of the lattice of the inverse: that of moving (`shape`, `spacing_mm`), but no finer than fixed, as more would hold nothing new."""
    finest_mm = min(fixed_spacing_mm)
    return tuple(
        size if step >= finest_mm else max(2, math.ceil(step * (size - 1) / finest_mm) + 1)
        for size, step in zip(shape, spacing_mm, strict=True)
    )


def coarser_shape(shape: Sequence[int], spacing_mm: Sequence[float], coarser_mm: float) -> tuple[int, ...]:
    """The shape of a lattice over the same extent whose voxels are at least `coarser_mm` apart; axes that are coarser already stay."""
    return tuple(
        min(size, max(SMALLEST_SIDE_VOX, round(size * step / coarser_mm))) for size, step in zip(shape, spacing_mm, strict=True)
    )


def coarsest_mm(extents_mm: Sequence[float]) -> float:
    """The coarsest spacing that the work takes by itself where memory is short, for images whose longest edges are these."""
    return max(extents_mm) / COARSEST_WORK_SIDE_VOX


def field_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Of the lattice that holds the deformation of images of `shape`, with the same first and last voxels."""
    if math.prod(shape) <= WHOLE_FIELD_VOXELS:
        return tuple(shape)
    return _thinned(shape, 2)


def delivered_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Of the lattice on which a field of `shape` is delivered, with the same first and last points."""
    coarser = COARSER_DELIVERED if math.prod(shape) > WHOLE_POINTS else 1.0
    found = tuple(shape) if coarser == 1 else _thinned(shape, coarser)
    while math.prod(found) > DELIVERED_POINTS:
        coarser *= 1.01
        found = _thinned(shape, coarser)
    return found


def _thinned(shape: Sequence[int], coarser: float) -> tuple[int, ...]:
    return tuple(max(min(size, SMALLEST_SIDE_VOX), int(size / coarser) + 1) for size in shape)
