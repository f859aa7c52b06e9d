"""How alike two images on one lattice are, place by place, and how alike they would be by chance or in another pose.

Every number here is free of contrast and shading that change slowly: intensities count relative to their surroundings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..geometry.separable import apply_along_axes, blur_matrix, on
from ..geometry.space import Array

# Of the Gaussian that weighs the surroundings of a voxel, and what counts as no contrast there (intensities lie in [0, 1]).
SIGMA_VOX, EPSILON = 2.0, 1e-3
# A pose counts as another one from a shift of this share of the longest edge on.
SHIFTED = 0.12
ENCLOSING_AXES = 2


@dataclass(frozen=True)
class Surroundings:
    """Local mean and variance of an image [1, 1, *shape], within a mask."""

    values: Tensor
    mean: Tensor
    variance: Tensor
    blurred_mask: Tensor

    def normalized(self) -> Tensor:
        """The image without its local mean, in units of its local standard deviation."""
        return (self.values - self.mean) / (self.variance + EPSILON).sqrt()


def surroundings(values: Tensor, mask: Tensor) -> Surroundings:
    """Local moments of `values` [1, 1, *shape] where the boolean `mask` of the same shape is True."""
    share = _blurred(mask.to(values)).clamp_min(1e-3)
    mean = _blurred(values * mask) / share
    variance = (_blurred(values.square() * mask) / share - mean.square()).clamp_min(0)
    return Surroundings(values, mean, variance, share)


def local_correlation(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Correlation of two images [1, 1, *shape] around each voxel, in [-1, 1], from what lies within `mask`."""
    first, second = (surroundings(image, mask) for image in (one, other))
    both = _blurred(one * other * mask) / first.blurred_mask - first.mean * second.mean
    return both / ((first.variance + EPSILON) * (second.variance + EPSILON)).sqrt()


def _blurred(values: Tensor) -> Tensor:
    taps = 2 * round(3 * SIGMA_VOX) + 1
    return apply_along_axes(values, on([blur_matrix(size, SIGMA_VOX, taps) for size in values.shape[2:]], values))


def body(values: Tensor) -> Tensor:
    """Where the image [1, 1, *shape] shows a body: brighter than Otsu's threshold, or enclosed by that; boolean, of its shape.

    Enclosed is what has something bright before and behind it along two of the axes at least.
    """
    smooth = _blurred(values.float())
    bright = torch.from_numpy(sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(smooth[0, 0].numpy()), 0, 1)) > 0)
    enclosed = torch.stack(
        [_seen_before(bright, axis) & _seen_before(bright.flip(axis), axis).flip(axis) for axis in range(bright.dim())]
    )
    return (bright | (enclosed.sum(0) >= ENCLOSING_AXES))[None, None]


def _seen_before(bright: Tensor, axis: int) -> Tensor:
    """Whether there is something bright up to each voxel along an axis."""
    return bright.int().cummax(axis).values > 0


@dataclass(frozen=True)
class Pose:
    """Moving as it was found, mirrored along some axes of the lattice (a turn by 180° where there are two) and shifted.

    `score` is the cosine between both images after `Surroundings.normalized`, without its sign: 1 is equal.
    """

    mirrored: tuple[int, ...]
    shift_vox: tuple[int, ...]
    score: float

    def voxels(self, mask: Tensor) -> Array:
        """Which voxel of moving as it was found lies at each voxel here, as a matrix [dim + 1, dim + 1]; `mask` is that of the search."""
        dim = mask.dim() - 2
        mirror, shift = np.eye(dim + 1), np.eye(dim + 1)
        for axis in self.mirrored:
            mirror[axis, axis], mirror[axis, -1] = -1.0, _twice_middle(mask)[axis]
        shift[:-1, -1] = [-step for step in self.shift_vox]
        return np.asarray(mirror @ shift)


def score_as_they_lie(fixed: Tensor, moving: Tensor, mask: Tensor, reached: Tensor) -> float:
    """The score of two images [1, 1, *shape] as they lie, over `mask`; what `moving` has not `reached` of it counts as unlike."""
    one = surroundings(fixed, mask).normalized() * mask
    other = surroundings(moving, mask & reached).normalized() * (mask & reached)
    energy = float((one.square().sum() * other.square().sum()).sqrt().clamp_min(1e-12))
    return abs(float((one * other).sum())) / energy


def best_other_pose(fixed: Tensor, warped: Tensor, mask: Tensor) -> tuple[float, Pose]:
    """The score of the images as they lie, and the other pose (mirrored, turned by 180° or shifted) in which it is highest.

    It is what unrelated tissue of the same kind reaches, unless another pose is the right one.
    """
    one, other = (surroundings(image, mask).normalized() * mask for image in (fixed, warped))
    axes = tuple(range(2, fixed.dim()))
    twice_middle = _twice_middle(mask)
    energy = float((one.square().sum() * other.square().sum()).sqrt().clamp_min(1e-12))
    spectrum = torch.fft.rfftn(one, dim=axes)
    is_near = _near(fixed.shape[2:])
    best, here = Pose((), (), -1.0), 0.0
    for count, mirrored in _mirrorings(len(axes)):
        flipped = _flipped(other, mirrored, twice_middle)
        product = spectrum * torch.fft.rfftn(flipped, dim=axes).conj()
        scores = torch.fft.irfftn(product, s=fixed.shape[2:], dim=axes)[0, 0].abs() / energy
        if count == 0:
            here = float(scores[(0,) * len(axes)])
            scores = scores.masked_fill(is_near, -1.0)
        top = int(scores.argmax())
        if float(scores.flatten()[top]) > best.score:
            best = Pose(mirrored, _signed(top, fixed.shape[2:]), float(scores.flatten()[top]))
    return here, best


def _mirrorings(dim: int) -> list[tuple[int, tuple[int, ...]]]:
    chosen = [axes for count in range(dim + 1) for axes in itertools.combinations(range(dim), count)]
    return list(enumerate(chosen))


def _twice_middle(mask: Tensor) -> list[int]:
    """Along each axis, twice the voxel in the middle of what is masked."""
    return [round(2 * float(one.float().mean())) for one in mask[0, 0].nonzero().unbind(1)]


def _flipped(image: Tensor, mirrored: Sequence[int], twice_middle: Sequence[int]) -> Tensor:
    """Mirrored about the middle of the body, to the nearest half voxel; what leaves the lattice comes in at its other end."""
    for axis in mirrored:
        size = image.shape[2 + axis]
        image = image.flip(2 + axis).roll(twice_middle[axis] - (size - 1), 2 + axis)
    return image


def _near(shape: Sequence[int]) -> Tensor:
    """Which shifts, as the Fourier transform counts them, are too short for another pose."""
    distance = torch.zeros(tuple(shape))
    for axis, size in enumerate(shape):
        steps = torch.fft.fftfreq(size, 1 / size).view(*(-1 if axis == other else 1 for other in range(len(shape))))
        distance = distance + steps.square()
    return distance.sqrt() < SHIFTED * max(shape)


def _signed(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    place = np.unravel_index(flat, tuple(shape))
    return tuple(int(step) if step <= size // 2 else int(step) - size for step, size in zip(place, shape, strict=True))
