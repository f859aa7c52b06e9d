"""What NePhi is trained with: similarity at random points, the gradient of the inverse-consistency error, short codes.

Tian et al., ECCV 2024. Maps are functions here, so their derivatives are exact (automatic differentiation), where GradICON
takes differences; and everything is asked at random points only, so that no term needs a lattice of the image's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Map, Outside, sample
from ..losses.similarity import NCC, Measure
from .composition import BothWays
from .layers.latent import LatentCodes
from .nephi import CodedMaps
from .training_loss import LossTerms, check_weight

# Fewer say too little of the whole map at each step; the published configuration never takes fewer either.
FEWEST_POINTS = 10


@dataclass(frozen=True)
class NePhiLoss:
    """Similarity both ways at random points, `weight` times the inconsistency, and `prior` times the length of the codes.

    Args:
        similarity: of the values at the points, which lie in no order: global ones, not those of neighbourhoods.
        weight, prior: the λ of the regularizer and of the codes.
        similarity_points: at most so many, and no more than 2 % of the voxels.
        regularity_points: at most so many, and no more than 0.01 % of the voxels, but ten.
        outside: what images are warped with beyond their border.

    Raises:
        InputError: a weight is negative or not a number, or there are too few points.
    """

    similarity: Measure = field(default_factory=NCC)
    weight: float = 10.0
    prior: float = 0.01
    similarity_points: int = 100_000
    regularity_points: int = 500
    outside: Outside = "zeros"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_weight(self.prior)
        check_points("regularity_points", self.regularity_points)
        check_points("similarity_points", self.similarity_points)

    def __call__(self, maps: BothWays, moving: Tensor, fixed: Tensor, *, generator: torch.Generator | None = None) -> LossTerms:
        """The loss of `maps`, a `CodedMaps`, for the images, [B, 1, *shape] each; `generator` (default torch's own) gives the points.

        The total holds the prior too, which is neither similarity nor regularity.
        """
        voxels = math.prod(fixed.shape[2:])
        count = max(FEWEST_POINTS, min(self.similarity_points, int(0.02 * voxels)))
        similarity = 0.5 * (
            self._at_points(maps.moving_from_fixed, moving, fixed, count, generator)
            + self._at_points(maps.fixed_from_moving, fixed, moving, count, generator)
        )
        regularity = self.regularity(maps, fixed, generator)
        total = similarity + self.weight * regularity + self.prior * _codes_of(maps).norm()
        return LossTerms(total, similarity, regularity)

    @torch.enable_grad()  # it is a derivative, also where the network is only looked at
    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None) -> Tensor:
        """The inconsistency of both maps, one after the other and the other way round."""
        few = min(self.regularity_points, max(FEWEST_POINTS, int(1e-4 * math.prod(fixed.shape[2:]))))
        there, back = maps.moving_from_fixed, maps.fixed_from_moving
        return 0.5 * (
            gradient_inconsistency(back, there, random_points(few, like=fixed, generator=generator))
            + gradient_inconsistency(there, back, random_points(few, like=fixed, generator=generator))
        )

    def _at_points(self, map_: Map, sampled: Tensor, compared: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        points = random_points(count, like=compared, generator=generator)
        row = (count, *(1,) * (points.shape[1] - 1))
        warped = sample(sampled, map_(points), outside=self.outside).unflatten(2, row)
        return self.similarity.loss(warped, sample(compared, points, outside=self.outside).unflatten(2, row))


def _codes_of(maps: BothWays) -> LatentCodes:
    assert isinstance(maps, CodedMaps), "maps of NePhi bring their codes"
    return maps.codes


def check_points(name: str, count: int) -> None:
    """Random points must be enough to say something of the whole map.

    Raises:
        InputError: they are too few.
    """
    if count < FEWEST_POINTS:
        raise InputError(
            f"{name} is {count}; it must be {FEWEST_POINTS} or more, as fewer points leave most of the map unseen. Choose more."
        )


def random_points(count: int, *, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Points drawn evenly from the unit cube of the image `like` [B, C, *shape]: [B, dim, count], one set for each entry."""
    points = torch.rand(like.shape[0], like.dim() - 2, count, generator=generator, dtype=like.dtype)
    return points.to(like.device)


def gradient_inconsistency(
    first: Map, second: Map, points: Tensor, *, extent: Sequence[float] | None = None, signs: Tensor | None = None
) -> Tensor:
    """Mean square of the derivatives of E(x) = first(second(x)) - x at the `points` [B, dim, N], over points and all dim² of them.

    Automatic differentiation, twice where the result is differentiated.

    Args:
        extent: length of the cube's edges, in any one unit: derivatives are then those of distances, so that an elongated cube
            is treated alike in all directions.
        signs: random ±1 of the shape of `points`: instead of each coordinate of E, their sums with these signs are derived,
            one derivative instead of dim. The mean over all signs is the same (Hutchinson's estimator).
    """
    dim = points.shape[1]
    points = points.detach().requires_grad_()
    lengths = points.new_tensor([1.0] * dim if extent is None else [float(length) for length in extent]).view(1, -1, 1)
    error = (first(second(points)) - points) * lengths
    rows = [error[:, axis] for axis in range(dim)] if signs is None else [error * signs]
    gradients = [torch.autograd.grad(row.sum(), points, create_graph=True)[0] for row in rows]
    return torch.stack([(one / lengths).square().mean() for one in gradients]).sum() / dim
