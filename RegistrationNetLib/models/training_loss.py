"""What the losses of the published methods share: similarity both ways, and the sum with a regularizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Outside
from ..losses.direction import Direction, DirectionOptions, Side, both_directions
from ..losses.similarity import Measure
from .composition import BothWays, mapped_lattice


@dataclass(frozen=True)
class LossTerms:
    """A loss and the terms that it is made of, scalars: total = similarity + weight · regularity."""

    total: Tensor
    similarity: Tensor
    regularity: Tensor


class Loss(Protocol):
    """What a method is trained with: similarity both ways, and `weight` times its regularity."""

    @property
    def similarity(self) -> Measure:
        """The measure by which the images are compared."""

    @property
    def weight(self) -> float:
        """The weight of the regularity, 0 or more."""

    @property
    def outside(self) -> Outside:
        """What images are warped with beyond their border."""

    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None) -> Tensor:
        """How far `maps` are from regular, 0 being best; `generator` (default torch's own) gives its random points."""


def loss_of_directions(
    loss: Loss, maps: BothWays, directions: tuple[Direction, Direction], generator: torch.Generator | None = None
) -> LossTerms:
    """`loss` where the similarity is that of `directions`, which may bring masks, labels and more."""
    to_fixed, to_moving = directions
    fixed, moving = to_moving.sampled, to_fixed.sampled
    similarity = to_fixed.loss(mapped_lattice(maps.moving_from_fixed, fixed.shape[2:], fixed)) + to_moving.loss(
        mapped_lattice(maps.fixed_from_moving, moving.shape[2:], moving)
    )
    regularity = loss.regularity(maps, fixed, generator)
    return LossTerms(similarity + loss.weight * regularity, similarity, regularity)


class ImageLoss:
    """What the losses of the methods have in common: a weight that is checked, and that they can be called with images."""

    def __post_init__(self: Loss) -> None:
        check_weight(self.weight)

    def __call__(
        self: Loss, maps: BothWays, moving: Tensor, fixed: Tensor, *, generator: torch.Generator | None = None
    ) -> LossTerms:
        """The loss of `maps` for the images, [B, C, *shape] each; `generator` (default torch's own) gives the random points, if any."""
        directions = both_directions(Side(fixed), Side(moving), DirectionOptions(self.similarity, outside=self.outside))
        return loss_of_directions(self, maps, directions, generator)


def check_weight(weight: float) -> None:
    """A regularizer's weight must be a number from 0 up.

    Raises:
        InputError: it is not.
    """
    if not 0 <= weight < math.inf:
        raise InputError(f"The weight of the regularizer must be 0 or more; got {weight}. The card of each model names its own.")
