"""A result to go on from: both its ways, as a deformation of fixed and the affine that follows."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import affine_transform, field_transform, grid_of
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
