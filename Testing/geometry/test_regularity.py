from __future__ import annotations

import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Affine, DisplacementField, identity_points
from RegistrationNetLib.geometry.regularity import (
    bending_energy,
    diffusion,
    gradicon_loss,
    gradicon_on_lattice,
    icon_loss,
    icon_loss_both_ways,
    jittered_lattice,
)

SHAPES = [(7, 9, 8), (9, 12)]
LIKE = torch.zeros((), dtype=torch.float64)


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("icon_registration").losses


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fields(shape: tuple[int, ...], size: float = 0.05) -> tuple[DisplacementField, DisplacementField]:
    dim = len(shape)
    return DisplacementField(size * noise(1, dim, *shape)), DisplacementField(size * noise(1, dim, *shape, seed=1))


def affine(dim: int, seed: int = 0) -> Affine:
    return Affine(torch.cat([torch.eye(dim, dtype=torch.float64), torch.zeros(dim, 1)], 1) + 0.1 * noise(dim, dim + 1, seed=seed))


class Constant:
    """Stands for a network: gives one map for the first call and another for the second."""

    def __init__(self, *maps: DisplacementField) -> None:
        self.maps = list(maps)

    def __call__(self, *_: Tensor) -> DisplacementField:
        return self.maps.pop(0)


def published_loss(oracle: ModuleType, name: str, maps: tuple[DisplacementField, DisplacementField], seed: int) -> float:
    """The regularity term of the reference class `name`, whose random points come from `seed`."""
    shape = maps[0].displacement.shape[2:]
    image = torch.zeros(1, 1, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = getattr(oracle, name)(Constant(*maps), lambda warped, fixed: (warped - fixed).mean(), 1.0)
        net.assign_identity_map(image.shape)
        torch.manual_seed(seed)
        return float(net(image, image).inverse_consistency_loss)


def as_float(maps: tuple[DisplacementField, DisplacementField]) -> tuple[DisplacementField, DisplacementField]:
    return DisplacementField(maps[0].displacement.float()), DisplacementField(maps[1].displacement.float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "stride"), [("GradientICONSparse", 2), ("GradientICON", 1)])
def test_gradicon_at_seeded_points_equals_the_published_code(
    oracle: ModuleType, shape: tuple[int, ...], name: str, stride: int
) -> None:
    maps = as_float(fields(shape))
    expected = published_loss(oracle, name, maps, seed=3)
    torch.manual_seed(3)
    points = jittered_lattice(shape, maps[0].displacement, stride=stride)
    assert float(gradicon_loss(*maps, points)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_icon_at_seeded_points_equals_the_published_code(oracle: ModuleType, shape: tuple[int, ...]) -> None:
    maps = as_float(fields(shape))
    expected = published_loss(oracle, "InverseConsistentNet", maps, seed=3)
    torch.manual_seed(3)
    points = jittered_lattice(shape, maps[0].displacement, stride=1)
    assert float(icon_loss_both_ways(*maps, points)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_inverse_maps_have_no_icon_and_no_gradicon_loss(dim: int) -> None:
    points = jittered_lattice((5,) * dim, LIKE)
    forward = affine(dim)
    assert float(icon_loss(forward, forward.inverse(), points)) < 1e-25
    assert float(gradicon_loss(forward, forward.inverse(), points)) < 1e-20


@pytest.mark.parametrize("dim", [2, 3])
def test_gradicon_of_affine_maps_is_the_squared_norm_of_identity_minus_their_product_over_dim(dim: int) -> None:
    first, second = affine(dim), affine(dim, seed=1)
    points = jittered_lattice((6,) * dim, LIKE)
    product = first.matrix[:, :dim] @ second.matrix[:, :dim]
    expected = (torch.eye(dim) - product).square().sum() / dim
    torch.testing.assert_close(gradicon_loss(first, second, points), expected)
    composed = first(second(identity_points((6, 5, 4)[:dim], LIKE)))
    torch.testing.assert_close(gradicon_on_lattice(composed), expected)


def test_icon_of_translations_is_their_sum_squared() -> None:
    shift = Affine(torch.tensor([[1.0, 0, 0.3], [0, 1.0, 0.1]], dtype=torch.float64))
    points = jittered_lattice((5, 6), LIKE)
    assert float(icon_loss(shift, shift, points)) == pytest.approx((0.6**2 + 0.2**2) / 2)
    assert float(icon_loss_both_ways(shift, shift, points)) == pytest.approx(0.6**2 + 0.2**2)


def test_a_larger_delta_changes_gradicon_of_a_curved_map() -> None:
    points = jittered_lattice((9, 9), LIKE, generator=torch.Generator().manual_seed(0))
    maps = fields((9, 9))
    assert float(gradicon_loss(*maps, points, delta=0.2)) < 0.9 * float(gradicon_loss(*maps, points))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_jittered_lattice_lies_around_every_stride_th_point_as_its_seed_says(shape: tuple[int, ...], stride: int) -> None:
    points, again, other = (
        jittered_lattice(shape, LIKE, generator=torch.Generator().manual_seed(seed), stride=stride) for seed in (0, 0, 1)
    )
    every = (slice(None), slice(None), *(slice(None, None, stride) for _ in shape))
    assert points.shape == (1, len(shape), *(-(-size // stride) for size in shape))
    assert points.dtype == torch.float64
    torch.testing.assert_close(points, again, rtol=0, atol=0)
    assert not torch.equal(points, other)
    jitter = (points - identity_points(shape, LIKE)[every]) * shape[-1]
    assert 0.7 * stride < float(jitter.std()) < 1.3 * stride


@pytest.mark.parametrize("shape", SHAPES)
def test_gradicon_on_lattice_is_diffusion_of_the_error(shape: tuple[int, ...]) -> None:
    first, second = fields(shape)
    lattice = identity_points(shape, LIKE)
    composed = first(second(lattice))
    torch.testing.assert_close(gradicon_on_lattice(composed), diffusion(composed - lattice))


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusion_of_a_linear_field_is_the_squared_norm_of_its_matrix_over_dim(shape: tuple[int, ...]) -> None:
    dim = len(shape)
    matrix = noise(dim, dim)
    field = torch.einsum("cd,bd...->bc...", matrix, identity_points(shape, LIKE))
    torch.testing.assert_close(diffusion(field), matrix.square().sum() / dim)
    extent = [30.0, 20.0, 50.0][:dim]
    lengths = torch.tensor(extent, dtype=torch.float64)
    physical = lengths[:, None] * matrix / lengths
    torch.testing.assert_close(diffusion(field, extent=extent), physical.square().sum() / dim)
    torch.testing.assert_close(
        gradicon_on_lattice(identity_points(shape, LIKE) + field, extent=extent), physical.square().sum() / dim
    )


def test_diffusion_of_a_cube_is_the_published_one_up_to_its_step(oracle: ModuleType) -> None:
    size = 8
    displacement = noise(1, 3, size, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = oracle.DiffusionRegularizedNet(None, None, 1.0)
        net.assign_identity_map((1, 1, size, size, size))
    expected = net.compute_bending_energy_loss(net.identity_map + displacement) * ((size - 1) / size) ** 2
    torch.testing.assert_close(diffusion(displacement), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_bending_energy_of_an_affine_map_is_zero(shape: tuple[int, ...]) -> None:
    assert float(bending_energy(affine(len(shape))(identity_points(shape, LIKE)))) < 1e-20


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("extent", [None, (30.0, 20.0, 50.0)])
def test_bending_energy_of_a_quadratic_field_is_the_squared_norm_of_its_second_derivatives_over_dim(
    shape: tuple[int, ...], extent: tuple[float, ...] | None
) -> None:
    dim = len(shape)
    lengths = torch.ones(dim, dtype=torch.float64) if extent is None else torch.tensor(extent[:dim], dtype=torch.float64)
    hessian = noise(dim, dim, dim)
    hessian = hessian + hessian.transpose(1, 2)
    points = identity_points(shape, LIKE)
    field = torch.einsum("cde,bd...,be...->bc...", hessian, points, points) / 2
    physical = hessian * lengths.view(-1, 1, 1) / lengths.view(-1, 1) / lengths
    expected = physical.square().sum() / dim
    torch.testing.assert_close(bending_energy(field, extent=None if extent is None else extent[:dim]), expected)


def test_bending_energy_along_one_axis_is_nine_times_the_published_one(oracle: ModuleType) -> None:
    displacement = noise(1, 3, 9, 1, 1).expand(1, 3, 9, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = oracle.BendingEnergyNet(None, None, 1.0)
        net.assign_identity_map((1, 1, 9, 9, 9))
    expected = 9 * net.compute_bending_energy_loss(net.identity_map + displacement)
    torch.testing.assert_close(bending_energy(displacement), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 5)])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    field = (0.05 * noise(2, len(shape), *shape)).requires_grad_()
    extent = [3.0, 2.0, 1.0][: len(shape)]
    for loss in (diffusion, bending_energy, gradicon_on_lattice):
        assert torch.autograd.gradcheck(lambda u, loss=loss: loss(u, extent=extent), field, fast_mode=True)
    # Points inside the lattice's cells, where linear interpolation has derivatives.
    points = 0.2 + 0.6 * torch.rand(2, len(shape), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for of_maps in (icon_loss, icon_loss_both_ways, gradicon_loss):
        assert torch.autograd.gradcheck(
            lambda u, of_maps=of_maps: of_maps(DisplacementField(u), DisplacementField(-0.5 * u), points), field, fast_mode=True
        )


@pytest.mark.parametrize(("loss", "shape"), [(diffusion, (4, 1)), (gradicon_on_lattice, (1, 4)), (bending_energy, (5, 2, 5))])
def test_a_lattice_too_thin_to_differentiate_is_refused(loss: object, shape: tuple[int, ...]) -> None:
    assert callable(loss)
    with pytest.raises(InputError, match="The lattice is too thin to differentiate"):
        loss(torch.zeros(1, len(shape), *shape))


@pytest.mark.parametrize("extent", [(1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), (-1.0, 1.0)])
def test_an_extent_that_does_not_fit_is_refused(extent: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="extent must hold one positive length for each of the 2 axes"):
        diffusion(torch.zeros(1, 2, 4, 4), extent=extent)
