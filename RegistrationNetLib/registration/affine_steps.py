"""Matrices improved by gradient descent, many at once: rigid, similar, affine.

A matrix is `base` followed by exp(generator) about a pivot and a shift. The generator is a sum of rotations, one growth and
stretches; each stage frees more of them. What deforms is held back a little: a body has its size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..geometry.space import Array
from .optimizer import descend
from .overlap_score import Overlap

# Loss of a growth or stretch by one unit of the natural logarithm, squared.
STRETCH_PENALTY = 0.05
# Loss of matrices that miss all pairs of landmarks by far.
PULL_WEIGHT = 0.5


@cache
def basis_of(dim: int) -> Tensor:
    """Generators [dim * dim, dim, dim]: rotations in each coordinate plane, growth, stretches along and across the axes."""
    planes = list(itertools.combinations(range(dim), 2))
    basis = []
    for sign in (-1.0, 1.0):
        for one, two in planes:
            generator = torch.zeros(dim, dim, dtype=torch.float64)
            generator[one, two], generator[two, one] = sign * -1.0, 1.0
            basis.append(generator)
        if sign < 0:
            basis = [torch.triu(one) - torch.triu(one).T for one in basis]
            basis.append(torch.eye(dim, dtype=torch.float64))
    for axis in range(dim - 1):
        stretch = torch.zeros(dim, dim, dtype=torch.float64)
        stretch[axis, axis], stretch[axis + 1, axis + 1] = 1.0, -1.0
        basis.append(stretch)
    return torch.stack(basis)


def freedoms_of(stage: str, dim: int) -> int:
    """How many of the generators a stage may use."""
    rotations = dim * (dim - 1) // 2
    return {"rigid": rotations, "similarity": rotations + 1, "affine": dim * dim}[stage]


@dataclass(frozen=True)
class Placement:
    """`base` [B, dim + 1, dim + 1], then exp(generator) about the pivot's image and a shift; parameters [B, dim * dim + dim].

    A parameter of 1 moves the rim of the object by `unit_mm`.
    """

    base: Tensor
    parameters: Tensor
    pivot: Tensor
    unit_mm: float
    radius_mm: float

    @staticmethod
    def at(matrices: Array, pivot: Array, *, unit_mm: float, radius_mm: float) -> Placement:
        """Nothing moved yet from each of the matrices, [N, dim + 1, dim + 1] in mm, about the point `pivot`."""
        base = torch.as_tensor(matrices)
        dim = base.shape[-1] - 1
        zero = torch.zeros(len(base), dim * dim + dim, dtype=torch.float64)
        return Placement(base, zero, torch.as_tensor(pivot), unit_mm, radius_mm)

    def generators(self, parameters: Tensor) -> Tensor:
        """What the parameters [N, dim² + dim] ask of turning and stretching: [N, dim, dim]."""
        dim = len(self.pivot)
        weights = parameters[:, : dim * dim] * (self.unit_mm / self.radius_mm)
        return torch.einsum("bk,kij->bij", weights, basis_of(dim))

    def matrices(self, parameters: Tensor | None = None) -> Tensor:
        """World matrices moving_from_fixed, [B, dim + 1, dim + 1]."""
        parameters = self.parameters if parameters is None else parameters
        dim = len(self.pivot)
        linear = torch.linalg.matrix_exp(self.generators(parameters))
        image = (self.base[:, :-1, :-1] @ self.pivot[:, None])[..., 0] + self.base[:, :-1, -1]
        shift = image - (linear @ image[..., None])[..., 0] + parameters[:, dim * dim :] * self.unit_mm
        top = torch.cat([linear @ self.base[:, :-1, :-1], linear @ self.base[:, :-1, -1:] + shift[..., None]], dim=2)
        return torch.cat([top, self.base[:, -1:]], dim=1)

    def penalties(self, parameters: Tensor | None = None) -> Tensor:
        """For growing and stretching, [B]."""
        generators = self.generators(self.parameters if parameters is None else parameters)
        symmetric = 0.5 * (generators + generators.transpose(1, 2))
        return STRETCH_PENALTY * symmetric.square().flatten(1).sum(1)

    def with_parameters(self, parameters: Tensor) -> Placement:
        """The same starts with other parameters."""
        return Placement(self.base, parameters, self.pivot, self.unit_mm, self.radius_mm)

    def only(self, chosen: list[int]) -> Placement:
        """Some of the batch."""
        return Placement(self.base[chosen], self.parameters[chosen], self.pivot, self.unit_mm, self.radius_mm)


@dataclass(frozen=True, eq=False)
class PairPull:
    """The loss of matrices that miss pairs of landmarks: the mean over the pairs of d² / (d² + s²), d being the distance missed.

    Beyond s a pair hardly counts more: it was misplaced, or its organ has moved by itself.

    Attributes:
        fixed_mm, moving_mm: [N, dim], float64; none, and nothing pulls.
        reach_mm: s.
    """

    fixed_mm: Tensor
    moving_mm: Tensor
    reach_mm: float
    weight: float = PULL_WEIGHT

    def loss(self, matrices: Tensor) -> Tensor:
        """Of each of the homogeneous matrices [B, dim + 1, dim + 1]: [B]."""
        if not len(self.fixed_mm):
            return matrices.new_zeros(len(matrices))
        there = self.fixed_mm @ matrices[:, :-1, :-1].transpose(1, 2) + matrices[:, None, :-1, -1]
        squares = (there - self.moving_mm).square().sum(dim=2)
        return self.weight * (squares / (squares + self.reach_mm**2)).mean(dim=1)


NO_PULL = PairPull(torch.zeros(0, 1), torch.zeros(0, 1), 1.0)


def losses(overlap: Overlap, placement: Placement, pull: PairPull = NO_PULL) -> Array:
    """Loss of each matrix, with its penalty."""
    with torch.no_grad():
        matrices = placement.matrices()
        found = (overlap.score(matrices).loss + placement.penalties() + pull.loss(matrices)).double().numpy()
    return np.asarray(found)


def improved(
    overlap: Overlap,
    placement: Placement,
    stage: str,
    *,
    steps: int,
    first_step: float,
    tick: Callable[[], None],
    pull: PairPull = NO_PULL,
) -> Placement:
    """Every matrix of the batch by itself after `steps` of descent within the freedoms of the stage.

    `first_step` is in units of the placement.
    """
    dim = len(placement.pivot)
    free = torch.zeros(dim * dim + dim, dtype=torch.float64)
    free[: freedoms_of(stage, dim)] = 1.0
    free[dim * dim :] = 1.0
    changes = torch.zeros_like(placement.parameters).requires_grad_()

    def loss() -> Tensor:
        parameters = placement.parameters + changes * free
        matrices = placement.matrices(parameters)
        return (overlap.score(matrices).loss + placement.penalties(parameters) + pull.loss(matrices)).sum()

    for _ in _steps(changes, loss, steps, first_step):
        tick()
    return placement.with_parameters(placement.parameters + (changes * free).detach())


def _steps(changes: Tensor, loss: Callable[[], Tensor], steps: int, first_step: float) -> Iterator[int]:
    return descend(changes, [loss], steps=steps, first_step=first_step)
