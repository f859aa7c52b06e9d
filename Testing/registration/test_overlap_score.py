"""What counts when parts are compared with wholes."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.geometry.space import grid_of, image_on
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.overlap_score import By, Overlap, View, spacing_for
from RegistrationNetLib.registration.prepare import Prepared, prepared
from Testing.benchmarks.contrasts import painted

from ..volumes import QUANTILES

pytestmark = pytest.mark.usefixtures("one_thread")


def head() -> Prepared:
    return prepared(head_phantom((46, 40), [6.0, 6.0], 0).image, QUANTILES)


def view(image: Prepared) -> View:
    return View.of(image, 6.0)


def cropped(image: Prepared, ranges: tuple[slice, ...]) -> Prepared:
    return Prepared(image.values[(slice(None), slice(None), *ranges)], image.grid.cropped(ranges))


def loss(fixed: View, moving: View, matrix: np.ndarray, by: By = "correlation") -> float:
    return float(Overlap(fixed, moving, by).score(torch.as_tensor(matrix)[None]).loss[0])


def test_a_part_fits_the_whole_perfectly_where_it_belongs() -> None:
    whole = head()
    part = cropped(whole, (slice(0, 20), slice(0, 40)))
    assert loss(view(whole), view(part), np.eye(3)) < 0.1
    assert loss(view(part), view(whole), np.eye(3)) < 0.1


def test_a_part_blown_up_to_the_whole_fits_worse_than_where_it_belongs() -> None:
    whole = head()
    part = cropped(whole, (slice(0, 20), slice(0, 40)))
    # All of fixed falls into moving: what scoring over all of fixed would like best.
    squeezed = np.eye(3)
    squeezed[1, 1] = 0.45
    squeezed[1, 2] = part.grid.centre_mm[1] - 0.45 * whole.grid.centre_mm[1]
    assert loss(view(whole), view(part), squeezed) > 0.3 + loss(view(whole), view(part), np.eye(3))


@pytest.mark.parametrize("by", ["correlation", "statistics", "structure"])
def test_less_overlap_than_the_smallest_share_counts_against_a_match(by: By) -> None:
    whole = head()
    away = np.eye(3)
    away[0, 2] = 200.0
    score = Overlap(view(whole), view(whole), by).score(torch.as_tensor(away)[None])
    assert float(score.share[0]) < 0.2
    assert float(score.loss[0]) > 0.7


@pytest.mark.parametrize("dim", [2, 3])
def test_images_that_have_nothing_in_common_do_not_match_better_where_less_overlaps(dim: int) -> None:
    random = np.random.default_rng(0)
    arrays = random.normal(size=(2, *(40, 40, 24)[:dim])).astype(np.float32)
    one, other = (View.of(prepared(sitk.GetImageFromArray(array), QUANTILES), 1.0) for array in arrays)
    far = [np.eye(dim + 1) for _ in range(3)]
    for matrix, step in zip(far, (0.0, 34.0, 38.0), strict=True):
        matrix[0, dim] = step
    score = Overlap(one, other, "structure").score(torch.as_tensor(np.stack(far)))
    assert score.share.tolist() == sorted(score.share.tolist(), reverse=True)
    assert float(score.loss.min()) > 0.85
    assert float(score.loss[0]) == pytest.approx(1.0, abs=0.2)


def test_structure_tells_the_skin_from_the_skull() -> None:
    """T1 against CT: a head shrunk until the inner edge of the other's skull lies on its skin matches it by statistics, not by structure."""
    labels, random = head_phantom((69, 80, 66), [3.0] * 3, 1).labels, np.random.default_rng(0)
    arrays = [sitk.GetArrayFromImage(painted(labels, kind, random)) for kind in ("t1", "ct")]
    noisy = [array + 0.02 * np.ptp(array) * random.normal(size=array.shape) for array in arrays]
    one, other = (prepared(image_on(grid_of(labels), array), QUANTILES) for array in noisy)
    views = [View.of(image, 6.0) for image in (one, other)]
    shrunk = np.diag([0.945] * 3 + [1.0])
    shrunk[:3, 3] = views[0].grid.centre_mm * 0.055
    found = {by: [loss(*views, matrix, by) for matrix in (np.eye(4), shrunk)] for by in ("statistics", "structure")}
    assert found["statistics"][1] < 1.03 * found["statistics"][0]
    assert found["structure"][1] > 1.1 * found["structure"][0]


def test_an_inverted_contrast_counts_by_the_square_alone() -> None:
    one = head()
    other = Prepared(1 - one.values, one.grid)
    # 1 - r, however much overlaps.
    assert 1.5 < loss(view(one), view(other), np.eye(3)) <= 2
    shifted = np.eye(3)
    shifted[0, 2] = 25.0
    assert loss(view(one), view(other), np.eye(3), "statistics") < 0.7 * loss(view(one), view(other), shifted, "statistics")


def test_the_masks_of_both_sides_leave_out_what_they_cover() -> None:
    clean = head()
    spoilt = clean.values.clone()
    spoilt[..., 10:20, 10:30] = torch.rand(1, 1, 10, 20, generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(spoilt, dtype=torch.bool)
    mask[..., 8:22, 8:32] = False
    masked, unmasked = Prepared(spoilt, clean.grid, mask), Prepared(spoilt, clean.grid)
    for pair in ((clean, masked), (masked, clean)):
        plain = tuple(unmasked if one is masked else one for one in pair)
        assert loss(view(pair[0]), view(pair[1]), np.eye(3)) < 0.3 * loss(view(plain[0]), view(plain[1]), np.eye(3))


def test_the_spacing_is_that_of_the_smaller_image() -> None:
    whole = head()
    part = cropped(whole, (slice(0, 10), slice(0, 10)))
    assert spacing_for((whole, part), 10) == pytest.approx(6.0)
    assert spacing_for((part, whole), 10) == pytest.approx(6.0)
