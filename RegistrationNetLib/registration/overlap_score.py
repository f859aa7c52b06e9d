"""How alike two images are where both have voxels: what the alignment compares, under many matrices at once.

The score is the mean local correlation over the overlap of the two fields of view, as far as it shows an object in either image. For
contrasts of which nothing is known it is the mean of its square and the mutual information, which see a match from afar, or the
structure around each voxel (MIND-SSC), which tells a good match from a better one: the edge of the skull in one contrast correlates
well with that of the skin in another. It says nothing about places that only one of them shows, so that a part fits the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..geometry.deformation import Affine, identity_points, sample
from ..geometry.separable import apply_along_axes, blur_matrix, on
from ..geometry.space import Array, Grid
from ..losses.mind import MINDSSC
from .foreground import foreground_of
from .prepare import Prepared, resized

# Of the window of the local correlation; wider where the relation of the intensities is not known.
SIGMA_VOX, SIGMA_ACROSS_VOX = 1.5, 2.0
EPSILON = 1e-3
# Bins of the joint histogram, and the part of the loss that is mutual information where contrasts may differ.
BINS, INFORMATION = 16, 0.5
# The structure that is compared, and about how far that of images is which have nothing to do with each other, in 2-D and in 3-D.
STRUCTURE, UNRELATED = MINDSSC(radius=1, dilation=1), {2: 1 / 4, 3: 1 / 7}
# A score from a smaller share of the smaller object falls towards the worst, in proportion.
SMALLEST_SHARE = 0.2

By = Literal["correlation", "statistics", "structure"]
"""What is compared: the first for images of one contrast, the others for any two; see above."""


@dataclass(frozen=True)
class View:
    """One image on a coarse lattice: values, where it has voxels that count, and where it shows an object; [1, 1, *shape] each."""

    values: Tensor
    counted: Tensor
    foreground: Tensor
    grid: Grid

    @staticmethod
    def of(image: Prepared, spacing_mm: float) -> View:
        """`image` at about `spacing_mm`, on the CPU."""
        coarse = resized(image, spacing_mm).to(torch.device("cpu"))
        counted = torch.ones_like(coarse.values, dtype=torch.bool) if coarse.mask is None else coarse.mask
        return View(coarse.values, counted, foreground_of(coarse.values, counted), coarse.grid)

    def spread(self) -> tuple[Array, float]:
        """Middle of the object, and the mean square root of its squared distances from there, in mm."""
        places = self.foreground[0, 0].nonzero().double().numpy()
        points = places @ self.grid.world_from_voxel[:-1, :-1].T + self.grid.world_from_voxel[:-1, -1]
        middle = points.mean(axis=0)
        return middle, float(np.sqrt(((points - middle) ** 2).sum(axis=1).mean()))


@dataclass(frozen=True)
class Score:
    """Loss of each matrix of a batch [B], about 1 or above where nothing matches, and the share of the smaller object that lies in both images [B]."""

    loss: Tensor
    share: Tensor


class Overlap:
    """Two views, compared on the lattice of the first."""

    def __init__(self, fixed: View, moving: View, by: By) -> None:
        self.fixed, self.moving, self.by = fixed, moving, by
        self._points = identity_points(fixed.grid.shape, fixed.values)
        sigma = SIGMA_VOX if by == "correlation" else SIGMA_ACROSS_VOX
        blurs = [blur_matrix(size, sigma, 2 * round(2 * sigma) + 1) for size in fixed.grid.shape]
        self._blur = on(blurs, fixed.values)
        self._masks = torch.cat([moving.counted, moving.foreground], dim=1).to(moving.values)
        volume = [abs(float(torch.det(torch.as_tensor(one.grid.world_from_voxel[:-1, :-1])))) for one in (fixed, moving)]
        self._smaller = min(float(one.foreground.sum()) * size for one, size in zip((fixed, moving), volume, strict=True))
        self._voxel = volume[0]

    @cached_property
    def _fixed_memberships(self) -> Tensor:
        return _memberships(self.fixed.values)

    def score(self, moving_from_fixed: Tensor) -> Score:
        """The score of each of the homogeneous world matrices [B, dim + 1, dim + 1], float64."""
        values, both, objects, share = self._seen(moving_from_fixed)
        if self.by == "structure":
            far = torch.stack([STRUCTURE.loss(*pair) for pair in self._pairs(values, objects)])
            mean = 1 - far / UNRELATED[self.fixed.grid.dim]
        else:
            correlation = self._correlation(values, both)
            closeness = correlation if self.by == "correlation" else correlation.square()
            mean = (closeness * objects).flatten(1).sum(1) / objects.flatten(1).sum(1).clamp_min(1)
            if self.by == "statistics":
                mean = (1 - INFORMATION) * mean + INFORMATION * _information(self._fixed_memberships, values, objects)
        # What is worse than nothing does not become better where less of it is seen.
        return Score(1 - torch.minimum(mean, mean * (share / SMALLEST_SHARE).clamp(max=1)), share)

    def local(self, moving_from_fixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moving's values under the matrices, their local correlation, and 1 where it counts, else 0: [B, 1, *shape of fixed] each."""
        values, both, objects, _ = self._seen(moving_from_fixed)
        return values, self._correlation(values, both), objects

    def _pairs(self, values: Tensor, objects: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Moving, fixed and what counts for each of the batch."""
        return ((one[None], self.fixed.values, counted[None]) for one, counted in zip(values, objects, strict=True))

    def _seen(self, moving_from_fixed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moving's values, where both have voxels, where those show an object, and the share of the smaller object that lies in both."""
        before, after = (torch.as_tensor(m) for m in (self.fixed.grid.world_from_unit, self.moving.grid.unit_from_world))
        unit = (after @ moving_from_fixed @ before)[:, :-1].to(self._points)
        points = Affine(unit)(self._points.expand(len(unit), *self._points.shape[1:]))
        # Zeros next to the image would be structure that it does not have.
        values = sample(self.moving.values, points, outside="border" if self.by == "structure" else "zeros")
        with torch.no_grad():
            counted, foreground = (sample(self._masks, points, outside="zeros") > 0.5).split(1, dim=1)
            both = counted & self.fixed.counted
            objects = (both & (self.fixed.foreground | foreground)).to(values)
            shared = (both & self.fixed.foreground & foreground).flatten(1).sum(1)
            share = (shared * self._voxel / self._smaller).clamp(max=1)
        return values, both.to(values), objects, share

    def _correlation(self, warped: Tensor, weight: Tensor) -> Tensor:
        """Local correlation [B, 1, *shape] within what the weights count."""
        fixed = self.fixed.values
        with torch.no_grad():
            # The weights are first, as everything is divided by their local mean.
            mass, f, ff = self._blurred(weight, weight * fixed, weight * fixed.square())
            mass.clamp_min_(1e-3)
            f, ff = f / mass, ff / mass
        once = weight * warped
        w, ww, wf = (one / mass for one in self._blurred(once, once * warped, once * fixed))
        own, other = (ff - f * f).clamp_min(0) + EPSILON, (ww - w * w).clamp_min(0) + EPSILON
        return (wf - w * f) / (own * other).sqrt()

    def _blurred(self, *images: Tensor) -> tuple[Tensor, ...]:
        return apply_along_axes(torch.cat(images, dim=1), self._blur).split(1, dim=1)


def _memberships(values: Tensor) -> Tensor:
    """How much each voxel of [B, 1, *shape] belongs to each bin of intensity: [B, BINS, voxels]; two neighbouring bins share it."""
    places = values.flatten(2).clamp(0, 1) * (BINS - 1)
    return (1 - (places - torch.arange(BINS, dtype=values.dtype)[:, None]).abs()).clamp_min(0)


def _information(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Mutual information of the weighted voxels over the root of both entropies, in [0, 1], for each of the batch: [B].

    `fixed` are memberships [1, BINS, voxels], `warped` and `weight` images [B, 1, *shape].
    """
    joint = (_memberships(warped) * weight.flatten(2)) @ fixed[0].T
    joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-6)
    own, other, both = (-(one * (one + 1e-7).log()).flatten(1).sum(1) for one in (joint.sum(1), joint.sum(2), joint))
    return (own + other - both) / (own * other + 1e-4).sqrt()


def spacing_for(views: Sequence[Prepared], side_vox: int) -> float:
    """The spacing at which the longest edge of the smaller image has `side_vox` voxels."""
    return min(max(one.grid.extent_mm) for one in views) / (side_vox - 1)
