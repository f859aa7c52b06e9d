from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from RegistrationNetLib.errors import GeometryError
from RegistrationNetLib.geometry.deformation import Affine, DisplacementField, identity_points, sample
from RegistrationNetLib.geometry.separable import apply_along_axes, bspline_matrix, on
from RegistrationNetLib.geometry.space import (
    INVERSION_TOLERANCE,
    Grid,
    affine_matrix,
    affine_transform,
    axes_towards,
    bring_to_axes_of,
    field_transform,
    grid_of,
    image_on,
    inverse_transform_from_map,
    is_inside,
    lies_inside,
    points_of_transform,
    resampled,
    tensor_of,
    transform_from_map,
    unit_from_unit,
    values_on,
    world_displacement,
)
from Testing.strategies import grids, images, rotation, signed_permutations

Array = NDArray[np.float64]
DIMS = pytest.mark.parametrize("dim", [2, 3])
DOUBLE = torch.zeros((), dtype=torch.float64)


def oriented(direction: Array, size: tuple[int, ...] = (4, 6, 5), seed: int = 0) -> sitk.Image:
    """An image of random voxels with unequal spacing and an origin."""
    dim = len(direction)
    values = np.random.default_rng(seed).normal(size=size[:dim][::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing([0.7, 1.9, 3.1][:dim])
    image.SetOrigin([-31.0, 12.5, 140.0][:dim])
    image.SetDirection(direction.flatten().tolist())
    return image


def every_orientation(dim: int) -> list[Array]:
    """All signed permutations, straight and oblique."""
    turn = rotation(dim, (11.0, -17.0, 8.0))
    return [t @ axes for axes in signed_permutations(dim) for t in (np.eye(dim), turn)]


def geometry(image: sitk.Image) -> tuple[float, ...]:
    return (*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


def image_bytes(image: sitk.Image) -> tuple[object, ...]:
    return geometry(image), image.GetPixelID(), sitk.GetArrayFromImage(image).tobytes()


def homogeneous(matrix: Array, points: Array) -> Array:
    """The matrix applied to points [..., dim]."""
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def affine_of(linear: Array, translation: list[float]) -> Array:
    matrix = np.eye(len(linear) + 1)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = translation
    return matrix


def shear(dim: int) -> Array:
    """A world matrix that turns, stretches, shears and shifts."""
    linear = np.eye(dim) + np.triu(np.full((dim, dim), 0.3), 1) + np.diag([0.2, -0.1, 0.1][:dim])
    return affine_of(linear @ rotation(dim, (20.0, 10.0, -30.0)), [3.0, -2.0, 1.0][:dim])


def smooth_map(shape: tuple[int, ...], amplitude: float, seed: int = 0) -> DisplacementField:
    coefficients = torch.randn(
        (1, len(shape), *[5] * len(shape)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    matrices = on([bspline_matrix(size, 2) for size in shape], DOUBLE)
    return DisplacementField(amplitude * apply_along_axes(coefficients, matrices))


def random_unit_points(dim: int, count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(size=(count, dim))


# Grid and image


@DIMS
def test_indices_map_to_the_millimetres_of_simpleitk_in_every_orientation(dim: int) -> None:
    for direction in every_orientation(dim):
        image = oriented(direction)
        grid = grid_of(image)
        for voxel in itertools.product(*[(0, size - 1) for size in grid.shape]):
            expected = image.TransformIndexToPhysicalPoint(voxel[::-1])
            np.testing.assert_allclose(homogeneous(grid.world_from_voxel, np.array(voxel)), expected, atol=1e-10)


@DIMS
@given(data=st.data())
def test_cube_world_and_voxel_agree_with_simpleitk_and_go_there_and_back(dim: int, data: st.DataObject) -> None:
    image = data.draw(images(dim))
    grid = grid_of(image)
    for unit in random_unit_points(dim, 5):
        voxel = unit * (np.array(grid.shape) - 1)
        world = np.array(image.TransformContinuousIndexToPhysicalPoint(voxel[::-1].tolist()))
        np.testing.assert_allclose(homogeneous(grid.world_from_unit, unit), world, atol=1e-9)
        np.testing.assert_allclose(homogeneous(grid.world_from_voxel, voxel), world, atol=1e-9)
        np.testing.assert_allclose(homogeneous(grid.unit_from_world, world), unit, atol=1e-9)
        back = image.TransformPhysicalPointToContinuousIndex(homogeneous(grid.world_from_unit, unit).tolist())
        np.testing.assert_allclose(back[::-1], voxel, atol=1e-9)


@DIMS
@given(data=st.data())
def test_image_on_the_grid_of_an_image_has_its_geometry(dim: int, data: st.DataObject) -> None:
    image = data.draw(images(dim))
    before = image_bytes(image)
    again = image_on(grid_of(image), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(geometry(again), geometry(image), rtol=1e-12, atol=1e-12)
    assert sitk.GetArrayFromImage(again).tobytes() == sitk.GetArrayFromImage(image).tobytes()
    assert image_bytes(image) == before


@DIMS
def test_image_on_keeps_vectors_and_pixel_type(dim: int) -> None:
    grid = grid_of(oriented(np.eye(dim)))
    vectors = np.arange(math.prod(grid.shape) * dim, dtype=np.int16).reshape(*grid.shape, dim)
    image = image_on(grid, vectors, is_vector=True)
    assert image.GetPixelID() == sitk.sitkVectorInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), vectors)


def test_sheared_grid_cannot_carry_an_image() -> None:
    grid = grid_of(oriented(np.eye(3))).moved(shear(3))
    with pytest.raises(GeometryError, match="sheared"):
        image_on(grid, np.zeros(grid.shape))


@DIMS
@given(data=st.data())
def test_spacing_extent_and_centre_follow_the_array_axes(dim: int, data: st.DataObject) -> None:
    image = data.draw(images(dim))
    grid = grid_of(image)
    np.testing.assert_allclose(grid.spacing_mm, image.GetSpacing()[::-1])
    corners = [image.TransformIndexToPhysicalPoint(index) for index in ([0] * dim, [size - 1 for size in image.GetSize()])]
    np.testing.assert_allclose(np.linalg.norm(grid.extent_mm), np.linalg.norm(np.subtract(*corners)))
    np.testing.assert_allclose(grid.centre_mm, np.mean(corners, axis=0), atol=1e-9)
    assert grid.dim == dim


@DIMS
@given(data=st.data())
def test_resized_grid_lies_where_torch_interpolate_samples(dim: int, data: st.DataObject) -> None:
    grid = data.draw(grids(dim))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=dim, max_size=dim)))
    resized = grid.resized(shape)
    voxels = torch.stack(torch.meshgrid(*[torch.arange(size).double() for size in grid.shape], indexing="ij"))[None]
    mode = {2: "bilinear", 3: "trilinear"}[dim]
    expected = F.interpolate(voxels, size=shape, mode=mode, align_corners=False)[0].movedim(0, -1).numpy()
    new_voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = homogeneous(resized.world_from_voxel, new_voxels)
    sampled = homogeneous(np.linalg.inv(grid.world_from_voxel), world)
    np.testing.assert_allclose(np.clip(sampled, 0, np.array(grid.shape) - 1), expected, atol=1e-9)
    assert resized.shape == shape
    np.testing.assert_allclose(
        np.multiply(resized.spacing_mm, resized.shape), np.multiply(grid.spacing_mm, grid.shape), err_msg="edge to edge"
    )


def test_moved_grid_carries_every_voxel_through_the_matrix() -> None:
    grid, voxels = grid_of(oriented(rotation(3, (10.0, 20.0, 30.0)))), 4 * random_unit_points(3, 10)
    expected = homogeneous(shear(3), homogeneous(grid.world_from_voxel, voxels))
    np.testing.assert_allclose(homogeneous(grid.moved(shear(3)).world_from_voxel, voxels), expected)


@pytest.mark.parametrize(
    ("dtype", "pixel"), [(torch.float32, sitk.sitkInt16), (torch.float64, sitk.sitkFloat32), (torch.int64, sitk.sitkUInt8)]
)
def test_tensor_of_an_image_is_a_copy_of_its_voxels(dtype: torch.dtype, pixel: int) -> None:
    image = sitk.Cast(oriented(np.eye(3)) * 10 + 40, pixel)
    before = image_bytes(image)
    tensor = tensor_of(image, dtype=dtype)
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, (1, 1, *image.GetSize()[::-1]))
    assert tensor[0, 0, 3, 2, 1].item() == image[1, 2, 3]
    tensor.zero_()
    assert image_bytes(image) == before


# Axes


@DIMS
def test_image_brought_to_other_axes_keeps_value_and_place_of_its_voxels(dim: int) -> None:
    fixed = grid_of(oriented(rotation(dim, (14.0, -9.0, 5.0)) @ signed_permutations(dim)[3]))
    for direction in every_orientation(dim):
        moving = oriented(direction)
        before = image_bytes(moving)
        brought = bring_to_axes_of(moving, fixed)
        assert image_bytes(moving) == before
        for index in list(np.ndindex(*brought.GetSize()))[:: 1 if dim == 2 else 5]:
            position = brought.TransformIndexToPhysicalPoint(index)
            own_index = moving.TransformPhysicalPointToIndex(position)
            assert brought[index] == moving[own_index]
            np.testing.assert_allclose(moving.TransformIndexToPhysicalPoint(own_index), position, atol=1e-9)


@DIMS
def test_straight_image_brought_to_straight_axes_has_their_direction(dim: int) -> None:
    for fixed_direction in signed_permutations(dim):
        fixed = grid_of(oriented(fixed_direction))
        for direction in signed_permutations(dim)[:: 1 if dim == 2 else 5]:
            brought = bring_to_axes_of(oriented(direction), fixed)
            np.testing.assert_allclose(brought.GetDirection(), fixed_direction.flatten(), atol=1e-12)


@DIMS
@settings(max_examples=10)
@given(data=st.data())
def test_brought_image_is_nearest_among_all_flips_and_permutations(dim: int, data: st.DataObject) -> None:
    fixed, moving = data.draw(grids(dim)), data.draw(images(dim))

    def likeness(image: sitk.Image) -> float:
        return float(np.trace(np.linalg.inv(unit_columns(fixed)) @ unit_columns(grid_of(image))))

    def unit_columns(grid: Grid) -> Array:
        return grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)

    best = likeness(bring_to_axes_of(moving, fixed))
    for order in itertools.permutations(range(dim)):
        for flips in itertools.product((False, True), repeat=dim):
            assert likeness(sitk.Flip(sitk.PermuteAxes(moving, order), flips)) <= best + 1e-9


@DIMS
@given(data=st.data())
def test_bringing_an_image_to_other_axes_and_back_restores_it(dim: int, data: st.DataObject) -> None:
    # Turns of up to 15 degrees between both, so that the nearest axes are the same both ways.
    fixed, moving = data.draw(images(dim, max_degrees=7.0)), data.draw(images(dim, max_degrees=7.0))
    brought = bring_to_axes_of(moving, grid_of(fixed))
    assert image_bytes(bring_to_axes_of(brought, grid_of(fixed))) == image_bytes(brought)
    restored = bring_to_axes_of(brought, grid_of(moving))
    np.testing.assert_allclose(geometry(restored), geometry(moving), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(restored), sitk.GetArrayFromImage(moving))


@DIMS
def test_own_axes_need_no_change(dim: int) -> None:
    for direction in every_orientation(dim):
        grid = grid_of(oriented(direction))
        assert axes_towards(grid, grid) == (tuple(range(dim)), (False,) * dim)


def test_axes_are_each_used_once_when_two_point_towards_the_same() -> None:
    fixed = grid_of(oriented(np.eye(3)))
    moving = grid_of(oriented(rotation(3, (44.0, 44.0, 44.0))))
    order, _ = axes_towards(moving, fixed)
    assert sorted(order) == [0, 1, 2]


# Transforms


@DIMS
@given(data=st.data())
def test_unit_from_unit_keeps_the_place_in_the_world(dim: int, data: st.DataObject) -> None:
    target, source = data.draw(grids(dim)), data.draw(grids(dim))
    units = random_unit_points(dim, 4)
    world = homogeneous(target.world_from_unit, homogeneous(unit_from_unit(target, source), units))
    np.testing.assert_allclose(world, homogeneous(source.world_from_unit, units), atol=1e-8)


def linear_transforms() -> list[sitk.Transform]:
    euler3d = sitk.Euler3DTransform((10.0, -20.0, 30.0), 0.3, -0.2, 0.5, (4.0, 5.0, -60.0))
    zyx = sitk.Euler3DTransform((10.0, -20.0, 30.0), 0.3, -0.2, 0.5, (4.0, 5.0, -60.0))
    zyx.SetComputeZYX(True)
    versor = sitk.VersorRigid3DTransform((0.1, 0.7, -0.2), 0.6, (1.0, 2.0, 3.0), (-50.0, 4.0, 9.0))
    similarity = sitk.Similarity3DTransform(1.3, (0.1, 0.7, -0.2), 0.6, (1.0, 2.0, 3.0), (-50.0, 4.0, 9.0))
    affine = sitk.AffineTransform([1.1, 0.2, 0.0, -0.1, 0.9, 0.3, 0.0, 0.1, -1.2], (5.0, 6.0, 7.0), (100.0, 0.0, -20.0))
    plane = sitk.AffineTransform([1.1, 0.2, -0.4, 0.8], (5.0, 6.0), (100.0, 0.0))
    composite = sitk.CompositeTransform([euler3d, affine, sitk.TranslationTransform(3, (1.0, 2.0, 3.0))])
    return [
        euler3d,
        zyx,
        versor,
        sitk.VersorTransform((0.1, 0.7, -0.2), 0.6, (1.0, 2.0, 3.0)),
        similarity,
        sitk.ScaleVersor3DTransform((0.9, 1.2, 1.3), (0.1, 0.7, -0.2), 0.6, (1.0, 2.0, 3.0), (-50.0, 4.0, 9.0)),
        sitk.ScaleSkewVersor3DTransform((0.9, 1.2, 1.3), (0.1, 0.0, 0.2, 0.0, 0.0, 0.1), (0.1, 0.7, -0.2), 0.6, (1.0, 2.0, 3.0)),
        affine,
        sitk.ScaleTransform(3, (0.5, 2.0, -1.5)),
        sitk.TranslationTransform(3, (1000.0, -2.0, 3.0)),
        sitk.Transform(3, sitk.sitkIdentity),
        composite,
        sitk.Transform(composite),
        sitk.CompositeTransform([composite, versor]),
        sitk.Euler2DTransform((3.0, 4.0), 0.7, (10.0, -20.0)),
        sitk.Similarity2DTransform(0.8, 0.7, (10.0, -20.0), (3.0, 4.0)),
        plane,
        sitk.ScaleTransform(2, (0.5, 2.0)),
        sitk.TranslationTransform(2, (1.0, -2.0)),
        sitk.CompositeTransform([plane, sitk.Euler2DTransform((3.0, 4.0), 0.7, (10.0, -20.0))]),
    ]


@pytest.mark.parametrize("transform", linear_transforms(), ids=lambda t: f"{t.GetName()}{t.GetDimension()}")
def test_matrix_of_a_linear_transform_moves_points_as_it_does(transform: sitk.Transform) -> None:
    dim = transform.GetDimension()
    parameters = transform.GetParameters()
    matrix = affine_matrix(transform)
    for point in 400 * random_unit_points(dim, 10) - 200:
        expected = transform.TransformPoint(point.tolist())
        np.testing.assert_allclose(homogeneous(matrix, point), expected, atol=1e-9)
        np.testing.assert_allclose(affine_transform(matrix).TransformPoint(point.tolist()), expected, atol=1e-9)
    assert transform.GetParameters() == parameters


@pytest.mark.parametrize(
    "transform",
    [sitk.BSplineTransform(3, 3), sitk.CompositeTransform([sitk.TranslationTransform(3), sitk.BSplineTransform(3, 3)])],
    ids=["bspline", "composite"],
)
def test_matrix_of_a_transform_that_is_not_linear_is_refused(transform: sitk.Transform) -> None:
    with pytest.raises(GeometryError, match="not linear"):
        affine_matrix(transform)


@DIMS
def test_field_transform_moves_voxel_centres_by_their_vectors_and_nothing_outside(dim: int) -> None:
    for direction in every_orientation(dim)[:: 1 if dim == 2 else 7]:
        image = oriented(direction)
        vectors = np.random.default_rng(0).normal(size=(*image.GetSize()[::-1], dim)).astype(np.float32)
        before = vectors.copy()
        transform = field_transform(vectors, grid_of(image))
        for index in [(0,) * dim, (1, 3, 2)[:dim], tuple(size - 1 for size in image.GetSize())]:
            point = np.array(image.TransformIndexToPhysicalPoint(index))
            np.testing.assert_allclose(transform.TransformPoint(point.tolist()), point + vectors[index[::-1]], atol=1e-6)
        outside = image.TransformContinuousIndexToPhysicalPoint([-1.5, *[0.0] * (dim - 1)])
        assert transform.TransformPoint(outside) == outside
        assert np.array_equal(vectors, before)


@DIMS
@given(data=st.data())
def test_world_displacement_ends_where_the_mapped_points_lie(dim: int, data: st.DataObject) -> None:
    grid = data.draw(grids(dim))
    mapped = torch.as_tensor(np.random.default_rng(0).normal(size=(1, dim, *grid.shape)))
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    ends = homogeneous(grid.world_from_voxel, voxels) + world_displacement(mapped, grid)
    np.testing.assert_allclose(ends, homogeneous(grid.world_from_unit, mapped[0].movedim(0, -1).numpy()), atol=1e-9)


@DIMS
@given(data=st.data())
def test_points_of_an_affine_transform_lie_where_its_matrix_puts_them(dim: int, data: st.DataObject) -> None:
    fixed, moving = data.draw(grids(dim)), data.draw(grids(dim))
    points = points_of_transform(affine_transform(shear(dim)), fixed, moving)
    assert points.dtype == torch.float64
    matrix = moving.unit_from_world @ shear(dim) @ fixed.world_from_unit
    expected = Affine(torch.as_tensor(matrix[:-1]))(identity_points(fixed.shape, DOUBLE))
    torch.testing.assert_close(points, expected, atol=1e-7, rtol=1e-9)


@DIMS
@given(data=st.data())
def test_affine_map_of_cubes_becomes_the_affine_transform_of_the_world(dim: int, data: st.DataObject) -> None:
    fixed, moving = data.draw(grids(dim)), data.draw(grids(dim))
    matrix = moving.unit_from_world @ shear(dim) @ fixed.world_from_unit
    transform = transform_from_map(Affine(torch.as_tensor(matrix[:-1])), fixed, moving, like=DOUBLE)
    for point in homogeneous(fixed.world_from_unit, random_unit_points(dim, 6)):
        np.testing.assert_allclose(transform.TransformPoint(point.tolist()), homogeneous(shear(dim), point), atol=1e-6)


@DIMS
@given(data=st.data())
def test_map_made_a_transform_and_read_back_is_the_map(dim: int, data: st.DataObject) -> None:
    fixed, moving = data.draw(grids(dim, min_size=3)), data.draw(grids(dim, min_size=3))
    field = smooth_map(fixed.shape, 0.2)
    before = field.displacement.clone()
    transform = transform_from_map(field, fixed, moving, like=DOUBLE)
    torch.testing.assert_close(points_of_transform(transform, fixed, moving), field.on_lattice(), atol=1e-9, rtol=0)
    # Between the lattice points both are linear.
    units = random_unit_points(dim, 6)
    expected = homogeneous(moving.world_from_unit, field(torch.as_tensor(units.T)[None])[0].T.numpy())
    world = [transform.TransformPoint(point.tolist()) for point in homogeneous(fixed.world_from_unit, units)]
    np.testing.assert_allclose(world, expected, atol=1e-8)
    assert torch.equal(field.displacement, before)


def test_warping_by_the_transform_equals_sampling_in_the_cube() -> None:
    """The whole conversion: SimpleITK's resampling of the world against torch's sampling of the cube."""
    moving_image = oriented(rotation(3, (9.0, 4.0, -12.0)) @ signed_permutations(3)[29], size=(12, 14, 13))
    moving = grid_of(moving_image)
    fixed = grid_of(oriented(rotation(3, (-20.0, 15.0, 3.0)) @ signed_permutations(3)[11], size=(9, 8, 10)))
    # Half-size displacements about the centre, so that every point has its eight voxels.
    field = smooth_map(fixed.shape, 0.05)
    inner = Affine(torch.cat([0.6 * torch.eye(3), torch.full((3, 1), 0.2)], dim=1).double())

    def map_(points: torch.Tensor) -> torch.Tensor:
        return inner(field(points))

    transform = transform_from_map(map_, fixed, moving, like=DOUBLE)
    reference = image_on(fixed, np.zeros(fixed.shape, dtype=np.float32))
    warped = sitk.Resample(moving_image, reference, transform, sitk.sitkLinear, -1e6, sitk.sitkFloat64)
    expected = sample(tensor_of(moving_image, dtype=torch.float64), map_(identity_points(fixed.shape, DOUBLE)))
    np.testing.assert_allclose(sitk.GetArrayFromImage(warped), expected[0, 0].numpy(), atol=1e-6)


def test_float32_map_loses_less_than_a_thousandth_of_a_millimetre() -> None:
    fixed = Grid((11, 12, 13), np.diag([40.0, 40.0, 40.0, 1.0]))
    field = smooth_map(fixed.shape, 0.1)
    single = transform_from_map(DisplacementField(field.displacement.float()), fixed, fixed)
    double = transform_from_map(field, fixed, fixed, like=DOUBLE)
    for point in homogeneous(fixed.world_from_unit, random_unit_points(3, 20)):
        difference = np.subtract(single.TransformPoint(point.tolist()), double.TransformPoint(point.tolist()))
        assert np.abs(difference).max() < 1e-3


@DIMS
def test_only_the_affine_part_acts_outside_the_lattice_of_fixed(dim: int) -> None:
    fixed, moving = grid_of(oriented(signed_permutations(dim)[2])), grid_of(oriented(rotation(dim, (30.0, 0.0, 0.0))))
    transform = transform_from_map(smooth_map(fixed.shape, 0.2), fixed, moving, like=DOUBLE)
    for point in homogeneous(fixed.world_from_unit, random_unit_points(dim, 5) + 1.8):
        expected = homogeneous(moving.world_from_unit @ fixed.unit_from_world, point)
        np.testing.assert_allclose(transform.TransformPoint(point.tolist()), expected, atol=1e-9)


def test_transform_of_a_map_has_its_two_parts() -> None:
    fixed, moving = grid_of(oriented(np.eye(3))), grid_of(oriented(rotation(3, (30.0, 0.0, 0.0))))
    transform = transform_from_map(smooth_map(fixed.shape, 0.2), fixed, moving, like=DOUBLE)
    assert transform.GetNumberOfTransforms() == 2
    affine = affine_matrix(transform.GetNthTransform(0))
    np.testing.assert_allclose(affine, moving.world_from_unit @ fixed.unit_from_world, atol=1e-9)
    assert isinstance(transform.GetNthTransform(1).Downcast(), sitk.DisplacementFieldTransform)


def test_map_under_optimization_becomes_a_transform_and_keeps_its_parameters() -> None:
    grid = grid_of(oriented(np.eye(3)))
    parameters = smooth_map(grid.shape, 0.1).displacement.requires_grad_()
    before = parameters.detach().clone()
    transform_from_map(DisplacementField(parameters), grid, grid, like=DOUBLE)
    assert parameters.requires_grad
    assert torch.equal(parameters.detach(), before)


@DIMS
@pytest.mark.parametrize("with_start", [False, True])
def test_transform_and_inverse_go_there_and_back_within_moving(dim: int, with_start: bool) -> None:
    fixed = grid_of(oriented(rotation(dim, (5.0, -9.0, 7.0)) @ signed_permutations(dim)[6], size=(20, 18, 16)))
    moving = grid_of(oriented(rotation(dim, (-8.0, 9.0, 3.0)), size=(15, 17, 12)))
    alignment = affine_of(np.diag([1.1, 0.9, 1.05][:dim]) @ rotation(dim, (12.0, 3.0, 5.0)), [0.0] * dim)
    alignment[:-1, -1] = moving.centre_mm - homogeneous(alignment, fixed.centre_mm)
    field = smooth_map(fixed.shape, 0.04)
    before = field.displacement.clone()
    moving_from_fixed = transform_from_map(field, fixed, fixed.moved(alignment), like=DOUBLE)
    start = DisplacementField(-field.displacement) if with_start else None
    fixed_from_moving = inverse_transform_from_map(field, fixed, moving, alignment, start=start)
    checked = 0
    for voxel in np.random.default_rng(0).integers(0, moving.shape, size=(30, dim)):
        point = homogeneous(moving.world_from_voxel, voxel)
        back = fixed_from_moving.TransformPoint(point.tolist())
        if (np.abs(homogeneous(fixed.unit_from_world, np.array(back)) - 0.5) < 0.5).all():
            np.testing.assert_allclose(
                moving_from_fixed.TransformPoint(back), point, atol=1.2 * INVERSION_TOLERANCE * max(moving.extent_mm)
            )
            checked += 1
    assert checked >= 10
    assert torch.equal(field.displacement, before)


# Resampling


@DIMS
@given(data=st.data())
def test_resampled_equals_simpleitk_on_an_image_of_the_grid(dim: int, data: st.DataObject) -> None:
    image, grid = data.draw(images(dim)), data.draw(grids(dim))
    grid = grid.moved(affine_of(np.eye(dim), (grid_of(image).centre_mm - grid.centre_mm).tolist()))
    before = image_bytes(image)
    reference = image_on(grid, np.zeros(grid.shape, dtype=np.float32))
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, -7.0, sitk.sitkFloat32))
    values = resampled(image, grid, outside=-7.0)
    assert (values.dtype, tuple(values.shape)) == (torch.float32, (1, 1, *grid.shape))
    # A point on the very edge of the image counts as in or out by rounding.
    index = np.indices(grid.shape).reshape(dim, -1)
    voxel = np.linalg.inv(grid_of(image).world_from_voxel) @ grid.world_from_voxel @ np.vstack([index, np.ones_like(index[:1])])
    size = np.array(grid_of(image).shape)[:, None]
    from_edge = np.minimum(np.abs(voxel[:-1] + 0.5), np.abs(voxel[:-1] - size + 0.5)).min(axis=0).reshape(grid.shape)
    clear = from_edge > 1e-6
    np.testing.assert_allclose(values[0, 0].numpy()[clear], expected[clear], atol=1e-5)
    assert image_bytes(image) == before


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_resampled_to_a_sheared_grid_equals_evaluation_point_by_point(dim: int, nearest: bool) -> None:
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    for direction in every_orientation(dim)[:: 1 if dim == 2 else 5]:
        image = oriented(direction)
        grid = grid_of(image).resized((5, 7, 6)[:dim]).moved(shear(dim))
        # Off centre by a little, where nearest neighbours tie.
        grid = grid.moved(affine_of(np.eye(dim), (grid_of(image).centre_mm + 0.1 - grid.centre_mm).tolist()))
        values = resampled(image, grid, nearest=nearest, outside=-7.0)[0, 0].numpy()
        kinds = set()
        for voxel in np.ndindex(*grid.shape):
            point = homogeneous(grid.world_from_voxel, np.array(voxel)).tolist()
            index = np.array(image.TransformPhysicalPointToContinuousIndex(point))
            is_inside = bool((index >= -0.5).all() and (index <= np.array(image.GetSize()) - 0.5).all())
            kinds.add(is_inside)
            expected = image.EvaluateAtPhysicalPoint(point, interpolator) if is_inside else -7.0
            assert values[voxel] == pytest.approx(expected, abs=1e-4), voxel
        assert kinds == {True, False}


def test_resampled_to_its_own_grid_gives_the_voxels_back() -> None:
    for direction in every_orientation(3)[::5]:
        image = oriented(direction)
        torch.testing.assert_close(resampled(image, grid_of(image)), tensor_of(image), atol=1e-5, rtol=0)
        assert torch.equal(resampled(image, grid_of(image), nearest=True), tensor_of(image))


def test_resampled_through_a_matrix_is_the_image_seen_through_it() -> None:
    """A grid moved by fixed → moving sees moving as fixed does."""
    image = oriented(rotation(3, (5.0, 6.0, 7.0)))
    fixed = grid_of(oriented(signed_permutations(3)[17], size=(5, 4, 6)))
    reference = image_on(fixed, np.zeros(fixed.shape, dtype=np.float32))
    to_centre = affine_of(np.eye(3), (grid_of(image).centre_mm - fixed.centre_mm).tolist())
    moving_from_fixed = to_centre @ affine_of(np.diag([1.1, 0.9, 1.0]), [0.3, 0.2, 0.1])
    expected = sitk.Resample(image, reference, affine_transform(moving_from_fixed), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    np.testing.assert_allclose(
        resampled(image, fixed.moved(moving_from_fixed))[0, 0], sitk.GetArrayFromImage(expected), atol=1e-4
    )


@DIMS
@given(data=st.data())
def test_values_on_a_finer_grid_equal_simpleitk_inside(dim: int, data: st.DataObject) -> None:
    image = data.draw(images(dim, min_size=3))
    source = grid_of(image)
    shape = tuple(2 * size for size in source.shape)
    target = source.resized(shape).moved(affine_of(np.eye(dim), [0.01] * dim))
    values = values_on(tensor_of(image), source, target, outside="zeros")
    inside = resampled(image, target, outside=math.nan)
    at_border = (is_inside(source, target, DOUBLE) != inside.isfinite()).sum()
    assert at_border == 0
    unit = homogeneous(unit_from_unit(source, target), identity_points(shape, DOUBLE)[0].movedim(0, -1).numpy())
    within = torch.as_tensor(((unit > 0) & (unit < 1)).all(axis=-1))[None, None]
    assert within.any()
    torch.testing.assert_close(values[within], inside[within], atol=1e-4, rtol=0)


def test_values_on_a_coarser_grid_do_not_alias_unless_nearest() -> None:
    source = Grid((48, 40), np.diag([1.0, 1.0, 1.0]))
    stripes = (torch.arange(48) % 2).float().view(1, 1, 48, 1).expand(1, 1, 48, 40)
    target = source.resized((12, 40))
    smooth, near = values_on(stripes, source, target), values_on(stripes, source, target, nearest=True)
    assert (smooth[:, :, 1:-1] - 0.5).abs().max() < 0.02
    assert set(near.unique().tolist()) <= {0.0, 1.0}
    constant = torch.full_like(stripes, 3.5)
    torch.testing.assert_close(values_on(constant, source, target), torch.full((1, 1, 12, 40), 3.5))


def test_values_on_lets_gradients_through() -> None:
    source = Grid((6, 5), np.diag([1.0, 1.0, 1.0]))
    values = torch.rand(1, 2, 6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: values_on(v, source, source.resized((3, 7))), (values,))


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 3)])
def test_half_a_voxel_around_a_lattice_lies_inside_and_more_does_not(shape: tuple[int, ...]) -> None:
    grid = Grid(shape, np.eye(len(shape) + 1))
    for axis, size in enumerate(shape):
        beyond = torch.tensor([-0.51, -0.49, size - 1 + 0.49, size - 1 + 0.51]) / (size - 1)
        points = torch.full((1, len(shape), 4), 0.5)
        points[0, axis] = beyond
        assert lies_inside(grid, points).flatten().tolist() == [False, True, True, False]
