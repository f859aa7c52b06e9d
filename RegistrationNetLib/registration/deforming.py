"""The field of an aligned pair: counted where both images are, and the same whichever of the two is fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import in_double
from ..errors import GeometryError
from ..geometry.deformation import DisplacementField, identity_points, invert
from ..geometry.field_pair import FieldPair
from ..geometry.space import INVERSION_TOLERANCE, Array, Grid, values_on
from ..losses.direction import Direction, DirectionOptions, both_directions
from ..losses.measure import Measure
from ..losses.similarity import LNCC, SquaredLNCC
from ..progress import StageReport
from .aligned_pair import counted_in_both, seen_on_fixed
from .alignment import is_exchanged
from .field_refinement import (
    SMALLEST_SIDE_VOX,
    FieldOptions,
    displacement_on_lattice,
    lattice_of_field,
    refine_field,
    sides_on,
)
from .measures import OF_ONE_CONTRAST
from .overlap_score import View, spacing_for
from .prepare import Prepared

# Where one image has more than so many times the voxels of the other, the field lies on fixed's lattice, whichever that is.
ALIKE_IN_SIZE = 1.9
# The share of the loss that a field must take away, by its own measure, and may not add, by another one: the measures that confirm it.
FIELD_GAIN = 0.1
HELD_OUT, HELD_OUT_ACROSS = (kind(sigma_vox=3.0, epsilon=1e-3, stride_vox=2) for kind in (LNCC, SquaredLNCC))
FOREGROUND_SIDE_VOX = 40


def deformed(
    fixed: Prepared, moving: Prepared, alignment: Array, options: FieldOptions, report: StageReport
) -> tuple[FieldPair, list[str]]:
    """The deformation of fixed that goes before `alignment` (world matrix moving_from_fixed), both ways, on fixed's lattice.

    With what is to be said about it: where it gains nothing that another measure confirms, it is none.

    It is found on the lattice of that image which comes first in `alignment.is_exchanged`, so that exchanged images get the
    exchanged maps.

    Raises:
        GeometryError: there is no place where both images count.
        RefinementError: the loss is not finite.
    """
    if not options.steps:
        counted_in_both(fixed, seen_on_fixed(moving, fixed.grid, alignment))
        return _none(lattice_of_field(fixed.grid), fixed.values), []
    voxels = sorted(one.values.numel() for one in (fixed, moving))
    if voxels[1] > ALIKE_IN_SIZE * voxels[0] or not is_exchanged(fixed, moving):
        return _deformed(fixed, moving, alignment, options, report)
    try:
        found, warnings = _deformed(moving, fixed, np.linalg.inv(alignment), options, report)
    except GeometryError:
        # Said of the images in the order in which the user named them.
        counted_in_both(fixed, seen_on_fixed(moving, fixed.grid, alignment))
        raise
    # Not the other direction, which is an inverse only nearly.
    lengths = found.grid.extent_mm
    inverse = invert(
        found.moving_from_fixed, found.grid.shape, like=found.moving_from_fixed.displacement,
        start=found.fixed_from_moving.on_lattice(), scale=lengths, tolerance=INVERSION_TOLERANCE * max(lengths),
    )  # fmt: skip
    in_fixed = FieldPair(found.grid.moved(np.linalg.inv(alignment)), inverse.field, found.moving_from_fixed)
    return in_fixed.on(lattice_of_field(fixed.grid)), warnings


def _deformed(
    fixed: Prepared, moving: Prepared, alignment: Array, options: FieldOptions, report: StageReport
) -> tuple[FieldPair, list[str]]:
    sides = counted_in_both(fixed, seen_on_fixed(moving, fixed.grid, alignment))
    sides, weight = of_objects(fixed, moving, sides, alignment)
    fields = refine_field(*sides, options, report, moving_volume=float(abs(np.linalg.det(alignment))), weight=weight)
    if options.conserve_mass or sides[0].labels is not None:
        return fields, []
    return _kept(fields, sides, options.measure)


def _kept(fields: FieldPair, sides: tuple[Prepared, Prepared], measure: Measure) -> tuple[FieldPair, list[str]]:
    """The fields, or none where they gain too little by `measure` at half the resolution, or lose much by another measure.

    Half the resolution, because there noise has no part in the gain.
    """
    shape = tuple(max(SMALLEST_SIDE_VOX, (size + 1) // 2) for size in sides[0].grid.shape)
    coarse = sides_on([shape], *sides)[shape]
    none = _none(fields.grid, fields.moving_from_fixed.displacement)
    held_out = HELD_OUT if measure.name in OF_ONE_CONTRAST else HELD_OUT_ACROSS
    gains = []
    for judge in (measure, held_out):
        directions = both_directions(*coarse, DirectionOptions(judge))
        before, after = (_loss(directions, one, shape) for one in (none, fields))
        gains.append((before - after) / max(abs(before), 1e-6))
    if gains[0] <= FIELD_GAIN:
        return none, []
    if gains[1] > 0:
        return fields, []
    told = f"The deformation raised the similarity by {measure.name} but lowered it by {held_out.name} over {held_out.sigma_vox:g} voxels"
    if gains[1] > -FIELD_GAIN:
        return fields, [
            f"{told}, by less than a tenth of what was missing; it was kept. Look closely, or choose another similarity."
        ]
    return none, [
        f"{told}; it was left out, and the result is the alignment alone. Choose another similarity if a deformation is needed."
    ]


def _none(grid: Grid, like: Tensor) -> FieldPair:
    zero = torch.zeros(1, grid.dim, *grid.shape, dtype=like.dtype, device=like.device)
    return FieldPair(grid, DisplacementField(zero), DisplacementField(zero.clone()))


@torch.no_grad()
def _loss(directions: tuple[Direction, Direction], fields: FieldPair, shape: Sequence[int]) -> float:
    """The sum of the losses of both directions, on the lattice of `shape`."""
    both = displacement_on_lattice(fields.displacements(), shape)
    lattice = identity_points(shape, both)
    return sum(float(direction.loss(lattice + both[way : way + 1])) for way, direction in enumerate(directions))


def of_objects(
    fixed: Prepared, moving: Prepared, sides: tuple[Prepared, Prepared], alignment: Array
) -> tuple[tuple[Prepared, Prepared], float]:
    """The `sides`, on one lattice of fixed, counted only where either image shows an object, and the share of what counted that is left.

    Nothing is to be seen in the air but noise, which would push it about, and with it what lies beside.
    """
    lattice = sides[0].grid
    objects = torch.zeros_like(sides[0].values, dtype=torch.bool)
    spacing = spacing_for((fixed, moving), FOREGROUND_SIDE_VOX)
    for image, placed in ((fixed, lattice), (moving, lattice.moved(alignment))):
        view = View.of(image, spacing)
        reach = F.max_pool2d if lattice.dim == 2 else F.max_pool3d
        wide = reach(view.foreground.float(), 3, stride=1, padding=1)
        objects |= (values_on(wide, view.grid, placed, nearest=True) > 0.5).to(objects.device)
    counted = sides[0].mask if sides[0].mask is not None else torch.ones_like(objects)
    both = objects & counted
    if not bool(both.any()):
        return sides, 1.0
    share = float(in_double(both).sum() / in_double(counted).sum())
    return (replace(sides[0], mask=both), replace(sides[1], mask=both)), share
