"""What the end of the U-net reads at each point of the coarse lattice, as channels; and the way back of its gradient.

# B batch, C channel; N… the shape of the images, n… that of the coarse lattice, n = ceil(N / 2)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.01


@dataclass(frozen=True)
class Surroundings:
    """Layers of the coarse lattice, from `low` to `high` (exclusive) along `axis`.

    `coarse` [B, C, n…] are features not yet activated, `skip` [B, C, n…] activated ones, `images` [B, C, N…]; all of the whole
    lattice. The first `kept` channels of `coarse` are also read as they are.
    """

    coarse: Tensor
    skip: Tensor
    images: Tensor
    kept: int
    axis: int
    low: int
    high: int

    @classmethod
    def of_lattice(cls, coarse: Tensor, skip: Tensor, images: Tensor, *, kept: int) -> Surroundings:
        return cls(coarse, skip, images, kept, 0, 0, coarse.shape[2])

    @property
    def dim(self) -> int:
        return self.images.dim() - 2

    def layers(self, axis: int, low: int, high: int) -> Surroundings:
        """Other layers, as far as there are any."""
        return replace(self, axis=axis, low=max(low, 0), high=min(high, self.coarse.shape[2 + axis]))

    def tensor(self) -> Tensor:
        """[B, C, n…] with one more point on each side where the lattice ends; `pull_back` is its gradient.

        There are zeros, but the features that are not activated go on as interpolation has them do.
        """
        coarse, skip = self._layers_of(self.coarse), self._layers_of(self.skip)
        size = [length + sum(ends) for length, ends in zip(coarse.shape[2:], self._ends(), strict=True)]
        around = torch.empty(
            (len(coarse), sum(self._channels()), *size), dtype=coarse.dtype, device=coarse.device, memory_format=format_of(coarse)
        ).zero_()
        activated, skipped, shortcut, phases = self._split(self._inside(around))
        activated.copy_(F.leaky_relu(coarse, SLOPE))
        skipped.copy_(skip)
        shortcut.copy_(coarse[:, : self.kept])
        for place, fine in _with_phases(phases, self._fine_layers_of(self.images)):
            place.copy_(fine)
        for beyond, last in self._borders(self._split(around)[2]):
            beyond.copy_(last)
        return around

    def pull_back(self, pull: Tensor, by_coarse: Tensor | None, by_skip: Tensor | None, by_images: Tensor | None) -> None:
        """Adds the gradients to those with respect to the inputs that are given; `pull`, with respect to `tensor()`, is overwritten."""
        for beyond, last in reversed(list(self._borders(self._split(pull)[2]))):
            last.add_(beyond)
        activated, skipped, shortcut, phases = self._split(self._inside(pull))
        if by_coarse is not None:
            total = self._layers_of(by_coarse)
            total += torch.ops.aten.leaky_relu_backward(activated, self._layers_of(self.coarse), SLOPE, False)
            total[:, : self.kept] += shortcut
        if by_skip is not None:
            self._layers_of(by_skip).add_(skipped)
        if by_images is not None:
            for place, fine in _with_phases(phases, self._fine_layers_of(by_images)):
                fine.add_(place)

    def _channels(self) -> list[int]:
        """Of the activated features, the skip, the features as they are, and the images."""
        return [self.coarse.shape[1], self.skip.shape[1], self.kept, self.images.shape[1] * 2**self.dim]

    def _split(self, around: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        activated, skipped, shortcut, phases = around.split(self._channels(), dim=1)
        return activated, skipped, shortcut, phases

    def _layers_of(self, values: Tensor) -> Tensor:
        return values.narrow(2 + self.axis, self.low, self.high - self.low)

    def _fine_layers_of(self, values: Tensor) -> Tensor:
        stop = min(2 * self.high, values.shape[2 + self.axis])
        return values.narrow(2 + self.axis, 2 * self.low, stop - 2 * self.low)

    def _ends(self) -> list[tuple[int, int]]:
        """Per axis, how many points there are before and behind the lattice: 1 where it ends, 0 in its middle."""
        ends = [(1, 1)] * self.dim
        ends[self.axis] = int(self.low == 0), int(self.high == self.coarse.shape[2 + self.axis])
        return ends

    def _inside(self, around: Tensor) -> Tensor:
        for axis, (before, behind) in enumerate(self._ends()):
            around = around.narrow(2 + axis, before, around.shape[2 + axis] - before - behind)
        return around

    def _borders(self, around: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each layer outside the lattice, and the last one inside."""
        for axis, (before, behind) in enumerate(self._ends()):
            if before:
                yield around.select(2 + axis, 0), around.select(2 + axis, 1)
            if behind:
                yield around.select(2 + axis, -1), around.select(2 + axis, -2)


def format_of(values: Tensor) -> torch.memory_format:
    """Channels last, for [B, C, …] in 2-D or 3-D."""
    return torch.channels_last if values.dim() == 4 else torch.channels_last_3d


def channels_last(values: Tensor) -> Tensor:
    """`values` [B, C, *shape] with the channels of a voxel side by side in memory."""
    return values.contiguous(memory_format=format_of(values))


def cropped(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The first voxels along each axis of `values` [B, C, …]: [B, C, *shape]."""
    for axis, size in enumerate(shape):
        values = values.narrow(2 + axis, 0, size)
    return values


def phases(dim: int) -> list[tuple[int, ...]]:
    """The fine voxels of a coarse one, last axis fastest: (0, …, 0), (0, …, 1), …"""
    return list(itertools.product((0, 1), repeat=dim))


def _with_phases(coarse: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of `coarse` [B, C · 2^dim, n…], whose channels are the fine voxels, each with that of these voxels of `images` [B, C, N…]."""
    places = phases(images.dim() - 2)
    for place, bits in enumerate(places):
        every_second = (slice(None), slice(None), *(slice(bit, None, 2) for bit in bits))
        fine = images[every_second]
        yield cropped(coarse[:, place :: len(places)], fine.shape[2:]), fine


def voxels_from_phases(coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """[B, C · 2^dim, n…], the fine voxels as channels, to [B, C, *shape]."""
    dim = len(shape)
    channels = coarse.shape[1] // 2**dim
    split = coarse.reshape(len(coarse), channels, *(2,) * dim, *coarse.shape[2:])
    order = [0, 1, *(place for axis in range(dim) for place in (2 + dim + axis, 2 + axis))]
    fine = split.permute(order).reshape(len(coarse), channels, *(2 * size for size in coarse.shape[2:]))
    return cropped(fine, shape)


def phases_from_voxels(fine: Tensor) -> Tensor:
    """`fine` [B, C, N…] to [B, C · 2^dim, n…], the fine voxels as channels; zeros where a coarse one has no fine one."""
    dim = fine.dim() - 2
    size = (len(fine), fine.shape[1] * 2**dim, *((length + 1) // 2 for length in fine.shape[2:]))
    coarse = torch.empty(size, dtype=fine.dtype, device=fine.device, memory_format=format_of(fine))
    if any(length % 2 for length in fine.shape[2:]):
        coarse.zero_()
    for place, some in _with_phases(coarse, fine):
        place.copy_(some)
    return coarse
