"""What was found, as transforms of the world: both ways, each an affine after a field on a lattice that holds it, with a margin.

See docs/decisions/0001-two-fields.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..geometry.deformation import Composition, DisplacementField
from ..geometry.field_pair import affine_of
from ..geometry.margin import HeldField, with_margin
from ..geometry.space import Array, Grid, grid_of, inverse_field, transform_from_map
from .field_refinement import displacement_on_lattice
from .initial_transform import Initial
from .method import Solution
from .size import delivered_shape, inverse_shape


@dataclass(frozen=True)
class Delivered:
    """Transforms in LPS mm, and of the field of moving_from_fixed its spacing and how far beyond fixed it goes on, in mm.

    `spacing_mm` counts x, y, z.
    """

    moving_from_fixed: sitk.CompositeTransform
    fixed_from_moving: sitk.CompositeTransform
    spacing_mm: tuple[float, ...]
    margin_mm: float


def delivered(start: Initial, solution: Solution) -> Delivered:
    """The solution in the world, after what was given to start from."""
    grid = solution.delivered_grid
    displacement = displacement_on_lattice(solution.fields.moving_from_fixed.displacement, grid.shape)
    held = with_margin(DisplacementField(displacement), grid)
    forward, backward = _transform(held, solution.alignment), _inverse(held, grid_of(start.pair.moving), solution)
    if start.moving_from_carried is not None and start.carried_from_moving is not None:
        forward, backward = _chained(start.moving_from_carried, forward), _chained(backward, start.carried_from_moving)
    return Delivered(forward, backward, held.grid.spacing_mm[::-1], held.margin_mm)


def lattice_of_inverse(moving: Grid, fixed: Grid) -> Grid:
    """The cube of moving on the lattice that the inverse of a field on `fixed` gets."""
    return moving.spanned(delivered_shape(inverse_shape(moving.shape, moving.spacing_mm, fixed.spacing_mm)))


def _transform(held: HeldField, affine: Array) -> sitk.CompositeTransform:
    return transform_from_map(held.field, held.grid, held.grid.moved(affine), like=held.field.displacement)


def _inverse(held: HeldField, moving: Grid, solution: Solution) -> sitk.CompositeTransform:
    """The inverse of the field as it is delivered, with a margin of its own."""
    fields, like = solution.fields, held.field.displacement
    own_from_held = fields.grid.unit_from_world @ held.grid.world_from_unit
    start = Composition(
        (
            affine_of(np.linalg.inv(own_from_held), like),
            solution.inverse or fields.fixed_from_moving,
            affine_of(own_from_held, like),
        )
    )
    lattice = lattice_of_inverse(moving, fields.grid)
    inverse = inverse_field(
        held.field, held.grid, lattice, solution.alignment, start=start, is_exact=solution.inverse is not None
    )
    return _transform(with_margin(inverse, lattice), np.asarray(np.linalg.inv(solution.alignment)))


def _chained(outer: sitk.Transform, inner: sitk.Transform) -> sitk.CompositeTransform:
    """x ↦ outer(inner(x)), without nesting. SimpleITK applies the transform added last first."""
    chain = sitk.CompositeTransform([outer, inner])
    chain.FlattenTransform()
    return chain
