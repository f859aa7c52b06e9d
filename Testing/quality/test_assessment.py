from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.geometry.space import Grid, affine_transform, field_transform, grid_of
from RegistrationNetLib.quality import assessment as quality
from RegistrationNetLib.quality.assessment import (
    BeforeAfter,
    Displacement,
    JacobianStatistics,
    assess,
    displacement,
    inverse_consistency,
    jacobian_image,
    jacobian_statistics,
    label_overlap,
    landmark_errors,
    lattice_stride,
)
from Testing.strategies import rotation

DIMS = pytest.mark.parametrize("dim", [2, 3])
OBLIQUE = (25.0, -15.0, 40.0)


def blank(size, *, spacing=None, direction=None, origin=None):
    """An image of zeros; `size` and `spacing` in the order x, y, z."""
    dim = len(size)
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing or [1.0] * dim)
    image.SetDirection((np.eye(dim) if direction is None else direction).flatten().tolist())
    image.SetOrigin(origin or [0.0] * dim)
    return image


def oblique(dim):
    return blank(
        [9, 8, 7][:dim], spacing=[0.7, 1.3, 2.5][:dim], direction=rotation(dim, OBLIQUE), origin=[40.0, -300.0, 12.0][:dim]
    )


def shift(*offset_mm):
    return sitk.TranslationTransform(len(offset_mm), [float(each) for each in offset_mm])


def identity(dim):
    return sitk.Transform(dim, sitk.sitkIdentity)


def affine(matrix, offset):
    homogeneous = np.eye(len(matrix) + 1)
    homogeneous[:-1, :-1], homogeneous[:-1, -1] = matrix, offset
    return affine_transform(homogeneous)


# Jacobian


@DIMS
def test_jacobian_of_an_affine_is_its_determinant_on_an_oblique_grid(dim):
    matrix = np.eye(dim) + 0.3 * np.random.default_rng(0).normal(size=(dim, dim))
    like = oblique(dim)
    jacobian = jacobian_image(affine(matrix, [500.0] * dim), like)
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian), np.linalg.det(matrix), rtol=1e-5)
    assert jacobian.GetPixelID() == sitk.sitkFloat32
    assert jacobian.GetDirection() == pytest.approx(like.GetDirection())
    assert jacobian.GetOrigin() == pytest.approx(like.GetOrigin())
    assert jacobian.GetSpacing() == pytest.approx(like.GetSpacing())


@DIMS
def test_a_mirror_has_determinant_minus_one(dim):
    mirror = np.diag([-1.0] + [1.0] * (dim - 1))
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian_image(affine(mirror, [0.0] * dim), oblique(dim))), -1.0, rtol=1e-5)


@DIMS
@pytest.mark.parametrize("along", [0, 1])
def test_jacobian_of_a_quadratic_stretch_along_an_oblique_axis(dim, along):
    # s ↦ s + k s² / 2 along one array axis has determinant 1 + k s, and central differences are exact for it.
    like, k = oblique(dim), 0.05
    grid = grid_of(like)
    s = np.moveaxis(
        np.broadcast_to(
            np.arange(grid.shape[along]) * grid.spacing_mm[along], np.moveaxis(np.zeros(grid.shape), along, -1).shape
        ),
        -1,
        along,
    )
    direction = grid.world_from_voxel[:-1, along] / grid.spacing_mm[along]
    jacobian = sitk.GetArrayFromImage(jacobian_image(field_transform(0.5 * k * s[..., None] ** 2 * direction, grid), like))
    inner = tuple(slice(1, -1) if axis == along else slice(None) for axis in range(dim))
    np.testing.assert_allclose(jacobian[inner], (1 + k * s)[inner], rtol=1e-5)


@DIMS
def test_jacobian_agrees_with_itk_where_itk_holds(dim):
    like = blank([12, 11, 10][:dim], spacing=[0.7, 1.3, 2.5][:dim], origin=[5.0, -6.0, 7.0][:dim])
    grid = grid_of(like)
    values = np.random.default_rng(1).normal(scale=0.4, size=(*grid.shape, dim))
    transform = field_transform(values, grid)
    itk = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field_transform(values, grid).GetDisplacementField()))
    inner = (slice(1, -1),) * dim
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian_image(transform, like))[inner], itk[inner], atol=1e-5)


@pytest.mark.parametrize("voxels", [1, 3 * 72, 10_000])
def test_cutting_into_slabs_changes_no_determinant(monkeypatch, voxels):
    like = oblique(3)
    transform = field_transform(np.random.default_rng(2).normal(size=(*grid_of(like).shape, 3)), grid_of(like))
    whole = sitk.GetArrayFromImage(jacobian_image(transform, like))
    monkeypatch.setattr(quality, "SLAB_VOXELS", voxels)
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian_image(transform, like)), whole, atol=1e-6)


def test_a_volume_of_one_slice_has_no_jacobian():
    with pytest.raises(GeometryError, match="It has 9 x 8 x 1"):
        jacobian_image(identity(3), blank([9, 8, 1]))


@pytest.mark.parametrize("measure", [jacobian_image, displacement])
def test_transform_and_image_must_have_one_dimension(measure):
    with pytest.raises(InputError, match="transform is 2-D, the image 3-D"):
        measure(identity(2), blank([4, 4, 4]))


def test_statistics_of_known_determinants():
    image = sitk.GetImageFromArray(np.array([[1.0, np.e], [0.0, -1.0]], dtype=np.float32))
    statistics = jacobian_statistics(image)
    assert statistics.min == -1
    assert statistics.max == pytest.approx(np.e)
    assert statistics.mean == pytest.approx(np.e / 4)
    assert statistics.folded_percent == 50
    assert statistics.log_sd == pytest.approx(0.5)


def test_no_folded_voxel_is_exactly_zero_percent():
    assert jacobian_statistics(jacobian_image(identity(3), oblique(3))).folded_percent == 0


def test_statistics_of_a_mirror_are_finite():
    assert jacobian_statistics(sitk.Image([3, 3], sitk.sitkFloat32) - 1) == JacobianStatistics(-1, -1, -1, 100, 0)


# Inverse consistency and displacement


@DIMS
def test_an_affine_and_its_exact_inverse_are_consistent(dim):
    # A rotation and a shift do not commute, so the order of composition matters.
    image = oblique(dim)
    turn, centre = rotation(dim, (5.0, 3.0, -4.0)), grid_of(image).centre_mm
    transform = sitk.CompositeTransform([shift(*[0.4] * dim), affine(turn, centre - turn @ centre + 0.3)])
    assert inverse_consistency(transform, transform.GetInverse(), like=image, moving=image).max < 1e-6


def test_a_way_back_that_misses_by_half_a_millimetre_shows_it():
    image = oblique(3)
    errors = inverse_consistency(shift(0.5, 0, 0), shift(-0.5, 0.3, -0.4), like=image, moving=image)
    assert (errors.mean, errors.p95, errors.max) == pytest.approx((0.5, 0.5, 0.5))


def test_only_voxels_that_fall_into_moving_count():
    # The way back stretches by 1.1 about the origin: the error at x is 0.1 x, and moving ends at x = 4.
    fixed, moving = blank([11, 11]), blank([5, 1 + 10])
    stretch = affine(np.diag([1.1, 1.0]), [0.0, 0.0])
    errors = inverse_consistency(identity(2), stretch, like=fixed, moving=moving)
    assert errors.max == pytest.approx(0.4)
    assert errors.mean == pytest.approx(0.2)


def test_no_overlap_is_an_error():
    with pytest.raises(GeometryError, match="brings no voxel of fixed into moving"):
        inverse_consistency(shift(1000, 0), shift(-1000, 0), like=blank([5, 5]), moving=blank([5, 5]))


def test_displacement_of_a_shift_is_its_length():
    assert displacement(shift(3, 0, -4), oblique(3)) == Displacement(pytest.approx(5), pytest.approx(5))


def test_displacement_of_a_stretch_grows_from_its_fixed_point():
    moved = displacement(affine(np.diag([1.2, 1.0]), [0, 0]), blank([11, 3]))
    assert moved.max == pytest.approx(2)
    assert moved.mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "stride"), [((100, 200, 200), 1), ((101, 200, 200), 2), ((512, 512, 512), 4), ((2000, 2000), 1), ((3000, 2000), 2)]
)
def test_the_stride_keeps_the_lattice_near_four_million_voxels(shape, stride):
    assert lattice_stride(Grid(shape, np.eye(len(shape) + 1))) == stride


def test_a_thinned_lattice_lies_on_voxels_of_the_full_one(monkeypatch):
    monkeypatch.setattr(quality, "LATTICE_VOXELS", 30)
    stretch = affine(np.diag([1.2, 1.0]), [0, 0])
    # 11 x 11 voxels with stride 3: x is 0, 3, 6, 9.
    assert displacement(stretch, blank([11, 11])).mean == pytest.approx(0.2 * 4.5)
    assert inverse_consistency(identity(2), stretch, like=blank([11, 11]), moving=blank([11, 11])).max == pytest.approx(0.2 * 9)


# Labels and landmarks


def labelled(first, *, spacing=1.0, size=40):
    """Label 3 from x = `first` mm, 10 mm long; as fine as `spacing`."""
    x = np.arange(size / spacing) * spacing
    values = np.where((x >= first) & (x < first + 10), 3, 0)
    image = sitk.GetImageFromArray(np.repeat(values[None], 4, axis=0).astype(np.uint8))
    image.SetSpacing([spacing, 1.0])
    return image


def test_a_recovered_shift_takes_dice_from_its_closed_form_to_one():
    overlap = label_overlap(labelled(5), labelled(9), shift(4, 0))
    assert overlap.dice == {3: BeforeAfter(before=pytest.approx(2 * 6 / 20), after=1.0)}
    assert overlap.mean == overlap.dice[3]


def test_label_maps_may_have_different_grids():
    overlap = label_overlap(labelled(5), labelled(9, spacing=0.5), shift(4, 0))
    assert overlap.mean.after == 1


def test_a_label_in_one_image_only_counts_zero():
    fixed = labelled(5)
    both = sitk.Cast(fixed == 3, sitk.sitkUInt8) * 3
    both[0, 0] = 7
    overlap = label_overlap(fixed, both, identity(2))
    assert overlap.dice == {3: BeforeAfter(1, 1), 7: BeforeAfter(0, 0)}
    assert overlap.mean == BeforeAfter(0.5, 0.5)


def test_whole_numbers_stored_as_floats_are_labels():
    assert label_overlap(sitk.Cast(labelled(5), sitk.sitkFloat32), labelled(5), identity(2)).mean.after == 1


def test_labels_must_be_whole_numbers_and_there_must_be_one():
    empty = sitk.Image([4, 4], sitk.sitkUInt8)
    with pytest.raises(InputError, match="Moving labels hold values that are not whole numbers"):
        label_overlap(empty, sitk.Image([4, 4], sitk.sitkFloat32) + 0.5, identity(2))
    with pytest.raises(InputError, match="hold no label"):
        label_overlap(empty, empty, identity(2))


def test_landmark_errors_before_and_after_a_known_shift():
    fixed = np.array([[0.0, 0, 0], [10, 20, 30]])
    moving = fixed + np.array([[3, 4, 0], [3, 4, 1]])
    errors = landmark_errors(fixed, moving, shift(3, 4, 0))
    assert errors.count == 2
    assert errors.before.mean == pytest.approx((5 + 26**0.5) / 2)
    assert (errors.after.mean, errors.after.max) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        ([[0, 0, 0]], [[0, 0, 0], [1, 1, 1]]),
        ([[0, 0]], [[0, 0]]),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        ([[0, 0, np.nan]], [[0, 0, 0]]),
    ],
)
def test_landmarks_that_do_not_correspond_are_an_error(fixed, moving):
    with pytest.raises(InputError, match="landmarks cannot be compared"):
        landmark_errors(fixed, moving, identity(3))


# All together


def assessed(**given):
    image = oblique(3)
    transform = shift(0.5, 0, 0)
    return assess(
        fixed=image,
        moving=image,
        moving_from_fixed=transform,
        fixed_from_moving=transform.GetInverse(),
        jacobian=jacobian_image(transform, image),
        similarity_name="lncc",
        similarity_before=0.4,
        similarity_after=0.8,
        **given,
    )


def test_the_report_has_the_names_of_the_contract():
    report = assessed().as_dict()
    assert {key: set(value) for key, value in report.items()} == {
        "similarity": {"name", "before", "after"},
        "jacobian": {"min", "max", "mean", "folded_percent", "log_sd"},
        "inverse_consistency_mm": {"mean", "p95", "max"},
        "displacement_mm": {"mean", "max"},
    }


def test_labels_and_landmarks_enter_the_report_when_given_and_it_is_json():
    image = sitk.Cast(oblique(3), sitk.sitkUInt8) + 1
    report = json.loads(
        json.dumps(
            assessed(
                fixed_labels=image, moving_labels=image, fixed_landmarks=[[0, 0, 0]], moving_landmarks=[[0.5, 0, 0]]
            ).as_dict()
        )
    )
    assert set(report["labels"]["dice"]) == {"1"}
    assert report["labels"]["mean_dice"]["before"] == 1
    assert report["landmarks"]["count"] == 1
    assert report["landmarks"]["error_mm"]["after"]["mean"] == pytest.approx(0)


def test_half_a_pair_is_an_error():
    with pytest.raises(InputError, match="The labels of moving are missing"):
        assessed(fixed_labels=oblique(3))
    with pytest.raises(InputError, match="The landmarks of fixed are missing"):
        assessed(moving_landmarks=[[0, 0, 0]])
