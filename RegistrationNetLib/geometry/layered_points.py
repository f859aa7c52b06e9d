"""A map of a fine lattice that is made of a coarser one's values, used a few layers at a time, so that its points are never held.

Beside the values at the voxels that a loss needs, three coordinates for each of them, the places where they are read and the
gradients of both would be the most that a registration holds. They are made of few knots, so they are made again where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .deformation import Outside, jacobian_determinant, sample
from .separable import apply_along_axes

# Points that are held at a time on the CPU, and on a graphics card, whose many units want more work at once.
POINTS_AT_A_TIME, POINTS_ON_GRAPHICS = 2**18, 2**24


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

    def knots(self, layers: slice) -> slice:
        """Those that some layers depend on."""
        taken = (self.along[layers] != 0).any(dim=0).nonzero()
        return slice(int(taken[0]), int(taken[-1]) + 1) if len(taken) else slice(0, 1)

    def displacement(self, part: Tensor, layers: slice, knots: slice) -> Tensor:
        """Of some layers, `part` being `rest` at their knots."""
        moved = self.along[layers, knots] @ part.flatten(3).flatten(0, 1).flatten(2)
        return moved.unflatten(2, part.shape[3:])[None]


@dataclass(frozen=True, eq=False)
class LayeredPoints:
    """The lattice of `shape` moved by `added`, which may be optimized, and by `begun`, which stays (None: nothing)."""

    shape: tuple[int, ...]
    added: Layered
    begun: Layered | None = None

    def sampled(self, image: Tensor, outside: Outside = "border") -> Tensor:
        """`image` [1, C, *any] where the lattice is moved to: [1, C, *shape]; differentiable in what is optimized."""

        def work(part: Tensor, layers: slice, knots: slice) -> Tensor:
            return sample(image, self._points(part, layers, knots), outside=outside)

        return self._whole(work)

    def determinant(self) -> Tensor:
        """As `jacobian_determinant` of the moved lattice: [1, 1, *shape]."""
        size = self.shape[0]

        def work(part: Tensor, layers: slice, knots: slice) -> Tensor:
            # One layer more on each side, so that cutting changes no number.
            wide = slice(max(0, layers.start - 1), min(size, layers.stop + 1))
            points = self._points(part, wide, knots)
            share = (wide.stop - wide.start - 1) / (size - 1)
            found = jacobian_determinant(points) / share
            return found[:, :, layers.start - wide.start : layers.stop - wide.start]

        return self._whole(work, halo=1)

    def _points(self, part: Tensor, layers: slice, knots: slice) -> Tensor:
        moved = self.added.displacement(part, layers, knots)
        if self.begun is not None:
            own = self.begun.knots(layers)
            moved = moved + self.begun.displacement(self.begun.rest[:, :, own], layers, own)
        axes = [torch.linspace(0, 1, size, dtype=moved.dtype, device=moved.device) for size in self.shape]
        axes[0] = axes[0][layers]
        return moved + torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def _whole(self, work: Work, halo: int = 0) -> Tensor:
        parts = list(self._parts(halo))
        if len(parts) == 1:
            layers, knots = parts[0]
            return work(self.added.rest[:, :, knots], layers, knots)
        whole: Tensor = _InLayers.apply(self.added.rest, work, parts)  # type: ignore[no-untyped-call]
        return whole

    def _parts(self, halo: int) -> Iterator[tuple[slice, slice]]:
        """Layers with the knots that they, and `halo` more on each side, depend on."""
        points = POINTS_AT_A_TIME if self.added.rest.device.type == "cpu" else POINTS_ON_GRAPHICS
        count, size = max(1, points // math.prod(self.shape[1:])), self.shape[0]
        for start in range(0, size, count):
            layers = slice(start, min(start + count, size))
            yield layers, self.added.knots(slice(max(0, start - halo), min(size, layers.stop + halo)))


Work = Callable[[Tensor, slice, slice], Tensor]


class _InLayers(torch.autograd.Function):
    """What `work` makes of `rest`, part by part; for the gradient each part is made again."""

    @staticmethod
    def forward(ctx: Any, rest: Tensor, work: Work, parts: list[tuple[slice, slice]]) -> Tensor:
        ctx.save_for_backward(rest)
        ctx.work, ctx.parts = work, parts
        return torch.cat([work(rest[:, :, knots], layers, knots) for layers, knots in parts], dim=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (rest,) = ctx.saved_tensors
        gradient = torch.zeros_like(rest)
        for layers, knots in ctx.parts:
            with torch.enable_grad():
                part = rest[:, :, knots].detach().requires_grad_()
                made = ctx.work(part, layers, knots)
            gradient[:, :, knots] += torch.autograd.grad(made, part, upstream[:, :, layers])[0]
        return gradient, None, None
