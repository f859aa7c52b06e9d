"""Moving seen through a world matrix on the lattice of fixed, and where the two can be compared there."""

from __future__ import annotations

from dataclasses import replace

from ..errors import GeometryError
from ..geometry.pyramid import coarsened
from ..geometry.separable import coarsening_matrix, on
from ..geometry.space import Array, Grid, is_inside
from .prepare import Prepared, coarse_mask


def seen_on_fixed(moving: Prepared, fixed: Grid, alignment: Array) -> Prepared:
    """Moving seen through `alignment` on the lattice of fixed."""
    return replace(moving.carried(fixed.moved(alignment)), grid=fixed)


def counted_in_moving(fixed: Prepared, moving: Grid, alignment: Array) -> Prepared:
    """Fixed, counted only where moving has voxels.

    Raises:
        GeometryError: that is nowhere.
    """
    inside = is_inside(moving, fixed.grid.moved(alignment), fixed.values)
    if not bool(inside.any()):
        raise GeometryError(
            "fixed and moving do not overlap; at least one voxel of fixed must fall into moving. "
            "Align the centres (stage centre) or give an initial transform."
        )
    if bool(inside.all()):
        return fixed
    mask = inside if fixed.mask is None else inside & fixed.mask
    if not bool(mask.any()):
        raise GeometryError(
            "The fixed mask lies where moving has no voxels; at least one voxel of it must fall into moving. "
            "Widen the mask, or give an initial transform."
        )
    return replace(fixed, mask=mask)


def on_coarser(image: Prepared, shape: tuple[int, ...]) -> Prepared:
    """The image and its mask on a lattice of `shape`, which has the same unit cube; the image itself where that is its own."""
    if shape == image.grid.shape:
        return image
    matrices = on([coarsening_matrix(new, old) for new, old in zip(shape, image.grid.shape, strict=True)], image.values)
    mask = None if image.mask is None else coarse_mask(image.mask, matrices)
    return Prepared(coarsened(image.values, shape), image.grid.spanned(shape), mask)
