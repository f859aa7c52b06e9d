"""One direction of a registration: which image is sampled, what it is compared with, and where that counts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..geometry.deformation import Outside, jacobian_determinant, sample
from .measure import Comparison, Measure
from .overlap import dice_loss


@dataclass(frozen=True)
class Target:
    """What the loss of one direction needs beside the map.

    Attributes:
        comparison: with the image on whose lattice the points lie.
        sampled: the other image, [1, C, *shape], which is sampled at the mapped points.
        classes, sampled_classes: memberships of labels [1, classes, *shape] on either side; both or neither.
        dice_weight: of the Dice loss of these classes.
        outside: what `sampled` is beyond its border.
        volume_ratio: None, or, where mass is conserved, the volume of the cube of `sampled` over that of the points: sampled
            values are densities then, multiplied by the determinant of the map in mm, so that air which is breathed in dilutes
            the tissue (intensity conservation, for CT of lungs).
        weight: of the comparison.
    """

    comparison: Comparison
    sampled: Tensor
    classes: Tensor | None = None
    sampled_classes: Tensor | None = None
    dice_weight: float = 1.0
    outside: Outside = "border"
    volume_ratio: float | None = None
    weight: float = 1.0

    def loss(self, points: Tensor) -> Tensor:
        """The loss of the map that takes the lattice of the comparison to `points` [1, dim, *shape], unit-cube coordinates; a scalar."""
        warped = sample(self.sampled, points, outside=self.outside)
        if self.volume_ratio is not None:
            warped = warped * jacobian_determinant(points) * self.volume_ratio
        loss = self.weight * self.comparison.loss(warped)
        if self.classes is not None and self.sampled_classes is not None:
            loss = loss + self.dice_weight * dice_loss(sample(self.sampled_classes, points), self.classes)
        return loss


@dataclass(frozen=True)
class Side:
    """One image as a loss wants it: values [1, C, *shape], where they count (None: everywhere), memberships of its labels (None: none)."""

    values: Tensor
    mask: Tensor | None = None
    classes: Tensor | None = None


@dataclass(frozen=True)
class TargetOptions:
    """What the targets of both directions share, with the meanings of `Target`; `moving_volume` is that of moving's cube over fixed's."""

    measure: Measure
    dice_weight: float = 1.0
    outside: Outside = "border"
    moving_volume: float | None = None
    weight: float = 1.0


def both_targets(fixed: Side, moving: Side, options: TargetOptions) -> tuple[Target, Target]:
    """For moving_from_fixed (fixed compared with moving sampled), and for fixed_from_moving."""

    def one(compared: Side, sampled: Side, volume_ratio: float | None) -> Target:
        comparison = options.measure.against(compared.values, compared.mask)
        return Target(
            comparison,
            sampled.values,
            compared.classes,
            sampled.classes,
            options.dice_weight,
            options.outside,
            volume_ratio,
            options.weight,
        )

    volume = options.moving_volume
    return one(fixed, moving, volume), one(moving, fixed, None if volume is None else 1 / volume)
