"""Latent codes of a deformation: one for the whole pair, and a lattice of local ones, read at any point.

The lattice spans the unit cube, first nodes at 0 and last at 1. Between nodes the published codes are linear; smooth ones, which
are not published, are cubic B-splines, so that the map has no kinks, and have one node more beyond the cube on each side. Beyond
the border codes stay as at the nearest border point. torch's own `grid_sample` does the same, but has no second derivative, which the training
of a map by its gradient needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..separable import apply_along_axes, bspline_change_matrix, interpolation_matrix, on


def interpolated(values: Tensor, points: Tensor, *, smooth: bool = False) -> Tensor:
    """`values` [B, C, *shape] at `points` [B, dim, *any] of the unit cube: [B, *any, C], differentiable as often as asked for.

    Linear between the voxels (`smooth`: cubic B-splines), constant beyond the border. Values of another dtype than the points' are converted where they
    are read, so that a large image can stay as it is. A batch of 1, of values or of points, serves every entry of the other.
    """
    batch = max(values.shape[0], points.shape[0])
    assert {values.shape[0], points.shape[0]} <= {1, batch}, "points and values differ in batch"
    shape, channels = values.shape[2:], values.shape[1]
    points = points.expand(batch, *points.shape[1:])
    entry = torch.zeros(points.shape[:1] + points.shape[2:], dtype=torch.long, device=points.device)
    if values.shape[0] > 1:
        entry = entry + torch.arange(batch, device=points.device).view(-1, *(1,) * (points.dim() - 2))
    # Nodes lie one after the other, each with its channels together, so that a node is read in one piece.
    nodes = values.flatten(2).transpose(1, 2).reshape(-1, channels)
    index, weight = entry.flatten()[:, None], points.new_ones(entry.numel(), 1)
    for axis, size in enumerate(shape):
        taps, shares = _taps(points[:, axis].flatten(), size, smooth)
        index = (index[:, :, None] * size + taps[:, None]).flatten(1)
        weight = (weight[:, :, None] * shares[:, None]).flatten(1)
    read = nodes.index_select(0, index.flatten()).to(points.dtype).view(*index.shape, channels)
    return (weight[:, None] @ read).view(*entry.shape, channels)


def _taps(coordinate: Tensor, size: int, smooth: bool) -> tuple[Tensor, Tensor]:
    """The nodes around each coordinate along an axis of `size` nodes that count there, and their weights: [*any, taps] each."""
    intervals = size - 3 if smooth else size - 1
    position = coordinate.clamp(0, 1) * intervals
    first = position.detach().floor().long().clamp(max=max(intervals - 1, 0))
    t = position - first
    if not smooth:
        return torch.stack([first, (first + 1).clamp(max=size - 1)], -1), torch.stack([1 - t, t], -1)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return torch.stack([first + tap for tap in range(4)], -1), torch.stack(weights, -1) / 6


def _matrix(line: Tensor, size: int, smooth: bool) -> Tensor:
    """What `interpolated` does along an axis of `size` nodes at the coordinates `line` [P, count]: [P, count, size]."""
    nodes, weights = _taps(line, size, smooth)
    matrix = line.new_zeros(*line.shape, size)
    return matrix.scatter_add(-1, nodes, weights)


def crossings(lines: Sequence[Tensor]) -> Tensor:
    """The points where lines along the axes cross, coordinates [P, count] for each: [P, dim, *counts]."""
    counts = [line.shape[1] for line in lines]
    views = [
        line.view(len(line), *(count if other == axis else 1 for other, count in enumerate(counts))).expand(-1, *counts)
        for axis, line in enumerate(lines)
    ]
    return torch.stack(views, dim=1)


@dataclass(frozen=True, eq=False)
class LatentCodes:
    """What a pair of images says to the network that maps points.

    Attributes:
        of_pair: one code for all points, [B, G].
        local: codes on a lattice over the unit cube, [B, L, *shape].
        smooth: between the nodes they are cubic B-splines, rather than linear.
    """

    of_pair: Tensor
    local: Tensor
    smooth: bool = False

    @property
    def channels(self) -> int:
        return self.of_pair.shape[1] + self.local.shape[1]

    def at(self, points: Tensor) -> Tensor:
        """The code of each of `points` [B, dim, *any], that of the pair first: [B, *any, G + L]."""
        return self._with_pair(interpolated(self.local, points, smooth=self.smooth))

    def on_lines(self, lines: Sequence[Tensor]) -> Tensor:
        """The codes where lines along the axes cross, as `at` gives them: [P, *counts, G + L].

        Axis by axis, which for a lattice of points is much less work. `lines` are coordinates [P, count] for each axis; they
        get no gradient. For a batch of 1.
        """
        values = self.local
        for axis, line in enumerate(lines):
            values = values.movedim(2 + axis, 2)
            rest = values.shape[3:]
            values = _matrix(line, values.shape[2], self.smooth)[:, None] @ values.flatten(3)
            values = values.unflatten(3, rest).movedim(2, 2 + axis)
        return self._with_pair(values.movedim(1, -1))

    def _with_pair(self, local: Tensor) -> Tensor:
        shared = self.of_pair.view(self.of_pair.shape[0], *(1,) * (local.dim() - 2), -1)
        return torch.cat([shared.expand(*local.shape[:-1], -1), local], dim=-1)

    def norm(self) -> Tensor:
        """Mean length of the code of the pair plus mean length of the local codes, a scalar: the prior of NePhi."""
        return self.of_pair.norm(dim=1).mean() + self.local.norm(dim=1).mean()

    def on(self, shape: Sequence[int]) -> LatentCodes:
        """The same codes on a lattice of `shape`; the same map where every old node (within the cube) is a node of it."""
        pairs = list(zip(shape, self.local.shape[2:], strict=True))
        if self.smooth:
            matrices = [bspline_change_matrix(new - 3, old - 3) for new, old in pairs]
        else:
            matrices = [interpolation_matrix(new, old) for new, old in pairs]
        return replace(self, local=apply_along_axes(self.local, on(matrices, self.local)))

    def detached(self) -> LatentCodes:
        """The same numbers as new leaves, ready to be optimized."""
        of_pair, local = (one.detach().clone().requires_grad_() for one in (self.of_pair, self.local))
        return replace(self, of_pair=of_pair, local=local)


def random_codes(
    channels: tuple[int, int], shape: Sequence[int], generator: torch.Generator, *, like: Tensor, smooth: bool = False
) -> LatentCodes:
    """Codes drawn from N(0, 1 / channels) each, of the pair and local, for a pair without an encoder (NePhi's table of codes)."""
    of_pair = torch.randn(1, channels[0], generator=generator) / channels[0] ** 0.5
    local = torch.randn(1, channels[1], *shape, generator=generator) / channels[1] ** 0.5
    return LatentCodes(of_pair.to(like), local.to(like), smooth)
