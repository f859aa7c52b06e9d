"""Pairs of which it is known whether they fit: what is wrong never looks right, and what is right does."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import Registration, register
from RegistrationNetLib.geometry.space import displacements_mm, grid_of, image_on
from RegistrationNetLib.quality.phantom import DemoPair, demo_pair
from RegistrationNetLib.quality.truth import truth_of

pytestmark = pytest.mark.usefixtures("one_thread")

# Already aligned, so that the verdict rests on what is left: the alignment has its own tests.
QUICK = {"align": ("centre",), "steps": 8, "repeats": 1}


@lru_cache
def pair() -> DemoPair:
    return demo_pair(5, shape=(30, 34, 30), spacing_mm=6.5)


@lru_cache
def right() -> Registration:
    return register(pair().fixed, pair().moving, align=("centre", "rigid"), repeats=2)


def noise(seed: int) -> sitk.Image:
    grid = grid_of(pair().fixed)
    return image_on(grid, np.random.default_rng(seed).normal(size=grid.shape).astype(np.float32))


def flipped(*axes: int) -> sitk.Image:
    image = sitk.GetImageFromArray(np.flip(sitk.GetArrayFromImage(pair().moving), axes).copy())
    image.CopyInformation(pair().moving)
    return image


def bottle() -> sitk.Image:
    grid = grid_of(pair().fixed)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in grid.shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    return image_on(grid, (inside * (0.6 + 0.1 * np.random.default_rng(0).normal(size=grid.shape))).astype(np.float32))


def magnified(factor: float) -> sitk.Image:
    image = sitk.Image(pair().moving)
    image.SetSpacing([factor * step for step in image.GetSpacing()])
    image.SetOrigin([factor * place for place in image.GetOrigin()])
    return image


def test_a_right_registration_fits() -> None:
    assert right().verdict.words == "fits", right().verdict


def in_another_contrast(image: sitk.Image) -> sitk.Image:
    """A curve that rises, falls and rises again, so that no tissue keeps its rank."""
    values = sitk.GetArrayFromImage(image)
    curve = np.interp(values / np.quantile(values, 0.999), [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1], [0, 0.9, 0.7, 0.2, 0.5, 0.3, 0.9])
    return image_on(grid_of(image), curve.astype(np.float32))


@pytest.mark.slow
def test_two_contrasts_are_compared_as_in_one() -> None:
    one = demo_pair(5, shape=(40, 44, 40), spacing_mm=5)
    found = register(one.fixed, in_another_contrast(one.moving), align=("centre", "rigid"), repeats=0)
    assert found.report()["inputs"]["similarity"]["name"] == "mi"
    # A head that is nearly symmetric, and whose mirror image has been improved as well.
    assert found.evidence.pose_score > found.evidence.other_pose.score
    turned = register(pair().fixed, in_another_contrast(flipped(1, 2)), **QUICK)
    assert turned.verdict.words == "does not fit"


def test_identical_images_fit() -> None:
    assert register(pair().fixed, pair().fixed, **QUICK).verdict.words == "fits"


WRONG = {
    "noise against noise": lambda: (noise(0), noise(1)),
    "a head against noise": lambda: (pair().fixed, noise(1)),
    "a head turned by 180 degrees": lambda: (pair().fixed, flipped(1, 2)),
    "a head upside down": lambda: (pair().fixed, flipped(0, 1)),
    "a head against a bottle": lambda: (pair().fixed, bottle()),
    "centimetres for millimetres": lambda: (pair().fixed, magnified(0.1)),
    "a slab of the neck against the head": lambda: (pair().fixed, pair().moving[:, :, :8]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_does_not_fit(what: str) -> None:
    verdict = register(*WRONG[what](), **QUICK).verdict
    assert verdict.words == "does not fit", verdict
    assert len(verdict.reason) > 10


def test_what_is_wrong_does_not_fit_without_repeats_either() -> None:
    assert register(pair().fixed, noise(1), **{**QUICK, "repeats": 0}).verdict.words == "does not fit"


def test_the_map_of_errors_goes_with_the_true_error() -> None:
    made, result = pair(), right()
    counted = sitk.GetArrayViewFromImage(made.fixed_labels) > 0
    true, found = (displacements_mm(one, grid_of(made.fixed)) for one in (made.known.moving_from_fixed, result.moving_from_fixed))
    error_mm = np.linalg.norm(found - true, axis=-1)[counted]
    expected_mm = sitk.GetArrayFromImage(result.error_mm)[counted]
    places = [np.argsort(np.argsort(one)) for one in (error_mm, expected_mm)]
    assert np.corrcoef(*places)[0, 1] > 0.3
    assert 1 / 3 < np.median(expected_mm) / np.median(error_mm) < 3


def test_the_truth_about_a_known_pair() -> None:
    made, result = pair(), right()
    truth = truth_of(
        result.moving_from_fixed, made.known, labels=(made.fixed_labels, made.moving_labels), expected_error_mm=result.error_mm,
        bound_factor=result.expected_error.bound_factor,
    )  # fmt: skip
    assert truth.error_mm_after.mean < truth.error_mm_before.mean
    assert truth.dice.after > truth.dice.before
    assert 0.8 < truth.within_bound <= 1
    with pytest.raises(ValueError, match="The labels of fixed are empty"):
        truth_of(result.moving_from_fixed, made.known, labels=(made.fixed_labels * 0, made.moving_labels),
                 expected_error_mm=result.error_mm, bound_factor=2.0)  # fmt: skip
