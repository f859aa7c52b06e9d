"""Trilinear interpolation on the CPU, by pictures.

torch's `grid_sample` handles one point of a volume at a time, but sixteen of a picture. So a volume's layers are taken as one
picture with the rows of all of them, which is sampled once for each of the four rows around a point. With `rounded` it is sampled
between rows, once in the layer before each point and once in the layer behind it, but a point's place is rounded along the rows.
The gradient is torch's own, of the volume: it touches each point's surroundings once.

# B batch, C channel, P points; D H W layers, rows and columns of a volume
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Points that a thread samples at a time, at most and at least: their temporaries stay in the processor's cache, and they lie in
# few layers.
MOST_POINTS, FEWEST_POINTS = 2**16, 2**12
# Of fewer points in all, finding the layers takes longer than it saves; where places are rounded it saves more.
WORTH_LAYERS, WORTH_LAYERS_ROUNDED = 2**16, 2**14
# Half as many steps between rows are 1 in the unit of `grid_sample`: a power of 2, so that the number of a row is not rounded.
# A place between rows is, by 0.000125 voxels at most, and where there are more steps it is not looked up between rows.
MOST_STEPS_ROUNDED, MOST_STEPS = 2**12, 2**14
# Points whose values come with their derivatives at a time: few dozen temporaries stay in the cache.
POINTS_WITH_SLOPES = 2**15
_LINEAR, _BORDER = 0, 1  # torch's numbers for these options of its backward functions


class SampledByLayers(torch.autograd.Function):
    """Values [B, C, P] of an image [B, C, D, H, W] at points [B, 3, P] of the unit cube, which may be `rounded`; outside, those of its border.

    No axis may have length 1. Differentiable once; nothing is kept for the gradient but image and points.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, points: Tensor, rounded: bool) -> Tensor:
        """The values; image and points are kept for the gradient."""
        ctx.save_for_backward(image, points)
        values = image.new_empty(*image.shape[:2], points.shape[2])
        for part, place in _places(points, image.shape[2:], rounded):
            few = _spread(values[..., part])
            few.copy_(place.values(image.expand(len(few), *image.shape[1:])))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients with respect to image and points, from that with respect to the values."""
        image, points = ctx.saved_tensors
        return *pulled_back(image, points, upstream, (ctx.needs_input_grad[0], ctx.needs_input_grad[1])), None


def pulled_back(
    image: Tensor, points: Tensor, upstream: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients with respect to image and points, from that with respect to the values, as far as they are wanted."""
    few, pull = (_spread(_multiple_of_threads(values)) for values in (points, upstream))
    by_image, by_lattice = torch.ops.aten.grid_sampler_3d_backward(
        pull[:, :, None, None],
        image.expand(len(few), *image.shape[1:]),
        lattice_of(few),
        _LINEAR,
        _BORDER,
        True,
        [wanted[0], True],
    )
    if wanted[0] and len(by_image) > len(image):
        by_image = by_image.sum(0, keepdim=True)
    by_points = _gathered(torch.stack(by_lattice[:, 0, 0].unbind(-1)[::-1], dim=1).mul_(2), points) if wanted[1] else None
    return by_image if wanted[0] else None, by_points


def with_slopes(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Values [1, 1, P] of an image [1, 1, D, H, W] at points [1, 3, P] of the unit cube, and their derivatives by them [1, 3, P].

    Outside, the values are those of the border, and the derivative across it is 0. Both come from the eight voxels around a point.
    """
    values, slopes = image.new_empty(1, 1, points.shape[2]), torch.empty_like(points)
    corners = _Corners(image.flatten(), image.shape[2:])
    for few, *found in zip(*(one[0].split(POINTS_WITH_SLOPES, dim=1) for one in (points, values, slopes)), strict=True):
        corners.interpolate(few, found[0][0], found[1])
    for axis, size in enumerate(image.shape[2:]):
        place = points[:, axis]
        slopes[:, axis] *= ((place > 0) & (place < 1)) * float(size - 1)
    return values, slopes


@dataclass(frozen=True, eq=False)
class _Corners:
    """An image's voxels `flat` [D H W], from which those around a point are taken."""

    flat: Tensor
    shape: Sequence[int]

    def interpolate(self, points: Tensor, values: Tensor, slopes: Tensor) -> None:
        """Fill `values` [P], and `slopes` [3, P] per layer, row and column, at `points` [3, P]."""
        first, (z, y, x) = self._places(points)
        _, height, width = self.shape
        rows, by_column = [], []
        for further in (0, width, height * width, height * width + width):
            before, behind = (self.flat[further + step :].index_select(0, first) for step in (0, 1))
            behind -= before
            rows.append(before.addcmul_(behind, x))
            by_column.append(behind)
        by_row = [rows[1] - rows[0], rows[3] - rows[2]]
        layers = [rows[0].addcmul_(by_row[0], y), rows[2].addcmul_(by_row[1], y)]
        torch.sub(layers[1], layers[0], out=slopes[0])
        torch.addcmul(layers[0], slopes[0], z, out=values)
        torch.lerp(by_row[0], by_row[1], z, out=slopes[1])
        torch.lerp(by_column[0].lerp_(by_column[1], y), by_column[2].lerp_(by_column[3], y), z, out=slopes[2])

    def _places(self, points: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first of the voxels around each point, and how far from it to the next the point lies along each axis."""
        small = self.flat.numel() < 2**31
        first = torch.zeros(points.shape[1], dtype=torch.int32 if small else torch.int64)
        fractions = []
        for place, size in zip(points, self.shape, strict=True):
            position = (place * (size - 1)).clamp_(0, size - 1)
            whole = position.floor().nan_to_num_().clamp_(max=size - 2)
            first.mul_(size).add_(whole.to(first.dtype))
            fractions.append(position.sub_(whole))
        return first, fractions


def lattice_of(points: Tensor) -> Tensor:
    """Points [B, 3, P] as `grid_sample` wants them, [B, 1, 1, P, 3]: -1 … 1, last axis first, those of a point side by side."""
    return torch.stack(points.unbind(1)[::-1], dim=-1).mul_(2).sub_(1)[:, None, None]


def _places(points: Tensor, shape: Sequence[int], rounded: bool) -> Iterator[tuple[slice, _BetweenRows | _OnRows | _AmongVoxels]]:
    """The points [B, 3, P] of a volume of `shape`, part by part: which they are, and where they lie."""
    threads = torch.get_num_threads() if len(points) == 1 else 1
    start, count = 0, points.shape[2]
    while start < count:
        whole = step = threads * min(MOST_POINTS, max(1, (count - start) // threads))
        place = _among_rows(_spread(points[..., start : start + step]), shape, rounded)
        while place is None and step >= 2 * threads * FEWEST_POINTS:
            step = step // (2 * threads) * threads
            place = _among_rows(_spread(points[..., start : start + step]), shape, rounded)
        step = step if place else whole
        part = slice(start, start + step)
        yield part, place or _AmongVoxels(_spread(points[..., part]))
        start += step


def _spread(values: Tensor) -> Tensor:
    """A view of `values` [B, C, P] whose one entry becomes one for each thread, as torch gives every entry to one of them."""
    threads = torch.get_num_threads()
    if len(values) > 1 or values.shape[2] % threads:
        return values
    return values[0].unflatten(1, (threads, -1)).transpose(0, 1)


def _multiple_of_threads(values: Tensor) -> Tensor:
    """`values` [B, C, P] and zeros, so that one entry can be shared among the threads."""
    padding = -values.shape[2] % torch.get_num_threads() if len(values) == 1 else 0
    return F.pad(values, (0, padding)) if padding else values


def _gathered(values: Tensor, points: Tensor) -> Tensor:
    """What `_spread` and `_multiple_of_threads` made of the `points` [B, 3, P], the other way round."""
    if len(values) == len(points):
        return values[..., : points.shape[2]]
    return values.transpose(0, 1).flatten(1)[None, :, : points.shape[2]]


def _among_rows(points: Tensor, shape: Sequence[int], rounded: bool) -> _BetweenRows | _OnRows | None:
    """Where points [B, 3, P] lie in a volume of `shape`; None if in too many layers."""
    depth, height = shape[:2]
    z, y = (F.hardtanh(points[:, axis] * (size - 1), 0, size - 1) for axis, size in enumerate((depth, height)))
    layer = z.floor().clamp_(max=depth - 2)
    first, last = (int(end) for end in layer.nan_to_num().aminmax())
    steps = 2 ** math.ceil(math.log2((last - first + 1) * height - 1))
    rounded = rounded and steps <= MOST_STEPS_ROUNDED
    # Not so far on that a picture would end behind the last row: one layer further on, and one row where the lattice lies on rows.
    first_row = min(first * height, (depth - 1) * height - steps - 1 - (not rounded))
    if first_row < 0 or steps > MOST_STEPS:
        return None
    row = (layer * height).sub_(first_row)
    fractions: tuple[Tensor, ...]
    if rounded:
        row += y
        fractions = (z.sub_(layer)[:, None],)
    else:
        whole = y.floor().clamp_(max=height - 2)
        row += whole
        fractions = (z.sub_(layer)[:, None], y.sub_(whole)[:, None])
    lattice = torch.stack([2 * points[:, 2] - 1, row.mul_(2 / steps).sub_(1)], dim=1)
    kind = _BetweenRows if rounded else _OnRows
    return kind(height, lattice[..., None].movedim(1, -1), fractions, first_row, steps)


@dataclass(frozen=True)
class _AmongRows:
    """Points [B, 3, P] in a volume with layers of `height` rows, in the picture of `steps` + 1 of them, from `first_row` on.

    `lattice` [B, P, 1, 2] is their place there, in the layer before them, and also in the picture one layer further on, there
    in the layer behind them; `fractions` [B, 1, P] are how much of the way they have gone from the one to the other, and from one
    row to the next where the lattice does not say that.
    """

    height: int
    lattice: Tensor
    fractions: tuple[Tensor, ...]
    first_row: int
    steps: int

    def _picture(self, image: Tensor, further: int) -> Tensor:
        """The rows `further` on, [B, C, steps + 1, W]: a view."""
        return image.flatten(2, 3).narrow(2, self.first_row + further, self.steps + 1)

    def _sampled(self, image: Tensor, further: int) -> Tensor:
        picture = self._picture(image, further)
        return F.grid_sample(picture, self.lattice, padding_mode="border", align_corners=True)[..., 0]


class _BetweenRows(_AmongRows):
    """The lattice lies between rows: their places are rounded."""

    def values(self, image: Tensor) -> Tensor:
        return self._sampled(image, 0).lerp_(self._sampled(image, self.height), self.fractions[0])


class _OnRows(_AmongRows):
    """The lattice lies on rows: nothing is rounded."""

    def values(self, image: Tensor) -> Tensor:
        z, y = self.fractions
        before, behind = (
            self._sampled(image, further).lerp_(self._sampled(image, further + 1), y) for further in (0, self.height)
        )
        return before.lerp_(behind, z)


@dataclass(frozen=True)
class _AmongVoxels:
    """Points [B, 3, P] that lie in too many layers to be sampled by them."""

    points: Tensor

    def values(self, image: Tensor) -> Tensor:
        return F.grid_sample(image, lattice_of(self.points), padding_mode="border", align_corners=True)[:, :, 0, 0]
