"""Linear extrapolation and the blur that respects it, beside the published ones and closed forms."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Composition, DisplacementField, identity_points
from RegistrationNetLib.models.carl_equivariance import (
    Blur,
    ExtrapolatedField,
    RotationFunctionFromVectorField,
    blurred_linearly_extended,
)
from RegistrationNetLib.models.composition import FunctionFromVectorField, TwoStep, both_ways, mapped_lattice, warped
from Testing.models.published_carl import available, on_the_cpu

SHAPES = [(14, 17), (9, 12, 10)]


class Rough(nn.Module):
    """A displacement that depends on both images and changes from voxel to voxel."""

    def __init__(self, factor: float = 0.3) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        dim = moving.dim() - 2
        return torch.cat([self.factor * (moving * (axis + 1) - fixed * moving) for axis in range(dim)], dim=1)


def pair(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    return torch.rand(2, 1, *shape), torch.rand(2, 1, *shape)


def far_points(dim: int) -> Tensor:
    """Half of them outside the cube, some by more than its length."""
    return torch.rand(2, dim, *(9,) * dim) * 4 - 1.5


def affine_field(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A matrix and the displacement u(x) = A x + b on the lattice of `shape`."""
    dim = len(shape)
    matrix = 0.2 * torch.randn(dim, dim + 1, dtype=torch.float64)
    points = identity_points(shape, matrix)
    return matrix, (matrix[:, :dim] @ points.flatten(2) + matrix[:, dim:]).view_as(points)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_affine_displacement_goes_on_for_one_length_of_the_cube(shape: Sequence[int]) -> None:
    dim = len(shape)
    matrix, displacement = affine_field(shape)
    points = torch.rand(1, dim, 500, dtype=torch.float64) * 3 - 1
    expected = points + matrix[:, :dim] @ points + matrix[:, dim:]
    torch.testing.assert_close(ExtrapolatedField(displacement)(points), expected)
    assert float((DisplacementField(displacement)(points) - expected).abs().max()) > 0.1


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_extrapolation_is_that_of_the_published_step(shape: Sequence[int]) -> None:
    pytest.importorskip("icon_registration")
    moving, fixed = pair(shape)
    points = far_points(len(shape))
    with on_the_cpu():
        oracle = available("icon_registration.carl").RotationFunctionFromVectorField(Rough())
        oracle.assign_identity_map([1, 1, *shape])
        expected = oracle(moving, fixed)(points)
    found = RotationFunctionFromVectorField(Rough())(moving, fixed)(points)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("sigma_vox", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_blur_is_that_of_the_published_step(shape: Sequence[int], sigma_vox: int) -> None:
    pytest.importorskip("icon_registration")
    moving, fixed = pair(shape)
    points = far_points(len(shape))
    icon = available("icon_registration")
    with on_the_cpu():
        inner = icon.TwoStepRegistration(icon.FunctionFromVectorField(Rough()), icon.FunctionFromVectorField(Rough(0.1)))
        oracle = available("icon_registration.unicarl.fixed_point_carl").Blur(inner, sigma_vox)
        oracle.assign_identity_map([1, 1, *shape])
        expected = oracle(moving, fixed)
    step = Blur(two_steps(), sigma_vox)
    found = step(moving, fixed)
    torch.testing.assert_close(found(points), expected(points), rtol=0, atol=5e-6)
    lattice = identity_points(shape, fixed)
    torch.testing.assert_close(mapped_lattice(found, shape, fixed), expected(lattice), rtol=0, atol=5e-6)


def two_steps() -> nn.Module:
    return TwoStep(FunctionFromVectorField(Rough()), FunctionFromVectorField(Rough(0.1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_leaves_an_affine_displacement_as_it_is_and_no_other(shape: Sequence[int]) -> None:
    _, displacement = affine_field(shape)
    torch.testing.assert_close(blurred_linearly_extended(displacement, 3), displacement)
    rough = torch.rand_like(displacement)
    assert float(blurred_linearly_extended(rough, 3).std()) < 0.5 * float(rough.std())


def test_a_lattice_narrower_than_the_kernel_is_refused() -> None:
    with pytest.raises(InputError, match=r"blurs over 31 voxels and needs a lattice of more along each axis; got \[40, 31\]"):
        Blur(RotationFunctionFromVectorField(Rough()), 21)(torch.rand(1, 1, 40, 31), torch.rand(1, 1, 40, 31))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grad", [False, True])
def test_the_shortcuts_of_the_steps_hold_for_extrapolated_fields(shape: Sequence[int], grad: bool) -> None:
    moving, fixed = pair(shape)
    with torch.set_grad_enabled(grad):
        net = two_steps()
        composition = Composition(
            (*Blur(net, 2)(moving, fixed).maps, *RotationFunctionFromVectorField(Rough(-0.4))(moving, fixed).maps)
        )
        for lattice in (shape, tuple(size + 3 for size in shape)):
            expected = composition(identity_points(lattice, fixed))
            torch.testing.assert_close(mapped_lattice(composition, lattice, fixed), expected)
        assert expected.min() < -0.01 or expected.max() > 1.01
        assert warped(moving, composition).shape == moving.shape


def test_both_ways_keep_the_extrapolation() -> None:
    net = RotationFunctionFromVectorField(Rough()).eval()
    moving, fixed = pair((9, 8))
    points = far_points(2)
    maps = both_ways(net, moving, fixed)
    torch.testing.assert_close(maps.moving_from_fixed(points), net(moving, fixed)(points))
    torch.testing.assert_close(maps.fixed_from_moving(points), net(fixed, moving)(points))


def test_maps_are_differentiable_in_points_and_parameters() -> None:
    net = Blur(RotationFunctionFromVectorField(Rough()), 2).double()
    moving, fixed = (image.double() for image in pair((7, 6)))
    points = (torch.rand(2, 2, 6, dtype=torch.float64) * 2 - 0.5).requires_grad_()

    def mapped(points: Tensor, *_: Tensor) -> Tensor:
        value: Tensor = net(moving, fixed)(points)
        return value

    assert torch.autograd.gradcheck(mapped, (points, *net.parameters()))
