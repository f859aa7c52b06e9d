"""A map of a fine lattice that is made of a coarser one's values, used a few layers at a time, so that its points are never held.

Beside the values at the voxels that a loss needs, three coordinates for each of them, the places where they are read and the
gradients of both would be the most that a registration holds. They are made of few knots, so they are made again where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .deformation import Outside, jacobian_determinant, sample, sample_pulled_back
from .separable import apply_along_axes

# Points that are held at a time on the CPU, and on a graphics card, whose many units want more work at once.
POINTS_AT_A_TIME, POINTS_ON_GRAPHICS = 2**18, 2**24


class Summed(Protocol):
    """A number that depends on all points of a lattice by sums over them."""

    def add(self, points: Tensor, layers: slice) -> None:
        """Take some layers in, moved to `points` [1, dim, layers, *rest]."""

    def value(self) -> Tensor:
        """The number, when all are taken in."""

    def pulled_back(self, points: Tensor, layers: slice) -> Tensor:
        """Its gradient with respect to the points of some layers."""


@dataclass(frozen=True, eq=False)
class Layered:
    """Displacements [1, dim, *shape] in unit-cube coordinates: `along` @ `rest`, along the first axis.

    `rest` [1, dim, knots, *shape[1:]] are a coarser lattice's values, or coefficients of splines, brought to the fine lattice along
    every axis but the first; `along` [shape[0], knots] does that.
    """

    rest: Tensor
    along: Tensor

    @staticmethod
    def of(values: Tensor, matrices: Sequence[Tensor]) -> Layered:
        """`values` [1, dim, *any] with a matrix along each axis; differentiable in the values."""
        first, *others = matrices
        flat = apply_along_axes(values.flatten(1, 2), others)
        return Layered(flat.unflatten(1, values.shape[1:3]), first)

    def displacement(self, rest: Tensor, layers: slice) -> Tensor:
        """Of some layers: [1, dim, layers, *shape[1:]]; `rest` is the own, or takes its place."""
        knots = self._knots(layers)
        moved = self.along[layers, knots] @ rest[0, :, knots].flatten(2)
        return moved.unflatten(2, rest.shape[3:])[None]

    def add_pulled_back(self, upstream: Tensor, layers: slice, gradient: Tensor) -> None:
        """Add to `gradient`, that of `rest`, what comes from the displacement of some layers."""
        knots = self._knots(layers)
        pulled = self.along[layers, knots].T @ upstream[0].flatten(2)
        gradient[0, :, knots] += pulled.unflatten(2, gradient.shape[3:])

    def _knots(self, layers: slice) -> slice:
        """Those that some layers depend on."""
        taken = (self.along[layers] != 0).any(dim=0).nonzero()
        return slice(int(taken[0]), int(taken[-1]) + 1)


@dataclass(frozen=True, eq=False)
class LayeredPoints:
    """The lattice of `shape` moved by `added`, which may be optimized, and by `begun`, which stays (None: nothing)."""

    shape: tuple[int, ...]
    added: Layered
    begun: Layered | None = None

    def sampled(self, image: Tensor, outside: Outside = "border") -> Tensor:
        """`image` [1, C, *any] where the lattice is moved to: [1, C, *shape]; differentiable in what is optimized."""
        return self._made(_Sampled(image, outside))

    def determinant(self) -> Tensor:
        """As `jacobian_determinant` of the moved lattice: [1, 1, *shape]."""
        return self._made(_Determinant(self.shape[0]))

    def summed(self, sums: Summed) -> Tensor:
        """The value of `sums` over the whole lattice, a scalar; differentiable in what is optimized."""
        total: Tensor = _SummedInLayers.apply(self.added.rest, self, sums)  # type: ignore[no-untyped-call]
        return total

    def points(self, rest: Tensor, layers: slice) -> Tensor:
        """Where some layers are moved to, `rest` being that of `added`: [1, dim, layers, *shape[1:]]."""
        moved = self.added.displacement(rest, layers)
        if self.begun is not None:
            moved = moved + self.begun.displacement(self.begun.rest, layers)
        axes = [torch.linspace(0, 1, size, dtype=moved.dtype, device=moved.device) for size in self.shape]
        axes[0] = axes[0][layers]
        return moved + torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def parts(self) -> Iterator[slice]:
        """Layers that are held at a time."""
        points = POINTS_AT_A_TIME if self.added.rest.device.type == "cpu" else POINTS_ON_GRAPHICS
        count, size = max(1, points // math.prod(self.shape[1:])), self.shape[0]
        return (slice(start, min(start + count, size)) for start in range(0, size, count))

    def _made(self, work: _Sampled | _Determinant) -> Tensor:
        parts = list(self.parts())
        if len(parts) == 1:
            return work.of(self.points(self.added.rest, parts[0]), parts[0])
        whole: Tensor = _InLayers.apply(self.added.rest, self, work)  # type: ignore[no-untyped-call]
        return whole


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Values of an image at the points of some layers."""

    image: Tensor
    outside: Outside

    def needed(self, layers: slice) -> slice:
        """The layers whose points it takes to make some layers."""
        return layers

    def of(self, points: Tensor, layers: slice) -> Tensor:  # noqa: ARG002, one form for everything that is made
        return sample(self.image, points, outside=self.outside)

    def pulled_back(self, points: Tensor, layers: slice, upstream: Tensor) -> Tensor:  # noqa: ARG002
        return sample_pulled_back(self.image, points, upstream, self.outside)


@dataclass(frozen=True, eq=False)
class _Determinant:
    """The determinant of a map of `size` layers at the points of some of them."""

    size: int

    def needed(self, layers: slice) -> slice:
        """One layer more on each side, so that cutting changes no number."""
        return slice(max(0, layers.start - 1), min(self.size, layers.stop + 1))

    def of(self, points: Tensor, layers: slice) -> Tensor:
        wide = self.needed(layers)
        found = jacobian_determinant(points) * ((self.size - 1) / (wide.stop - wide.start - 1))
        return found[:, :, layers.start - wide.start : layers.stop - wide.start]

    def pulled_back(self, points: Tensor, layers: slice, upstream: Tensor) -> Tensor:
        with torch.enable_grad():
            places = points.detach().requires_grad_()
            return torch.autograd.grad(self.of(places, layers), places, upstream)[0]


class _InLayers(torch.autograd.Function):
    """What `work` makes of moved points, part by part; for the gradient the points are made again."""

    @staticmethod
    def forward(ctx: Any, rest: Tensor, moved: LayeredPoints, work: _Sampled | _Determinant) -> Tensor:
        ctx.save_for_backward(rest)
        ctx.moved, ctx.work = moved, work
        return torch.cat([work.of(moved.points(rest, work.needed(layers)), layers) for layers in moved.parts()], dim=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (rest,) = ctx.saved_tensors
        gradient = torch.zeros_like(rest)
        for layers in ctx.moved.parts():
            needed = ctx.work.needed(layers)
            pulled = ctx.work.pulled_back(ctx.moved.points(rest, needed), layers, upstream[:, :, layers])
            ctx.moved.added.add_pulled_back(pulled, needed, gradient)
        return gradient, None, None


class _SummedInLayers(torch.autograd.Function):
    """A sum over moved points, whose gradient is worked out together with it."""

    @staticmethod
    def forward(ctx: Any, rest: Tensor, moved: LayeredPoints, sums: Summed) -> Tensor:
        for layers in moved.parts():
            sums.add(moved.points(rest, layers), layers)
        gradient = torch.zeros_like(rest)
        if ctx.needs_input_grad[0]:
            for layers in moved.parts():
                moved.added.add_pulled_back(sums.pulled_back(moved.points(rest, layers), layers), layers, gradient)
        ctx.save_for_backward(gradient)
        return sums.value()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


class _SummedOverPoints(torch.autograd.Function):
    """The same of points that are held."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, sums: Summed) -> Tensor:
        every = slice(0, points.shape[2])
        sums.add(points, every)
        ctx.save_for_backward(sums.pulled_back(points, every) if ctx.needs_input_grad[0] else torch.zeros_like(points))
        return sums.value()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def summed_over(points: Tensor, sums: Summed) -> Tensor:
    """The value of `sums` over points [1, dim, *shape], a scalar; differentiable in the points."""
    total: Tensor = _SummedOverPoints.apply(points, sums)  # type: ignore[no-untyped-call]
    return total
