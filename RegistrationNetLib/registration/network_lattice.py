"""The pair on the lattices of a network, and a network's maps back in the world.

As published, each image fills the network's lattice with its own extent, however the two lie in the world; what the network
then finds includes how they lie. Where an alignment is known, moving is seen through it instead, on the lattice of fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Composition, DisplacementField, Map, identity_points
from ..geometry.field_pair import FieldPair, affine_of, field_on
from ..geometry.space import Array, Grid, anatomical_grid
from ..losses.direction import Side
from ..losses.label_overlap import numbered
from ..losses.overlap import one_hot
from ..models.composition import BothWays, mapped_lattice
from .prepare import Prepared, on_lattice

# Every so many lattice points give the affine part of a map: enough for twelve numbers.
AFFINE_STRIDE = 4
SMALLEST_VOLUME = 0.05


@dataclass(frozen=True)
class NetworkPair:
    """Both images on lattices of one shape, each with the place of its own unit cube in the world."""

    fixed: Prepared
    moving: Prepared

    @property
    def moving_volume(self) -> float:
        """Volume of moving's cube over that of fixed's."""
        moving, fixed = (abs(np.linalg.det(one.grid.world_from_unit)) for one in (self.moving, self.fixed))
        return float(moving / fixed)

    def sides(self) -> tuple[Side, Side]:
        """Fixed and moving as a loss wants them."""
        classes: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.fixed.labels is not None and self.moving.labels is not None:
            classes = one_hot(self.fixed.labels, self.moving.labels)
        return (
            Side(self.fixed.values, self.fixed.mask, classes[0]),
            Side(self.moving.values, self.moving.mask, classes[1]),
        )

    def numbered_sides(self) -> tuple[Side, Side]:
        """The same of a single pair, whose labels take no more memory for being many."""
        fixed, moving, count = self.fixed.labels, self.moving.labels, 0
        if fixed is not None and moving is not None:
            fixed, moving, count = numbered(fixed, moving)
        return (
            Side(self.fixed.values, self.fixed.mask, labels=fixed, label_count=count),
            Side(self.moving.values, self.moving.mask, labels=moving, label_count=count),
        )


def network_pair(
    fixed: Prepared,
    moving: Prepared,
    shape: Sequence[int],
    *,
    orientation: str | None = None,
    mirror_axis: int | None = None,
    alignment: Array | None = None,
) -> NetworkPair:
    """Both images on lattices of `shape`.

    Args:
        orientation: anatomical axes of the lattices, as for `space.anatomical_grid`; None leaves those of fixed.
        mirror_axis: the axis of the lattices that counts backwards, for a network that knows the other side of the body.
        alignment: world matrix moving_from_fixed through which moving is seen; None gives it its own extent.

    Raises:
        InputError: the images have another number of dimensions than the network.
    """
    if len(shape) != fixed.grid.dim:
        raise InputError(
            f"This network takes images of {len(shape)} dimensions; got {fixed.grid.dim}. Choose another model: direct takes both."
        )
    seen = on_lattice(as_seen(fixed, orientation), shape, mirror_axis=mirror_axis)
    if alignment is None:
        return NetworkPair(seen, on_lattice(as_seen(moving, orientation), shape, mirror_axis=mirror_axis))
    return NetworkPair(seen, moving.carried(seen.grid.moved(alignment)))


def as_seen(image: Prepared, orientation: str | None) -> Prepared:
    """What the network sees of `image`: its content, in the axes that it knows."""
    content = image.cropped()
    return content if orientation is None else content.towards(anatomical_grid(orientation))


@dataclass(frozen=True)
class Placed:
    """Maps in the world: a world matrix `alignment` after a deformation of fixed (`fields`, both ways).

    `fixed_from_moving` is the map of the network for the reverse, in the unit cube of the fields, but not put on a lattice.
    """

    alignment: Array
    fields: FieldPair
    fixed_from_moving: Map


@torch.no_grad()
def placed(maps: BothWays, pair: NetworkPair, grid: Grid, *, affine: Array | None = None, is_refined: bool = False) -> Placed:
    """The maps on `grid`, a lattice of the world, with their affine part apart.

    Between the points of the network's lattice the maps are linear, as in the published package, unless they were refined to
    more than it holds.

    Args:
        affine: the affine part of moving_from_fixed, where the network has one, homogeneous, in unit-cube coordinates; None is that
            of least squares over the network's lattice.
    """
    like, shape = pair.fixed.values, pair.fixed.grid.shape
    forward, backward = (
        DisplacementField(mapped_lattice(one, shape, like) - identity_points(shape, like))
        for one in (maps.moving_from_fixed, maps.fixed_from_moving)
    )
    affine = affine_part(forward) if affine is None else affine
    one_way, other_way = (maps.moving_from_fixed, maps.fixed_from_moving) if is_refined else (forward, backward)
    moving_cube, fixed_cube = pair.moving.grid.world_from_unit, pair.fixed.grid.world_from_unit
    target_from_network = grid.unit_from_world @ fixed_cube
    network_from_target = np.linalg.inv(target_from_network)
    outer, inner = (affine_of(one, like) for one in (target_from_network @ np.linalg.inv(affine), network_from_target))
    back_outer, back_inner = (affine_of(one, like) for one in (target_from_network, affine @ network_from_target))
    return Placed(
        moving_cube @ affine @ np.linalg.inv(fixed_cube),
        FieldPair(grid, field_on(grid, (outer, one_way, inner)), field_on(grid, (back_outer, other_way, back_inner))),
        Composition((back_outer, maps.fixed_from_moving, back_inner)),
    )


def affine_part(field: DisplacementField) -> Array:
    """The affine map nearest to the mapped lattice in the sense of least squares, homogeneous, in unit-cube coordinates.

    Where that is nearly degenerate it says nothing, and the identity takes its place.
    """
    every = (slice(None), slice(None), *(slice(None, None, AFFINE_STRIDE) for _ in field.displacement.shape[2:]))
    points = identity_points(field.displacement.shape[2:], field.displacement)[every].cpu().double().flatten(2)[0]
    moved = points + field.displacement[every].cpu().double().flatten(2)[0]
    homogeneous = torch.cat([points, torch.ones_like(points[:1])])
    solved = torch.linalg.lstsq(homogeneous.T, moved.T).solution.T.numpy()
    matrix = np.vstack([solved, np.eye(len(points) + 1)[-1]])
    return matrix if np.linalg.det(matrix) > SMALLEST_VOLUME else np.eye(len(matrix))
