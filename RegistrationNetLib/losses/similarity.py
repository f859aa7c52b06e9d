"""How alike two images are: LNCC, squared LNCC, NCC and SSD, and the table of all measures by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..geometry import separable
from .measure import Comparison, Gradients, Measure, differentiable, normalized_weight, spatial_mean
from .mind import MINDSSC
from .mutual_information import MutualInformation
from .overlap import dice_loss, one_hot

__all__ = [
    "LNCC",
    "MEASURES",
    "MINDSSC",
    "NCC",
    "SSD",
    "Comparison",
    "Measure",
    "MutualInformation",
    "SquaredLNCC",
    "dice_loss",
    "measure_named",
    "one_hot",
]


@dataclass(frozen=True)
class LNCC(Measure):
    """Local normalized cross-correlation: mean over space of cov(W, F) / sqrt((var W + ε)(var F + ε)), in [-1, 1].

    Moments are weighted by a Gaussian of `sigma_vox`, cut to 4 sigma + 1 voxels (the nearest odd number), with zeros outside
    the image; variances below 0 by rounding count as 0. A mask selects the voxels of the outer mean, not of the moments.
    As in GradICON (Tian et al., CVPR 2023), whose ε is 1e-5; that of uniCARL is 1e-4. `stride_vox` takes the
    outer mean over every so many voxels along each axis (there: all of them).

    With `is_balanced`, ε is added to the covariance too. Equal images then have similarity 1, and none is more alike; without,
    an image that varies more than its equal is, by up to ε, which draws images apart that are in place.

    Raises:
        InputError: sigma_vox is below 0.5, epsilon is not positive, or stride_vox is below 1 or not a whole number.
    """

    sigma_vox: float = 5.0
    epsilon: float = 1e-5
    stride_vox: int = 1
    is_balanced: bool = False
    name: ClassVar[str] = "lncc"
    highest: ClassVar[float] = 1.0
    squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.sigma_vox < math.inf:
            raise InputError(f"sigma_vox must be at least 0.5 voxel; got {self.sigma_vox}. The published networks use 4 or 5.")
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"epsilon must be above 0; got {self.epsilon}. The published networks use 1e-5.")
        if not (isinstance(self.stride_vox, int) and self.stride_vox >= 1):
            raise InputError(
                f"stride_vox must be a whole number of voxels, at least 1; got {self.stride_vox!r}. The published networks use 1."
            )

    @property
    def reach_vox(self) -> int:
        """Half the window."""
        return round(2 * self.sigma_vox)

    @property
    def every_vox(self) -> int:
        """See `stride_vox`."""
        return self.stride_vox

    def places(self, mask: Tensor) -> Tensor:
        """A window counts where its cell holds a counted voxel, so that a thin mask does not fall through the lattice."""
        counted = super().places(mask)
        if self.stride_vox == 1:
            return counted
        pool = F.max_pool2d if mask.dim() == 4 else F.max_pool3d
        return pool(counted, self.stride_vox, ceil_mode=True)

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        taps = 2 * self.reach_vox + 1
        matrices = [separable.blur_matrix(size, self.sigma_vox, taps)[:: self.stride_vox] for size in fixed.shape[2:]]
        blur = _Blur(separable.on(matrices, fixed))
        if weight is not None and self.stride_vox > 1:
            weight = normalized_weight(self.places(weight), fixed)
        with torch.no_grad():
            moments = _local_moments(fixed, blur)
        added = self.epsilon if self.is_balanced else 0.0
        return _LocalCorrelation(fixed, weight, moments, blur, self.epsilon, added, self.squared)


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
    added: float
    squared: bool

    def __call__(self, warped: Tensor) -> Tensor:
        return differentiable(lambda wanted: self._evaluate(warped, wanted), (warped, self.fixed))

    def _evaluate(self, warped: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Gradients]:
        moments = _local_moments(warped, self.blur)
        scale = (moments.variance + self.epsilon).mul_(self.moments.variance + self.epsilon).rsqrt_()
        covariance = self.blur(warped * self.fixed).addcmul_(moments.mean, self.moments.mean, value=-1)
        lncc = covariance.add_(self.added).mul_(scale)
        value = spatial_mean(lncc.square() if self.squared else lncc, self.weight).mean()
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
        return lambda warped: differentiable(
            lambda wanted: _mean_correlation(_standardized(warped, weight), standard, weight, wanted), (warped, fixed)
        )


@dataclass(frozen=True)
class _Standardized:
    """An image with mean 0 and variance 1 per sample and channel, and the factor [B, C, 1, …] that made the variance so."""

    values: Tensor
    scale: Tensor


def _standardized(image: Tensor, weight: Tensor | None) -> _Standardized:
    centred = image - spatial_mean(image, weight)
    scale = (spatial_mean(centred.square(), weight) + 1e-12).rsqrt_()
    return _Standardized(centred.mul_(scale), scale)


def _mean_correlation(
    warped: _Standardized, fixed: _Standardized, weight: Tensor | None, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    correlation = spatial_mean(warped.values * fixed.values, weight)  # [B, C, 1, …]
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

    @property
    def reach_vox(self) -> int:
        """A voxel counts by itself."""
        return 0

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        if weight is None:
            return lambda warped: -F.mse_loss(warped, fixed)
        # Weights folded into the images keep no image of differences.
        root = (weight / (fixed.shape[0] * fixed.shape[1])).sqrt()
        return lambda warped: -F.mse_loss(warped * root, fixed * root, reduction="sum")


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
