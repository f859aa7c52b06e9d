"""What a network learns from: images on its lattice, two by two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..losses.direction import Side
from ..losses.overlap import one_hot


@dataclass(frozen=True)
class Example:
    """One image, or a batch of them, on the network's lattice.

    Attributes:
        values: [B, C, *shape] in [0, 1].
        mask: bool [B, 1, *shape], True where the similarity counts; None: everywhere.
        labels: int64 [B, 1, *shape], 0 is background; None: nothing is outlined.
    """

    values: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device: torch.device) -> Example:
        """The same on another device."""
        mask, labels = (None if one is None else one.to(device) for one in (self.mask, self.labels))
        return Example(self.values.to(device), mask, labels)


@dataclass(frozen=True)
class Pair:
    """Two images to register, or two batches of them."""

    fixed: Example
    moving: Example

    def to(self, device: torch.device) -> Pair:
        """The same on another device."""
        return Pair(self.fixed.to(device), self.moving.to(device))

    def sides(self) -> tuple[Side, Side]:
        """Fixed and moving as a loss wants them. Labels count where every pair of the batch has a class in common."""
        classes: tuple[Tensor | None, Tensor | None] = (None, None)
        one, other = self.fixed.labels, self.moving.labels
        if one is not None and other is not None and _share_a_class(one, other):
            classes = one_hot(one, other)
        return Side(self.fixed.values, self.fixed.mask, classes[0]), Side(self.moving.values, self.moving.mask, classes[1])


class Pairs(Protocol):
    """Where pairs come from."""

    def draw(self, random: torch.Generator) -> Pair:
        """One pair to learn from; it depends on nothing but `random`, so that training can be resumed at any step."""

    def first(self, count: int) -> list[Pair]:
        """At most so many pairs, the same every time, to look at."""


def stacked(pairs: Sequence[Pair]) -> Pair:
    """Pairs of one shape as one batch. Who lacks a mask counts everywhere, who lacks labels has background only."""
    return Pair(_stacked([pair.fixed for pair in pairs]), _stacked([pair.moving for pair in pairs]))


def _stacked(examples: Sequence[Example]) -> Example:
    blank = [torch.zeros_like(one.values[:, :1], dtype=torch.int64) for one in examples]
    mask = labels = None
    if any(one.mask is not None for one in examples):
        masks = (zeros == 0 if one.mask is None else one.mask for one, zeros in zip(examples, blank, strict=True))
        mask = torch.cat(list(masks))
    if any(one.labels is not None for one in examples):
        found = (zeros if one.labels is None else one.labels for one, zeros in zip(examples, blank, strict=True))
        labels = torch.cat(list(found))
    return Example(torch.cat([one.values for one in examples]), mask, labels)


def _share_a_class(fixed: Tensor, moving: Tensor) -> bool:
    """Has every pair of the batch a label other than background in common?"""
    return all(
        bool(set(one.unique().tolist()) & set(other.unique().tolist()) - {0}) for one, other in zip(fixed, moving, strict=True)
    )
