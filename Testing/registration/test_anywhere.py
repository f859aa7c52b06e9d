"""The whole of `register`: from any pose, for parts, in any unit, in place, exchanged."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import register
from RegistrationNetLib.errors import GeometryError
from RegistrationNetLib.geometry.space import affine_matrix, affine_transform, displacements_mm, grid_of, image_on
from RegistrationNetLib.quality.known_warp import WarpOptions, random_map
from RegistrationNetLib.quality.phantom import head_phantom
from Testing.benchmarks.known_warps import data_folder
from Testing.benchmarks.pose_pairs import FILES
from Testing.benchmarks.poses import ROWS

from .test_alignment import carried_to, rigid

pytestmark = pytest.mark.usefixtures("one_thread", "registered_once")

SPACING = 4.0


@lru_cache
def head() -> sitk.Image:
    return head_phantom((60, 52), [SPACING] * 2, 3).image


def noisy(image: sitk.Image, seed: int) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    return image_on(
        grid_of(image), array + np.float32(0.02) * np.random.default_rng(seed).normal(size=array.shape).astype(np.float32)
    )


@lru_cache
def bent() -> tuple[sitk.Image, sitk.Transform]:
    """The head bent smoothly, with noise, and the true moving_from_fixed."""
    known = random_map(grid_of(head()), 1, WarpOptions(displacement_mm=6.0, lattice_mm=SPACING))
    moving = sitk.Resample(head(), head(), known.fixed_from_moving, sitk.sitkLinear, 0.0)
    return noisy(moving, 1), known.moving_from_fixed


def mean_error(transform: sitk.Transform, truth: sitk.Transform, where: sitk.Image) -> float:
    inside = sitk.GetArrayViewFromImage(where) > 0.1
    difference = displacements_mm(transform, grid_of(where)) - displacements_mm(truth, grid_of(where))
    return float(np.linalg.norm(difference, axis=-1)[inside].mean())


def scaled(image: sitk.Image, factor: float) -> sitk.Image:
    other = sitk.Image(image)
    other.SetSpacing([factor * one for one in image.GetSpacing()])
    other.SetOrigin([factor * one for one in image.GetOrigin()])
    return other


def test_identical_images_stay_exactly() -> None:
    result = register(head(), head())
    still = sitk.Transform(2, sitk.sitkIdentity)
    assert mean_error(result.moving_from_fixed, still, head()) < 0.05
    assert abs(sitk.GetArrayViewFromImage(result.jacobian).mean() - 1) < 0.002


def test_images_that_differ_by_noise_alone_keep_their_volume() -> None:
    result = register(noisy(head(), 5), noisy(head(), 6))
    inside = sitk.GetArrayViewFromImage(head()) > 0.1
    assert abs(sitk.GetArrayViewFromImage(result.jacobian)[inside].mean() - 1) < 0.003


@pytest.mark.parametrize("degrees", [75.0, -140.0, 180.0])
def test_a_head_turned_by_any_angle_is_found(degrees: float) -> None:
    truth = rigid((degrees,), (20.0, -12.0))
    wide = sitk.ConstantPad(head(), [12] * 2, [12] * 2, 0.0)
    moving = noisy(carried_to(truth, head(), grid_of(wide)), 2)
    result = register(noisy(head(), 3), moving)
    assert mean_error(result.moving_from_fixed, affine_transform(truth), head()) < 0.5 * SPACING


@pytest.mark.parametrize("which", ["moving", "fixed"])
def test_half_a_head_finds_its_place_in_the_whole(which: str) -> None:
    moving, truth = bent()
    fixed = noisy(head(), 4)
    parts = {"moving": (fixed, moving[:, :30]), "fixed": (fixed[:, :30], moving)}[which]
    result = register(*parts)
    seen = (
        sitk.Resample(moving[:, :30] * 0 + 1, head(), truth, sitk.sitkNearestNeighbor, 0) if which == "moving" else head()[:, :30]
    )
    where = head() * sitk.Cast(seen, sitk.sitkFloat32) if which == "moving" else seen
    assert mean_error(result.moving_from_fixed, truth, where) < 3


def test_exchanged_images_get_the_inverse() -> None:
    moving, _ = bent()
    fixed = noisy(head(), 4)
    there, back = register(fixed, moving), register(moving, fixed)
    np.testing.assert_allclose(affine_matrix(back.alignment), np.linalg.inv(affine_matrix(there.alignment)), atol=1e-6)
    both = sitk.CompositeTransform([back.moving_from_fixed, there.moving_from_fixed])
    assert mean_error(both, sitk.Transform(2, sitk.sitkIdentity), head()) < 0.2


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_unit_of_length_does_not_count(factor: float) -> None:
    moving, _ = bent()
    fixed = noisy(head(), 4)
    plain = displacements_mm(register(fixed, moving).moving_from_fixed, grid_of(fixed))
    images = scaled(fixed, factor), scaled(moving, factor)
    other = displacements_mm(register(*images).moving_from_fixed, grid_of(images[0])) / factor
    np.testing.assert_allclose(other, plain, atol=0.05)


def test_two_contrasts_of_one_modality_are_seen_and_said() -> None:
    moving, truth = bent()
    array = sitk.GetArrayFromImage(moving)
    other = image_on(grid_of(moving), (np.float32(1) - array) * (array > 0.08))
    result = register(noisy(head(), 4), other, fixed_modality="mr", moving_modality="mr")
    similarity = result.report()["inputs"]["similarity"]
    assert similarity["name"] == "mind"
    assert "two contrasts" in similarity["chosen_because"]
    assert mean_error(result.moving_from_fixed, truth, head()) < 3
    same = register(noisy(head(), 4), moving, fixed_modality="mr", moving_modality="mr").report()["inputs"]["similarity"]
    assert same["name"] == "lncc"
    assert "one contrast" in same["chosen_because"]


def test_an_initial_transform_the_wrong_way_round_is_said_to_be() -> None:
    away = affine_transform(rigid((0.0,), (600.0, 0.0)))
    moving = sitk.Image(bent()[0])
    moving.SetOrigin([one + shift for one, shift in zip(moving.GetOrigin(), (600.0, 0.0), strict=True)])
    with pytest.raises(GeometryError, match="fits the other way round.*Give its inverse"):
        register(head(), moving, initial=away.GetInverse())
    register(head(), moving, initial=away, align=(), refine="none")


def test_images_that_hardly_overlap_after_all_stages_are_refused() -> None:
    away = sitk.Image(head())
    away.SetOrigin([one + 230.0 for one in away.GetOrigin()])
    with pytest.raises(GeometryError, match="overlap too little; at least 20%.*use the stage pose"):
        register(head(), away, align=("rigid",), refine="none")


@pytest.mark.slow
@pytest.mark.skipif(not (data_folder() / FILES["thorax"]).exists(), reason="needs the image of a chest")
@pytest.mark.parametrize("seed", [10015, 10083])
def test_a_chest_of_four_fifths_the_size_is_found_though_nobody_said_what_it_shows(seed: int) -> None:
    """Compared before they have one size, the first ended 4.7 mm off by structure, and the second in a far pose, 21 mm off.

    The best affine maps are 2.7 mm off, as the chests are also bent.
    """
    pair = ROWS["scaled"](seed)
    found = register(pair.fixed, pair.moving, refine="none", repeats=0)
    inside = sitk.GetArrayViewFromImage(pair.counted) > 0
    off = displacements_mm(found.moving_from_fixed, grid_of(pair.fixed)) - displacements_mm(pair.truth, grid_of(pair.fixed))
    assert np.linalg.norm(off, axis=-1)[inside].mean() < 3.7
