"""MIND-SSC: images compared by how alike the patches around each voxel are, so that modalities may differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..geometry import separable
from .measure import Gradients, Measure, differentiable

Offset = tuple[int, ...]


@dataclass(frozen=True)
class MINDSSC(Measure):
    """Minus the mean squared difference of self-similarity descriptors: compares structure across modalities, at most 0.

    Heinrich et al., MICCAI 2013. The descriptor holds, for each pair of neighbours of a voxel (`dilation` voxels away along
    two different axes: 12 pairs in 3-D, 4 in 2-D), how alike the patches of `radius` around them are, in (0, 1]. Borders
    replicate. The descriptor's variance is clamped to [1e-3, 1e3] times its mean over the whole batch, which counts as a
    constant in the gradient. A mask selects the voxels of the outer mean.

    Raises:
        InputError: radius or dilation is below 1 or not a whole number.
    """

    radius: int = 2
    dilation: int = 2
    name: ClassVar[str] = "mind"
    highest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        for option, value in (("radius", self.radius), ("dilation", self.dilation)):
            if not (isinstance(value, int) and value >= 1):
                raise InputError(f"{option} must be a whole number of voxels, at least 1; got {value!r}. The usual value is 2.")

    def descriptor(self, image: Tensor) -> Tensor:
        """Self-similarities of `image` [B, C, *shape]: [B, C * pairs, *shape], the greatest of each voxel being 1; no gradient."""
        return self._described(image).descriptor.reshape(image.shape[0], -1, *image.shape[2:])

    def _described(self, image: Tensor) -> _SelfSimilarity:
        with torch.no_grad():
            return _self_similarity(image, self.radius, self.dilation)

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        target = self._described(fixed)
        if weight is None:
            share = fixed.new_tensor(1 / target.descriptor.numel())
        else:
            samples, pairs = target.descriptor.shape[:2]
            share = weight.repeat_interleave(fixed.shape[1], 0) / (samples * pairs)
        return lambda warped: differentiable(
            lambda wanted: _descriptor_similarity(self._described(warped), target, share, wanted), (warped, fixed)
        )


def _descriptor_similarity(
    warped: _SelfSimilarity, fixed: _SelfSimilarity, share: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    """Minus the squared differences of the descriptors, weighted by `share` and summed, pair by pair of neighbours."""

    def gradient(own: _SelfSimilarity, other: _SelfSimilarity) -> Tensor:
        return own.pull_back(lambda one: (other.descriptor[:, one] - own.descriptor[:, one]).mul_(share).mul_(2))

    value = share.new_zeros(())
    for channel in range(warped.descriptor.shape[1]):
        one = slice(channel, channel + 1)
        value -= (warped.descriptor[:, one] - fixed.descriptor[:, one]).square_().mul_(share).sum()
    return value, (gradient(warped, fixed) if wanted[0] else None, gradient(fixed, warped) if wanted[1] else None)


def _self_similarity(image: Tensor, radius: int, dilation: int) -> _SelfSimilarity:
    """MIND-SSC of `image` [B, C, *shape], each channel by itself."""
    shape = image.shape[2:]
    padded = F.pad(image.reshape(-1, 1, *shape), (dilation,) * (2 * len(shape)), mode="replicate")  # [B C, 1, *padded]
    pairs = _NeighbourPairs(shape, dilation)
    box = separable.on([_box_matrix(size, radius) for size in shape], image)
    distance = image.new_empty(len(padded), len(pairs.offsets), *shape)
    for channel, pair in enumerate(pairs.offsets):
        squared = pairs.difference(padded, pair).square_()
        distance[:, channel : channel + 1] = separable.apply_along_axes(squared, box)
    least, nearest = distance.min(1, keepdim=True)
    spread = distance.sub_(least).mean(1, keepdim=True)
    # Below 1e-12 there is no structure to compare; dividing by it would give NaN for a constant image.
    lowest, highest = (spread.mean() * 1e-3).clamp_min(1e-12), spread.mean() * 1e3
    spread = torch.maximum(torch.minimum(spread, highest), lowest)
    is_free = (spread > lowest) & (spread < highest)
    descriptor = distance.div_(spread).neg_().exp_()
    return _SelfSimilarity(image.shape, padded, descriptor, spread, is_free, nearest.to(torch.uint8), pairs, box)


@dataclass(frozen=True)
class _SelfSimilarity:
    """A descriptor with what its gradient needs.

    With D_k the patch distance of pair k: m_k = D_k - min D, v = clamp(mean m), descriptor d_k = exp(-m_k / v).
    """

    image_shape: torch.Size
    padded: Tensor
    descriptor: Tensor
    spread: Tensor  # v
    is_free: Tensor  # where v is not clamped
    nearest: Tensor  # which D is the least
    pairs: _NeighbourPairs
    box: Sequence[Tensor]

    def pull_back(self, upstream: Callable[[slice], Tensor]) -> Tensor:
        """Derivative by the image, where `upstream(k)` is that by the descriptor of pair k."""
        count = len(self.pairs.offsets)
        total, through_spread = self._totals(upstream)
        transposed = [matrix.T.contiguous() for matrix in self.box]
        by_padded = torch.zeros_like(self.padded)
        for channel, pair in enumerate(self.pairs.offsets):
            one = slice(channel, channel + 1)
            by_distance = upstream(one).mul_(self.descriptor[:, one]).neg_().sub_(through_spread)
            by_distance.sub_((total - count * through_spread).mul_(self.nearest == channel)).div_(self.spread)
            by_difference = separable.apply_along_axes(by_distance, transposed).mul_(2)
            self.pairs.pull_back(by_difference.mul_(self.pairs.difference(self.padded, pair)), pair, by_padded)
        return _replicate_padding_pulled_back(by_padded, self.pairs.dilation).reshape(self.image_shape)

    def _totals(self, upstream: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        """With r = m / v = -log d: the sum over pairs of ∂/∂r_k, and the mean of r_k ∂/∂r_k where v is not clamped."""
        count = len(self.pairs.offsets)
        total, through_spread = torch.zeros_like(self.spread), torch.zeros_like(self.spread)
        for channel in range(count):
            one = slice(channel, channel + 1)
            by_descriptor = upstream(one)
            total.addcmul_(by_descriptor, self.descriptor[:, one], value=-1)
            through_spread.addcmul_(by_descriptor, torch.special.entr(self.descriptor[:, one]), value=-1 / count)
        return total, through_spread.mul_(self.is_free)


def _replicate_padding_pulled_back(by_padded: Tensor, margin: int) -> Tensor:
    """Derivative by the image from that by the image padded with its border values; overwrites its argument."""
    for axis in range(2, by_padded.dim()):
        inner = by_padded.shape[axis] - 2 * margin
        by_padded.narrow(axis, margin, 1).add_(by_padded.narrow(axis, 0, margin).sum(axis, keepdim=True))
        by_padded.narrow(axis, margin + inner - 1, 1).add_(by_padded.narrow(axis, margin + inner, margin).sum(axis, keepdim=True))
        by_padded = by_padded.narrow(axis, margin, inner)
    return by_padded


class _NeighbourPairs:
    """Pairs of next neighbours along two different axes, seen as shifted views of an image padded by `dilation`."""

    def __init__(self, shape: Sequence[int], dilation: int) -> None:
        self.shape = shape
        self.dilation = dilation
        self.offsets = [
            (_step(len(shape), one, sign), _step(len(shape), two, other_sign))
            for one, two in itertools.combinations(range(len(shape)), 2)
            for sign, other_sign in itertools.product((-1, 1), repeat=2)
        ]

    def difference(self, padded: Tensor, pair: tuple[Offset, Offset]) -> Tensor:
        """First neighbour minus second, [B, 1, *shape]."""
        return self._view(padded, pair[0]) - self._view(padded, pair[1])

    def pull_back(self, by_difference: Tensor, pair: tuple[Offset, Offset], gradient: Tensor) -> None:
        """Adds to `gradient` what the derivative with respect to the difference means for the padded image."""
        self._view(gradient, pair[0]).add_(by_difference)
        self._view(gradient, pair[1]).sub_(by_difference)

    def _view(self, padded: Tensor, offset: Offset) -> Tensor:
        for axis, (size, step) in enumerate(zip(self.shape, offset, strict=True)):
            padded = padded.narrow(2 + axis, (step + 1) * self.dilation, size)
        return padded


def _step(dim: int, axis: int, sign: int) -> Offset:
    return tuple(sign if one == axis else 0 for one in range(dim))


@lru_cache(maxsize=64)
def _box_matrix(size: int, radius: int) -> separable.Matrix:
    """Mean over 2 radius + 1 neighbours along a line whose ends replicate: [size, size]."""
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset in range(-radius, radius + 1):
        matrix[rows, np.clip(rows + offset, 0, size - 1)] += 1 / (2 * radius + 1)
    return matrix
