"""Mutual information: how well the intensities of one image predict those of the other, whatever they stand for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from .measure import Gradients, Measure, differentiable

FEWEST_BINS = 8


@dataclass(frozen=True)
class MutualInformation(Measure):
    """Mutual information of the intensities, in nats: Σ p log(p / (p_warped p_fixed)), at least 0.

    Mattes et al., IEEE TMI 2003: a joint histogram of `bins` by `bins` with cubic B-spline Parzen windows. Here both images
    have a cubic window (there: fixed has a box), so that the measure is symmetric and differentiable in both. Intensities are
    expected in [0, 1] and clamped to it; the range spans `bins` - 3 steps, so that the windows at its ends lie within the histogram.
    Histograms are per sample and channel, and the information is averaged over them. It is not normalized by an entropy.
    A mask selects the voxels that enter the histogram. On CUDA the order of the sums is not deterministic.

    With `is_fitted` the histogram gets coarser where there are fewer voxels than cells, so that each cell gets one on average.

    Raises:
        InputError: bins is not a whole number in 4 … 256.
    """

    bins: int = 32
    is_fitted: bool = False
    name: ClassVar[str] = "mi"
    highest: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.bins, int) and 4 <= self.bins <= 256):
            raise InputError(f"bins must be a whole number from 4 to 256; got {self.bins!r}. The usual value is 32.")

    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        counted = None if weight is None else [(one != 0).flatten().nonzero()[:, 0] for one in weight]
        return lambda warped: differentiable(
            lambda wanted: _mean_information(warped, fixed, counted, self, wanted), (warped, fixed)
        )


def _mean_information(
    warped: Tensor, fixed: Tensor, counted: Sequence[Tensor] | None, measure: MutualInformation, wanted: tuple[bool, bool]
) -> tuple[Tensor, Gradients]:
    """Mean over samples and channels of the information between the `counted` voxels, and its gradients where wanted."""
    samples, channels = warped.shape[:2]
    gradients = [warped.new_zeros(warped.shape) if want else None for want in wanted]
    value = warped.new_zeros(())
    for sample, channel in itertools.product(range(samples), range(channels)):
        chosen = slice(None) if counted is None else counted[sample]
        pair = (warped[sample, channel].flatten()[chosen], fixed[sample, channel].flatten()[chosen])
        bins = min(measure.bins, max(FEWEST_BINS, math.isqrt(len(pair[0])))) if measure.is_fitted else measure.bins
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
