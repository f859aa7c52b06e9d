"""What is known of a pair that was made: how far off the result really is, beside what was expected of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry.space import displacements_mm, grid_of
from .assessment import BeforeAfter, ErrorStatistics, error_statistics, label_overlap
from .known_warp import KnownMap


@dataclass(frozen=True)
class Truth:
    """The true error over the labelled voxels of fixed, before and after, beside the expected one.

    Attributes:
        error_mm_before, error_mm_after: distance from the true place.
        expected_mm: what the map of errors says, at the same voxels.
        within_bound: share of the voxels whose true error lies below the 95 % bound.
        dice: mean over the labels.
    """

    error_mm_before: ErrorStatistics
    error_mm_after: ErrorStatistics
    expected_mm: ErrorStatistics
    within_bound: float
    dice: BeforeAfter

    def as_dict(self) -> dict[str, object]:
        """The part of `report.json` that is called `truth`."""
        return asdict(self)


def truth_of(
    moving_from_fixed: sitk.Transform,
    known: KnownMap,
    *,
    labels: tuple[sitk.Image, sitk.Image],
    expected_error_mm: sitk.Image,
    bound_factor: float,
) -> Truth:
    """The truth about a transform.

    Args:
        labels: of fixed, which say where errors count, and of moving.
        expected_error_mm: on the grid of fixed's labels; 95 % are expected to lie below `bound_factor` times it.

    Raises:
        InputError: fixed has no label.
    """
    fixed_labels, moving_labels = labels
    counted = sitk.GetArrayViewFromImage(fixed_labels) > 0
    if not counted.any():
        raise InputError("The labels of fixed are empty; an error needs at least one voxel above 0. Check the labels.")
    grid = grid_of(fixed_labels)
    still = sitk.Transform(grid.dim, sitk.sitkIdentity)
    true = displacements_mm(known.moving_from_fixed, grid)[counted]
    before, after = (np.linalg.norm(displacements_mm(one, grid)[counted] - true, axis=-1) for one in (still, moving_from_fixed))
    expected = sitk.GetArrayViewFromImage(expected_error_mm)[counted]
    return Truth(
        error_statistics(before),
        error_statistics(after),
        error_statistics(expected),
        float((after <= bound_factor * expected).mean()),
        label_overlap(fixed_labels, moving_labels, moving_from_fixed).mean,
    )
