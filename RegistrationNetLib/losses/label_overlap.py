"""Soft Dice of label images without a copy for each label: any number of labels costs what one does.

It is that of memberships (`overlap.dice_loss`), linear between voxels: a point takes part in the labels of the voxels around it, at
most 8, with the weights of the interpolation. So overlaps and volumes of all labels are sums over these, and so is the gradient.

# P points, K labels
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

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


def on_lattice_of(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """By the nearest voxel on a lattice of `shape` with the same first and last voxels: [1, 1, *shape]."""
    if labels.shape[2:] == torch.Size(shape):
        return labels
    for axis, (new, old) in enumerate(zip(shape, labels.shape[2:], strict=True)):
        places = torch.linspace(0, old - 1, new, device=labels.device).round().long()
        labels = labels.index_select(2 + axis, places)
    return labels


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Numbered labels of two images [1, 1, *any], those of `sampled` to be compared with `compared` on its lattice."""

    compared: Tensor
    sampled: Tensor
    count: int

    def sums(self) -> LabelSums:
        """The loss 1 - mean Dice, to be summed over the points of the lattice."""
        return LabelSums(self, *(torch.zeros(self.count + 1, dtype=torch.float32, device=self.compared.device) for _ in range(2)))


@dataclass(frozen=True, eq=False)
class LabelSums:
    """Overlap and volume of each number so far, [K + 1]; see `layered_points.Summed`."""

    pair: LabelPair
    overlap: Tensor
    volume: Tensor

    def add(self, points: Tensor, layers: slice) -> None:
        """Take part of the lattice in, mapped to `points` [1, dim, layers, *rest]."""
        own = self.pair.compared[0, 0, layers].flatten().long()
        for number, weight, _ in self._corners(points):
            self.volume.index_add_(0, number, weight)
            self.overlap.index_add_(0, own, weight * (number == own))

    def value(self) -> Tensor:
        """1 - mean Dice, a scalar."""
        return 1 - (self._shared() / self._both()).mean()

    def pulled_back(self, points: Tensor, layers: slice) -> Tensor:
        """The gradient of `value` with respect to the points of part of the lattice, when all of it is taken in."""
        own = self.pair.compared[0, 0, layers].flatten().long()
        share = 1 / self.pair.count
        by_overlap, by_volume = torch.zeros_like(self.overlap), torch.zeros_like(self.volume)
        by_overlap[1:] = -2 * share / self._both()
        by_volume[1:] = share * self._shared() / self._both().square()
        gradient = torch.zeros_like(points.flatten(2)[0])
        for number, _, slopes in self._corners(points):
            pull = by_volume[number] + by_overlap[own] * (number == own)
            for axis, slope in enumerate(slopes):
                gradient[axis] += pull * slope
        return gradient.view_as(points)

    def _shared(self) -> Tensor:
        return 2 * self.overlap[1:] + EPSILON

    def _both(self) -> Tensor:
        numbers = self.pair.compared.flatten()
        volume = torch.bincount(numbers, minlength=self.pair.count + 1).to(self.volume)
        return self.volume[1:] + volume[1:] + EPSILON

    def _corners(self, points: Tensor) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """Of the voxels around each point: their number [P], their weight [P], and its slope along each axis [P]."""
        labels = self.pair.sampled[0, 0]
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
