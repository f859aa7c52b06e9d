"""Where a registration is worst by each measure, for a person to look at: points of fixed, LPS mm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from ..geometry.space import Grid, grid_of
from ..io.landmarks import mapped
from .assessment import there_and_back_mm
from .error_map import error_model
from .evidence import Evidence

Place = tuple[float, ...]


def worst_places(
    evidence: Evidence,
    *,
    moving: sitk.Image,
    jacobian: sitk.Image,
    moving_from_fixed: sitk.Transform,
    fixed_from_moving: sitk.Transform,
    labels: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
    landmarks: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> dict[str, Place]:
    """The worst place by the name that marks have for it (`Mark.place`); without those that there is nothing to tell of.

    What the evidence tells, and the inverse, are looked at on the lattice of the evidence.

    Args:
        jacobian: the determinants on the grid of fixed.
        labels, landmarks: of fixed and of moving, as for `assess`.
    """
    places = dict(_of_evidence(evidence))
    determinants, grid = sitk.GetArrayViewFromImage(jacobian), grid_of(jacobian)
    places["shrinking"] = _at(grid, int(determinants.argmin()))
    places["growing"] = _at(grid, int(determinants.argmax()))
    distances, inside = there_and_back_mm(moving_from_fixed, fixed_from_moving, evidence.grid, grid_of(moving))
    places |= _largest("inverse", evidence.grid, distances, inside)
    if labels[0] is not None and labels[1] is not None:
        places |= _of_labels(labels[0], labels[1], moving_from_fixed)
    if landmarks[0] is not None and landmarks[1] is not None:
        fixed, partners = (np.asarray(one, dtype=np.float64) for one in landmarks)
        off = np.linalg.norm(partners - mapped(fixed, moving_from_fixed), axis=1)
        places["landmarks"] = tuple(fixed[off.argmax()].tolist())
    return places


def _of_evidence(evidence: Evidence) -> Iterator[tuple[str, Place]]:
    maps = {"expected": error_model(evidence).expected_mm(evidence), "likeness": -evidence.agreement}
    if evidence.spread_vox is not None:
        maps["repeats"] = evidence.spread_vox
    for name, values in maps.items():
        yield from _largest(name, evidence.grid, values, evidence.body).items()


def _largest(name: str, grid: Grid, values: NDArray[np.floating], where: NDArray[np.bool_]) -> dict[str, Place]:
    return {name: _at(grid, int(np.where(where, values, -np.inf).argmax()))} if where.any() else {}


def _at(grid: Grid, flat_index: int) -> Place:
    index = np.unravel_index(flat_index, grid.shape)
    return tuple((grid.world_from_voxel @ [*map(float, index), 1.0])[:-1].tolist())


def _of_labels(fixed: sitk.Image, moving: sitk.Image, moving_from_fixed: sitk.Transform) -> dict[str, Place]:
    """The middle of where the labels disagree most broadly; nothing where they agree."""
    warped = sitk.Resample(moving, fixed, moving_from_fixed, sitk.sitkNearestNeighbor, 0.0)
    differs = sitk.GetArrayViewFromImage(warped) != sitk.GetArrayViewFromImage(fixed)
    if not differs.any():
        return {}
    image = sitk.GetImageFromArray(differs.astype(np.uint8))
    image.CopyInformation(fixed)
    depth = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=True, useImageSpacing=True)
    return {"labels": _at(grid_of(fixed), int(sitk.GetArrayViewFromImage(depth).argmax()))}
