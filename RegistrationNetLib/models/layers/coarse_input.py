"""What the convolution of `linear_end` reads: features and images, side by side as channels on the coarse lattice.

# B batch, C channel; N… the shape of the images, n… that of the coarse lattice, n = ceil(N / 2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import format_of, shuffled_views

SLOPE = 0.01  # of the leaky ReLU


@dataclass(frozen=True)
class CoarseInput:
    """z of `linear_end`, for the layers `low` to `high` (exclusive) of the coarse lattice along `axis`.

    Layers -1 and n are the margins, one point beyond the lattice; along the other axes both margins belong to it always.

    Its channels are, in this order: the features after leaky ReLU, the skip, the first `kept` features as they are, and the
    images, whose 2^dim fine voxels at a coarse point are as many channels.

    Attributes:
        features: [B, C, n…], before leaky ReLU; like the next two of the whole lattice.
        skip: [B, C, n…], after leaky ReLU.
        images: [B, C, N…].
        kept: how many of the features are interpolated.
    """

    features: Tensor
    skip: Tensor
    images: Tensor
    kept: int
    axis: int
    low: int
    high: int

    @classmethod
    def whole(cls, features: Tensor, skip: Tensor, images: Tensor, *, kept: int) -> CoarseInput:
        """All layers of the lattice, with the margins."""
        return cls(features, skip, images, kept, 0, -1, features.shape[2] + 1)

    @property
    def dim(self) -> int:
        """Number of axes of the lattice."""
        return self.images.dim() - 2

    def layers(self, axis: int, low: int, high: int) -> CoarseInput:
        """The layers `low` to `high` along `axis` instead."""
        assert -1 <= low < high <= self.features.shape[2 + axis] + 1
        return replace(self, axis=axis, low=low, high=high)

    def stacked(self) -> Tensor:
        """The values of z, [B, C, n…] with the margins.

        The margins hold zeros, as a convolution expects them; but the interpolated features are repeated there, which is how
        interpolation treats a border.
        """
        features, skip = self._layers_of(self.features), self._layers_of(self.skip)
        size = [length + sum(ends) for length, ends in zip(features.shape[2:], self._margins(), strict=True)]
        z = torch.empty(
            (len(features), sum(self._channels()), *size),
            dtype=features.dtype, device=features.device, memory_format=format_of(features),
        ).zero_()  # fmt: skip
        activated, skipped, interpolated, voxels = self._split(self._without_margins(z))
        activated.copy_(F.leaky_relu(features, SLOPE))
        skipped.copy_(skip)
        interpolated.copy_(features[:, : self.kept])
        for channels, fine in shuffled_views(voxels, self._fine_layers_of(self.images)):
            channels.copy_(fine)
        for outside, inside in self._borders(self._split(z)[2]):
            outside.copy_(inside)
        return z

    def add_gradients(self, by_z: Tensor, by_features: Tensor | None, by_skip: Tensor | None, by_images: Tensor | None) -> None:
        """Takes the gradient with respect to `stacked()` back to the inputs: the transpose of `stacked`.

        Args:
            by_z: the gradient with respect to `stacked()`; overwritten.
            by_features, by_skip, by_images: gradients with respect to these, of the whole lattice, to which it is added. None
                where it is not wanted.
        """
        for outside, inside in reversed(list(self._borders(self._split(by_z)[2]))):
            inside.add_(outside)
        activated, skipped, interpolated, voxels = self._split(self._without_margins(by_z))
        if by_features is not None:
            total = self._layers_of(by_features)
            total += torch.ops.aten.leaky_relu_backward(activated, self._layers_of(self.features), SLOPE, False)
            total[:, : self.kept] += interpolated
        if by_skip is not None:
            self._layers_of(by_skip).add_(skipped)
        if by_images is not None:
            for channels, fine in shuffled_views(voxels, self._fine_layers_of(by_images)):
                fine.add_(channels)

    def _channels(self) -> list[int]:
        """How many channels each part of z has."""
        return [self.features.shape[1], self.skip.shape[1], self.kept, self.images.shape[1] * 2**self.dim]

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        activated, skipped, interpolated, voxels = z.split(self._channels(), dim=1)
        return activated, skipped, interpolated, voxels

    def _inner(self) -> tuple[int, int]:
        """These layers without the margins."""
        return max(self.low, 0), min(self.high, self.features.shape[2 + self.axis])

    def _layers_of(self, values: Tensor) -> Tensor:
        low, high = self._inner()
        return values.narrow(2 + self.axis, low, high - low)

    def _fine_layers_of(self, values: Tensor) -> Tensor:
        low, high = self._inner()
        stop = min(2 * high, values.shape[2 + self.axis])
        return values.narrow(2 + self.axis, 2 * low, stop - 2 * low)

    def _margins(self) -> list[tuple[int, int]]:
        """Per axis, how many points of a margin lie before and behind the lattice: 1 or 0."""
        low, high = self._inner()
        margins = [(1, 1)] * self.dim
        margins[self.axis] = low - self.low, self.high - high
        return margins

    def _without_margins(self, z: Tensor) -> Tensor:
        for axis, (before, behind) in enumerate(self._margins()):
            z = z.narrow(2 + axis, before, z.shape[2 + axis] - before - behind)
        return z

    def _borders(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each layer outside the lattice, and its neighbour inside."""
        for axis, (before, behind) in enumerate(self._margins()):
            if before:
                yield z.select(2 + axis, 0), z.select(2 + axis, 1)
            if behind:
                yield z.select(2 + axis, -1), z.select(2 + axis, -2)
