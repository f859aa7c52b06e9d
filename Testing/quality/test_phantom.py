"""The phantom: heads have their organs, and the demonstration's labels follow its truth."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.quality.phantom import Tissue, demo_pair, head_phantom


def test_a_head_has_every_tissue_in_its_place() -> None:
    head = head_phantom((48, 56, 48), (4.0, 4.0, 4.0), seed=0)
    labels, image = sitk.GetArrayFromImage(head.labels), sitk.GetArrayFromImage(head.image)
    assert set(np.unique(labels)) == {int(tissue) for tissue in Tissue}
    mean = {tissue: image[labels == tissue].mean() for tissue in Tissue}
    assert mean[Tissue.AIR] < mean[Tissue.CSF] < mean[Tissue.GRAY] < mean[Tissue.WHITE]
    centre = {tissue: np.argwhere(labels == tissue).mean(axis=0) for tissue in Tissue}
    # Array axes go to superior, posterior, left.
    assert centre[Tissue.EYE][1] < centre[Tissue.WHITE][1] < centre[Tissue.CEREBELLUM][1]
    assert centre[Tissue.CEREBELLUM][0] < centre[Tissue.WHITE][0]
    assert np.all(labels[[0, -1]][:, [0, -1]][:, :, [0, -1]] == Tissue.AIR)


def test_a_head_follows_its_spacing_and_its_seed() -> None:
    head, same, other = (head_phantom((60, 50), (3.0, 2.0), seed) for seed in (0, 0, 1))
    assert head.image.GetSpacing() == pytest.approx((2.0, 3.0))
    assert head.image.GetSize() == (50, 60)
    arrays = [sitk.GetArrayFromImage(one.image) for one in (head, same, other)]
    assert np.array_equal(arrays[0], arrays[1])
    assert np.abs(arrays[0] - arrays[2]).mean() > 0.01


@pytest.mark.parametrize(("shape", "spacing"), [((9,), (1.0,)), ((9, 9, 9), (1.0, 1.0))])
def test_a_head_refuses_other_dimensions(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="2 or 3 axes"):
        head_phantom(shape, spacing, 0)


def test_labels_of_the_demo_follow_the_truth() -> None:
    pair = demo_pair(0, shape=(36, 42, 36), spacing_mm=5.0)
    warped = sitk.Resample(pair.moving_labels, pair.fixed, pair.known.moving_from_fixed, sitk.sitkNearestNeighbor, 0)
    for tissue in (Tissue.SCALP, Tissue.WHITE, Tissue.CEREBELLUM):
        before, after = (dice(pair.fixed_labels == int(tissue), one == int(tissue)) for one in (pair.moving_labels, warped))
        assert after > max(0.8, before + 0.1)


def dice(one: sitk.Image, other: sitk.Image) -> float:
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(one, other)
    return float(overlap.GetDiceCoefficient())
