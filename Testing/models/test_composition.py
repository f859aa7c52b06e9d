"""Composition of networks beside the published one, and the shortcuts on the lattice beside plain sampling."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Composition, DisplacementField, VelocityField, identity_points, sample
from RegistrationNetLib.models import composition as steps
from RegistrationNetLib.models.composition import Downsample, FunctionFromVectorField, TwoStep, both_ways, mapped_lattice, warped


class Polynomial(nn.Module):
    """A network small enough to be read: the displacement is a polynomial of the images, and not symmetric in them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        dim = moving.dim() - 2
        return torch.cat([self.factor * (moving * (axis + 1) - fixed * moving) for axis in range(dim)], dim=1)


def pair(shape: Sequence[int], *, batch: int = 1) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 1, *shape), torch.rand(batch, 1, *shape)


def ours(factors: Sequence[float]) -> TwoStep:
    first, second, third = (FunctionFromVectorField(Polynomial(factor)) for factor in factors)
    return TwoStep(Downsample(TwoStep(Downsample(first), second)), third)


def published(factors: Sequence[float], shape: Sequence[int]) -> nn.Module:
    icon = pytest.importorskip("icon_registration")
    dim = len(shape)
    first, second, third = (icon.FunctionFromVectorField(Polynomial(factor)) for factor in factors)
    half = icon.TwoStepRegistration(icon.DownsampleRegistration(first, dim), second)
    net: nn.Module = icon.TwoStepRegistration(icon.DownsampleRegistration(half, dim), third)
    net.assign_identity_map([1, 1, *shape])  # type: ignore[operator]
    return net


@pytest.mark.parametrize("shape", [(20, 24), (21, 14), (12, 9, 11)])
def test_composition_is_that_of_the_published_steps(shape: Sequence[int]) -> None:
    factors = (0.05, -0.04, 0.03)
    moving, fixed = pair(shape, batch=2)
    oracle = published(factors, shape)(moving, fixed)
    composition = ours(factors)(moving, fixed)
    points = torch.rand(2, len(shape), *(7,) * len(shape)) * 1.2 - 0.1
    torch.testing.assert_close(composition(points), oracle(points), rtol=0, atol=1e-6)
    lattice = identity_points(shape, moving)
    torch.testing.assert_close(mapped_lattice(composition, shape, moving), oracle(lattice), rtol=0, atol=1e-6)


def test_names_are_the_published_ones_and_nothing_else_is_stored() -> None:
    names = list(ours((1, 2, 3)).state_dict())
    assert names == ["netPhi.net.netPhi.net.net.factor", "netPhi.net.netPsi.net.factor", "netPsi.net.factor"]


@pytest.mark.parametrize("lattice", [(9, 10, 11), (5, 5, 6), (17, 12, 6)])
@pytest.mark.parametrize("grad", [False, True])
def test_mapped_lattice_is_the_map_of_the_lattice(lattice: Sequence[int], grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "POINTS_AT_A_TIME", 250)
    maps = [DisplacementField(0.05 * torch.randn(2, 3, *shape, dtype=torch.float64)) for shape in ((6, 5, 7), (9, 10, 11))]
    composition = Composition(tuple(maps))
    with torch.set_grad_enabled(grad):
        found = mapped_lattice(composition, tuple(lattice), maps[0].displacement)
    torch.testing.assert_close(found, composition(identity_points(lattice, found)))


def test_mapped_lattice_takes_maps_of_any_kind() -> None:
    flow = VelocityField(0.1 * torch.randn(1, 2, 9, 8, dtype=torch.float64))
    found = mapped_lattice(Composition((flow,)), (9, 8), flow.velocity)
    torch.testing.assert_close(found, flow(identity_points((9, 8), flow.velocity)))


def test_the_lattice_stays_where_no_map_moves_it() -> None:
    like = torch.zeros(1)
    assert torch.equal(mapped_lattice(Composition(()), (4, 5, 6), like), identity_points((4, 5, 6), like))


@pytest.mark.parametrize("grad", [False, True])
def test_warped_image_is_sampled_where_the_map_points(grad: bool) -> None:
    image = torch.rand(2, 1, 12, 13)
    composition = Composition((DisplacementField(0.3 * torch.randn(2, 2, 12, 13)),))
    with torch.set_grad_enabled(grad):
        found = warped(image, composition)
    torch.testing.assert_close(found, sample(image, composition(identity_points((12, 13), image))))


@pytest.mark.parametrize("is_training", [False, True])
def test_both_ways_are_the_two_single_ways(is_training: bool) -> None:
    net = ours((0.05, -0.04, 0.03)).train(is_training)
    moving, fixed = pair((20, 18), batch=2)
    maps = both_ways(net, moving, fixed)
    points = torch.rand(2, 2, 40)
    torch.testing.assert_close(maps.moving_from_fixed(points), net(moving, fixed)(points))
    torch.testing.assert_close(maps.fixed_from_moving(points), net(fixed, moving)(points))


def test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"must have one shape here; got \[1, 1, 8, 8\] and \[1, 1, 8, 9\]"):
        both_ways(ours((1, 2, 3)), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))


def test_maps_are_differentiable_in_points_and_parameters() -> None:
    net = ours((0.05, -0.04, 0.03)).double()
    moving, fixed = (image.double() for image in pair((9, 10)))
    points = torch.rand(1, 2, 5, dtype=torch.float64, requires_grad=True)

    def mapped(points: Tensor, *_: Tensor) -> Tensor:
        return net(moving, fixed)(points)

    assert torch.autograd.gradcheck(mapped, (points, *net.parameters()))
