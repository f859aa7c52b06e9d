"""Trilinear interpolation on the CPU, by pictures.

torch's `grid_sample` handles one point of a volume at a time, but sixteen of a picture. So a volume's layers are taken as one
picture with the rows of all of them, which is sampled once for each of the four rows around a point. That is twice as fast as in
3-D, and its gradient three times. With `rounded`, it is sampled between rows, once in the layer before each point and once in
the layer behind it: twice as fast again, but a point's place is rounded along the rows.

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

# Points that a thread samples at a time, at most and at least. With few their temporaries stay in the processor's cache, with more
# the gradient of the image is made in fewer parts; with very few, finding their layers takes longer than it saves.
MOST_POINTS, MOST_POINTS_BACKWARD, FEWEST_POINTS = 2**16, 2**17, 2**12
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
        ctx.rounded = rounded
        ctx.save_for_backward(image, points)
        values = image.new_empty(*image.shape[:2], points.shape[2])
        for part, place in _places(points, image.shape[2:], rounded, MOST_POINTS):
            few = _spread(values[..., part])
            few.copy_(place.values(image.expand(len(few), *image.shape[1:])))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, points = ctx.saved_tensors
        by_image = torch.zeros_like(image, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        by_points = torch.empty_like(points) if ctx.needs_input_grad[1] else None
        for part, place in _places(points, image.shape[2:], ctx.rounded, MOST_POINTS_BACKWARD):
            pull = _spread(upstream[..., part])
            pulled = place.pull_back(
                pull, image.expand(len(pull), *image.shape[1:]), by_image, is_point_wanted=by_points is not None
            )
            if by_points is not None:
                _spread(by_points[..., part]).copy_(pulled)
        return by_image, by_points, None


def _places(
    points: Tensor, shape: Sequence[int], rounded: bool, most: int
) -> Iterator[tuple[slice, _BetweenRows | _OnRows | _AmongVoxels]]:
    """The points [B, 3, P] of a volume of `shape`, part by part: which they are, and where they lie."""
    threads = torch.get_num_threads() if len(points) == 1 else 1
    start, count = 0, points.shape[2]
    while start < count:
        whole = step = threads * min(most, max(1, (count - start) // threads))
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
    return kind(points, tuple(shape), lattice[..., None].movedim(1, -1), fractions, first_row, steps)


@dataclass(frozen=True)
class _AmongRows:
    """Points [B, 3, P] in a volume of `shape`, in the picture of `steps` + 1 of its rows, from `first_row` on.

    `lattice` [B, P, 1, 2] is their place there, in the layer before them, and also in the picture one layer further on, there
    in the layer behind them; `fractions` [B, 1, P] are how much of the way they have gone from the one to the other, and from one
    row to the next where the lattice does not say that.
    """

    points: Tensor
    shape: tuple[int, ...]
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

    def _pulled_back(self, pull: Tensor, image: Tensor, further: int, by_image: Tensor | None, is_point_wanted: bool) -> Tensor:
        """Adds to `by_image`, and gives the gradient [B, 2, P] with respect to the lattice."""
        by_picture, by_lattice = torch.ops.aten.grid_sampler_2d_backward(
            pull[..., None],
            self._picture(image, further),
            self.lattice,
            _LINEAR,
            _BORDER,
            True,
            [by_image is not None, is_point_wanted],
        )
        if by_image is not None:
            _add_entries(self._picture(by_image, further), by_picture)
        return by_lattice[:, :, 0].transpose(1, 2) if is_point_wanted else pull[:, :0]

    def _by_points(self, by_z: Tensor, by_y: Tensor, by_x: Tensor) -> Tensor:
        """From gradients [B, P] in voxels (`by_x` in the unit of the lattice); 0 where the border holds."""
        depth, height = self.shape[:2]
        is_inside = (self.points[:, :2] > 0) & (self.points[:, :2] < 1)
        by_zy = torch.stack([by_z * (depth - 1), by_y * (height - 1)], dim=1).mul_(is_inside)
        return torch.cat([by_zy, 2 * by_x[:, None]], dim=1)


class _BetweenRows(_AmongRows):
    """The lattice lies between rows: their places are rounded."""

    def values(self, image: Tensor) -> Tensor:
        return self._sampled(image, 0).lerp_(self._sampled(image, self.shape[1]), self.fractions[0])

    def pull_back(self, pull: Tensor, image: Tensor, by_image: Tensor | None, *, is_point_wanted: bool) -> Tensor:
        """Adds the gradient with respect to the image to `by_image`; gives that with respect to the points, [B, 3, P], if wanted.

        `pull` [B, C, P] is the gradient with respect to the values.
        """
        height, behind = self.shape[1], pull * self.fractions[0]
        by_lattice = self._pulled_back(pull - behind, image, 0, by_image, is_point_wanted)
        by_lattice = by_lattice + self._pulled_back(behind, image, height, by_image, is_point_wanted)
        if not is_point_wanted:
            return by_lattice
        by_z = (self._sampled(image, height).sub_(self._sampled(image, 0))).mul_(pull).sum(1)
        return self._by_points(by_z, by_lattice[:, 1] * (2 / self.steps), by_lattice[:, 0])


class _OnRows(_AmongRows):
    """The lattice lies on rows: nothing is rounded."""

    def values(self, image: Tensor) -> Tensor:
        before, behind = self._in_layers(image)
        return before.lerp_(behind, self.fractions[0])

    def _in_layers(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height = self.shape[1]
        before, behind = (
            self._sampled(image, further).lerp_(self._sampled(image, further + 1), self.fractions[1]) for further in (0, height)
        )
        return before, behind

    def pull_back(self, pull: Tensor, image: Tensor, by_image: Tensor | None, *, is_point_wanted: bool) -> Tensor:
        """As of `_BetweenRows`."""
        z, y = self.fractions
        by_z, by_y, by_x = (torch.zeros_like(z[:, 0]) for _ in range(3))
        for further, by_layer, sign in ((0, pull * (1 - z), -1), (self.shape[1], pull * z, 1)):
            low, high = by_layer * (1 - y), by_layer * y
            for step, share in enumerate((low, high)):
                by_lattice = self._pulled_back(share, image, further + step, by_image, is_point_wanted)
                if is_point_wanted:
                    by_x += by_lattice[:, 0]
            if is_point_wanted:
                first, second = (self._sampled(image, further + step) for step in (0, 1))
                by_y += (second - first).mul_(by_layer).sum(1)
                by_z += first.lerp_(second, y).mul_(pull).sum(1) * sign
        return self._by_points(by_z, by_y, by_x) if is_point_wanted else by_x


@dataclass(frozen=True)
class _AmongVoxels:
    """Points [B, 3, P] that lie in too many layers to be sampled by them."""

    points: Tensor

    def values(self, image: Tensor) -> Tensor:
        return F.grid_sample(image, self._lattice(), padding_mode="border", align_corners=True)[..., 0, 0]

    def pull_back(self, pull: Tensor, image: Tensor, by_image: Tensor | None, *, is_point_wanted: bool) -> Tensor:
        del is_point_wanted  # torch gives it at no further cost
        by_voxels, by_lattice = torch.ops.aten.grid_sampler_3d_backward(
            pull[..., None, None], image, self._lattice(), _LINEAR, _BORDER, True, [by_image is not None, True]
        )
        if by_image is not None:
            _add_entries(by_image, by_voxels)
        return 2 * by_lattice[:, :, 0, 0].transpose(1, 2).flip(1)

    def _lattice(self) -> Tensor:
        return (2 * self.points.flip(1) - 1)[..., None, None].movedim(1, -1)


def _add_entries(total: Tensor, values: Tensor) -> None:
    """Adds `values` [B, …] to `total`, [B, …] or of one entry."""
    for entry, one in enumerate(values):
        total[min(entry, len(total) - 1)].add_(one)
