"""Both directions of a deformation as displacement fields, and where their unit cube lies in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .deformation import Affine, Composition, DisplacementField, Map, identity_points
from .space import Array, Grid


@dataclass(frozen=True)
class FieldPair:
    """Maps of the unit cube of `grid`, each a field [1, dim, *grid.shape]; nearly inverse to each other."""

    grid: Grid
    moving_from_fixed: DisplacementField
    fixed_from_moving: DisplacementField

    def displacements(self) -> Tensor:
        """Both, moving_from_fixed first: [2, dim, *shape]."""
        return torch.cat([self.moving_from_fixed.displacement, self.fixed_from_moving.displacement])

    def to(self, device: torch.device) -> FieldPair:
        """The same on another device."""
        forward, backward = (
            DisplacementField(one.displacement.to(device)) for one in (self.moving_from_fixed, self.fixed_from_moving)
        )
        return FieldPair(self.grid, forward, backward)

    def on(self, grid: Grid) -> FieldPair:
        """The same maps of the world on another lattice; beyond the own one, displacements go on as at its border."""
        if grid is self.grid:
            return self
        target_from_own = grid.unit_from_world @ self.grid.world_from_unit
        own_from_target = np.linalg.inv(target_from_own)
        forward, backward = (
            field_on(grid, (affine_of(target_from_own, one.displacement), one, affine_of(own_from_target, one.displacement)))
            for one in (self.moving_from_fixed, self.fixed_from_moving)
        )
        return FieldPair(grid, forward, backward)


def affine_of(matrix: Array, like: Tensor) -> Affine:
    """The homogeneous matrix as a map, with dtype and device of `like`."""
    return Affine(torch.as_tensor(matrix[:-1]).to(like))


def field_on(grid: Grid, maps: tuple[Affine, Map, Affine]) -> DisplacementField:
    """The composition of `maps`, the last one first, on the lattice of `grid`."""
    lattice = identity_points(grid.shape, maps[0].matrix)
    return DisplacementField(Composition(maps)(lattice) - lattice)
