"""From checked images to what the methods work on: intensity windows, masks, labels, orientation, lattices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..choices import SMALLEST_SIDE_VOX
from ..errors import InputError
from ..geometry.separable import apply_along_axes, on, resize_matrix
from ..geometry.space import (
    Grid,
    axes_towards,
    bring_to_axes_of,
    grid_of,
    is_inside,
    lies_inside,
    tensor_of,
    values_at,
    values_on,
)
from ..io.inputs import Pair
from ..models.catalogue import Card
from .foreground import padding_of

Intensity = Mapping[str, Any]
"""How intensities become [0, 1], one of `RANGES` with its numbers: {"window": [-1000, 1000]}."""


@dataclass(frozen=True)
class Prepared:
    """One image of the pair as the methods see it: tensors on one grid, intensities in [0, 1].

    `values`, `mask` and `labels` are [1, 1, *grid.shape]; the mask is boolean, True where the similarity counts. `content` is
    where the image holds anything, one slice per axis, for those networks that see nothing else; None is everywhere.
    """

    values: Tensor
    grid: Grid
    mask: Tensor | None = None
    labels: Tensor | None = None
    content: tuple[slice, ...] | None = None

    def carried(self, grid: Grid) -> Prepared:
        """The same image on `grid` of the same world, counted only where it has voxels."""
        return self._seen(grid, is_inside(self.grid, grid, self.values), partial(values_on, source=self.grid, target=grid))

    def at(self, points: Tensor, grid: Grid, steps_vox: Sequence[float]) -> Prepared:
        """The same image at the lattice of `grid`, which a map has taken to `points` [1, dim, *grid.shape] of its own unit cube.

        Counted only where it has voxels. The points are about `steps_vox` apart along each of its axes.
        """
        return self._seen(grid, lies_inside(self.grid, points), partial(values_at, points=points, steps_vox=steps_vox))

    def _seen(self, grid: Grid, inside: Tensor, look: Callable[..., Tensor]) -> Prepared:
        mask = None if bool(inside.all()) else inside
        if self.mask is not None:
            mask = inside & (look(self.mask.to(self.values), nearest=True) > 0.5)
        labels = None
        if self.labels is not None:
            # Numbered from 0, so that float32 holds labels of any size.
            names, numbers = torch.unique(self.labels, return_inverse=True)
            labels = names[look(numbers.to(self.values), nearest=True).long()] * inside
        return Prepared(look(self.values), grid, mask, labels)

    def to(self, device: torch.device) -> Prepared:
        """The same on `device`."""
        mask = None if self.mask is None else self.mask.to(device)
        labels = None if self.labels is None else self.labels.to(device)
        return Prepared(self.values.to(device), self.grid, mask, labels, self.content)

    def cropped(self) -> Prepared:
        """The image within its content."""
        if self.content is None:
            return self
        every = (slice(None), slice(None), *self.content)
        mask, labels = (None if one is None else one[every] for one in (self.mask, self.labels))
        return Prepared(self.values[every], self.grid.cropped(self.content), mask, labels)

    def towards(self, target: Grid) -> Prepared:
        """The same voxels with their axes brought to the nearest ones of `target`; the content comes along as everywhere.

        For an image that is `cropped` before.
        """
        order, flipped = axes_towards(self.grid, target)
        places = [2 + axis for axis, is_flipped in enumerate(flipped) if is_flipped]

        def rearranged(one: Tensor) -> Tensor:
            return one.permute(0, 1, *(2 + axis for axis in order)).flip(places)

        mask, labels = (None if one is None else rearranged(one) for one in (self.mask, self.labels))
        return Prepared(rearranged(self.values), self.grid.rearranged(order, flipped), mask, labels)


def resized(prepared: Prepared, spacing_mm: float) -> Prepared:
    """The same image on a lattice of at least `spacing_mm` over the same extent; axes that are coarser already stay."""
    grid = prepared.grid
    shape = [
        min(size, max(SMALLEST_SIDE_VOX, round(size * step / spacing_mm)))
        for size, step in zip(grid.shape, grid.spacing_mm, strict=True)
    ]
    matrices = on([resize_matrix(new, old) for new, old in zip(shape, grid.shape, strict=True)], prepared.values)
    mask = None if prepared.mask is None else coarse_mask(prepared.mask, matrices)
    return Prepared(apply_along_axes(prepared.values, matrices), grid.resized(shape), mask)


def coarse_mask(mask: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The mask on the coarser lattice to which `matrices` lead; one too thin for it keeps the voxels that hold most of it."""
    share = apply_along_axes(mask.to(matrices[0]), matrices)
    return share > 0.5 * share.max()


@dataclass(frozen=True)
class Preparation:
    """How a method wants its images, as its card says.

    Attributes:
        intensity: by modality; a modality that is missing cannot be taken.
        needs_mask: both images need a mask.
        zero_outside_mask: images are 0 outside their mask, rather than merely not counted there.
        orientation: anatomical axes to which the network's lattices are brought, as for `space.anatomical_grid`; None leaves
            those of fixed.
        mirror_axis: the axis of the network's lattice along which images of the other side of the body are mirrored.
        crops_border: the network sees, and the window counts, what lies within the uniform border of an image.
    """

    intensity: Mapping[str, Intensity]
    needs_mask: bool = False
    zero_outside_mask: bool = False
    orientation: str | None = None
    mirror_axis: int | None = None
    crops_border: bool = False

    @classmethod
    def of(cls, card: Card) -> Preparation:
        """What the card's section `prepare` says."""
        said = card.prepare
        return cls(
            intensity=said["intensity"],
            needs_mask=said["mask"] == "required",
            zero_outside_mask=said["mask"] != "optional",
            orientation=said["orientation"],
            mirror_axis=said["mirror_axis"],
            crops_border=said.get("crop_uniform_border", False),
        )


def prepared_pair(pair: Pair, preparation: Preparation) -> tuple[Prepared, Prepared]:
    """Both images as tensors, fixed first, moving with its axes brought to fixed's nearest ones.

    Raises:
        InputError: an image has a modality that the method cannot take, or no contrast in its window, or lacks the mask it needs.
    """
    sides = zip(("fixed", "moving"), pair.images, pair.modalities, pair.masks, pair.labels, strict=True)
    fixed, moving = (
        prepared(image, _intensity(preparation, modality, what), _needed(mask, preparation, what), labels, what=what,
                 towards=grid_of(pair.fixed),
                 zero_outside_mask=preparation.zero_outside_mask, crops_border=preparation.crops_border)
        for what, image, modality, mask, labels in sides
    )  # fmt: skip
    return fixed, moving


def _intensity(preparation: Preparation, modality: str, what: str) -> Intensity:
    if modality not in preparation.intensity:
        raise InputError(
            f"{what} has the modality {modality!r}; this model takes {', '.join(preparation.intensity)}. "
            f"Say so by {what}_modality if that is what it is, or choose another model."
        )
    return preparation.intensity[modality]


def _needed(mask: sitk.Image | None, preparation: Preparation, what: str) -> sitk.Image | None:
    if mask is None and preparation.needs_mask:
        raise InputError(
            f"{what} has no mask; this model needs masks of both images, as it was trained on masked ones. "
            f"Give {what}_mask, or choose another model."
        )
    return mask


def prepared(
    image: sitk.Image,
    intensity: Intensity,
    mask: sitk.Image | None = None,
    labels: sitk.Image | None = None,
    *,
    what: str = "the image",
    towards: Grid | None = None,
    zero_outside_mask: bool = False,
    crops_border: bool = False,
) -> Prepared:
    """The image in its intensity window with its mask and labels, its axes brought to the nearest ones of `towards`.

    With `crops_border` its content is what lies within its uniform border, and the window is found there.
    """
    if towards is not None:
        image = bring_to_axes_of(image, towards)
        mask, labels = (None if one is None else bring_to_axes_of(one, towards) for one in (mask, labels))
    content = ranges_within_border(sitk.GetArrayViewFromImage(image), what=what) if crops_border else None
    # Windowed in double precision: float32 would round a small contrast on a high level to nothing.
    raw = tensor_of(image, dtype=torch.float64)
    padding = padding_of(raw)
    values = windowed(raw, intensity, content=content, padding=padding, what=what).float()
    counted = None if mask is None else tensor_of(mask) != 0
    if padding is not None:
        counted = ~padding if counted is None else counted & ~padding
        if not bool(counted.any()):
            raise InputError(
                f"{what} holds nothing within its mask but the value {float(raw[padding][0]):g}, which stands for no measurement; "
                "at least one voxel must be measured. Check the mask."
            )
    return Prepared(
        values=values if counted is None or not zero_outside_mask else values * counted,
        grid=grid_of(image),
        mask=counted,
        labels=None if labels is None else tensor_of(labels, dtype=torch.int64),
        content=content,
    )


def windowed(
    values: Tensor,
    intensity: Intensity,
    *,
    content: tuple[slice, ...] | None = None,
    padding: Tensor | None = None,
    what: str = "the image",
) -> Tensor:
    """Intensities clamped to a range, one of `RANGES`, and scaled to [0, 1]; the range is that within `content`, if given.

    What is `padding` has no part in the range.

    Raises:
        InputError: nothing is left between the range's ends.
    """
    ((kind, numbers),) = intensity.items()
    counted = values
    if content is not None:
        within = (slice(None), slice(None), *content)
        counted = values[within]
        padding = None if padding is None else padding[within]
    if padding is not None and not bool(padding.all()):
        counted = counted[~padding]
    low, high = RANGES[kind](counted, numbers)
    scaled = ((values - low) / (high - low)).clamp_(0, 1) if low < high else torch.zeros_like(values)
    if float(scaled.min()) == float(scaled.max()):
        raise InputError(
            f"{what} has no contrast within the window [{low:g}, {high:g}]; registration needs it. Check the modality."
        )
    return scaled


def _quantiles(values: Tensor, quantiles: Sequence[float]) -> tuple[float, float]:
    """The k-th smallest values, k = int(q · n), as uniGradICON counts them; the whole range where these coincide."""
    flat = values.flatten()
    low, high = (float(flat.kthvalue(max(1, int(q * flat.numel())))[0]) for q in quantiles)
    return (low, high) if low < high else (float(flat.min()), float(flat.max()))


RANGES: dict[str, Callable[[Tensor, Any], tuple[float, float]]] = {
    "window": lambda _, ends: (ends[0], ends[1]),
    "quantiles": _quantiles,
    # The largest value becomes this one, and 0 stays.
    "scaled_maximum": lambda values, largest: (0.0, float(values.max()) / largest),
}


def on_lattice(image: Prepared, shape: Sequence[int], *, mirror_axis: int | None = None) -> Prepared:
    """The same extent on a lattice of `shape`, as the published networks want it: interpolated, mask and labels by the nearest voxel.

    Nothing is blurred against aliasing, as published. With `mirror_axis` that axis counts backwards afterwards.
    """
    matrices = on([resize_matrix(new, old, smooth=False) for new, old in zip(shape, image.grid.shape, strict=True)], image.values)
    mask, labels = (
        None if one is None else F.interpolate(one.double(), tuple(shape), mode="nearest").to(one.dtype)
        for one in (image.mask, image.labels)
    )
    resized_image = Prepared(apply_along_axes(image.values, matrices), image.grid.resized(shape), mask, labels)
    return resized_image if mirror_axis is None else _mirrored(resized_image, 2 + mirror_axis)


def _mirrored(image: Prepared, place: int) -> Prepared:
    mask, labels = (None if one is None else one.flip(place) for one in (image.mask, image.labels))
    return Prepared(image.values.flip(place), image.grid.mirrored(place - 2), mask, labels)


def ranges_within_border(values: NDArray[Any], *, margin_vox: int = 1, what: str = "the image") -> tuple[slice, ...]:
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


def _uniform_slices(slices: NDArray[Any]) -> int:
    """How many hold a single value each before the first that does not."""
    return next((place for place, one in enumerate(slices) if (one != one.flat[0]).any()), len(slices))
