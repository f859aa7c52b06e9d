"""An early look: how well a network registers pairs that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.deformation import identity_points, jacobian_determinant, sample, vector_length
from ..losses.direction import DirectionOptions, both_directions
from ..models.composition import BothWays, both_ways, mapped_lattice
from .learning import Objective
from .pairs import Pair


@dataclass(frozen=True)
class Look:
    """Means over pairs.

    Attributes:
        total, regularity: the loss, and its regularity.
        similarity, similarity_before: loss of similarity (and labels) both ways, by the maps, and where nothing moves.
        dice, dice_before: overlap of the labels that both images have; NaN where there are none.
        folded_percent: share of the lattice where moving_from_fixed folds.
        inverse_error: mean distance of a lattice point from where both maps after each other take it, in lengths of the cube.
    """

    total: float
    regularity: float
    similarity: float
    similarity_before: float
    dice: float
    dice_before: float
    folded_percent: float
    inverse_error: float


@torch.no_grad()
def look(objective: Objective, pairs: Sequence[Pair]) -> Look:
    """How the network of `objective`, as it predicts, does on `pairs`."""
    was_training = objective.network.training
    objective.network.eval()
    rows = [torch.tensor(_looked_at(objective, pair)) for pair in pairs]
    objective.network.train(was_training)
    return Look(*torch.stack(rows).nanmean(0).tolist())


def _looked_at(objective: Objective, pair: Pair) -> list[float]:
    maps = both_ways(objective.network, pair.moving.values, pair.fixed.values)
    terms = objective.terms(maps, pair, torch.Generator().manual_seed(0))
    points, back = mapped_points(maps, pair)
    still = identity_points(points.shape[2:], points)
    return [
        float(terms.total), float(terms.regularity),
        _similarity_loss(objective, pair, points, back), _similarity_loss(objective, pair, still, still),
        overlap(pair, points), overlap(pair, still), folded_percent(points), inverse_error(maps, points),
    ]  # fmt: skip


def mapped_points(maps: BothWays, pair: Pair) -> tuple[Tensor, Tensor]:
    """The lattice of the images by moving_from_fixed, and by fixed_from_moving: [B, dim, *shape] each."""
    like = pair.fixed.values
    return mapped_lattice(maps.moving_from_fixed, like.shape[2:], like), mapped_lattice(
        maps.fixed_from_moving, like.shape[2:], like
    )


def _similarity_loss(objective: Objective, pair: Pair, points: Tensor, back: Tensor) -> float:
    options = DirectionOptions(objective.loss.similarity, objective.dice_weight, objective.loss.outside)
    to_fixed, to_moving = both_directions(*pair.sides(), options)
    return float(to_fixed.loss(points) + to_moving.loss(back))


def overlap(pair: Pair, points: Tensor) -> float:
    """Mean Dice of the labels that both images of a pair [1, …] have, moving's at `points` by nearest voxel; NaN without any."""
    if pair.fixed.labels is None or pair.moving.labels is None:
        return math.nan
    names = sorted(set(pair.fixed.labels.unique().tolist()) & set(pair.moving.labels.unique().tolist()) - {0})
    scores = []
    for name in names:
        fixed = pair.fixed.labels == name
        warped = sample((pair.moving.labels == name).to(points), points, nearest=True) > 0.5
        scores.append(2 * float((fixed & warped).sum()) / float(fixed.sum() + warped.sum()))
    return sum(scores) / len(scores) if scores else math.nan


def folded_percent(points: Tensor) -> float:
    """Share of the mapped lattice `points` where the determinant of the Jacobian is not above 0, in percent."""
    return 100 * float((jacobian_determinant(points) <= 0).float().mean())


def inverse_error(maps: BothWays, points: Tensor) -> float:
    """Mean distance of fixed_from_moving(points) from the lattice; `points` is that lattice by moving_from_fixed."""
    back = maps.fixed_from_moving(points)
    return float(vector_length(back - identity_points(points.shape[2:], points)).mean())
