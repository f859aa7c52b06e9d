"""An image as it came, in its intensity window: whole numbers stay whole, and values in [0, 1] are made where they are asked for.

A volume of a CT has so many voxels that a second copy of it in floating point is what fills a memory. So all that works on the
values as they came, finding the window included, takes them a few layers at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..geometry.pyramid import in_layers
from ..geometry.separable import Matrix, apply_along_axes, interpolation_matrix, on, resize_matrix
from ..geometry.space import Grid, axes_towards, grid_of
from ..io.order_statistics import order_statistics
from .foreground import padding_of

Intensity = Mapping[str, Any]
"""How intensities become [0, 1], one of `RANGES` with its numbers: {"window": [-1000, 1000]}."""

Values = NDArray[Any]
Mask = NDArray[np.bool_]
Shape = tuple[int, ...]
Ranges = tuple[slice, ...]

LAYERS_AT_A_TIME = 8
# A voxel of a coarser lattice of which less was measured is told by its neighbours.
LEAST_MEASURED = 0.1


@dataclass(frozen=True, eq=False)
class Volume:
    """One image of the pair as it came, to be read in its window.

    Attributes:
        values: [*grid.shape], of any type of number; a view of the image's own memory.
        window: the values that become 0 and 1.
        counted: where the similarity counts; None is everywhere.
        measured: where the values are no padding; None is everywhere.
        labels: whole numbers; None are none.
        is_zero_outside: values are 0 where they are not counted.
        content: where the image holds anything, for those networks that see nothing else; None is everywhere.
        owners: the images whose memory the arrays are.
    """

    values: Values
    grid: Grid
    window: tuple[float, float]
    counted: Mask | None = None
    measured: Mask | None = None
    labels: Values | None = None
    is_zero_outside: bool = False
    content: Ranges | None = None
    owners: tuple[sitk.Image | None, ...] = ()

    def read(self, layers: slice) -> Tensor:
        """Some layers of the first axis in [0, 1]: [1, 1, layers, *rest], float32."""
        # In double precision: float32 would round a small contrast on a high level to nothing.
        part = scaled(torch.from_numpy(self.values[layers].astype(np.float64)), self.window).float()[None, None]
        if self.counted is None or not self.is_zero_outside:
            return part
        return part * _tensor(self.counted[layers])

    def whole(self) -> Tensor:
        """All of it: [1, 1, *shape], float32."""
        whole = torch.empty(1, 1, *self.grid.shape, dtype=torch.float32)
        for start in range(0, self.grid.shape[0], LAYERS_AT_A_TIME):
            layers = slice(start, start + LAYERS_AT_A_TIME)
            whole[:, :, layers] = self.read(layers)
        return whole

    def resampled(self, shape: Shape, *, smooth: bool) -> Tensor:
        """On a lattice of `shape` over the same extent (see `resize_matrix`): [1, 1, *shape], float32."""
        if shape == self.grid.shape:
            return self.whole()
        return in_layers(self.read, self._matrices(shape, smooth=smooth))

    def continued(self, shape: Shape) -> Tensor:
        """As `resampled` smoothly, the padding told by what lies next to it: [1, 1, *shape], float32.

        Its own value would make an edge that has nothing to do with the body, along which two images would be drawn together.
        """
        if self.measured is None or self.is_zero_outside:
            return self.resampled(shape, smooth=True)
        measured = self.measured
        if shape == self.grid.shape:
            return continued(self.whole(), _tensor(measured)[None, None])
        matrices = self._matrices(shape, smooth=True)
        share = in_layers(lambda layers: _tensor(measured[layers]).float()[None, None], matrices)
        values = in_layers(lambda layers: self.read(layers) * _tensor(measured[layers]), matrices)
        is_known = share > LEAST_MEASURED
        return continued(values.div_(share.clamp_(min=LEAST_MEASURED)).clamp_(0, 1), is_known)

    def counted_on(self, shape: Shape) -> Tensor | None:
        """Where at least half of a voxel of a lattice of `shape` counts; of one too thin for it, what holds most of it: boolean."""
        return self._on(shape, self.counted)

    def measured_on(self, shape: Shape) -> Tensor | None:
        """The same of what is no padding."""
        return self._on(shape, self.measured)

    def _on(self, shape: Shape, mask: Mask | None) -> Tensor | None:
        if mask is None or shape == self.grid.shape:
            return None if mask is None else _tensor(mask)[None, None]
        return mask_of(in_layers(lambda layers: _tensor(mask[layers]).float()[None, None], self._matrices(shape, smooth=True)))

    def counted_nearest(self, shape: Shape) -> Tensor | None:
        """By the nearest voxel on a lattice of `shape`: boolean [1, 1, *shape]."""
        return None if self.counted is None else _tensor(_nearest(self.counted, shape))[None, None]

    def labels_on(self, shape: Shape) -> Tensor | None:
        """By the nearest voxel on a lattice of `shape`: int64 [1, 1, *shape]."""
        if self.labels is None:
            return None
        labels = self.labels if shape == self.grid.shape else _nearest(self.labels, shape)
        return torch.from_numpy(labels.astype(np.int64))[None, None]

    def content_on(self, shape: Shape) -> Ranges | None:
        """The content on a lattice of `shape`: every voxel that holds some of it."""
        if self.content is None or shape == self.grid.shape:
            return self.content
        ratios = [new / old for new, old in zip(shape, self.grid.shape, strict=True)]
        return tuple(
            slice(math.floor(one.start * ratio), min(size, math.ceil(one.stop * ratio)))
            for one, ratio, size in zip(self.content, ratios, shape, strict=True)
        )

    def cropped(self) -> Volume:
        """What lies within the content."""
        if self.content is None:
            return self
        one = self._viewed(lambda values: values[self.content])
        return replace(one, grid=self.grid.cropped(self.content), content=None)

    def towards(self, target: Grid) -> Volume:
        """The same voxels with their axes brought to the nearest ones of `target`; the content comes along as everywhere."""
        order, flipped = axes_towards(self.grid, target)
        backwards = tuple(slice(None, None, -1 if is_flipped else 1) for is_flipped in flipped)
        one = self._viewed(lambda values: values.transpose(order)[backwards])
        return replace(one, grid=self.grid.rearranged(order, flipped), content=None)

    def _viewed(self, view: Callable[[Values], Values]) -> Volume:
        counted, measured, labels = (None if one is None else view(one) for one in (self.counted, self.measured, self.labels))
        return replace(self, values=view(self.values), counted=counted, measured=measured, labels=labels)

    def _matrices(self, shape: Shape, *, smooth: bool) -> list[Matrix]:
        return [resize_matrix(new, old, smooth=smooth) for new, old in zip(shape, self.grid.shape, strict=True)]


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _nearest(values: Values, shape: Shape) -> Values:
    """As `interpolate` with the mode "nearest"."""
    places = [np.arange(new) * old // new for new, old in zip(shape, values.shape, strict=True)]
    return values[np.ix_(*places)]


def volume_of(
    image: sitk.Image,
    intensity: Intensity,
    mask: sitk.Image | None = None,
    labels: sitk.Image | None = None,
    *,
    what: str = "the image",
    towards: Grid | None = None,
    zero_outside_mask: bool = False,
    crops_border: bool = False,
) -> Volume:
    """The image in its intensity window with its mask and labels, its axes brought to the nearest ones of `towards`.

    With `crops_border` its content is what lies within its uniform border, and the window is found there.

    Raises:
        InputError: the image has no contrast in its window, or none of its mask was measured.
    """
    values, counted, numbers = (None if one is None else sitk.GetArrayViewFromImage(one) for one in (image, mask, labels))
    assert values is not None
    plain = Volume(
        values, grid_of(image), (0.0, 1.0), None if counted is None else counted != 0, None, numbers, zero_outside_mask,
        owners=(image, mask, labels),
    )  # fmt: skip
    volume = plain if towards is None else plain.towards(towards)
    content = ranges_within_border(volume.values, what=what) if crops_border else None
    padding = padding_of(volume.values)
    window = window_of(volume.values, intensity, content=content, padding=padding, what=what)
    volume = replace(volume, window=window, content=content)
    return volume if padding is None else _without(padding, volume, what)


def _without(padding: Mask, volume: Volume, what: str) -> Volume:
    """The volume, whose padding was not measured and does not count."""
    measured = ~padding
    counted = measured if volume.counted is None else volume.counted & measured
    if not counted.any():
        raise InputError(
            f"{what} holds nothing within its mask but the value {float(volume.values[padding][0]):g}, which stands for no "
            "measurement; at least one voxel must be measured. Check the mask."
        )
    return replace(volume, counted=counted, measured=measured)


def mask_of(share: Tensor) -> Tensor:
    """The mask on a coarser lattice, from the share of each voxel that lies in it: half of it, or, of a mask too thin for that, most of it."""
    return share > 0.5 * share.max()


def continued(values: Tensor, is_known: Tensor) -> Tensor:
    """`values` [1, 1, *shape], in [0, 1], where they are known (boolean, the same shape); elsewhere what is known nearby, smoother the farther it is."""
    if bool(is_known.all()) or not bool(is_known.any()):
        return values
    shape = values.shape[2:]
    pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
    # Windows two voxels apart that see the nearest known one, and lie alike from either end: of four voxels along an even axis, of three
    # along an odd one.
    window, stride, margin = zip(*((1, 1, 0) if size == 1 else (4 - size % 2, 2, 1) for size in shape), strict=True)
    weight = is_known.to(values)
    share = pool(weight, window, stride, margin)
    coarse = continued(pool(values * weight, window, stride, margin) / share.clamp_min(1e-6), share > 0)
    sizes = zip(shape, coarse.shape[2:], strict=True)
    finer = [interpolation_matrix(new, old) if new % 2 else resize_matrix(new, old, smooth=False) for new, old in sizes]
    return torch.where(is_known, values, apply_along_axes(coarse, on(finer, coarse)))


def window_of(
    values: Values, intensity: Intensity, *, content: Ranges | None = None, padding: Mask | None = None, what: str = "the image"
) -> tuple[float, float]:
    """The values that become 0 and 1, by one of `RANGES`, from those within `content`, if given, that are no `padding`.

    Raises:
        InputError: nothing is left between the two.
    """
    ((kind, numbers),) = intensity.items()
    counted = values if content is None else values[content]
    if padding is not None:
        padding = padding if content is None else padding[content]
        counted = counted if padding.all() else counted[~padding]
    low, high = RANGES[kind](counted, numbers)
    ends = scaled(torch.tensor([values.min(), values.max()], dtype=torch.float64), (low, high))
    if float(ends[0]) == float(ends[1]):
        raise InputError(
            f"{what} has no contrast within the window [{low:g}, {high:g}]; registration needs it. Check the modality."
        )
    return low, high


def scaled(values: Tensor, window: tuple[float, float]) -> Tensor:
    """`values` clamped to the window and scaled to [0, 1]; 0 everywhere in an empty one."""
    low, high = window
    return ((values - low) / (high - low)).clamp_(0, 1) if low < high else torch.zeros_like(values)


def _quantiles(values: Values, quantiles: Sequence[float]) -> tuple[float, float]:
    """The k-th smallest values, k = int(q · n), as uniGradICON counts them; the whole range where these coincide."""
    low, high = order_statistics(values, [max(1, int(q * values.size)) for q in quantiles])
    return (low, high) if low < high else (float(values.min()), float(values.max()))


RANGES: dict[str, Callable[[Values, Any], tuple[float, float]]] = {
    "window": lambda _, ends: (ends[0], ends[1]),
    "quantiles": _quantiles,
    # The largest value becomes this one, and 0 stays.
    "scaled_maximum": lambda values, largest: (0.0, float(values.max()) / largest),
}


def ranges_within_border(values: Values, *, margin_vox: int = 1, what: str = "the image") -> Ranges:
    """One slice per axis of `values`, without the slices at either end that hold a single value each, and without a margin.

    As in the preparation of uniCARL, where `margin_vox` more are cut at each end of every axis, uniform border or not. Two
    slices of different values are two uniform slices, and both go.

    Args:
        values: any number of axes, and of either kind of number.
        margin_vox: how many slices more go.
        what: names the image in messages.

    Raises:
        InputError: nothing would be left.
    """
    ranges = []
    for axis, size in enumerate(values.shape):
        slices = np.moveaxis(values, axis, 0)
        first, behind = _uniform_slices(slices), size - _uniform_slices(slices[::-1])
        if behind - first <= 2 * margin_vox:
            raise InputError(
                f"{what} has {max(0, behind - first)} slices between uniform ones along axis {axis}; of these {margin_vox} at each "
                "end are cut off, and at least one must be left. Check the image, or choose a network that does not crop."
            )
        ranges.append(slice(first + margin_vox, behind - margin_vox))
    return tuple(ranges)


def _uniform_slices(slices: Values) -> int:
    """How many hold a single value each before the first that does not."""
    return next((place for place, one in enumerate(slices) if (one != one.flat[0]).any()), len(slices))
