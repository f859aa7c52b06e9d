"""Values of a lattice read at any point, differentiable as often as asked for; and the points where lines along the axes cross.

The lattice spans the unit cube, first nodes at 0 and last at 1. Cubic B-splines, which make the read values smooth, have one node
more beyond the cube on each side. Beyond the border values stay as at the nearest border point. torch's own `grid_sample` does
the same linearly, but has no second derivative, which the training of a map by its gradient needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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


def reading_matrix(line: Tensor, size: int, smooth: bool) -> Tensor:
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
