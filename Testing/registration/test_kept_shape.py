"""Bodies that keep their shape: inside rigid, or of the same volume; around them smooth, without folds; elsewhere as it was."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import GeometryError
from RegistrationNetLib.geometry.deformation import DisplacementField, identity_points, jacobian_determinant
from RegistrationNetLib.geometry.field_pair import FieldPair
from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.geometry.space import Grid, field_transform, grid_of, image_on, world_displacement
from RegistrationNetLib.quality.assessment import jacobian_image
from RegistrationNetLib.registration.kept_shape import Body, _distance_mm, bodies_of, keeping_shape, reached
from RegistrationNetLib.registration.method import Solution

SIDE, SPACING_MM = 36, 4.0
pytestmark = pytest.mark.usefixtures("one_thread")


def grid(dim: int = 3) -> Grid:
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = SPACING_MM * np.eye(dim)[::-1]
    return Grid((SIDE,) * dim, matrix)


def bent(dim: int = 3, strength: float = 1.2, seed: int = 0) -> Solution:
    """A smooth deformation of some voxels, after which comes a small growth."""
    noise = smooth_noise((SIDE,) * dim, 5.0, torch.Generator().manual_seed(seed), channels=dim)
    field = strength * noise / (SIDE - 1)
    alignment = np.diag([*[1.05] * dim, 1.0])
    return Solution(alignment, FieldPair(grid(dim=dim), DisplacementField(field), DisplacementField(-field)))


def mask(*balls: tuple[tuple[float, ...], float], numbered: bool = False, dim: int = 3) -> sitk.Image:
    index = np.indices((SIDE,) * dim)
    values = np.zeros((SIDE,) * dim, dtype=np.uint8)
    for number, (centre, radius) in enumerate(balls, start=1):
        away = np.sqrt(sum((axis - one) ** 2 for axis, one in zip(index, centre, strict=True)))
        values[away <= radius] = number if numbered else 1
    return image_on(grid(dim=dim), values)


def transform_of(solution: Solution) -> sitk.Transform:
    field = solution.fields.moving_from_fixed
    chain = sitk.CompositeTransform(solution.fields.grid.dim)
    affine = sitk.AffineTransform(solution.fields.grid.dim)
    affine.SetMatrix(solution.alignment[:-1, :-1].flatten().tolist())
    chain.AddTransform(affine)
    chain.AddTransform(field_transform(world_displacement(field.on_lattice(), solution.fields.grid), solution.fields.grid))
    return chain


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["rigid", "volume"])
def test_a_body_keeps_its_shape_and_nothing_folds(kind: str, dim: int) -> None:
    solution, where = bent(dim), mask(((18.0,) * dim, 5.0), dim=dim)
    bodies = bodies_of(where, None) if kind == "rigid" else bodies_of(None, where)
    kept = keeping_shape(solution, bodies, grid_of(where))
    before, after = (reached(transform_of(one), jacobian_image(transform_of(one), where), bodies)[0] for one in (solution, kept))
    assert before["volume_change_percent"] > 5
    assert after["volume_change_percent"] < 0.5
    assert before["from_rigid_mm"] > 0.5
    if kind == "rigid":
        assert after["from_rigid_mm"] < 0.05
    assert after["kind"] == kind
    forward, plain = kept.fields.moving_from_fixed, solution.fields.moving_from_fixed
    least = [float(jacobian_determinant(one.on_lattice()).min()) for one in (plain, forward)]
    assert least[1] > min(0.1, 0.5 * least[0]) > 0
    far = (slice(None), slice(None), *(slice(0, 3),) * dim)
    assert torch.equal(forward.displacement[far], plain.displacement[far])
    inner = (slice(None), slice(None), *(slice(4, -4),) * dim)
    there_and_back = forward(kept.fields.fixed_from_moving.on_lattice()) - identity_points((SIDE,) * dim, forward.displacement)
    assert float(there_and_back[inner].abs().max()) * SPACING_MM * (SIDE - 1) < 0.1


def test_the_parts_of_a_mask_and_the_labels_of_a_label_image_move_by_themselves() -> None:
    balls = (((10.0, 18.0, 18.0), 4.0), ((27.0, 18.0, 18.0), 4.0))
    for where in (mask(*balls), mask(*balls, numbered=True)):
        bodies = bodies_of(where, None)
        assert [body.name for body in bodies] == ["1 of the rigid mask", "2 of the rigid mask"]
        transform = transform_of(keeping_shape(bent(), bodies, grid_of(where)))
        told = reached(transform, jacobian_image(transform, where), bodies)
        assert max(one["from_rigid_mm"] for one in told) < 0.05  # type: ignore[type-var]
        both = reached(transform, jacobian_image(transform, where), bodies_of(mask(*balls), None)[:1])
        assert both[0]["voxels"] == told[0]["voxels"]


def test_a_body_lies_where_its_voxels_do_on_a_lattice_that_ends_where_the_voxels_of_fixed_end() -> None:
    """As networks have it, whose last point is not that of fixed: here it is the last voxel but one."""
    image = grid(dim=2)
    away = _distance_mm(Body("rigid", "one", np.array([[34, 34]])), image, image.resized((12, 12)))
    assert float(away[0, 0, 11, 11]) == 0
    assert float(away[0, 0, 10, 11]) == pytest.approx(3 * SPACING_MM)


def test_between_two_bodies_that_come_nearer_to_each_other_nothing_folds() -> None:
    """By three of ten voxels."""
    where = mask(((9.0, 18.0, 18.0), 4.0), ((27.0, 18.0, 18.0), 4.0), numbered=True)
    along = torch.arange(SIDE, dtype=torch.float32)
    nearer = torch.from_numpy(np.interp(along, [13, 23], [1.5, -1.5])).float() / (SIDE - 1)
    field = torch.zeros(1, 3, SIDE, SIDE, SIDE)
    field[:, 0] = nearer[:, None, None]
    solution = Solution(np.eye(4), FieldPair(grid(), DisplacementField(field), DisplacementField(-field)))
    kept = keeping_shape(solution, bodies_of(where, None), grid_of(where)).fields.moving_from_fixed
    assert float(jacobian_determinant(kept.on_lattice()).min()) > 0.1


def test_bodies_that_touch_and_move_differently_are_refused() -> None:
    where = mask(((13.0, 18.0, 18.0), 5.0), ((24.0, 18.0, 18.0), 5.0), numbered=True)
    with pytest.raises(
        GeometryError, match=r"Body 1 of the rigid mask and body 2 of the rigid mask touch each other at \(.*\) mm and move"
    ):
        keeping_shape(bent(strength=2.0), bodies_of(where, None), grid_of(where))
    still = Solution(np.eye(4), FieldPair(grid(), *(DisplacementField(torch.zeros(1, 3, *[SIDE] * 3)) for _ in range(2))))
    kept = keeping_shape(still, bodies_of(where, None), grid_of(where))
    assert float(kept.fields.moving_from_fixed.displacement.abs().max()) < 1e-6


def test_without_bodies_everything_stays() -> None:
    solution = bent()
    assert keeping_shape(solution, bodies_of(None, None), grid()) is solution
