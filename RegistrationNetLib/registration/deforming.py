"""The field of an aligned pair: counted where both images are, and the same whichever of the two is fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import GeometryError
from ..geometry.field_pair import Fields
from ..geometry.space import Array, Grid, values_on
from ..progress import StageReport
from .alignment import is_exchanged
from .field_refinement import FieldOptions, refine_field
from .overlap_score import View, spacing_for
from .prepare import Prepared

# Where one image has more than so many times the voxels of the other, the field lies on fixed's lattice, whichever that is.
ALIKE_IN_SIZE = 4.0
FOREGROUND_SIDE_VOX = 40


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
    sides = counted_in_both(fixed, on_fixed(moving, fixed.grid, alignment))
    sides, weight = _of_objects(fixed, moving, sides, alignment)
    return refine_field(*sides, options, report, moving_volume=float(abs(np.linalg.det(alignment))), weight=weight)


def _of_objects(
    fixed: Prepared, moving: Prepared, sides: tuple[Prepared, Prepared], alignment: Array
) -> tuple[tuple[Prepared, Prepared], float]:
    """The `sides` counted only where either image shows an object, and the share of what counted that is left.

    Nothing is to be seen in the air but noise, which would push it about, and with it what lies beside.
    """
    objects = torch.zeros_like(fixed.values, dtype=torch.bool)
    spacing = spacing_for((fixed, moving), FOREGROUND_SIDE_VOX)
    for image, placed in ((fixed, fixed.grid), (moving, fixed.grid.moved(alignment))):
        view = View.of(image, spacing)
        reach = F.max_pool2d if fixed.grid.dim == 2 else F.max_pool3d
        wide = reach(view.foreground.float(), 3, stride=1, padding=1)
        objects |= (values_on(wide, view.grid, placed, nearest=True) > 0.5).to(objects.device)
    counted = sides[0].mask if sides[0].mask is not None else torch.ones_like(objects)
    both = objects & counted
    if not bool(both.any()):
        return sides, 1.0
    share = float(both.double().sum() / counted.double().sum())
    return (replace(sides[0], mask=both), replace(sides[1], mask=both)), share


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
