"""Two lists of landmarks matched with each other: by their labels where both have the same ones, else by their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .warning import Warn, python_warning

Points = NDArray[np.float64]


class PlacedPoints(Protocol):
    """Points that have a place; `numbers` are their places among all points of their list, from 0, of which there are `count`."""

    @property
    def points_mm(self) -> Points:
        """[N, dim], LPS."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each, "" where there is none."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The place of each in the list."""

    @property
    def count(self) -> int:
        """How many points the list has, placed or not."""


@dataclass(frozen=True)
class ListedPoints:
    """The simplest `PlacedPoints`."""

    points_mm: Points
    labels: tuple[str, ...]
    numbers: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Matched:
    """The landmarks that both lists have: [N, dim] each, the same one at the same place, and what each is called."""

    fixed_mm: Points
    moving_mm: Points
    labels: tuple[str, ...]


def matched(fixed: PlacedPoints, moving: PlacedPoints, warn: Warn = python_warning) -> Matched:
    """The landmarks of both.

    Args:
        warn: hears which landmarks one of the two lacks, and if the order differed.

    Raises:
        InputError: labels occur twice in another order, or there are no labels in common and not as many points.
    """
    if is_unique(fixed.labels) and is_unique(moving.labels) and (common := [one for one in fixed.labels if one in moving.labels]):
        return _by_label(fixed, moving, common, warn)
    has_labels = any(fixed.labels) and any(moving.labels)
    if has_labels and fixed.labels != moving.labels and Counter(fixed.labels) == Counter(moving.labels):
        raise InputError(
            "Labels of the landmarks occur more than once and stand in different orders in fixed and moving; each label must be there once. "
            "Rename them."
        )
    if fixed.count != moving.count:
        raise InputError(
            f"There are {fixed.count} landmarks of fixed and {moving.count} of moving, without labels in common; they must be as many. "
            "Label them, or remove those that the other lacks."
        )
    numbers = [number for number in fixed.numbers if number in moving.numbers]
    if not numbers:
        raise InputError("No landmark has a place in both fixed and moving; at least one must. Place them, and save again.")
    places = [fixed.numbers.index(number) for number in numbers]
    return Matched(
        fixed.points_mm[places],
        moving.points_mm[[moving.numbers.index(number) for number in numbers]],
        tuple(fixed.labels[place] or str(number + 1) for place, number in zip(places, numbers, strict=True)),
    )


def is_unique(labels: Sequence[str]) -> bool:
    """Whether every point has a label of its own."""
    return all(labels) and len(set(labels)) == len(labels)


def _by_label(fixed: PlacedPoints, moving: PlacedPoints, common: Sequence[str], warn: Warn) -> Matched:
    alone = sorted({*fixed.labels} ^ {*moving.labels})
    if alone:
        warn(f"Landmarks that only one of the images has were left out: {', '.join(alone)}.")
    if [one for one in moving.labels if one in common] != list(common):
        warn("The landmarks of moving stand in another order than those of fixed; they were matched by their labels.")
    return Matched(
        fixed.points_mm[[fixed.labels.index(label) for label in common]],
        moving.points_mm[[moving.labels.index(label) for label in common]],
        tuple(common),
    )
