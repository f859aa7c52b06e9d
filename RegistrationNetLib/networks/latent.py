"""Latent codes of a deformation: one for the whole pair, and a lattice of local ones, read at any point.

The lattice spans the unit cube, first nodes at 0 and last at 1. Between nodes the codes are linear, and beyond the border they
stay as at the nearest border point. torch's own `grid_sample` does the same, but has no second derivative, which the training
of a map by its gradient needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..separable import apply_along_axes, interpolation_matrix, on


def interpolated(values: Tensor, points: Tensor) -> Tensor:
    """`values` [B, C, *shape] at `points` [B, dim, *any] of the unit cube: [B, *any, C], differentiable as often as asked for.

    Linear between the voxels, constant beyond the border. Values of another dtype than the points' are converted where they
    are read, so that a large image can stay as it is. A batch of 1, of values or of points, serves every entry of the other.
    """
    batch, dim = max(values.shape[0], points.shape[0]), points.shape[1]
    assert {values.shape[0], points.shape[0]} <= {1, batch}, "points and values differ in batch"
    shape, channels = values.shape[2:], values.shape[1]
    entry = torch.zeros(points.shape[:1] + points.shape[2:], dtype=torch.long, device=points.device)
    if values.shape[0] > 1:
        entry = entry + torch.arange(batch, device=points.device).view(-1, *(1,) * (points.dim() - 2))
    # Nodes lie one after the other, each with its channels together, so that a node is read in one piece.
    nodes = values.flatten(2).transpose(1, 2).reshape(-1, channels)
    corners = [_corners(points[:, axis], size) for axis, size in enumerate(shape)]
    total: Tensor | None = None
    for chosen in itertools.product((0, 1), repeat=dim):
        index, weight = entry, None
        for axis, side in enumerate(chosen):
            index = index * shape[axis] + corners[axis][0][side]
            share = corners[axis][1][side]
            weight = share if weight is None else weight * share
        assert weight is not None
        read = nodes.index_select(0, index.flatten()).to(points.dtype).view(*index.shape, channels)
        part = read * weight[..., None]
        total = part if total is None else total + part
    assert total is not None
    return total


def _corners(coordinate: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The nodes on either side of a coordinate along an axis of `size` nodes, and their weights."""
    position = coordinate.clamp(0, 1) * (size - 1)
    lower = position.detach().floor().long().clamp(max=max(size - 2, 0))
    fraction = position - lower
    return (lower, (lower + 1).clamp(max=size - 1)), (1 - fraction, fraction)


@dataclass(frozen=True, eq=False)
class LatentCodes:
    """What a pair of images says to the network that maps points.

    Attributes:
        of_pair: one code for all points, [B, G].
        local: codes on a lattice over the unit cube, [B, L, *shape].
    """

    of_pair: Tensor
    local: Tensor

    @property
    def channels(self) -> int:
        return self.of_pair.shape[1] + self.local.shape[1]

    def at(self, points: Tensor) -> Tensor:
        """The code of each of `points` [B, dim, *any], that of the pair first: [B, *any, G + L]."""
        local = interpolated(self.local, points)
        shared = self.of_pair.view(self.of_pair.shape[0], *(1,) * (local.dim() - 2), -1)
        return torch.cat([shared.expand(*local.shape[:-1], -1), local], dim=-1)

    def norm(self) -> Tensor:
        """Mean length of the code of the pair plus mean length of the local codes, a scalar: the prior of NePhi."""
        return self.of_pair.norm(dim=1).mean() + self.local.norm(dim=1).mean()

    def on(self, shape: Sequence[int]) -> LatentCodes:
        """The same codes on a lattice of `shape`; the same map where every old node is a node of it."""
        matrices = [interpolation_matrix(new, old) for new, old in zip(shape, self.local.shape[2:], strict=True)]
        return LatentCodes(self.of_pair, apply_along_axes(self.local, on(matrices, self.local)))

    def detached(self) -> LatentCodes:
        """The same numbers as new leaves, ready to be optimized."""
        of_pair, local = (one.detach().clone().requires_grad_() for one in (self.of_pair, self.local))
        return LatentCodes(of_pair, local)


def random_codes(channels: tuple[int, int], shape: Sequence[int], generator: torch.Generator, *, like: Tensor) -> LatentCodes:
    """Codes drawn from N(0, 1 / channels) each, of the pair and local, for a pair without an encoder (NePhi's table of codes)."""
    of_pair = torch.randn(1, channels[0], generator=generator) / channels[0] ** 0.5
    local = torch.randn(1, channels[1], *shape, generator=generator) / channels[1] ** 0.5
    return LatentCodes(of_pair.to(like), local.to(like))
