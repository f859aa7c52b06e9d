"""Moving seen through a world matrix on the lattice of fixed, and where the two can be compared there."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..errors import GeometryError
from ..geometry.pyramid import coarsened
from ..geometry.separable import coarsening_matrix, on
from ..geometry.space import Array, Grid
from .prepare import Prepared, coarse_mask
from .volume import continued


def seen_on_fixed(moving: Prepared, fixed: Grid, alignment: Array) -> Prepared:
    """Moving seen through `alignment` on the lattice of fixed."""
    return replace(moving.carried(fixed.moved(alignment)), grid=fixed)


def counted_in_both(fixed: Prepared, aligned: Prepared) -> tuple[Prepared, Prepared]:
    """Two images on one lattice, counted only where both are; what is padding in one is continued in the other as well.

    Otherwise only one of them would show what lies there, next to places that count.

    Raises:
        GeometryError: that is nowhere.
    """
    masks = [one.mask for one in (fixed, aligned) if one.mask is not None]
    if not masks:
        return fixed, aligned
    both = masks[0] & masks[-1]
    if not bool(both.any()):
        if aligned.mask is not None and not bool(aligned.mask.any()) and fixed.mask is None:
            raise GeometryError(
                "fixed and moving do not overlap; at least one voxel of fixed must fall into moving, and into its mask. "
                "Align the centres (stage centre) or give an initial transform."
            )
        raise GeometryError(
            "The fixed mask lies where moving has no voxels, or none that count; at least one voxel of it must fall into moving "
            "and its mask. Widen the masks, or give an initial transform."
        )
    return _continued(replace(fixed, mask=both), aligned.measured), _continued(replace(aligned, mask=both), fixed.measured)


def _continued(image: Prepared, measured: Tensor | None) -> Prepared:
    return image if measured is None else replace(image, values=continued(image.values, measured))


def on_coarser(image: Prepared, shape: tuple[int, ...]) -> Prepared:
    """The image and its mask on a lattice of `shape`, which has the same unit cube; the image itself where that is its own."""
    if shape == image.grid.shape:
        return image
    matrices = on([coarsening_matrix(new, old) for new, old in zip(shape, image.grid.shape, strict=True)], image.values)
    mask, measured = (None if one is None else coarse_mask(one, matrices) for one in (image.mask, image.measured))
    return Prepared(coarsened(image.values, shape), image.grid.spanned(shape), mask, measured=measured)
