"""How values lie in memory and on a lattice: channels last, cropped, and fine voxels as channels of coarse ones.

# B batch, C channel; N… the shape of a fine lattice, n… that of the coarse one, n = ceil(N / 2)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def format_of(values: Tensor) -> torch.memory_format:
    """Channels last, for `values` [B, C, …] in 2-D or 3-D."""
    return torch.channels_last if values.dim() == 4 else torch.channels_last_3d


def channels_last(values: Tensor) -> Tensor:
    """`values` [B, C, *shape] with the channels of a voxel side by side in memory."""
    return values.contiguous(memory_format=format_of(values))


def cropped(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The first voxels along each axis of `values` [B, C, …]: [B, C, *shape]."""
    for axis, size in enumerate(shape):
        values = values.narrow(2 + axis, 0, size)
    return values


def offsets(dim: int) -> list[tuple[int, ...]]:
    """Where the fine voxels of a coarse one lie in it, last axis fastest: (0, …, 0), (0, …, 1), …"""
    return list(itertools.product((0, 1), repeat=dim))


def shuffled(coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """The pixel shuffle of `coarse` [B, C · 2^dim, n…], whose channels are fine voxels: [B, C, *shape], cropped to `shape`."""
    dim = len(shape)
    channels = coarse.shape[1] // 2**dim
    split = coarse.reshape(len(coarse), channels, *(2,) * dim, *coarse.shape[2:])
    order = [0, 1, *(place for axis in range(dim) for place in (2 + dim + axis, 2 + axis))]
    fine = split.permute(order).reshape(len(coarse), channels, *(2 * size for size in coarse.shape[2:]))
    return cropped(fine, shape)


def unshuffled(fine: Tensor) -> Tensor:
    """The inverse of `shuffled`: [B, C, N…] to [B, C · 2^dim, n…], with zeros where a coarse voxel lacks a fine one."""
    dim = fine.dim() - 2
    size = (len(fine), fine.shape[1] * 2**dim, *((length + 1) // 2 for length in fine.shape[2:]))
    coarse = torch.empty(size, dtype=fine.dtype, device=fine.device, memory_format=format_of(fine))
    if any(length % 2 for length in fine.shape[2:]):
        coarse.zero_()
    for channels, voxels in shuffled_views(coarse, fine):
        channels.copy_(voxels)
    return coarse


def shuffled_views(coarse: Tensor, fine: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each offset, the channels of `coarse` [B, C · 2^dim, n…] and the voxels of `fine` [B, C, N…] that are one: two views."""
    places = offsets(fine.dim() - 2)
    for place, offset in enumerate(places):
        every_second = (slice(None), slice(None), *(slice(start, None, 2) for start in offset))
        voxels = fine[every_second]
        yield cropped(coarse[:, place :: len(places)], voxels.shape[2:]), voxels
