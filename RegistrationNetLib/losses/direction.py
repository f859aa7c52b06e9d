"""One direction of a registration: which image is sampled, what it is compared with, and where that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..geometry.deformation import Outside, jacobian_determinant, sample
from ..geometry.layered_points import AddedUp, added_up_over
from .blockwise import BlockwiseComparison, blockwise
from .label_overlap import LabelPair
from .measure import Comparison, Measure
from .overlap import dice_loss


class Moved(Protocol):
    """The lattice of a comparison, moved by a map."""

    def sampled(self, image: Tensor, outside: Outside) -> Tensor:
        """The image [1, C, *any] where the lattice is moved to: [1, C, *shape]."""

    def determinant(self) -> Tensor:
        """Of the map, in unit-cube coordinates: [1, 1, *shape]."""

    def added_up(self, work: AddedUp) -> Tensor:
        """A number that is a sum over boxes of the lattice, a scalar."""


@dataclass(frozen=True, eq=False)
class MovedPoints:
    """The moved lattice as points [1, dim, *shape] of the unit cube."""

    points: Tensor

    def sampled(self, image: Tensor, outside: Outside) -> Tensor:
        """See `Moved`."""
        return sample(image, self.points, outside=outside)

    def determinant(self) -> Tensor:
        """See `Moved`."""
        return jacobian_determinant(self.points)

    def added_up(self, work: AddedUp) -> Tensor:
        """See `Moved`."""
        return added_up_over(self.points, work)


@dataclass(frozen=True)
class Direction:
    """What the loss of one direction needs beside the map.

    Attributes:
        comparison: with the image on whose lattice the points lie.
        sampled: the other image, [1, C, *shape], which is sampled at the mapped points.
        classes, sampled_classes: memberships of labels [1, classes, *shape] on either side; both or neither.
        labels: numbered ones on either side, in place of memberships.
        dice_weight: of the Dice loss of these classes or labels.
        outside: what `sampled` is beyond its border.
        volume_ratio: None, or, where mass is conserved, the volume of the cube of `sampled` over that of the points: sampled
            values are densities then, multiplied by the determinant of the map in mm, so that air which is breathed in dilutes
            the tissue (intensity conservation, for CT of lungs).
        weight: of the comparison.
    """

    comparison: Comparison | BlockwiseComparison
    sampled: Tensor
    classes: Tensor | None = None
    sampled_classes: Tensor | None = None
    dice_weight: float = 1.0
    outside: Outside = "border"
    volume_ratio: float | None = None
    weight: float = 1.0
    labels: LabelPair | None = None

    def loss(self, moved: Tensor | Moved) -> Tensor:
        """The loss of the map that has `moved` the lattice of the comparison, to points [1, dim, *shape] of the unit cube, say; a scalar."""
        moved = MovedPoints(moved) if isinstance(moved, Tensor) else moved
        loss = self.weight * self._compared(moved)
        if self.classes is not None and self.sampled_classes is not None:
            loss = loss + self.dice_weight * dice_loss(moved.sampled(self.sampled_classes, "border"), self.classes)
        if self.labels is not None:
            assert isinstance(moved, MovedPoints), "labels are compared at points that are held"
            loss = loss + self.dice_weight * self.labels.loss(moved.points)
        return loss

    def _compared(self, moved: Moved) -> Tensor:
        if isinstance(self.comparison, BlockwiseComparison):
            return moved.added_up(self.comparison.with_sampled(self.sampled, self.outside))
        warped = moved.sampled(self.sampled, self.outside)
        if self.volume_ratio is not None:
            warped = warped * moved.determinant() * self.volume_ratio
        return self.comparison.loss(warped)


@dataclass(frozen=True)
class Side:
    """One image as a loss wants it: values [1, C, *shape], where they count (None: everywhere), memberships of its labels (None: none).

    `labels` are numbered ones [1, 1, *shape] in place of memberships, and `label_count` the largest number.
    """

    values: Tensor
    mask: Tensor | None = None
    classes: Tensor | None = None
    labels: Tensor | None = None
    label_count: int = 0


@dataclass(frozen=True)
class DirectionOptions:
    """What both directions share, with the meanings of `Direction`; `moving_volume` is that of moving's cube over fixed's."""

    measure: Measure
    dice_weight: float = 1.0
    outside: Outside = "border"
    moving_volume: float | None = None
    weight: float = 1.0


def both_directions(fixed: Side, moving: Side, options: DirectionOptions) -> tuple[Direction, Direction]:
    """For moving_from_fixed (fixed compared with moving sampled), and for fixed_from_moving."""

    def one(compared: Side, sampled: Side, volume_ratio: float | None) -> Direction:
        comparison: Comparison | BlockwiseComparison | None = None
        if volume_ratio is None:
            comparison = blockwise(options.measure, compared.values, compared.mask)
        if comparison is None:
            comparison = options.measure.against(compared.values, compared.mask)
        return Direction(
            comparison,
            sampled.values,
            compared.classes,
            sampled.classes,
            options.dice_weight,
            options.outside,
            volume_ratio,
            options.weight,
            None
            if compared.labels is None or sampled.labels is None
            else LabelPair(compared.labels, sampled.labels, compared.label_count),
        )

    volume = options.moving_volume
    return one(fixed, moving, volume), one(moving, fixed, None if volume is None else 1 / volume)
