"""From checked images to what the methods work on: intensity windows, masks, labels, orientation, lattices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from .catalogue import Card
from .errors import InputError
from .inputs import SMALLEST_SIDE_VOX, Pair
from .separable import apply_along_axes, on, resize_matrix
from .space import Grid, bring_to_axes_of, grid_of, is_inside, tensor_of, values_on

Intensity = Mapping[str, Any]
"""How intensities become [0, 1], one of `RANGES` with its numbers: {"window": [-1000, 1000]}."""


@dataclass(frozen=True)
class Prepared:
    """One image of the pair as the methods see it: tensors on one grid, intensities in [0, 1].

    `values`, `mask` and `labels` are [1, 1, *grid.shape]; the mask is boolean, True where the similarity counts.
    """

    values: Tensor
    grid: Grid
    mask: Tensor | None = None
    labels: Tensor | None = None

    def carried(self, grid: Grid) -> Prepared:
        """The same image on `grid` of the same world, counted only where it has voxels."""
        inside = is_inside(self.grid, grid, self.values)
        mask = None if bool(inside.all()) else inside
        if self.mask is not None:
            mask = inside & (values_on(self.mask.to(self.values), self.grid, grid, nearest=True) > 0.5)
        labels = None
        if self.labels is not None:
            # Numbered from 0, so that float32 holds labels of any size.
            names, numbers = torch.unique(self.labels, return_inverse=True)
            labels = names[values_on(numbers.to(self.values), self.grid, grid, nearest=True).long()] * inside
        return Prepared(values_on(self.values, self.grid, grid), grid, mask, labels)

    def to(self, device: torch.device) -> Prepared:
        """The same on `device`."""
        mask = None if self.mask is None else self.mask.to(device)
        labels = None if self.labels is None else self.labels.to(device)
        return Prepared(self.values.to(device), self.grid, mask, labels)


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
        mirror_axis: the axis of the network's lattice along which images of the other side of the body are mirrored.
    """

    intensity: Mapping[str, Intensity]
    needs_mask: bool = False
    zero_outside_mask: bool = False
    mirror_axis: int | None = None

    @classmethod
    def of(cls, card: Card) -> Preparation:
        """What the card's section `prepare` says."""
        mask = card.prepare["mask"]
        return cls(card.prepare["intensity"], mask == "required", mask != "optional", card.prepare["mirror_axis"])


def prepared_pair(pair: Pair, preparation: Preparation) -> tuple[Prepared, Prepared]:
    """Both images as tensors, fixed first, moving with its axes brought to fixed's nearest ones.

    Raises:
        InputError: an image has a modality that the method cannot take, or no contrast in its window, or lacks the mask it needs.
    """
    sides = zip(("fixed", "moving"), pair.images, pair.modalities, pair.masks, pair.labels, strict=True)
    fixed, moving = (
        prepared(image, _intensity(preparation, modality, what), _needed(mask, preparation, what), labels, what=what,
                 towards=grid_of(pair.fixed), zero_outside_mask=preparation.zero_outside_mask)
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
) -> Prepared:
    """The image in its intensity window with its mask and labels, its axes brought to the nearest ones of `towards`."""
    if towards is not None:
        image = bring_to_axes_of(image, towards)
        mask, labels = (None if one is None else bring_to_axes_of(one, towards) for one in (mask, labels))
    # Windowed in double precision: float32 would round a small contrast on a high level to nothing.
    values = windowed(tensor_of(image, dtype=torch.float64), intensity, what=what).float()
    counted = None if mask is None else tensor_of(mask) != 0
    return Prepared(
        values=values if counted is None or not zero_outside_mask else values * counted,
        grid=grid_of(image),
        mask=counted,
        labels=None if labels is None else tensor_of(labels, dtype=torch.int64),
    )


def windowed(values: Tensor, intensity: Intensity, *, what: str = "the image") -> Tensor:
    """Intensities clamped to a range, one of `RANGES`, and scaled to [0, 1].

    Raises:
        InputError: nothing is left between the range's ends.
    """
    ((kind, numbers),) = intensity.items()
    low, high = RANGES[kind](values, numbers)
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
