"""From checked images to what the methods work on: intensity windows, masks, labels, orientation, lattices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import in_double
from ..errors import InputError
from ..geometry.separable import apply_along_axes, on, resize_matrix
from ..geometry.space import Grid, axes_towards, grid_of, is_inside, lies_inside, values_at, values_on
from ..io.inputs import Pair
from ..models.catalogue import Card
from .size import coarser_shape
from .volume import Intensity, Volume, mask_of, volume_of


@dataclass(frozen=True)
class Prepared:
    """One image of the pair as the methods see it: tensors on one grid, intensities in [0, 1].

    `values`, `mask` and `labels` are [1, 1, *grid.shape]; the mask is boolean, True where the similarity counts. `content` is
    where the image holds anything, one slice per axis, for those networks that see nothing else; None is everywhere. `original` is
    the image itself where `values` are not its own: its lattice is finer, or it has padding, which is continued here; `measured`
    is where it has none, None being everywhere.
    """

    values: Tensor
    grid: Grid
    mask: Tensor | None = None
    labels: Tensor | None = None
    content: tuple[slice, ...] | None = None
    original: Volume | None = None
    measured: Tensor | None = None

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
        # What lies beyond the image is no padding.
        measured = None if self.measured is None else (look(self.measured.to(self.values), nearest=True) > 0.5) | ~inside
        return Prepared(look(self.values), grid, mask, labels, measured=measured)

    def to(self, device: torch.device) -> Prepared:
        """The same on `device`."""
        mask, labels, measured = (None if one is None else one.to(device) for one in (self.mask, self.labels, self.measured))
        return Prepared(self.values.to(device), self.grid, mask, labels, self.content, self.original, measured)

    def cropped(self) -> Prepared:
        """The image within its content."""
        if self.content is None:
            return self
        every = (slice(None), slice(None), *self.content)
        mask, labels, measured = (None if one is None else one[every] for one in (self.mask, self.labels, self.measured))
        original = None if self.original is None else self.original.cropped()
        return Prepared(self.values[every], self.grid.cropped(self.content), mask, labels, None, original, measured)

    def towards(self, target: Grid) -> Prepared:
        """The same voxels with their axes brought to the nearest ones of `target`; the content comes along as everywhere.

        For an image that is `cropped` before.
        """
        order, flipped = axes_towards(self.grid, target)
        places = [2 + axis for axis, is_flipped in enumerate(flipped) if is_flipped]

        def rearranged(one: Tensor) -> Tensor:
            return one.permute(0, 1, *(2 + axis for axis in order)).flip(places)

        mask, labels, measured = (None if one is None else rearranged(one) for one in (self.mask, self.labels, self.measured))
        original = None if self.original is None else self.original.towards(target)
        return Prepared(rearranged(self.values), self.grid.rearranged(order, flipped), mask, labels, None, original, measured)


def resized(prepared: Prepared, spacing_mm: float) -> Prepared:
    """The same image on a lattice of at least `spacing_mm` over the same extent; axes that are coarser already stay."""
    grid = prepared.grid
    shape = coarser_shape(grid.shape, grid.spacing_mm, spacing_mm)
    matrices = on([resize_matrix(new, old) for new, old in zip(shape, grid.shape, strict=True)], prepared.values)
    mask = None if prepared.mask is None else coarse_mask(prepared.mask, matrices)
    return Prepared(apply_along_axes(prepared.values, matrices), grid.resized(shape), mask)


def coarse_mask(mask: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The mask on the coarser lattice to which `matrices` lead; one too thin for it keeps the voxels that hold most of it."""
    return mask_of(apply_along_axes(mask.to(matrices[0]), matrices))


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


def prepared_pair(pair: Pair, preparation: Preparation, resolution_mm: float = 0.0) -> tuple[Prepared, Prepared]:
    """Both images as tensors, fixed first, moving with its axes brought to fixed's nearest ones.

    On lattices of at least `resolution_mm`; 0 leaves those of the images.

    Raises:
        InputError: an image has a modality that the method cannot take, or no contrast in its window, or lacks the mask it needs.
    """
    sides = zip(("fixed", "moving"), pair.images, pair.modalities, pair.masks, pair.labels, strict=True)
    fixed, moving = (
        prepared(image, _intensity(preparation, modality, what), _needed(mask, preparation, what), labels, what=what,
                 towards=grid_of(pair.fixed),
                 zero_outside_mask=preparation.zero_outside_mask, crops_border=preparation.crops_border,
                 resolution_mm=resolution_mm)
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
    resolution_mm: float = 0.0,
) -> Prepared:
    """The image in its intensity window with its mask and labels, its axes brought to the nearest ones of `towards`.

    With `crops_border` its content is what lies within its uniform border, and the window is found there. On a lattice of at least
    `resolution_mm`; 0 is that of the image.
    """
    volume = volume_of(
        image, intensity, mask, labels, what=what, towards=towards, zero_outside_mask=zero_outside_mask, crops_border=crops_border
    )
    shape = volume.grid.shape if resolution_mm == 0 else coarser_shape(volume.grid.shape, volume.grid.spacing_mm, resolution_mm)
    is_whole, counted = shape == volume.grid.shape, volume.counted_on(shape)
    return Prepared(
        values=volume.continued(shape),
        grid=volume.grid if is_whole else volume.grid.resized(shape),
        mask=counted,
        labels=volume.labels_on(shape),
        content=volume.content_on(shape),
        original=None if is_whole and volume.measured is None else volume,
        measured=counted if volume.measured is volume.counted else volume.measured_on(shape),
    )


def on_lattice(image: Prepared, shape: Sequence[int], *, mirror_axis: int | None = None) -> Prepared:
    """The same extent on a lattice of `shape`, as the published networks want it: interpolated, mask and labels by the nearest voxel.

    Nothing is blurred against aliasing, as published. With `mirror_axis` that axis counts backwards afterwards. Where the values that
    are held are not those that came, they are read once more.
    """
    shape = tuple(shape)
    resized_image = _interpolated(image, shape) if image.original is None else _read_anew(image.original, shape, image.values)
    return resized_image if mirror_axis is None else _mirrored(resized_image, 2 + mirror_axis)


def _interpolated(image: Prepared, shape: tuple[int, ...]) -> Prepared:
    matrices = on([resize_matrix(new, old, smooth=False) for new, old in zip(shape, image.grid.shape, strict=True)], image.values)
    mask, labels = (
        None if one is None else F.interpolate(in_double(one), shape, mode="nearest").to(one)
        for one in (image.mask, image.labels)
    )
    return Prepared(apply_along_axes(image.values, matrices), image.grid.resized(shape), mask, labels)


def _read_anew(volume: Volume, shape: tuple[int, ...], like: Tensor) -> Prepared:
    values = volume.resampled(shape, smooth=False)
    read = Prepared(values, volume.grid.resized(shape), volume.counted_nearest(shape), volume.labels_on(shape))
    return read.to(like.device)


def _mirrored(image: Prepared, place: int) -> Prepared:
    mask, labels = (None if one is None else one.flip(place) for one in (image.mask, image.labels))
    return Prepared(image.values.flip(place), image.grid.mirrored(place - 2), mask, labels)
