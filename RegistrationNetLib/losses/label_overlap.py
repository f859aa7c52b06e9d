"""Soft Dice of label images without a copy for each label: any number of labels costs what one does.

It is that of memberships (`overlap.dice_loss`), linear between voxels: a point takes part in the labels of the voxels around it, at
most 8, with the weights of the interpolation. So overlaps and volumes of all labels are sums over these, and so is the gradient.

# P points, K labels
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

# As in `dice_loss`.
EPSILON = 1e-6


def numbered(labels: Tensor, other_labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Two label images with their common labels numbered from 1 up to the count, which comes along; all else is 0. int32.

    Raises:
        InputError: they have none in common besides background (0).
    """
    found = [one.unique() for one in (labels, other_labels)]
    shared = found[0][torch.isin(found[0], found[1]) & (found[0] != 0)]
    if not len(shared):
        raise InputError(
            "The label images have no class in common; Dice needs at least one besides background (0). "
            f"Got {found[0].tolist()} and {found[1].tolist()}. Check that both use one labelling."
        )

    def number(values: Tensor) -> Tensor:
        place = torch.searchsorted(shared, values).clamp_(max=len(shared) - 1)
        return torch.where(shared[place] == values, place + 1, 0).int()

    return number(labels), number(other_labels), len(shared)


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Numbered labels of two images [1, 1, *any], those of `sampled` to be compared with `compared` on its lattice."""

    compared: Tensor
    sampled: Tensor
    count: int

    def loss(self, points: Tensor) -> Tensor:
        """1 - mean Dice, the lattice being moved to `points` [1, dim, *shape] of the unit cube, a scalar; differentiable in them."""
        loss: Tensor = _LabelLoss.apply(points, self)  # type: ignore[no-untyped-call]
        return loss

    def overlaps(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of each number from 1 on [K]: twice what both images share of it, and what they have of it together."""
        own = self.compared.flatten().long()
        shared, both = points.new_zeros(self.count + 1), torch.bincount(own, minlength=self.count + 1).to(points)
        for number, weight, _ in self.corners(points):
            both.index_add_(0, number, weight)
            shared.index_add_(0, own, weight * (number == own))
        return 2 * shared[1:] + EPSILON, both[1:] + EPSILON

    def corners(self, points: Tensor) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Of the voxels around each point: their number [P], their weight [P], and its slope along each axis [P]."""
        labels = self.sampled[0, 0]
        lower, fraction, inside = [], [], []
        for place, size in zip(points.flatten(2)[0], labels.shape, strict=True):
            position = (place * (size - 1)).clamp(0, size - 1)
            first = position.floor().clamp_(max=max(size - 2, 0))
            lower.append(first.long())
            fraction.append(position - first)
            inside.append(((place >= 0) & (place <= 1)) * float(size - 1))
        flat = labels.flatten()
        for corner in itertools.product((0, 1), repeat=labels.dim()):
            index = torch.zeros_like(lower[0])
            for first, step, size in zip(lower, corner, labels.shape, strict=True):
                index = index * size + (first + step).clamp_(max=size - 1)
            shares = [part if step else 1 - part for part, step in zip(fraction, corner, strict=True)]
            slopes = []
            for axis, step in enumerate(corner):
                others = [share for other, share in enumerate(shares) if other != axis]
                slopes.append((1 if step else -1) * inside[axis] * torch.stack(others).prod(dim=0))
            yield flat[index].long(), torch.stack(shares).prod(dim=0), slopes


class _LabelLoss(torch.autograd.Function):
    """1 - mean Dice, whose gradient is worked out together with it."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, pair: LabelPair) -> Tensor:
        shared, both = pair.overlaps(points)
        gradient = torch.zeros_like(points)
        if ctx.needs_input_grad[0]:
            nothing, share = points.new_zeros(1), 1 / pair.count
            by_overlap, by_volume = torch.cat([nothing, -2 * share / both]), torch.cat([nothing, share * shared / both.square()])
            own = pair.compared.flatten().long()
            lines = gradient.flatten(2)[0]
            for number, _, slopes in pair.corners(points):
                pull = by_volume[number] + by_overlap[own] * (number == own)
                for axis, slope in enumerate(slopes):
                    lines[axis] += pull * slope
        ctx.save_for_backward(gradient)
        return 1 - (shared / both).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None
