"""Each stage of the alignment against known rotations and shifts of a head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.space import Grid, affine_transform, grid_of, image_on
from RegistrationNetLib.losses.similarity import LNCC, MINDSSC, Measure, MutualInformation, SquaredLNCC
from RegistrationNetLib.quality.phantom import Head, head_phantom
from RegistrationNetLib.registration.alignment import STAGES, align, centre_of_mass_mm, checked_stages
from RegistrationNetLib.registration.landmark_pairs import LandmarkPairs
from RegistrationNetLib.registration.prepare import Prepared, prepared
from Testing.benchmarks.contrasts import painted

from ..strategies import rotation
from ..volumes import QUANTILES

Matrix = NDArray[np.floating]

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE = LNCC(sigma_vox=3.0, epsilon=1e-3)
VOXEL_MM = 6.0
SHAPES = {2: (46, 40), 3: (40, 46, 40)}


def silent(_: float) -> None:
    """A report that nobody reads."""


@lru_cache
def head(dim: int) -> Head:
    return head_phantom(SHAPES[dim], [VOXEL_MM] * dim, 0)


def rigid(degrees: tuple[float, ...], shift_mm: tuple[float, ...]) -> Matrix:
    """A rotation about the head's centre, which is the origin, and a shift."""
    dim = len(shift_mm)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = rotation(dim, degrees)
    matrix[:dim, dim] = shift_mm
    return matrix


def carried_to(moving_from_fixed: Matrix, image: sitk.Image, grid: Grid) -> sitk.Image:
    """A moving image on `grid` of which `moving_from_fixed` is the truth; no air where `image` ends, but nothing."""
    like = image_on(grid, np.zeros(grid.shape, dtype=np.uint8))
    return sitk.Resample(image, like, affine_transform(np.linalg.inv(moving_from_fixed)), sitk.sitkLinear, 0.0)


def error_mm(found: Matrix, truth: Matrix) -> float:
    """Mean distance over the voxels of the head."""
    labels = head(truth.shape[0] - 1).labels
    index = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0).T
    points = grid_of(labels).world_from_voxel @ np.vstack([index, np.ones_like(index[:1])])
    return float(np.linalg.norm((found - truth) @ points, axis=0).mean())


def aligned(
    truth: Matrix,
    *stages: str,
    measure: Measure = WIDE,
    start: Matrix | None = None,
    contrast: sitk.Image | None = None,
    pairs: LandmarkPairs | None = None,
) -> Matrix:
    """What the stages find for the head and the head moved by `truth`, in the contrast of the image `contrast`."""
    dim = truth.shape[0] - 1
    fixed = head(dim).image
    moving = carried_to(truth, contrast or fixed, grid_of(fixed))
    start = np.eye(dim + 1) if start is None else start
    pair = prepared(fixed, QUANTILES), prepared(moving, QUANTILES)
    return align(*pair, start=start, stages=stages, measure=measure, report=silent, pairs=pairs)


FAR = {
    "one plane and axis": rigid((15, 0, 0), (30, 0, 0)),
    "all": rigid((-15, 15, 15), (30, 30, -30)),
}
FAR_2D = [rigid((15,), (30.0, 30.0)), rigid((-15,), (-30.0, 0.0)), rigid((15,), (0.0, -30.0))]


@pytest.mark.parametrize("case", FAR)
@pytest.mark.parametrize("stage", ["rigid", "affine"])
def test_each_optimizing_stage_alone_finds_its_way_from_15_degrees_and_30_mm(stage: str, case: str) -> None:
    assert error_mm(np.eye(4), FAR[case]) > 30
    assert error_mm(aligned(FAR[case], stage), FAR[case]) < 0.6 * VOXEL_MM


@pytest.mark.parametrize("truth", FAR_2D)
@pytest.mark.parametrize("stages", [("rigid",), ("affine",), STAGES])
def test_a_slice_finds_its_way_from_15_degrees_and_30_mm(stages: tuple[str, ...], truth: Matrix) -> None:
    assert error_mm(aligned(truth, *stages), truth) < 0.5 * VOXEL_MM


def test_all_stages_together_find_their_way() -> None:
    assert error_mm(aligned(FAR["all"], *STAGES), FAR["all"]) < 0.6 * VOXEL_MM


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [-30.0, 30.0])
def test_the_centre_alone_undoes_a_shift_of_30_mm(axis: int, shift: float) -> None:
    truth = rigid((0, 0, 0), tuple(shift if axis == one else 0.0 for one in range(3)))
    found = aligned(truth, "centre")
    assert np.array_equal(found[:3, :3], np.eye(3))
    # The neck leaves the field of view, and with it some of the mass.
    assert error_mm(found, truth) < 12


def test_the_centre_is_exact_where_nothing_leaves_the_view() -> None:
    fixed = head(3).image
    wide = sitk.ConstantPad(fixed, [8] * 3, [8] * 3, 0.0)
    for truth in FAR.values():
        moving = carried_to(truth, wide, grid_of(wide))
        pair = prepared(wide, QUANTILES), prepared(moving, QUANTILES)
        found = align(*pair, start=np.eye(4), stages=["centre"], measure=WIDE, report=silent)
        centre = np.append(centre_of_mass_mm(pair[0]), 1.0)
        assert np.linalg.norm((found - truth) @ centre) < 0.3 * VOXEL_MM


def other_contrast(dim: int) -> sitk.Image:
    """Each tissue at a brightness that has no order in common with the head's own, and some texture."""
    grid = grid_of(head(dim).labels)
    labels = sitk.GetArrayFromImage(head(dim).labels)
    brightness = np.array([0.0, 0.25, 0.05, 1.0, 0.7, 0.5, 0.95, 0.6, 0.65, 0.45, 0.9])
    noise = 0.02 * np.random.default_rng(0).normal(size=labels.shape)
    return image_on(grid, (brightness[labels] + noise).astype(np.float32))


@pytest.mark.parametrize("stage", ["rigid", "affine"])
def test_another_contrast_finds_its_way_by_mutual_information(stage: str) -> None:
    truth = FAR["one plane and axis"]
    assert error_mm(aligned(truth, stage, measure=MutualInformation(), contrast=other_contrast(3)), truth) < 0.5 * VOXEL_MM


@pytest.mark.parametrize("measure", [MINDSSC(1, 2), SquaredLNCC(sigma_vox=3.0, epsilon=1e-3), MutualInformation()])
def test_an_inverted_contrast_finds_its_way(measure: Measure) -> None:
    inverted = sitk.Mask(1.2 - head(2).image, head(2).labels)
    assert error_mm(aligned(FAR_2D[0], "rigid", measure=measure, contrast=inverted), FAR_2D[0]) < VOXEL_MM


def test_a_head_in_t1_is_not_shrunk_into_the_skull_of_its_ct() -> None:
    """By statistics alone it ends 4 mm off: the skin of one lies on the inner edge of the other's skull."""
    labels, random = head_phantom((46, 53, 44), [4.5] * 3, 1).labels, np.random.default_rng(0)
    arrays = [sitk.GetArrayFromImage(painted(labels, kind, random)) for kind in ("t1", "ct")]
    noisy = [array + 0.02 * np.ptp(array) * random.normal(size=array.shape) for array in arrays]
    t1, ct = (prepared(image_on(grid_of(labels), array), QUANTILES) for array in noisy)
    start = rigid((0.0, 0.0, 0.0), (6.0, -4.0, 5.0))
    found = align(t1, ct, start=start, stages=("rigid", "similarity", "affine"), measure=SquaredLNCC(), report=silent)
    body = np.argwhere(sitk.GetArrayViewFromImage(labels) > 0)
    points = body @ t1.grid.world_from_voxel[:-1, :-1].T + t1.grid.world_from_voxel[:-1, -1]
    assert np.linalg.norm(points @ found[:-1, :-1].T + found[:-1, -1] - points, axis=1).mean() < 1.5


@pytest.mark.parametrize("shear", [0.0, 0.08])
def test_a_stretch_is_found_by_the_affine_stage_and_not_by_the_rigid_one(shear: float) -> None:
    truth = rigid((8,), (10.0, -12.0)) @ np.diag([1.15, 0.9, 1.0])
    truth[0, 1] += shear
    with_affine, without = (error_mm(aligned(truth, *stages), truth) for stages in (("rigid", "affine"), ("rigid",)))
    assert with_affine < 0.5 * VOXEL_MM
    assert without > 1.5 * with_affine


def test_moving_may_lie_on_an_oblique_finer_grid_elsewhere() -> None:
    truth = rigid((170, 0, 0), (400.0, -300.0))
    start = rigid((180, 0, 0), (400.0, -300.0))
    fixed = head(2).image
    turned = np.array([[0.6, 0.8], [-0.8, 0.6]])
    matrix = np.eye(3)
    matrix[:2, :2] = turned * 3.5
    matrix[:2, 2] = np.array([400.0, -300.0]) - matrix[:2, :2] @ [50, 55]
    moving = carried_to(truth, fixed, Grid((101, 111), matrix))
    pair = prepared(fixed, QUANTILES), prepared(moving, QUANTILES)
    found = align(*pair, start=start, stages=STAGES, measure=WIDE, report=silent)
    assert error_mm(found, truth) < 0.5 * VOXEL_MM


@pytest.mark.parametrize("stages", [("centre",), ("rigid",), ("affine",), STAGES])
def test_images_in_place_stay_there(stages: tuple[str, ...]) -> None:
    # Nothing can be better than the start.
    np.testing.assert_allclose(aligned(np.eye(3), *stages), np.eye(3), atol=1e-9)


# what the matrices are


@pytest.mark.parametrize("dim", [2, 3])
def test_the_rigid_stage_turns_and_shifts_its_start_and_no_more(dim: int) -> None:
    start = np.eye(dim + 1)
    start[:dim, :dim] = np.diag((1.1, 0.95, 1.05)[:dim])
    start[0, 1] = 0.1
    found = aligned(rigid((9, -6, 5), (10.0, -8.0, 6.0)[:dim]), "rigid", start=start)
    relative = found @ np.linalg.inv(start)
    linear = relative[:dim, :dim]
    np.testing.assert_allclose(linear @ linear.T, np.eye(dim), atol=1e-9)
    assert np.linalg.det(linear) == pytest.approx(1.0)
    assert not np.allclose(linear, np.eye(dim), atol=0.05)
    assert np.array_equal(relative[-1], np.eye(dim + 1)[-1])


def test_the_affine_stage_keeps_the_orientation() -> None:
    found = aligned(FAR_2D[0], "affine")
    assert np.linalg.det(found[:2, :2]) > 0.5
    assert np.array_equal(found[-1], [0, 0, 1])


@pytest.mark.parametrize("misplaced", [False, True])
def test_pairs_of_landmarks_find_a_pose_that_is_too_far_for_the_images(misplaced: bool) -> None:
    truth = rigid((130,), (40.0, -50.0))
    fixed_mm = np.array([[-50.0, 10.0], [45.0, 30.0], [10.0, -60.0], [-20.0, 55.0], [30.0, -10.0]])
    moving_mm = fixed_mm @ truth[:2, :2].T + truth[:2, 2]
    if misplaced:
        moving_mm[1] += [60.0, 20.0]
    pairs = LandmarkPairs(fixed_mm, moving_mm, tuple("abcde"), 2.0)
    assert error_mm(aligned(truth, "rigid"), truth) > 20
    assert error_mm(aligned(truth, "rigid", pairs=pairs), truth) < VOXEL_MM / 2


@pytest.mark.parametrize("dim", [2, 3])
def test_no_stage_gives_the_start_back(dim: int) -> None:
    start = rigid((20, 10, 5), (1.0, 2.0, 3.0)[:dim])
    assert np.array_equal(aligned(np.eye(dim + 1), start=start), start)


@pytest.mark.parametrize("stages", [("centre",), ("rigid",), ("affine",)])
def test_a_good_start_is_made_use_of(stages: tuple[str, ...]) -> None:
    # Farther than any stage could come by itself.
    truth = rigid((150,), (300.0, -500.0))
    fixed = head(2).image
    grid = grid_of(fixed).moved(rigid((0,), (300.0, -500.0)))
    pair = prepared(fixed, QUANTILES), prepared(carried_to(truth, fixed, grid), QUANTILES)
    start = rigid((148,), (305.0, -495.0))
    found = align(*pair, start=start, stages=stages, measure=WIDE, report=silent)
    assert error_mm(found, truth) < error_mm(start, truth)
    assert error_mm(found, truth) < VOXEL_MM


def test_the_same_call_gives_the_same_matrix_and_leaves_its_input_alone() -> None:
    fixed, moving = (prepared(image, QUANTILES) for image in (head(2).image, carried_to(FAR_2D[0], *still_head())))
    start = np.eye(3)
    before = fixed.values.clone(), moving.values.clone()
    first, second = (align(fixed, moving, start=start, stages=STAGES, measure=WIDE, report=silent) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(start, np.eye(3))
    assert bool((fixed.values == before[0]).all())
    assert bool((moving.values == before[1]).all())


def still_head() -> tuple[sitk.Image, Grid]:
    return head(2).image, grid_of(head(2).image)


def test_the_order_in_which_stages_are_named_does_not_matter() -> None:
    assert checked_stages(["affine", "centre", "affine"]) == ("centre", "affine")
    truth = FAR_2D[0]
    assert np.array_equal(aligned(truth, "affine", "rigid"), aligned(truth, "rigid", "affine"))


def test_an_unknown_stage_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no alignment stage 'warp'; the stages are centre, pose, rigid, similarity, affine"):
        aligned(np.eye(3), "rigid", "warp")


@pytest.mark.parametrize("stages", [("rigid",), ("affine",), STAGES])
def test_the_reported_fractions_rise_to_one(stages: tuple[str, ...]) -> None:
    fractions: list[float] = []
    image = prepared(head(2).image, QUANTILES)
    align(image, image, start=np.eye(3), stages=stages, measure=WIDE, report=fractions.append)
    assert fractions == sorted(set(fractions))
    assert fractions[0] < 0.05
    assert fractions[-1] == pytest.approx(1.0)


# masks


def masked(mask: NDArray[np.bool_]) -> Prepared:
    image = head(2).image
    return prepared(image, QUANTILES, image_on(grid_of(image), mask.astype(np.uint8)))


def test_the_centre_of_mass_is_that_of_what_the_mask_leaves() -> None:
    array = sitk.GetArrayFromImage(head(2).image)
    columns = np.indices(array.shape)[1]
    for mask in (columns < 20, columns >= 20):
        found = masked(mask)
        weight = found.values[0, 0].double().numpy() * mask
        index = np.array([(axis * weight).sum() / weight.sum() for axis in np.indices(array.shape)])
        expected = (found.grid.world_from_voxel @ np.append(index, 1.0))[:2]
        np.testing.assert_allclose(centre_of_mass_mm(found), expected, atol=1e-9)


def test_a_mask_of_darkness_alone_has_no_centre() -> None:
    air = np.zeros(SHAPES[2], dtype=bool)
    air[:2, :2] = True
    with pytest.raises(InputError, match="black within its mask.*leave out the stage centre"):
        centre_of_mass_mm(masked(air))
