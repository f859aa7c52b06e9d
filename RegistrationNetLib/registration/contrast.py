"""How the contrasts of two aligned images are related: what the automatic choice of the similarity looks at.

Two scans said to be MR may be T1 and T2. In one contrast what is brighter here is brighter there, whatever the brightness: nearly
all local correlation is positive, and a curve that only rises says of one image's intensities all that they say of the other's. In
two contrasts tissues come in another order. Mutual information then uses what a curve of any form says, if that is much; under strong
shading no curve holds all over the image, and structure alone is compared (MIND-SSC).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..geometry.space import Array
from .overlap_score import Overlap, View, spacing_for
from .prepare import Prepared

SIDE_VOX = 40
BINS = 48
# Of all local correlation by its size, the share that must be positive in one contrast; and of what a curve says of the other
# image's intensities, what a rising one must.
POSITIVE, RISING = 0.97, 0.96
# The share of the variance of one image that the intensities of the other explain, from which on mutual information is chosen;
# and the voxels that its histogram needs.
EXPLAINED, FEWEST_VOXELS = 0.4, 128**2


@dataclass(frozen=True)
class Contrast:
    """How the intensities of an aligned pair are related, within the objects.

    Attributes:
        positive: the share of the local correlation, by its size, that is positive: 1 in one contrast, 0 in one turned upside down.
        explained: the share of the variance of one image that a curve over the intensities of the other explains; the larger one
            of both ways.
        rising: the part of that which a rising curve explains; the smaller one of both ways.
        voxels: of the smaller image.
    """

    positive: float
    explained: float
    rising: float
    voxels: int

    @property
    def is_one(self) -> bool:
        """Whether the two images show tissue in one contrast."""
        return self.positive >= POSITIVE and self.rising >= RISING

    @property
    def across(self) -> str:
        """The name of the similarity that suits if there are two: "mi" or "mind"."""
        return "mi" if self.explained >= EXPLAINED and self.voxels >= FEWEST_VOXELS else "mind"

    def because(self, *, is_one_modality: bool = True, told: tuple[str, str] | None = None) -> str:
        """The reason for the report; `told` are weightings that differ, by the images' headers."""
        seen = (
            f"{self.positive:.0%} of the local correlation of the aligned images is positive, and a rising curve says {self.rising:.0%} "
            "of what their intensities say of each other"
        )
        needed = f"at least {POSITIVE:.0%} and {RISING:.0%}"
        if self.is_one and is_one_modality and told is None:
            return f"{seen} ({needed}): one contrast"
        relation = f"{self.explained:.0%} of one image's variance follows from the other's intensities"
        if self.explained >= EXPLAINED and self.voxels < FEWEST_VOXELS:
            relation += f", but the images are too small for a histogram (fewer than {FEWEST_VOXELS} voxels)"
        else:
            relation += f" ({'at least' if self.explained >= EXPLAINED else 'less than'} {EXPLAINED:.0%})"
        if told is not None:
            return f"the headers tell two contrasts, {told[0]} and {told[1]}. {relation}"
        if self.is_one:
            return f"{seen} ({needed}), but the modalities differ. {relation}"
        return f"{seen} (not {needed}): two contrasts. {relation}"


def contrast_of(fixed: Prepared, moving: Prepared, moving_from_fixed: Array) -> Contrast:
    """How the contrasts of two images are related, under a world matrix that aligns them."""
    views = [View.of(one, spacing_for((fixed, moving), SIDE_VOX)) for one in (fixed, moving)]
    with torch.no_grad():
        values, correlation, objects = Overlap(views[0], views[1], "statistics").local(torch.as_tensor(moving_from_fixed)[None])
    is_object = objects > 0
    pair = [one[is_object].double().numpy() for one in (views[0].values, values)]
    local = correlation[is_object].double().numpy()
    size, voxels = float(np.abs(local).sum()), min(one.values.numel() for one in (fixed, moving))
    if size == 0:
        return Contrast(1.0, 0.0, 1.0, voxels)
    curves = [_Curve.of(*pair), _Curve.of(*pair[::-1])]
    return Contrast(
        positive=float(local.clip(min=0).sum()) / size,
        explained=max(curve.explained for curve in curves),
        rising=min(curve.rising for curve in curves),
        voxels=voxels,
    )


def in_the_contrast_of(like: Tensor, values: Tensor, counted: Tensor, *, by: Tensor) -> Tensor:
    """`values` in [0, 1], each replaced by the mean that `like` has where `by` has it, among the `counted` voxels: [1, 1, *shape] all.

    What two contrasts show can then be compared as in one. Between the bins of the curve it is linear.
    """
    known, wanted = (one[counted].double() for one in (by.clamp(0, 1) * (BINS - 1), like))
    bins = known.round().long()
    counts = torch.bincount(bins, minlength=BINS)
    is_there = (counts > 0).numpy()
    if not is_there.any():
        return values
    means = torch.bincount(bins, wanted, minlength=BINS) / counts.clamp_min(1)
    found = np.interp(values.clamp(0, 1).double().numpy() * (BINS - 1), np.flatnonzero(is_there), means.numpy()[is_there])
    return torch.from_numpy(found).to(values)


@dataclass(frozen=True)
class _Curve:
    """What the mean of one image over the intensities of another explains of its variance, and which part a rising mean explains."""

    explained: float
    rising: float

    @staticmethod
    def of(given: Array, wanted: Array) -> _Curve:
        """The curve that gives the values of one image by those of the other, both in [0, 1], voxel by voxel."""
        bins = np.rint(given.clip(0, 1) * (BINS - 1)).astype(int)
        counts, sums = (np.bincount(bins, weight, BINS).astype(float) for weight in (None, wanted - wanted.mean()))
        is_there = counts > 0
        counts, sums = counts[is_there], sums[is_there]
        total = float(np.square(wanted - wanted.mean()).sum())
        explained = float((sums**2 / counts).sum())
        if explained == 0:
            return _Curve(0.0, 1.0)
        rising = rising_means(sums / counts, counts)
        return _Curve(explained / total, float((counts * rising**2).sum()) / explained)


def rising_means(means: Array, counts: Array) -> Array:
    """The values nearest to `means` (squares weighted by `counts`) that never fall: neighbours that would fall share their mean."""
    blocks: list[tuple[float, float, int]] = []  # sum, count, how many means
    for mean, count in zip(means, counts, strict=True):
        block = (float(mean * count), float(count), 1)
        while blocks and blocks[-1][0] / blocks[-1][1] > block[0] / block[1]:
            block = tuple(map(sum, zip(blocks.pop(), block, strict=True)))  # type: ignore[assignment]
        blocks.append(block)
    return np.concatenate([np.full(size, total / count) for total, count, size in blocks])
