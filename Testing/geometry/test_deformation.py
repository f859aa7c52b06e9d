from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.geometry import deformation
from RegistrationNetLib.geometry.deformation import (
    Affine,
    Composition,
    DisplacementField,
    Map,
    Outside,
    VelocityField,
    derivatives,
    identity_points,
    invert,
    jacobian_determinant,
    sample,
)
from RegistrationNetLib.geometry.separable import apply_along_axes, bspline_matrix, on

DOUBLE = torch.zeros((), dtype=torch.float64)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    unit = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * unit


def smooth(dim: int, size: int, amplitude: float, *, intervals: int = 4, seed: int = 0) -> Tensor:
    """A random field [1, dim, *shape] of cubic B-splines."""
    coefficients = amplitude * noise(1, dim, *[intervals + 3] * dim, seed=seed)
    return apply_along_axes(coefficients, on([bspline_matrix(size, intervals)] * dim, DOUBLE))


def scaling(stretch: float, dim: int = 3) -> Affine:
    """x ↦ stretch x about the centre of the cube."""
    linear = stretch * torch.eye(dim, dtype=torch.float64)
    return Affine(torch.cat([linear, torch.full((dim, 1), 0.5 - 0.5 * stretch, dtype=torch.float64)], dim=1))


def interpolated_slowly(image: Tensor, point: list[float], outside: Outside, nearest: bool) -> Tensor:
    """One point of one image [C, *shape]: the sum over the corners of its cell."""
    shape = image.shape[1:]
    position = [x * (size - 1) for x, size in zip(point, shape, strict=True)]
    if outside == "border":
        position = [min(max(x, 0.0), size - 1.0) for x, size in zip(position, shape, strict=True)]
    if nearest:
        position = [float(round(x)) for x in position]
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for corner in itertools.product((0, 1), repeat=len(shape)):
        index = [math.floor(x) + c for x, c in zip(position, corner, strict=True)]
        weight = math.prod(1 - abs(x - i) for x, i in zip(position, index, strict=True))
        if weight and all(0 <= i < size for i, size in zip(index, shape, strict=True)):
            total += weight * image[(slice(None), *index)]
    return total


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize(
    ("shape", "out"), [((5, 4), (3, 6)), ((5, 4), (7,)), ((3, 4, 5), (2, 3, 4)), ((3, 4, 5), (11,)), ((3, 4, 5), (4, 2))]
)
def test_sample_equals_a_slow_sum_over_corners(
    shape: tuple[int, ...], out: tuple[int, ...], outside: Outside, nearest: bool
) -> None:
    dim = len(shape)
    image, points = noise(2, 3, *shape), uniform(2, dim, *out, low=-0.3, high=1.3)
    copies = image.clone(), points.clone()
    expected = torch.empty(2, 3, math.prod(out), dtype=torch.float64)
    for batch, row in enumerate(points.reshape(2, dim, -1)):
        for n in range(row.shape[1]):
            expected[batch, :, n] = interpolated_slowly(image[batch], row[:, n].tolist(), outside, nearest)
    torch.testing.assert_close(sample(image, points, outside=outside, nearest=nearest), expected.reshape(2, 3, *out))
    assert torch.equal(image, copies[0])
    assert torch.equal(points, copies[1])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
def test_lattice_points_give_the_voxels_back(shape: tuple[int, ...]) -> None:
    image = noise(1, 2, *shape)
    torch.testing.assert_close(sample(image, identity_points(shape, image)), image)


@pytest.mark.parametrize("nearest", [False, True])
def test_one_image_serves_a_batch_of_points_and_the_reverse(nearest: bool) -> None:
    images, points = noise(3, 2, 4, 5), uniform(3, 2, 6)
    for n in range(3):
        one_image = sample(images[n : n + 1], points, nearest=nearest)
        one_lattice = sample(images, points[n : n + 1], nearest=nearest)
        for m in range(3):
            torch.testing.assert_close(one_image[m : m + 1], sample(images[n : n + 1], points[m : m + 1], nearest=nearest))
            torch.testing.assert_close(one_lattice[m : m + 1], sample(images[m : m + 1], points[n : n + 1], nearest=nearest))


def test_batches_that_do_not_match_are_refused() -> None:
    with pytest.raises(AssertionError, match="differ in batch"):
        sample(noise(2, 1, 4, 4), uniform(3, 2, 5))


def test_points_of_another_dimension_are_refused() -> None:
    with pytest.raises(AssertionError, match="differ in dimension"):
        sample(noise(1, 1, 4, 4), uniform(1, 3, 5))


@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize(
    ("shape", "out"), [((7, 8), (175, 173)), ((7, 8), (30_001,)), ((5, 6, 7), (29, 28, 26)), ((5, 6, 7), (20_011,))]
)
def test_cutting_for_threads_changes_neither_values_nor_gradients(
    shape: tuple[int, ...], out: tuple[int, ...], outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    dim = len(shape)
    calls: list[int] = []
    plain_grid_sample = F.grid_sample

    def watched(image: Tensor, lattice: Tensor, **options: object) -> Tensor:
        calls.append(lattice.shape[0])
        return plain_grid_sample(image, lattice, **options)

    monkeypatch.setattr(F, "grid_sample", watched)
    image, points = noise(1, 2, *shape).requires_grad_(), uniform(1, dim, *out, low=-0.2, high=1.2).requires_grad_()
    weights = noise(1, 2, *out, seed=1)
    cut = sample(image, points, outside=outside)
    cut_gradients = torch.autograd.grad((cut * weights).sum(), (image, points))
    assert calls[0] == 3

    lattice = (2 * points.flip(1) - 1).reshape(1, dim, *out, *[1] * (dim - len(out))).movedim(1, -1)
    plain = plain_grid_sample(image, lattice, padding_mode=outside, align_corners=True).reshape(1, 2, *out)
    torch.testing.assert_close(cut, plain)
    for mine, theirs in zip(cut_gradients, torch.autograd.grad((plain * weights).sum(), (image, points)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_batch_of_images_at_one_large_lattice_is_not_cut_across_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    images, points = noise(2, 1, 5, 6), uniform(1, 2, 40_000)
    both = sample(images, points)
    torch.testing.assert_close(both[1:], sample(images[1:], points))


@pytest.mark.parametrize(("shape", "out"), [((4, 5), (3,)), ((3, 4, 3), (2, 2, 2))])
def test_gradients_of_sample_are_exact(shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    image = noise(1, 2, *shape).requires_grad_()
    points = uniform(1, len(shape), *out, low=0.05, high=0.95).requires_grad_()
    assert torch.autograd.gradcheck(sample, (image, points))


@pytest.mark.parametrize("build", [Affine, DisplacementField, VelocityField])
def test_gradients_of_maps_are_exact_in_points_and_parameters(build: type) -> None:
    parameters = noise(2, 3) if build is Affine else 0.05 * noise(1, 2, 4, 3)
    points = uniform(1, 2, 5, low=0.2, high=0.8)
    assert torch.autograd.gradcheck(lambda p, x: build(p)(x), (parameters.requires_grad_(), points.requires_grad_()))


@pytest.mark.parametrize("dim", [2, 3])
def test_affine_maps_points_of_any_layout_by_its_matrix(dim: int) -> None:
    matrix, points = noise(dim, dim + 1), noise(2, dim, 3, 4, 5, seed=1)
    expected = torch.einsum("ij,bj...->bi...", matrix[:, :dim], points) + matrix[:, dim].view(1, dim, 1, 1, 1)
    torch.testing.assert_close(Affine(matrix)(points), expected)
    torch.testing.assert_close(Affine(matrix)(points[..., 0, 0, 0]), expected[..., 0, 0, 0])


@pytest.mark.parametrize("dim", [2, 3])
def test_affine_after_its_inverse_is_the_identity(dim: int) -> None:
    affine, points = Affine(noise(dim, dim + 1)), noise(1, dim, 9, seed=1)
    torch.testing.assert_close(affine(affine.inverse()(points)), points)
    torch.testing.assert_close(affine.inverse()(affine(points)), points)


def test_displacement_field_holds_its_border_value_outside() -> None:
    field = DisplacementField(noise(1, 2, 4, 5))
    points = torch.tensor([[[-0.5, 1.7], [0.0, 1.2]]], dtype=torch.float64)
    expected = points + torch.stack([field.displacement[:, :, 0, 0], field.displacement[:, :, -1, -1]], dim=2)
    torch.testing.assert_close(field(points), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_displacement_field_on_its_lattice_equals_its_evaluation_there(dim: int) -> None:
    field = DisplacementField(noise(2, dim, *(5, 4, 6)[:dim]))
    lattice = identity_points(field.displacement.shape[2:], DOUBLE)
    torch.testing.assert_close(field.on_lattice(), field(lattice))


def test_composition_applies_the_last_map_first() -> None:
    shift = Affine(torch.tensor([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]], dtype=torch.float64))
    points = uniform(1, 2, 5)
    both = Composition((scaling(3.0, 2), shift))
    torch.testing.assert_close(both(points), scaling(3.0, 2)(shift(points)))
    assert not torch.allclose(both(points), shift(scaling(3.0, 2)(points)))


def test_composition_of_nothing_is_the_identity() -> None:
    points = uniform(1, 3, 4)
    assert torch.equal(Composition(())(points), points)


@pytest.mark.parametrize("squarings", [3, 6, 9])
def test_flow_of_a_linear_velocity_is_the_matrix_power_of_scaling_and_squaring(squarings: int) -> None:
    """Where nothing leaves the cube, fields linear in space are interpolated exactly: exp ≈ (1 + M / 2^k)^(2^k)."""
    rate = torch.tensor([[-0.5, 0.3, 0.0], [-0.2, -0.4, 0.1], [0.1, 0.0, -0.6]], dtype=torch.float64)
    shape, centre = (5, 6, 7), 0.5
    velocity = torch.einsum("ij,bj...->bi...", rate, identity_points(shape, DOUBLE) - centre)
    points = uniform(1, 3, 20)
    flowed = VelocityField(velocity, squarings)(points) - centre
    power = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) + rate / 2**squarings, 2**squarings)
    torch.testing.assert_close(flowed, torch.einsum("ij,bjn->bin", power, points - centre))
    exact = torch.einsum("ij,bjn->bin", torch.linalg.matrix_exp(rate), points - centre)
    assert (flowed - exact).abs().max() < 0.2 / 2**squarings


@pytest.mark.parametrize("dim", [2, 3])
def test_flow_forth_and_back_is_the_identity_twice_as_well_with_each_squaring(dim: int) -> None:
    rate = 0.4 * torch.eye(dim, dtype=torch.float64) + 0.1
    velocity = torch.einsum("ij,bj...->bi...", rate, identity_points((9,) * dim, DOUBLE) - 0.5)
    points = uniform(1, dim, 50, low=0.4, high=0.6)

    def error(squarings: int) -> float:
        flow = VelocityField(velocity, squarings)
        return float((flow(flow.inverse()(points)) - points).norm(dim=1).max())

    for squarings in (3, 5, 7):
        assert 1.8 < error(squarings) / error(squarings + 1) < 2.2
    assert error(10) < 1e-4


@pytest.mark.parametrize("dim", [2, 3])
def test_flow_of_a_smooth_velocity_undoes_the_flow_of_its_opposite(dim: int) -> None:
    flow = VelocityField(smooth(dim, 33, 0.05))
    points = uniform(1, dim, 500, low=0.25, high=0.75)
    moved = flow.inverse()(points)
    assert (moved - points).norm(dim=1).max() > 0.02
    assert (flow(moved) - points).norm(dim=1).max() < 1e-3


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 10), (2, 3, 2), (40, 33, 37), (1, 4, 5)])
@pytest.mark.parametrize("size", [0.02, 0.6])
def test_flow_with_and_without_gradients_is_one(shape: tuple[int, ...], size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where points leave the cube."""
    monkeypatch.setattr(deformation, "POINTS_AT_A_TIME", 3000)
    flow = VelocityField(size * (2 * torch.rand(2, len(shape), *shape, dtype=torch.float64) - 1))
    with torch.no_grad():
        found = flow.displacement_field().displacement
    torch.testing.assert_close(found, flow.displacement_field().displacement)


def test_flow_in_single_precision_errs_by_less_than_a_thousandth_of_a_voxel() -> None:
    velocity = smooth(3, 48, 0.1)
    expected = VelocityField(velocity).displacement_field().displacement
    with torch.no_grad():
        found = VelocityField(velocity.float()).displacement_field().displacement
    assert (found - expected).abs().max() * 47 < 1e-3


def test_flow_of_numbers_that_are_not_finite_stays_so() -> None:
    velocity = torch.zeros(1, 3, 4, 4, 4)
    velocity[0, 0, 2, 2, 2] = torch.nan
    with torch.no_grad():
        assert VelocityField(velocity).displacement_field().displacement.isnan().any()


def test_an_affine_of_a_batch_is_one_for_each_entry() -> None:
    matrices = torch.randn(2, 3, 4, dtype=torch.float64)
    points = uniform(2, 3, 5)
    found = Affine(matrices)(points)
    for entry in range(2):
        torch.testing.assert_close(found[entry], Affine(matrices[entry])(points[entry : entry + 1])[0])
    torch.testing.assert_close(Affine(matrices).inverse()(found), points)
    torch.testing.assert_close(Affine(matrices)(points[:1])[1], Affine(matrices[1])(points[:1])[0])


def test_flow_does_not_fold_where_the_displacement_of_the_same_size_would() -> None:
    velocity = smooth(2, 65, 0.25)
    assert jacobian_determinant(DisplacementField(velocity).on_lattice()).min() < 0
    assert jacobian_determinant(VelocityField(velocity).displacement_field().on_lattice())[..., 6:-6, 6:-6].min() > 0


def residual(forward: Map, field: DisplacementField, scale: list[float]) -> Tensor:
    shape = field.displacement.shape[2:]
    lengths = torch.tensor(scale, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    return ((forward(field.on_lattice()) - identity_points(shape, DOUBLE)) * lengths).norm(dim=1)


@pytest.mark.parametrize("dim", [2, 3])
def test_inverse_of_an_affine_is_the_inverse_matrix(dim: int) -> None:
    affine = Affine(torch.cat([torch.eye(dim, dtype=torch.float64) + 0.15 * noise(dim, dim), 0.1 * noise(dim, 1, seed=1)], dim=1))
    shape = (6, 7, 5)[:dim]
    inverse = invert(affine, shape, like=DOUBLE, tolerance=1e-9)
    assert inverse.residual_max < 1e-9
    torch.testing.assert_close(inverse.field.on_lattice(), affine.inverse()(identity_points(shape, DOUBLE)), atol=1e-8, rtol=0)


@pytest.mark.parametrize("stretch", [0.1, 0.5, 1.9, 2.5, 3.0, 5.0])
def test_inverse_is_found_at_any_stretch(stretch: float) -> None:
    """The plain fixed point diverges above 2."""
    assert invert(scaling(stretch), (5, 6, 7), like=DOUBLE, tolerance=1e-9, iterations=10).residual_max < 1e-9


@pytest.mark.parametrize("dim", [2, 3])
def test_inverse_of_a_map_with_a_closed_form_is_found(dim: int) -> None:
    """Stretch 3 at the faces of the cube and 0.3 in its centre."""
    shape = (21, 16, 18)[:dim]

    def forward(points: Tensor) -> Tensor:
        return 0.5 + torch.sinh(6 * (points - 0.5)) / (2 * math.sinh(3))

    exact = 0.5 + torch.asinh(2 * math.sinh(3) * (identity_points(shape, DOUBLE) - 0.5)) / 6
    inverse = invert(forward, shape, like=DOUBLE, tolerance=1e-6)
    assert inverse.residual_max < 1e-6
    torch.testing.assert_close(inverse.field.on_lattice(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dim", "size", "amplitude"), [(2, 48, 0.15), (3, 24, 0.12)])
def test_inverse_of_a_strong_diffeomorphism_is_found(dim: int, size: int, amplitude: float) -> None:
    forward = VelocityField(smooth(dim, size, amplitude)).displacement_field()
    determinant = jacobian_determinant(forward.on_lattice())
    assert determinant.min() < 0.5
    assert determinant.max() > 2
    inverse = invert(forward, (size,) * dim, like=DOUBLE, scale=[200.0] * dim, tolerance=1e-2)
    assert inverse.residual_max < 1e-2


def test_residual_is_what_recomputing_it_gives() -> None:
    forward, scale = VelocityField(smooth(3, 12, 0.1)).displacement_field(), [50.0, 120.0, 200.0]
    for iterations in (0, 1, 3):
        inverse = invert(forward, (10, 11, 12), like=DOUBLE, scale=scale, iterations=iterations)
        again = residual(forward, inverse.field, scale)
        assert inverse.residual_max == pytest.approx(float(again.max()), rel=1e-9)
        assert inverse.residual_mean == pytest.approx(float(again.mean()), rel=1e-9)


def test_more_iterations_never_make_the_residual_larger() -> None:
    forward = VelocityField(smooth(2, 24, 0.3)).displacement_field()
    residuals = [invert(forward, (24, 24), like=DOUBLE, iterations=n, tolerance=0.0) for n in range(12)]
    for few, more in itertools.pairwise(residuals):
        assert more.residual_max <= few.residual_max
        assert more.residual_mean <= few.residual_mean


def test_residual_of_a_folding_map_is_finite_and_true() -> None:
    def folding(points: Tensor) -> Tensor:
        return points + 0.3 * torch.sin(4 * torch.pi * points)

    inverse = invert(folding, (20, 20), like=DOUBLE, tolerance=1e-6)
    assert inverse.residual_max == pytest.approx(float(residual(folding, inverse.field, [1.0, 1.0]).max()))
    assert inverse.field.displacement.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3])
def test_map_to_one_point_has_no_inverse_and_says_so(dim: int) -> None:
    inverse = invert(scaling(0.0, dim), (6,) * dim, like=DOUBLE)
    assert inverse.residual_max == pytest.approx(0.5 * math.sqrt(dim))
    assert inverse.field.displacement.isfinite().all()


def test_good_start_saves_evaluations_and_is_left_as_it_was() -> None:
    velocity = VelocityField(smooth(2, 40, 0.1))
    forward = velocity.displacement_field()
    start = velocity.inverse().displacement_field().on_lattice()
    before = start.clone()

    def evaluations(first: Tensor | None) -> int:
        calls = []

        def counted(points: Tensor) -> Tensor:
            calls.append(points)
            return forward(points)

        invert(counted, (40, 40), like=DOUBLE, start=first, scale=[200.0] * 2, tolerance=1e-3)
        return len(calls)

    assert evaluations(start) < evaluations(None)
    assert torch.equal(start, before)


def test_exact_start_needs_one_evaluation_only() -> None:
    affine = scaling(1.3)
    start = affine.inverse()(identity_points((4, 5, 6), DOUBLE))
    assert invert(affine, (4, 5, 6), like=DOUBLE, start=start, iterations=0).residual_max < 1e-12


def test_inverting_a_map_under_optimization_builds_no_graph() -> None:
    parameters = smooth(2, 9, 0.01).requires_grad_()
    assert not invert(DisplacementField(parameters), (9, 9), like=DOUBLE).field.displacement.requires_grad


def test_inverse_has_dtype_of_like() -> None:
    inverse = invert(Affine(torch.eye(2, 3)), (4, 4), like=torch.zeros(()), scale=[100.0, 50.0])
    assert inverse.field.displacement.dtype == torch.float32


@pytest.mark.parametrize("dim", [2, 3])
def test_jacobian_determinant_of_an_affine_is_that_of_its_matrix(dim: int) -> None:
    affine = Affine(noise(dim, dim + 1, seed=3))
    determinant = jacobian_determinant(affine(identity_points((5, 4, 6)[:dim], DOUBLE)))
    assert determinant.shape == (1, 1, *(5, 4, 6)[:dim])
    torch.testing.assert_close(determinant, torch.linalg.det(affine.matrix[:, :dim]).expand_as(determinant))


def test_jacobian_determinant_of_a_quadratic_map_is_exact_inside() -> None:
    points = identity_points((7, 6, 8), DOUBLE)
    x, y, z = points[0]
    mapped = torch.stack([x**2 + y, y**2 + z / 2, z**2 + x / 3])[None]
    inside = (..., *[slice(1, -1)] * 3)
    torch.testing.assert_close(jacobian_determinant(mapped)[0, 0][inside], (8 * x * y * z + 1 / 6)[inside])
    torch.testing.assert_close(derivatives(mapped, 0)[0, 0][inside], 2 * x[inside])


@pytest.mark.parametrize("dim", [2, 3])
def test_jacobian_determinant_is_negative_exactly_where_the_map_mirrors(dim: int) -> None:
    points = identity_points((9,) * dim, DOUBLE)
    for axis in range(dim):
        mirrored = points.clone()
        mirrored[:, axis] = 1 - mirrored[:, axis]
        torch.testing.assert_close(jacobian_determinant(mirrored), -torch.ones(1, 1, *[9] * dim, dtype=torch.float64))
    torch.testing.assert_close(jacobian_determinant(points.flip(1))[0, 0].flatten()[0].item(), -1.0)
    folded = points.clone()
    folded[:, 0] = (folded[:, 0] - 0.5).abs()
    determinant = jacobian_determinant(folded)[0, 0]
    assert (determinant[:4] < 0).all()
    assert (determinant[5:] > 0).all()


def test_jacobian_determinant_of_each_batch_entry_is_its_own() -> None:
    both = torch.cat([scaling(2.0, 2)(identity_points((4, 4), DOUBLE)), scaling(3.0, 2)(identity_points((4, 4), DOUBLE))])
    torch.testing.assert_close(jacobian_determinant(both)[:, 0, 0, 0], torch.tensor([4.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_newton_step_where_the_map_mirrors_goes_straight_by_what_is_missing(dim: int) -> None:
    """Its Jacobian is taken as the identity there, as everywhere where the map (nearly) folds."""
    lattice = identity_points((5, 6, 7)[:dim], DOUBLE)
    mirrored = torch.cat([1 - lattice[:, :1], lattice[:, 1:]], dim=1)
    missing = 0.01 * noise(*lattice.shape)
    torch.testing.assert_close(deformation._newton_step(lattice, mirrored, missing), missing)
    scaled = 0.5 * lattice
    torch.testing.assert_close(deformation._newton_step(lattice, scaled, missing), 2 * missing)
