"""The field of an aligned pair: counted where both images are, and the same whichever of the two is fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import GeometryError
from ..geometry.field_pair import Fields
from ..geometry.space import Array, Grid
from ..progress import StageReport
from .alignment import is_exchanged
from .field_refinement import FieldOptions, refine_field
from .prepare import Prepared

# Where one image has more than so many times the voxels of the other, the field lies on fixed's lattice, whichever that is.
ALIKE_IN_SIZE = 4.0


def deformed(fixed: Prepared, moving: Prepared, alignment: Array, options: FieldOptions, report: StageReport) -> Fields:
    """The deformation of fixed that goes before `alignment` (world matrix moving_from_fixed), both ways, on fixed's lattice.

    It is found on the lattice of that image which comes first in `alignment.is_exchanged`, so that exchanged images get the
    exchanged maps.

    Raises:
        GeometryError: there is no place where both images count.
        RefinementError: the loss is not finite.
    """
    voxels = sorted(one.values.numel() for one in (fixed, moving))
    if voxels[1] > ALIKE_IN_SIZE * voxels[0] or not is_exchanged(fixed, moving):
        return _deformed(fixed, moving, alignment, options, report)
    found = _deformed(moving, fixed, np.linalg.inv(alignment), options, report)
    in_fixed = Fields(found.grid.moved(np.linalg.inv(alignment)), found.fixed_from_moving, found.moving_from_fixed)
    return in_fixed.on(fixed.grid)


def _deformed(fixed: Prepared, moving: Prepared, alignment: Array, options: FieldOptions, report: StageReport) -> Fields:
    aligned = on_fixed(moving, fixed.grid, alignment)
    sides = counted_in_both(fixed, aligned)
    return refine_field(*sides, options, report, moving_volume=float(abs(np.linalg.det(alignment))))


def on_fixed(moving: Prepared, fixed: Grid, alignment: Array) -> Prepared:
    """Moving seen through `alignment` on the lattice of fixed."""
    return replace(moving.carried(fixed.moved(alignment)), grid=fixed)


def counted_in_both(fixed: Prepared, aligned: Prepared) -> tuple[Prepared, Prepared]:
    """Two images on one lattice, counted only where both are.

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
    return replace(fixed, mask=both), replace(aligned, mask=both)
