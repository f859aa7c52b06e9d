"""Pairs of landmarks that guide a registration: what belongs together, how exactly it was placed, and what cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.space import Array, grid_of

# Two pairs contradict each other where points that lie within so many tolerances of each other in one image have partners that
# lie farther apart than so many in the other.
SAME_PLACE, OTHER_PLACE = 1.0, 5.0
# Beyond the outermost voxel centres, in voxels, a point still lies in its image: the voxels end there.
BORDER_VOX = 0.5 + 1e-6


@dataclass(frozen=True, eq=False)
class LandmarkPairs:
    """Points of fixed and of moving [N, dim], LPS mm, one pair in each row.

    Attributes:
        labels: what each pair is called.
        tolerance_mm: how exactly points were placed; nearer than that, a pair need not be.
    """

    fixed_mm: NDArray[np.float64]
    moving_mm: NDArray[np.float64]
    labels: tuple[str, ...]
    tolerance_mm: float

    def __len__(self) -> int:
        return len(self.fixed_mm)

    def only(self, chosen: Sequence[int] | NDArray[np.integer]) -> LandmarkPairs:
        """Some of them."""
        places = np.asarray(chosen, dtype=np.intp)
        labels = tuple(self.labels[place] for place in places)
        return LandmarkPairs(self.fixed_mm[places], self.moving_mm[places], labels, self.tolerance_mm)

    def exchanged(self) -> LandmarkPairs:
        """With fixed and moving in each other's place."""
        return LandmarkPairs(self.moving_mm, self.fixed_mm, self.labels, self.tolerance_mm)

    def moved(self, fixed_mm: Array, moving_mm: Array) -> LandmarkPairs:
        """The same pairs at other places."""
        return LandmarkPairs(np.asarray(fixed_mm), np.asarray(moving_mm), self.labels, self.tolerance_mm)


def checked_pairs(
    fixed_mm: ArrayLike,
    moving_mm: ArrayLike,
    images: tuple[sitk.Image, sitk.Image],
    *,
    tolerance_mm: float,
    labels: Sequence[str] | None = None,
) -> LandmarkPairs:
    """Landmarks [N, dim] of the two images, fit to guide a registration; that they are pairs was checked before.

    Raises:
        InputError: a point lies outside its image, or two pairs contradict each other.
    """
    both = [np.asarray(one, dtype=np.float64) for one in (fixed_mm, moving_mm)]
    count = len(both[0])
    names = tuple(str(number + 1) for number in range(count)) if labels is None else tuple(labels)
    for side, image, points in zip(("fixed", "moving"), images, both, strict=True):
        _check_inside(side, image, points, names)
    pairs = LandmarkPairs(both[0], both[1], names, tolerance_mm)
    _check_agreement(pairs)
    return pairs


def _check_inside(side: str, image: sitk.Image, points_mm: NDArray[np.float64], names: Sequence[str]) -> None:
    grid = grid_of(image)
    voxels = (points_mm - grid.world_from_voxel[:-1, -1]) @ np.linalg.inv(grid.world_from_voxel[:-1, :-1]).T
    outside = ((voxels < -BORDER_VOX) | (voxels > np.array(grid.shape) - 1 + BORDER_VOX)).any(axis=1)
    if outside.any():
        first = int(outside.argmax())
        more = f", as do {int(outside.sum()) - 1} more" if outside.sum() > 1 else ""
        raise InputError(
            f"The landmark {names[first]} of {side} lies outside the image at ({_told(points_mm[first])}) mm{more}; landmarks that "
            "pull must lie inside. Move it, leave it out, or check that its coordinates are LPS mm."
        )


def _check_agreement(pairs: LandmarkPairs) -> None:
    """Refuse two pairs that say that one place belongs to two."""
    near, far = SAME_PLACE * pairs.tolerance_mm, OTHER_PLACE * pairs.tolerance_mm
    for side, points, partners in (("fixed", pairs.fixed_mm, pairs.moving_mm), ("moving", pairs.moving_mm, pairs.fixed_mm)):
        for first in range(len(pairs) - 1):
            apart = np.linalg.norm(points[first + 1 :] - points[first], axis=1)
            partners_apart = np.linalg.norm(partners[first + 1 :] - partners[first], axis=1)
            contradicting = np.flatnonzero((apart <= near) & (partners_apart > far))
            if contradicting.size:
                second = int(contradicting[0])
                raise InputError(
                    f"The landmarks {pairs.labels[first]} and {pairs.labels[first + 1 + second]} contradict each other: in {side} they "
                    f"lie {apart[second]:.1f} mm apart, and their partners {partners_apart[second]:.1f} mm; one place has one "
                    "partner. Move or remove one of the two."
                )


def _told(point_mm: NDArray[np.float64]) -> str:
    return ", ".join(f"{one:.1f}" for one in point_mm)
