"""A field goes on beyond its lattice and ends in nothing, for ITK as for every program."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from RegistrationNetLib.geometry.deformation import DisplacementField, jacobian_determinant
from RegistrationNetLib.geometry.margin import with_margin
from RegistrationNetLib.geometry.space import Grid, transform_from_map


def grid(dim: int) -> Grid:
    """Oblique, with unequal spacing."""
    turn, _ = np.linalg.qr(np.random.default_rng(dim).normal(size=(dim, dim)))
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = turn * np.array([2.0, 3.0, 4.0][:dim])
    matrix[:-1, -1] = [10.0, -20.0, 30.0][:dim]
    return Grid((14, 12, 10)[:dim], matrix)


def field(on: Grid, *, mm: float = 5.0) -> DisplacementField:
    """Smooth, and nowhere nothing at the border."""
    axes = torch.meshgrid(*(torch.linspace(0, 1, size, dtype=torch.float64) for size in on.shape), indexing="ij")
    along = [mm * (1 + 0.3 * torch.sin(3 * sum(axes) + axis)) / length for axis, length in enumerate(on.extent_mm)]
    return DisplacementField(torch.stack(along)[None])


@pytest.mark.parametrize("dim", [2, 3])
def test_within_its_lattice_nothing_changes(dim: int) -> None:
    own = grid(dim)
    before = field(own)
    held = with_margin(before, own)
    points = torch.rand(1, dim, 50, generator=torch.Generator().manual_seed(0)).double()
    to_wide = torch.as_tensor(held.grid.unit_from_world @ own.world_from_unit)
    wide = (to_wide[:-1, :-1] @ points[0] + to_wide[:-1, -1:])[None]
    expected = (to_wide[:-1, :-1] @ before(points)[0] + to_wide[:-1, -1:])[None]
    torch.testing.assert_close(held.field(wide), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_transform_goes_on_without_a_jump_and_without_a_fold(dim: int) -> None:
    own = grid(dim)
    held = with_margin(field(own), own)
    assert held.margin_mm > 10
    transform = transform_from_map(held.field, held.grid, held.grid, like=held.field.displacement)
    start, step_mm = own.world_from_voxel @ np.array([*[5.0] * (dim - 1), own.shape[-1] - 1, 1.0]), 0.1
    along = own.world_from_voxel[:-1, dim - 1] / own.spacing_mm[-1]
    places = [start[:-1] + (count * step_mm - 1) * along for count in range(int((held.margin_mm + 30) / step_mm))]
    moved = np.array([transform.TransformPoint(place.tolist()) for place in places])
    lengths = np.linalg.norm(moved - np.array(places), axis=1)
    assert lengths[0] > 3
    assert np.abs(np.diff(lengths)).max() < 1.5 * step_mm
    assert lengths[-1] == pytest.approx(0, abs=1e-9)
    # 5 mm beyond the border the map is still nearly that of the border.
    assert lengths[int(6 / step_mm)] > 0.6 * lengths[10]
    assert float(jacobian_determinant(held.field.on_lattice()).min()) > 0


def test_a_field_that_ends_in_nothing_gets_no_margin() -> None:
    own = grid(3)
    still = DisplacementField(torch.zeros(1, 3, *own.shape))
    held = with_margin(still, own)
    assert (held.field, held.grid, held.margin_mm) == (still, own, 0.0)


def test_a_border_that_moves_far_gets_no_margin_of_many_times_the_image() -> None:
    own = grid(2)
    far = DisplacementField(torch.full((1, 2, *own.shape), 3.0))
    held = with_margin(far, own)
    assert all(size <= max(2 * one, one + 16) + 1 for size, one in zip(held.grid.shape, own.shape, strict=True))
