"""A result to go on from: both its ways, as a deformation of fixed and the affine that follows."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import affine_transform, field_transform, grid_of, world_displacement
from RegistrationNetLib.registration.previous import Previous
from RegistrationNetLib.registration.repeats import backward_mm, forward_mm, lattice_mm

from ..volumes import noise


@pytest.mark.parametrize("knows_inverse", [True, False])
def test_both_ways_of_a_result_are_gone_on_from(knows_inverse: bool) -> None:
    grid = grid_of(noise((20, 24, 22)))
    matrix = np.array([[0.9, -0.3, 0.0, 12.0], [0.3, 0.9, 0.1, -5.0], [0.0, -0.1, 1.1, 8.0], [0.0, 0.0, 0.0, 1.0]])
    shift_mm = np.full((*grid.shape, 3), (2.0, -3.0, 1.0))
    there = sitk.CompositeTransform([affine_transform(matrix), field_transform(shift_mm, grid)])
    shift_back = sitk.TranslationTransform(3, (-2.0, 3.0, -1.0))
    back = sitk.CompositeTransform([shift_back, affine_transform(np.linalg.inv(matrix))])
    solution = Previous(there, back if knows_inverse else None).solution(grid)
    points = lattice_mm(grid)[..., 4:-4, 4:-4, 4:-4]
    wanted = np.array([there.TransformPoint(one) for one in points[0].flatten(1).T.tolist()]).T
    found = forward_mm(solution, points)
    np.testing.assert_allclose(found[0].flatten(1).numpy(), wanted, atol=1e-3)
    np.testing.assert_allclose(backward_mm(solution, found).numpy(), points.numpy(), atol=1e-2)


@pytest.mark.parametrize("ends", ["centres", "edges"])
def test_a_result_is_gone_on_from_on_its_own_lattice(ends: str) -> None:
    """So that nothing changes by that. Without the margin, which is made anew."""
    fixed = grid_of(noise((20, 24, 22)))
    shape = (11, 14, 12)
    own = fixed.spanned(shape) if ends == "centres" else fixed.resized(shape)
    wide = own.cropped([slice(-3, size + 2) for size in shape])
    random_mm = np.random.default_rng(0).standard_normal((*wide.shape, 3)).astype(np.float32)
    solution = Previous(field_transform(random_mm, wide)).solution(fixed)
    assert solution.as_delivered
    assert solution.delivered_grid.shape == shape
    found_mm = world_displacement(solution.fields.moving_from_fixed.on_lattice(), solution.fields.grid)
    np.testing.assert_allclose(found_mm, random_mm[3:-2, 3:-2, 3:-2], atol=1e-4)


def test_what_lies_on_another_lattice_is_gone_on_from_on_that_of_a_deformation_of_fixed() -> None:
    fixed = grid_of(noise((20, 24, 22)))
    moved, between, coarse = (
        fixed.resized((11, 14, 12)).cropped([slice(1, 11), slice(0, 14), slice(0, 12)]),
        fixed.spanned((7, 7, 7)),
        fixed.spanned((4, 5, 4)),
    )
    for other in (moved, between.resized((5, 6, 7)), coarse):
        solution = Previous(field_transform(np.zeros((*other.shape, 3)), other)).solution(fixed)
        assert not solution.as_delivered
        assert solution.fields.grid.shape == fixed.shape
