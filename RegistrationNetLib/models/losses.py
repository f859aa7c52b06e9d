"""What the losses of the published methods share: similarity both ways, and the sum with a regularizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..deformation import Composition, Outside, sample
from ..errors import InputError
from ..similarity import Measure
from .steps import BothWays, mapped_lattice


@dataclass(frozen=True)
class LossTerms:
    """A loss and the terms that it is made of, scalars: total = similarity + weight · regularity."""

    total: Tensor
    similarity: Tensor
    regularity: Tensor


def similarity_loss_both_ways(
    measure: Measure, maps: BothWays, moving: Tensor, fixed: Tensor, *, outside: Outside = "border"
) -> Tensor:
    """Loss of `moving` warped onto `fixed` plus that of `fixed` warped onto `moving`, images [B, C, *shape].

    Args:
        outside: what the images are warped with beyond their border: its own values, or zeros.
    """

    def one_way(moving: Tensor, fixed: Tensor, moving_from_fixed: Composition) -> Tensor:
        points = mapped_lattice(moving_from_fixed, fixed.shape[2:], fixed)
        return measure.loss(sample(moving, points, outside=outside), fixed)

    return one_way(moving, fixed, maps.moving_from_fixed) + one_way(fixed, moving, maps.fixed_from_moving)


def check_weight(weight: float) -> None:
    """A regularizer's weight must be a number from 0 up.

    Raises:
        InputError: it is not.
    """
    if not 0 <= weight < math.inf:
        raise InputError(f"The weight of the regularizer must be 0 or more; got {weight}. The card of each model names its own.")
