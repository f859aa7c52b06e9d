"""Maps with an exact inverse: exponentials of matrices and of stationary velocities, where minus the argument gives the inverse.

Greer et al., MICCAI 2023 (ConstrICON), section 3. Coordinates are those of `deformation`.

# B batch; generators are homogeneous matrices [B, dim + 1, dim + 1] whose last row is 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...devices import without_mps
from ...geometry.deformation import Affine, DisplacementField, Map, VelocityField
from ...memory import full_precision

SQUARINGS = 7


@dataclass(frozen=True, eq=False)
class Flow(DisplacementField):
    """x ↦ x + u(x), with `displacement` u that of exp(`direction` · `velocity`), by scaling and squaring.

    A flow and its inverse share one `velocity` [B, dim, *shape] and differ in `direction`, 1 or -1.
    """

    velocity: Tensor
    direction: int
    squarings: int

    def of(self, velocity: Tensor) -> Flow:
        """The flow of another velocity in the same direction; differentiable in it."""
        flow = VelocityField(self.direction * velocity, self.squarings).displacement_field()
        return Flow(flow.displacement, velocity, self.direction, self.squarings)


def flows(velocity: Tensor, *, squarings: int = SQUARINGS) -> tuple[Flow, Flow]:
    """exp(v) and exp(-v) of `velocity` v [B, dim, *shape], both squared as one batch."""
    both = VelocityField(torch.cat([velocity, -velocity]), squarings).displacement_field().displacement
    forward, backward = both.chunk(2)
    return Flow(forward, velocity, 1, squarings), Flow(backward, velocity, -1, squarings)


def matrix_exponentials(generator: Tensor) -> tuple[Affine, Affine]:
    """exp(M) and exp(-M) of `generator` M [B, dim + 1, dim + 1]."""
    dim = generator.shape[-1] - 1
    with full_precision(generator.device):
        forward, backward = (
            torch.linalg.matrix_exp(without_mps(matrix)).to(matrix)[:, :dim] for matrix in (generator, -generator)
        )
    return Affine(forward), Affine(backward)


@dataclass(frozen=True, eq=False)
class Perceptron:
    """Points [B, dim, *any] through dense layers with GELU between them; a layer is (weight [B, out, in], bias [B, out, 1])."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, points: Tensor) -> Tensor:
        values = points.flatten(2)
        for place, (weight, bias) in enumerate(self.layers):
            values = weight @ (F.gelu(values) if place else values) + bias
        return values.reshape(-1, *points.shape[1:])


@dataclass(frozen=True, eq=False)
class FunctionFlow:
    """The flow of the stationary velocity x ↦ `velocity`(x) - `opposite`(x) over unit time, by classical Runge-Kutta `steps`.

    With the two exchanged it is the inverse, as well as the steps resolve the velocity: what is left after both falls with
    their fifth power, for the errors of fourth order cancel.
    """

    velocity: Map
    opposite: Map
    steps: int

    def __call__(self, points: Tensor) -> Tensor:
        step = 1 / self.steps
        for _ in range(self.steps):
            first = self._at(points)
            second = self._at(points + step / 2 * first)
            third = self._at(points + step / 2 * second)
            fourth = self._at(points + step * third)
            points = points + step / 6 * (first + 2 * (second + third) + fourth)
        return points

    def _at(self, points: Tensor) -> Tensor:
        return self.velocity(points) - self.opposite(points)
