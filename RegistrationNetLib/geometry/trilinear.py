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
# few layers. With fewer, finding those layers takes longer than it saves.
MOST_POINTS, FEWEST_POINTS = 2**16, 2**12
# Half as many steps between rows are 1 in the unit of `grid_sample`: a power of 2, so that the number of a row is not rounded.
# A place between rows is, by 0.000125 voxels at most, and where there are more steps it is not looked up between rows.
MOST_STEPS_ROUNDED, MOST_STEPS = 2**12, 2**14
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

    Points may be rounded, as with `rounded`; outside, the values are those of the border, and the derivative across it is 0.
    """
    values, slopes = image.new_empty(1, 1, points.shape[2]), torch.empty_like(points)
    for part, place in _places(points, image.shape[2:], True):
        few, few_slopes = _spread(values[..., part]), _spread(slopes[..., part])
        found, by_points = place.with_slopes(image.expand(len(few), *image.shape[1:]))
        few.copy_(found)
        few_slopes.copy_(by_points)
    # What was clamped to the volume does not change with its place.
    for axis, size in enumerate(image.shape[2:]):
        slopes[:, axis] *= (points[:, axis] > 0) & (points[:, axis] < 1)
        slopes[:, axis] *= size - 1
    return values, slopes


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

    def _slopes(self, image: Tensor, further: int) -> tuple[Tensor, Tensor]:
        """Of what `_sampled` gives, per row and per column: [B, 1, P] each."""
        picture = self._picture(image, further)
        ones = picture.new_ones(len(self.lattice), 1, self.lattice.shape[1], 1)
        _, by_lattice = torch.ops.aten.grid_sampler_2d_backward(
            ones, picture, self.lattice, _LINEAR, _BORDER, True, [False, True]
        )
        by_column, by_row = by_lattice[:, :, 0].unbind(-1)
        return by_row[:, None] * (2 / self.steps), by_column[:, None] * (2 / (image.shape[-1] - 1))


class _BetweenRows(_AmongRows):
    """The lattice lies between rows: their places are rounded."""

    def values(self, image: Tensor) -> Tensor:
        return self._sampled(image, 0).lerp_(self._sampled(image, self.height), self.fractions[0])

    def with_slopes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, 1, P], and their derivatives per layer, row and column [B, 3, P]."""
        (z,) = self.fractions
        before, behind = (self._sampled(image, further) for further in (0, self.height))
        slopes = [one.lerp(other, z) for one, other in zip(self._slopes(image, 0), self._slopes(image, self.height), strict=True)]
        by_layer = behind - before
        return before.lerp_(behind, z), torch.cat([by_layer, *slopes], dim=1)


class _OnRows(_AmongRows):
    """The lattice lies on rows: nothing is rounded."""

    def values(self, image: Tensor) -> Tensor:
        z, y = self.fractions
        before, behind = (
            self._sampled(image, further).lerp_(self._sampled(image, further + 1), y) for further in (0, self.height)
        )
        return before.lerp_(behind, z)

    def with_slopes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, 1, P], and their derivatives per layer, row and column [B, 3, P]."""
        z, y = self.fractions
        layers, rows, columns = [], [], []
        for further in (0, self.height):
            one, other = (self._sampled(image, further + step) for step in (0, 1))
            by_column, other_by_column = (self._slopes(image, further + step)[1] for step in (0, 1))
            rows.append(other - one)
            columns.append(by_column.lerp_(other_by_column, y))
            layers.append(one.lerp_(other, y))
        by_layer = layers[1] - layers[0]
        by_row, by_column = (pair[0].lerp_(pair[1], z) for pair in (rows, columns))
        return layers[0].lerp_(layers[1], z), torch.cat([by_layer, by_row, by_column], dim=1)


@dataclass(frozen=True)
class _AmongVoxels:
    """Points [B, 3, P] that lie in too many layers to be sampled by them."""

    points: Tensor

    def values(self, image: Tensor) -> Tensor:
        return F.grid_sample(image, lattice_of(self.points), padding_mode="border", align_corners=True)[:, :, 0, 0]

    def with_slopes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Values [B, 1, P], and their derivatives per layer, row and column [B, 3, P]."""
        values, lattice = self.values(image), lattice_of(self.points)
        _, by_lattice = torch.ops.aten.grid_sampler_3d_backward(
            torch.ones_like(values)[:, :, None, None], image, lattice, _LINEAR, _BORDER, True, [False, True]
        )
        lengths = lattice.new_tensor([2 / (size - 1) for size in image.shape[2:]])
        return values, (by_lattice[:, 0, 0].flip(-1) * lengths).transpose(1, 2)
