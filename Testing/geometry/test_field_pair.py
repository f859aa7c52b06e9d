"""Displacement fields that know their place in the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from RegistrationNetLib.geometry.deformation import DisplacementField, identity_points
from RegistrationNetLib.geometry.field_pair import FieldPair
from RegistrationNetLib.geometry.space import Grid


def grid(shape: tuple[int, ...], spacing_mm: float = 2.0) -> Grid:
    return Grid(shape, np.diag([*[spacing_mm] * len(shape), 1.0]))


def smooth_fields(own: Grid) -> FieldPair:
    """Displacements that are linear in the world, so that interpolation is exact; the reverse is minus the forward."""
    points = identity_points(own.shape, torch.zeros(()))
    forward = 0.05 * points - 0.02
    return FieldPair(own, DisplacementField(forward), DisplacementField(-forward))


@pytest.mark.parametrize("shape", [(11, 13), (9, 10, 11)])
@pytest.mark.parametrize("refined", [True, False])
def test_another_lattice_of_the_same_extent_has_the_same_map_of_the_world(shape: tuple[int, ...], refined: bool) -> None:
    own = grid(shape)
    other = own.resized([2 * size if refined else max(4, size // 2) for size in shape])
    found = smooth_fields(own).on(other)
    assert found.grid is other
    points = identity_points(other.shape, torch.zeros(()))
    inside = np.linalg.inv(own.world_from_unit) @ other.world_from_unit
    for one, sign in ((found.moving_from_fixed, 1), (found.fixed_from_moving, -1)):
        in_own = torch.einsum("ij,j...->i...", torch.as_tensor(inside[:-1, :-1]).float(), points[0])
        in_own = in_own + torch.as_tensor(inside[:-1, -1]).float().view(-1, *(1,) * len(shape))
        moved = in_own + sign * (0.05 * in_own.clamp(0, 1) - 0.02)
        expected_world = torch.einsum("ij,j...->i...", torch.as_tensor(own.world_from_unit[:-1, :-1]).float(), moved)
        found_world = torch.einsum("ij,j...->i...", torch.as_tensor(other.world_from_unit[:-1, :-1]).float(), one.on_lattice()[0])
        shift = torch.as_tensor(other.world_from_unit[:-1, -1] - own.world_from_unit[:-1, -1]).float()
        torch.testing.assert_close(found_world + shift.view(-1, *(1,) * len(shape)), expected_world, atol=1e-4, rtol=0)


def test_the_own_lattice_gives_the_fields_themselves() -> None:
    fields = smooth_fields(grid((8, 9)))
    assert fields.on(fields.grid) is fields


def test_both_displacements_come_forward_first() -> None:
    fields = smooth_fields(grid((8, 9)))
    both = fields.displacements()
    assert torch.equal(both[0], fields.moving_from_fixed.displacement[0])
    assert torch.equal(both[1], fields.fixed_from_moving.displacement[0])
