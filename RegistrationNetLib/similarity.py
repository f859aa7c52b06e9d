"""How alike two images are: LNCC, squared LNCC, NCC, SSD, MIND-SSC, mutual information; and soft Dice of labels.

Similarity is higher when better, loss is lower when better, and `loss = highest - similarity`. Images are `[B, C, *shape]`,
2-D or 3-D, float32 or float64, on any device; a mask is `[B or 1, 1, *shape]`, and nonzero means counted. Every measure is
differentiable (once) with respect to both images.

A measure gives one number, so its gradient is worked out together with the value: what autograd keeps until the backward
pass is one image for each image that needs a gradient, and no intermediate.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import separable
from .errors import InputError

Gradients = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Comparison:
    """A fixed image prepared once, to be compared with many warped images; made by `Measure.against`."""

    fixed_shape: torch.Size
    highest: float
    measured: Callable[[Tensor], Tensor]

    def similarity(self, warped: Tensor) -> Tensor:
        """Similarity of `warped` [B, C, *shape] to the fixed image, a scalar.

        Raises:
            InputError: `warped` has another shape than fixed.
        """
        if warped.shape != self.fixed_shape:
            raise InputError(
                f"warped and fixed differ in shape; they must be equal. Got {list(warped.shape)} and {list(self.fixed_shape)}. "
                "Resample warped onto the lattice of fixed."
            )
        return self.measured(warped)

    def loss(self, warped: Tensor) -> Tensor:
        """`highest - similarity(warped)`."""
        return self.highest - self.similarity(warped)


class Measure(ABC):
    """A way to compare two images. Subclasses are frozen dataclasses whose fields are its options."""

    name: ClassVar[str]
    highest: ClassVar[float]

    def against(self, fixed: Tensor, mask: Tensor | None = None) -> Comparison:
        """Everything that depends only on `fixed` [B, C, *shape] and `mask` [B or 1, 1, *shape], worked out once.

        A sample whose mask is empty counts as having similarity 0.

        Raises:
            InputError: fixed is not a 2-D or 3-D floating image, or the mask does not fit it.
        """
        _check(fixed, mask)
        return Comparison(fixed.shape, self.highest, self._prepared(fixed, None if mask is None else _weight(mask, fixed)))

    def similarity(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Similarity of the images [B, C, *shape], a scalar; errors as in `against` and `Comparison.similarity`."""
        return self.against(fixed, mask).similarity(warped)

    def loss(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """`highest - similarity(warped, fixed, mask)`."""
        return self.against(fixed, mask).loss(warped)

    @abstractmethod
    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        """warped ↦ similarity. `weight` [B, 1, *shape] sums to 1 in each sample; None weighs all voxels alike."""


def _check(fixed: Tensor, mask: Tensor | None) -> None:
    if fixed.dim() not in (4, 5) or not fixed.is_floating_point():
        raise InputError(
            f"fixed must be a floating-point image [B, C, *shape] in 2-D or 3-D; got {fixed.dtype} {list(fixed.shape)}. "
            "Add the batch and channel axes, or convert it."
        )
    batch, _, *shape = fixed.shape
    if mask is not None and list(mask.shape) not in ([batch, 1, *shape], [1, 1, *shape]):
        raise InputError(
            f"The mask does not fit fixed; it must be {[batch, 1, *shape]}, got {list(mask.shape)}. "
            "Resample it onto the lattice of fixed."
        )


def _weight(mask: Tensor, fixed: Tensor) -> Tensor:
    """[B, 1, *shape]: 1 / count where the mask is nonzero, 0 elsewhere."""
    counted = (mask != 0).to(fixed.dtype).expand(fixed.shape[0], *mask.shape[1:])
    return counted / counted.flatten(1).sum(1).clamp_min(1).view(-1, *(1,) * (fixed.dim() - 1))


def _spatial_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """(Weighted) mean over space of `values` [B, C, *shape]: [B, C, 1, …]."""
    axes = tuple(range(2, values.dim()))
    if weight is None:
        return values.mean(axes, keepdim=True)
    return (values * weight).sum(axes, keepdim=True)


class _KnownGradient(torch.autograd.Function):
    """A scalar whose gradients with respect to two images are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *images_and_gradients: Tensor | None) -> Tensor:
        ctx.save_for_backward(*images_and_gradients[2:])
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        pulled = (None if gradient is None else gradient * upstream for gradient in ctx.saved_tensors)
        return (None, *pulled, None, None)


def _differentiable(evaluate: Callable[[tuple[bool, bool]], tuple[Tensor, Gradients]], images: tuple[Tensor, Tensor]) -> Tensor:
    """The value that `evaluate` gives, tied to the two images by the gradients that it gives for those that need one."""
    wanted = [image.requires_grad and torch.is_grad_enabled() for image in images]
    with torch.no_grad():
        value, gradients = evaluate((wanted[0], wanted[1]))
    tied: Tensor = _KnownGradient.apply(value, *images, *gradients)  # type: ignore[no-untyped-call]
    return tied


@dataclass(frozen=True)
class LNCC(Measure):
    """Local normalized cross-correlation: mean over space of cov(W, F) / sqrt((var W + ε)(var F + ε)), in [-1, 1].

    Moments are weighted by a Gaussian of `sigma_vox`, cut to 4 sigma + 1 voxels (the nearest odd number), with zeros outside
    the image; variances below 0 by rounding count as 0. A mask selects the voxels of the outer mean, not of the moments.
    As in GradICON (Tian et al., CVPR 2023), whose ε is 1e-5; that of uniCARL is 1e-4.

    Raises:
        InputError: sigma_vox is below 0.5, or epsilon is not positive.
    """

    sigma_vox: float = 5.0
    epsilon: float = 1e-5
    stride_vox: int = 1
    name: ClassVar[str] = "lncc"
    highest: ClassVar[float] = 1.0
    squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.sigma_vox < math.inf:
            raise InputError(f"sigma_vox must be at least 0.5 voxel; got {self.sigma_vox}. The published networks use 4 or 5.")
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"epsilon must be above 0; got {self.epsilon}. The published networks use 1e-5.")
        if self.stride_vox < 1:
            raise InputError(f"stride_vox must be at least 1; got {self.stride_vox}. The published networks use 1.")

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        taps = 2 * round(2 * self.sigma_vox) + 1
        matrices = [separable.blur_matrix(size, self.sigma_vox, taps)[:: self.stride_vox] for size in fixed.shape[2:]]
        blur = _Blur(separable.on(matrices, fixed))
        if weight is not None and self.stride_vox > 1:
            every = (slice(None), slice(None), *(slice(None, None, self.stride_vox) for _ in fixed.shape[2:]))
            weight = _weight(weight[every], fixed)
        with torch.no_grad():
            moments = _local_moments(fixed, blur)
        return _LocalCorrelation(fixed, weight, moments, blur, self.epsilon, self.squared)


@dataclass(frozen=True)
class SquaredLNCC(LNCC):
    """Mean over space of the squared local correlation, in [0, 1]: blind to its sign, for contrasts that may be inverted.

    Options, errors and source as for `LNCC`; as in multiGradICON (Demir et al., WBIR 2024).
    """

    name: ClassVar[str] = "lncc2"
    squared: ClassVar[bool] = True


@dataclass(frozen=True)
class _Blur:
    """Local means around the voxels of a (coarser) lattice."""

    matrices: Sequence[Tensor]

    def __call__(self, values: Tensor) -> Tensor:
        return separable.apply_along_axes(values, self.matrices)

    def pull_back(self, values: Tensor) -> Tensor:
        """The gradient's way, from the lattice of the means to the voxels: the transposed operator."""
        return separable.apply_along_axes(values, [matrix.T for matrix in self.matrices])


@dataclass(frozen=True)
class _Moments:
    mean: Tensor
    variance: Tensor


def _local_moments(image: Tensor, blur: _Blur) -> _Moments:
    mean = blur(image)
    return _Moments(mean, blur(image.square()).addcmul_(mean, mean, value=-1).clamp_min_(0))


@dataclass(frozen=True)
class _LocalCorrelation:
    """warped ↦ mean (squared) local correlation with `fixed`, whose moments are known."""

    fixed: Tensor
    weight: Tensor | None
    moments: _Moments
    blur: _Blur
    epsilon: float
    squared: bool

    def __call__(self, warped: Tensor) -> Tensor:
        return _differentiable(lambda wanted: self._evaluate(warped, wanted), (warped, self.fixed))

    def _evaluate(self, warped: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Gradients]:
        moments = _local_moments(warped, self.blur)
        scale = (moments.variance + self.epsilon).mul_(self.moments.variance + self.epsilon).rsqrt_()
        lncc = self.blur(warped * self.fixed).addcmul_(moments.mean, self.moments.mean, value=-1).mul_(scale)
        value = _spatial_mean(lncc.square() if self.squared else lncc, self.weight).mean()
        if not any(wanted):
            return value, (None, None)
        pull = self._pull(lncc, scale)
        return value, (
            self._gradient(warped, self.fixed, moments, self.moments, pull) if wanted[0] else None,
            self._gradient(self.fixed, warped, self.moments, moments, pull) if wanted[1] else None,
        )

    def _pull(self, lncc: Tensor, scale: Tensor) -> _Pull:
        """Derivatives of the value with respect to the local moments; overwrites its arguments."""
        batch, channels = lncc.shape[:2]
        by_lncc = lncc.new_tensor(1 / lncc.numel()) if self.weight is None else self.weight / (batch * channels)
        if self.squared:
            by_lncc = 2 * by_lncc * lncc
        by_covariance = scale.mul_(by_lncc)
        return _Pull(by_covariance, self.blur.pull_back(by_covariance), lncc.mul_(by_lncc).mul_(-0.5))

    def _gradient(self, image: Tensor, other: Tensor, own: _Moments, others: _Moments, pull: _Pull) -> Tensor:
        """Chain rule from the moments to `image`."""
        by_variance = (pull.by_log_variance / (own.variance + self.epsilon)).mul_(own.variance > 0)
        by_mean = (pull.by_covariance * others.mean).addcmul_(by_variance, own.mean, value=2).neg_()
        gradient = self.blur.pull_back(by_mean).addcmul_(other, pull.pulled_by_covariance)
        return gradient.addcmul_(image, self.blur.pull_back(by_variance), value=2)


@dataclass(frozen=True)
class _Pull:
    """Derivatives of the mean correlation with respect to the covariance and to the logarithm of either variance + ε."""

    by_covariance: Tensor
    pulled_by_covariance: Tensor
    by_log_variance: Tensor


@dataclass(frozen=True)
class NCC(Measure):
    """Correlation coefficient of each channel of each sample, averaged, in [-1, 1].

    A mask selects the voxels of all moments, so that nothing outside it has any influence. A constant image has
    correlation 0 (1e-12 is added to the variances).
    """

    name: ClassVar[str] = "ncc"
    highest: ClassVar[float] = 1.0

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            standard = _standardized(fixed, weight)
        return lambda warped: _differentiable(
            lambda wanted: _mean_correlation(_standardized(warped, weight), standard, weight, wanted), (warped, fixed)
        )


@dataclass(frozen=True)
class _Standardized:
    """An image with mean 0 and variance 1 per sample and channel, and the factor [B, C, 1, …] that made the variance so."""

    values: Tensor
    scale: Tensor


def _standardized(image: Tensor, weight: Tensor | None) -> _Standardized:
    centred = image - _spatial_mean(image, weight)
    scale = (_spatial_mean(centred.square(), weight) + 1e-12).rsqrt_()
    return _Standardized(centred.mul_(scale), scale)


def _mean_correlation(
    warped: _Standardized, fixed: _Standardized, weight: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    correlation = _spatial_mean(warped.values * fixed.values, weight)  # [B, C, 1, …]
    share = weight if weight is not None else 1 / warped.values[0, 0].numel()

    def gradient(own: _Standardized, other: _Standardized) -> Tensor:
        return (own.values * -correlation).add_(other.values).mul_(own.scale / correlation.numel()).mul_(share)

    towards_warped = gradient(warped, fixed) if wanted[0] else None
    return correlation.mean(), (towards_warped, gradient(fixed, warped) if wanted[1] else None)


@dataclass(frozen=True)
class SSD(Measure):
    """Minus the mean squared difference, at most 0. A mask selects the voxels of the mean."""

    name: ClassVar[str] = "ssd"
    highest: ClassVar[float] = 0.0

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        if weight is None:
            return lambda warped: -F.mse_loss(warped, fixed)
        # Weights folded into the images keep no image of differences.
        root = (weight / (fixed.shape[0] * fixed.shape[1])).sqrt()
        return lambda warped: -F.mse_loss(warped * root, fixed * root, reduction="sum")


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
        return lambda warped: _differentiable(
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


Offset = tuple[int, ...]


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


@dataclass(frozen=True)
class MutualInformation(Measure):
    """Mutual information of the intensities, in nats: Σ p log(p / (p_warped p_fixed)), at least 0.

    Mattes et al., IEEE TMI 2003: a joint histogram of `bins` by `bins` with cubic B-spline Parzen windows. Here both images
    have a cubic window (there: fixed has a box), so that the measure is symmetric and differentiable in both. Intensities are
    expected in [0, 1] and clamped to it; the range spans `bins` - 3 steps, which leaves room for the windows at its ends.
    Histograms are per sample and channel, and the information is averaged over them. It is not normalized by an entropy.
    A mask selects the voxels that enter the histogram. On CUDA the order of the sums is not deterministic.

    Raises:
        InputError: bins is not a whole number in 4 … 256.
    """

    bins: int = 32
    name: ClassVar[str] = "mi"
    highest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.bins, int) and 4 <= self.bins <= 256):
            raise InputError(f"bins must be a whole number from 4 to 256; got {self.bins!r}. The usual value is 32.")

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        counted = None if weight is None else [(one != 0).flatten().nonzero()[:, 0] for one in weight]
        return lambda warped: _differentiable(
            lambda wanted: _mean_information(warped, fixed, counted, self.bins, wanted), (warped, fixed)
        )


def _mean_information(
    warped: Tensor, fixed: Tensor, counted: Sequence[Tensor] | None, bins: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    """Mean over samples and channels of the information between the `counted` voxels, and its gradients where wanted."""
    samples, channels = warped.shape[:2]
    gradients = [warped.new_zeros(warped.shape) if want else None for want in wanted]
    value = warped.new_zeros(())
    for sample, channel in itertools.product(range(samples), range(channels)):
        chosen = slice(None) if counted is None else counted[sample]
        pair = (warped[sample, channel].flatten()[chosen], fixed[sample, channel].flatten()[chosen])
        histogram = _joint_histogram(*pair, bins) / max(len(pair[0]), 1)
        surprise = (histogram / (histogram.sum(0) * histogram.sum(1, keepdim=True))).log().nan_to_num_(nan=0.0, neginf=0.0)
        value += (histogram * surprise).sum() / (samples * channels)
        surprise /= max(len(pair[0]), 1) * samples * channels
        for gradient, (own, other), table in zip(gradients, (pair, pair[::-1]), (surprise, surprise.T.contiguous()), strict=True):
            if gradient is not None:
                gradient[sample, channel].view(-1)[chosen] = _looked_up_slope(own, other, table)
    return value, (gradients[0], gradients[1])


def _joint_histogram(first: Tensor, second: Tensor, bins: int) -> Tensor:
    """Sum over voxels of the products of their Parzen windows: [bins of first, bins of second]."""
    counts = first.new_zeros(bins * bins)
    for one, two in _chunks(first, second):
        window, other = _Window.around(one, bins), _Window.around(two, bins)
        products = window.weights[:, None] * other.weights  # [4, 4, n]
        # One chunk at a time into its own sums: in float32, long sums lose what is small.
        counts += torch.zeros_like(counts).scatter_add_(0, _cells(window, other, bins), products.flatten())
    return counts.view(bins, bins)


def _looked_up_slope(own: Tensor, other: Tensor, table: Tensor) -> Tensor:
    """Derivative by `own` of the `table` [bins of own, bins of other] interpolated at each voxel's pair of intensities: [n]."""
    bins = table.shape[0]
    slopes = []
    for one, two in _chunks(own, other):
        window, neighbour = _Window.around(one, bins), _Window.around(two, bins)
        values = table.flatten().index_select(0, _cells(window, neighbour, bins)).view(4, 4, -1)
        slopes.append(((values * neighbour.weights).sum(1) * window.slopes()).sum(0))
    return torch.cat(slopes) if slopes else torch.zeros_like(own)


def _chunks(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of both; on the CPU such that the sixteen products of a piece stay in its cache."""
    size = 2**14 if first.device.type == "cpu" else 2**19
    return zip(first.split(size), second.split(size), strict=True) if len(first) else iter(())


def _cells(window: _Window, other: _Window, bins: int) -> Tensor:
    """Flat histogram index of each of the 4 x 4 products of each voxel, [16 n]."""
    taps = torch.arange(4, device=window.first.device)
    steps = (taps[:, None] * bins + taps)[..., None]
    return (window.first * bins + other.first + steps).flatten()


@dataclass(frozen=True)
class _Window:
    """Cubic B-spline around each of n intensities: its first bin [n], the place within it [n], its four weights [4, n]."""

    first: Tensor
    place: Tensor
    weights: Tensor
    scale: Tensor

    @staticmethod
    def around(values: Tensor, bins: int) -> _Window:
        position = values.clamp(0, 1) * (bins - 3)
        first = position.floor().clamp_(max=bins - 4)
        t = position - first
        s = 1 - t
        t2, s2 = t * t, s * s
        weights = torch.stack([s2 * s / 6, 2 / 3 - t2 * (1 + s) / 2, 2 / 3 - s2 * (1 + t) / 2, t2 * t / 6])
        return _Window(first.long(), t, weights, ((values >= 0) & (values <= 1)) * (bins - 3.0))

    def slopes(self) -> Tensor:
        """Derivatives of the weights by intensity, [4, n]; 0 where the intensity was clamped."""
        t, s = self.place, 1 - self.place
        return torch.stack([-s.square() / 2, t * (3 * t - 4) / 2, s * (4 - 3 * s) / 2, t.square() / 2]) * self.scale


def one_hot(labels: Tensor, other_labels: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Membership of the classes found in both label images [B, 1, *shape], without background (0): two [B, classes, *shape].

    Raises:
        InputError: a pair of the batch has no class in common.
    """
    shared = sorted(set(labels.unique().tolist()) & set(other_labels.unique().tolist()) - {0})
    first, second = (torch.cat([one == label for label in shared] or [one[:, :0] != 0], dim=1) for one in (labels, other_labels))
    if not bool((_present(first) & _present(second)).any(1).all()):
        raise InputError(
            "The label images have no class in common; Dice needs at least one besides background (0) in each pair. "
            f"Got {labels.unique().tolist()} and {other_labels.unique().tolist()}. Check that both use one labelling."
        )
    return first.to(dtype), second.to(dtype)


def dice_loss(warped: Tensor, fixed: Tensor, *, valid: Tensor | None = None, epsilon: float = 1e-6) -> Tensor:
    """1 - soft Dice of class memberships [B, classes, *shape] in [0, 1], averaged over classes, then over samples.

    Dice = (2 Σ w f + ε) / (Σ w + Σ f + ε), Milletari et al., 3DV 2016, without their squares, as in uniGradICON.

    Args:
        valid: [B, classes], the classes that count in each sample (see `classes_in_both`), at least one each; default all.

    Raises:
        InputError: the shapes differ.
    """
    if warped.shape != fixed.shape:
        raise InputError(
            f"The class memberships differ in shape; they must be equal. Got {list(warped.shape)} and {list(fixed.shape)}. "
            "Make both with one call of one_hot."
        )
    axes = tuple(range(2, warped.dim()))
    dice = (2 * (warped * fixed).sum(axes) + epsilon) / (warped.sum(axes) + fixed.sum(axes) + epsilon)  # [B, classes]
    if valid is None:
        return 1 - dice.mean()
    return (((1 - dice) * valid).sum(1) / valid.sum(1)).mean()


def classes_in_both(memberships: Tensor, other_memberships: Tensor) -> Tensor:
    """Which classes have voxels in both of a pair of unwarped memberships [B, classes, *shape]: [B, classes]."""
    return _present(memberships) & _present(other_memberships)


def _present(memberships: Tensor) -> Tensor:
    return (memberships != 0).flatten(2).any(2)


MEASURES: dict[str, type[Measure]] = {
    measure.name: measure for measure in (LNCC, SquaredLNCC, NCC, SSD, MINDSSC, MutualInformation)
}


def measure_named(name: str, **options: Any) -> Measure:
    """The measure of that `name`, with its `options`: `measure_named("lncc", sigma_vox=4)`.

    Raises:
        InputError: there is no such measure, or it has no such option, or the option's value is out of range.
    """
    if name not in MEASURES:
        raise InputError(f"There is no similarity measure {name!r}. Choose one of {', '.join(MEASURES)}.")
    known = [field.name for field in fields(MEASURES[name])]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"{name} has no option {', '.join(unknown)}. It takes {', '.join(known) or 'none'}.")
    return MEASURES[name](**options)
