"""Likeness: what is equal is alike, what is unrelated is not, and another pose that is the right one is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.quality.likeness import Pose, best_other_pose, body, local_correlation, score_as_they_lie


def noise(seed: int, shape: tuple[int, ...] = (20, 22, 24), sigma_vox: float = 1.5) -> torch.Tensor:
    return 0.5 + 0.2 * smooth_noise(shape, sigma_vox, torch.Generator().manual_seed(seed))


def everywhere(image: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(image, dtype=torch.bool)


@pytest.mark.parametrize("shape", [(20, 22, 24), (40, 36)])
def test_an_image_correlates_with_itself_and_with_its_negative_in_another_contrast(shape) -> None:
    image = noise(0, shape)
    assert float(local_correlation(image, image, everywhere(image)).mean()) > 0.9
    assert float(local_correlation(image, 1 - 0.5 * image, everywhere(image)).mean()) < -0.8
    assert abs(float(local_correlation(image, noise(1, shape), everywhere(image)).mean())) < 0.1


def test_what_lies_outside_the_mask_does_not_count() -> None:
    one, other = noise(0), noise(0)
    mask = everywhere(one)
    mask[:, :, 10:] = False
    other[~mask] = 100.0
    inside = local_correlation(one, other, mask)[mask]
    assert float(inside.mean()) > 0.9


@pytest.mark.parametrize(("flips", "mirrored"), [((2,), (0,)), ((4,), (2,)), ((2, 3), (0, 1)), ((2, 3, 4), (0, 1, 2))])
def test_an_image_that_is_mirrored_or_turned_is_told_from_one_that_lies_right(flips, mirrored) -> None:
    image = noise(0)
    here, other = best_other_pose(image, image.flip(flips), everywhere(image))
    assert other.mirrored == mirrored
    assert other.score > 0.9 > here
    here, other = best_other_pose(image, image, everywhere(image))
    assert here > 0.9 > other.score


def test_an_image_that_lies_elsewhere_is_found_there() -> None:
    image = noise(0)
    here, other = best_other_pose(image, image.roll((5, -6), (2, 4)), everywhere(image))
    assert other.mirrored == ()
    assert other.shift_vox in ((-5, 0, 6), (5, 0, -6))
    assert other.score > 0.9 > here


@pytest.mark.parametrize("pose", [Pose((0, 2), (0, 0, 0), 1.0), Pose((1,), (2, -3, 1), 1.0), Pose((), (0, 4, 0), 1.0)])
def test_the_voxels_of_a_pose_are_those_at_which_the_images_match(pose: Pose) -> None:
    mask = torch.zeros(1, 1, 20, 22, 24, dtype=torch.bool)
    mask[..., 4:15, 5:17, 3:20] = True  # its middle is not that of the lattice
    moving = noise(0) * mask
    matrix = pose.voxels(mask)
    index = np.stack([*np.indices(moving.shape[2:]).reshape(3, -1), np.ones(moving[0, 0].numel())])
    at = np.round(matrix @ index)[:3].astype(int)
    inside = ((at >= 0) & (at < np.array(moving.shape[2:])[:, None])).all(0)
    fixed = torch.zeros_like(moving)
    fixed[0, 0].view(-1)[torch.from_numpy(np.flatnonzero(inside))] = moving[0, 0][tuple(torch.from_numpy(at[:, inside]))]
    everything = torch.ones_like(mask)
    _, found = best_other_pose(fixed, moving, mask)
    assert found.mirrored == pose.mirrored
    np.testing.assert_allclose(found.voxels(mask), matrix)
    assert score_as_they_lie(fixed, fixed, everything, everything) == pytest.approx(1.0, abs=1e-5)


def test_what_is_not_reached_counts_as_unlike() -> None:
    image = noise(0)
    half = everywhere(image)
    half[..., :12] = False
    assert score_as_they_lie(image, image, everywhere(image), everywhere(image)) == pytest.approx(1.0, abs=1e-5)
    assert 0.6 < score_as_they_lie(image, image, everywhere(image), half) < 0.8  # half of the energy: the root of 1/2
    assert abs(score_as_they_lie(image, noise(1), everywhere(image), everywhere(image))) < 0.2


def test_a_body_holds_what_it_encloses() -> None:
    image = torch.zeros(1, 1, 24, 24, 24)
    image[:, :, 4:20, 4:20, 4:20] = 1.0
    image[:, :, 9:15, 9:15, 9:15] = 0.0
    found = body(image)
    assert bool(found[0, 0, 12, 12, 12])
    assert not bool(found[0, 0, 1, 12, 12])


def test_lungs_that_are_cut_off_by_the_image_belong_to_the_body() -> None:
    image = torch.zeros(1, 1, 24, 24, 24)
    image[:, :, :, 4:20, 4:20] = 1.0
    image[:, :, :, 9:15, 9:15] = 0.0
    assert bool(body(image)[0, 0, 12, 12, 12])
