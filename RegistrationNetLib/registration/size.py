"""How large a registration is, from which a method tells beforehand what it takes; without torch, as the panel asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.catalogue import Card

# The first of the levels, from coarse to fine, on which a refinement works has about so many voxels along the longest side.
COARSEST_SIDE_VOX = 28


@dataclass(frozen=True)
class Size:
    """What is to be done, and on how many voxels.

    Attributes:
        fixed: of the fixed image, along each axis.
        inverse: of the lattice of the inverse (`inverse_shape`).
        refine: the refinement, or "none".
        on_graphics: the work is done on a graphics card, whose memory is asked for.
    """

    fixed: tuple[int, ...]
    inverse: tuple[int, ...]
    card: Card
    refine: str = "none"
    on_graphics: bool = False


def inverse_shape(shape: Sequence[int], spacing_mm: Sequence[float], fixed_spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """The shape of the lattice of the inverse: that of moving (`shape`, `spacing_mm`), but no finer than fixed, as more would hold nothing new."""
    finest_mm = min(fixed_spacing_mm)
    return tuple(
        size if step >= finest_mm else max(2, math.ceil(step * (size - 1) / finest_mm) + 1)
        for size, step in zip(shape, spacing_mm, strict=True)
    )
