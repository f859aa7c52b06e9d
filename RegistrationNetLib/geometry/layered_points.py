"""A map of a fine lattice that is made of a coarser one's values, used a part at a time, so that its points are never held.

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

from ..devices import in_double, without_mps
from .deformation import Outside, jacobian_determinant, sample, sample_pulled_back
from .separable import apply_along_axes

# Points that are held at a time on the CPU, and on a graphics card, whose many units want more work at once.
POINTS_AT_A_TIME, POINTS_ON_GRAPHICS = 2**18, 2**24


Box = tuple[slice, ...]
"""A part of a lattice: where it begins and ends along each axis."""


class AddedUp(Protocol):
    """A number that is a sum over boxes of a lattice, each of which counts by itself; they may overlap."""

    @property
    def boxes(self) -> Sequence[Box]:
        """All of them."""

    def of(self, points: Tensor, number: int, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """What the box of this `number` adds, moved to `points` [1, dim, *box], and its gradient with respect to them if it is wanted."""


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

    def displacement(self, rest: Tensor, box: Box) -> Tensor:
        """Of part of the lattice: [1, dim, *box]; `rest` is the own, or takes its place."""
        layers, *others = box
        knots = self._knots(layers)
        taken = rest[0][_every_channel(knots, others)]
        moved = self.along[layers, knots] @ taken.flatten(2)
        return moved.unflatten(2, taken.shape[2:])[None]

    def add_pulled_back(self, upstream: Tensor, box: Box, gradient: Tensor) -> None:
        """Add to `gradient`, that of `rest`, what comes from the displacement of part of the lattice."""
        layers, *others = box
        knots = self._knots(layers)
        pulled = self.along[layers, knots].T @ upstream[0].flatten(2)
        gradient[0][_every_channel(knots, others)] += pulled.unflatten(2, upstream.shape[3:])

    def _knots(self, layers: slice) -> slice:
        """Those that some layers depend on."""
        taken = (self.along[layers] != 0).any(dim=0).nonzero()
        return slice(int(taken[0]), int(taken[-1]) + 1)


def _every_channel(knots: slice, others: Sequence[slice]) -> Box:
    return (slice(None), knots, *others)


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

    def added_up(self, work: AddedUp) -> Tensor:
        """The sum of `work` over its boxes of the lattice, a scalar; differentiable in what is optimized."""
        total: Tensor = _AddedUpInBoxes.apply(self.added.rest, self, work)  # type: ignore[no-untyped-call]
        return total

    def points(self, rest: Tensor, box: Box) -> Tensor:
        """Where part of the lattice is moved to, `rest` being that of `added`: [1, dim, *box]."""
        moved = self.added.displacement(rest, box)
        if self.begun is not None:
            moved += self.begun.displacement(self.begun.rest, box)
        for axis, (size, part) in enumerate(zip(self.shape, box, strict=True)):
            line = torch.linspace(0, 1, size, dtype=moved.dtype, device=moved.device)[part]
            moved[:, axis] += line.view(-1, *(1,) * (len(box) - 1 - axis))
        return moved

    def box_of(self, layers: slice) -> Box:
        """Some layers of the first axis, as a box."""
        return (layers, *(slice(0, size) for size in self.shape[1:]))

    def parts(self) -> Iterator[slice]:
        """Layers that are held at a time."""
        points = POINTS_AT_A_TIME if self.added.rest.device.type == "cpu" else POINTS_ON_GRAPHICS
        count, size = max(1, points // math.prod(self.shape[1:])), self.shape[0]
        return (slice(start, min(start + count, size)) for start in range(0, size, count))

    def _made(self, work: _Sampled | _Determinant) -> Tensor:
        parts = list(self.parts())
        if len(parts) == 1:
            return work.of(self.points(self.added.rest, self.box_of(parts[0])), parts[0])
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
        return torch.cat(
            [work.of(moved.points(rest, moved.box_of(work.needed(layers))), layers) for layers in moved.parts()], dim=2
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (rest,) = ctx.saved_tensors
        gradient = torch.zeros_like(rest)
        for layers in ctx.moved.parts():
            needed = ctx.moved.box_of(ctx.work.needed(layers))
            pulled = ctx.work.pulled_back(ctx.moved.points(rest, needed), layers, upstream[:, :, layers])
            ctx.moved.added.add_pulled_back(pulled, needed, gradient)
        return gradient, None, None


class _AddedUpInBoxes(torch.autograd.Function):
    """A sum over boxes of moved points, whose gradient is worked out together with it."""

    @staticmethod
    def forward(ctx: Any, rest: Tensor, moved: LayeredPoints, work: AddedUp) -> Tensor:
        wanted = bool(ctx.needs_input_grad[0])
        total, gradient = in_double(rest.new_zeros(())), torch.zeros_like(rest) if wanted else None
        for number, box in enumerate(work.boxes):
            value, by_points = work.of(moved.points(rest, box), number, wanted=wanted)
            total += without_mps(value)
            if gradient is not None and by_points is not None:
                moved.added.add_pulled_back(by_points, box, gradient)
        ctx.save_for_backward(gradient)
        return total.to(rest)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


class _AddedUpOverPoints(torch.autograd.Function):
    """The same of points that are held."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, work: AddedUp) -> Tensor:
        wanted = bool(ctx.needs_input_grad[0])
        total, gradient = in_double(points.new_zeros(())), torch.zeros_like(points) if wanted else None
        for number, box in enumerate(work.boxes):
            every = (slice(None), slice(None), *box)
            value, by_points = work.of(points[every], number, wanted=wanted)
            total += without_mps(value)
            if gradient is not None and by_points is not None:
                gradient[every] += by_points
        ctx.save_for_backward(gradient)
        return total.to(points)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def added_up_over(points: Tensor, work: AddedUp) -> Tensor:
    """The sum of `work` over its boxes of points [1, dim, *shape], a scalar; differentiable in the points."""
    total: Tensor = _AddedUpOverPoints.apply(points, work)  # type: ignore[no-untyped-call]
    return total
