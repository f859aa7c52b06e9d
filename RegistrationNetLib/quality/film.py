"""All slices of a volume below each other in one picture, for a page on which a person scrolls through them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from PIL import Image

from ..geometry.space import grid_of
from .colours import Bytes
from .pictures import Plane, Result, error_over_fixed, window_of, windowed
from .slices import View, views

LONGEST_PX = 256
MOST_SLICES = 40
# Of JPEG: what differs from the image is below what a screen shows.
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Film:
    """One image's slices as a JPEG, one below the other, each `rows` by `columns` pixels."""

    name: str
    title: str
    jpeg: bytes
    slices: int
    rows: int
    columns: int


def films(result: Result) -> list[Film]:
    """Axial slices of fixed, of moving before and after, and of the expected error over fixed; of a 2-D image its only one."""
    cuts = _cuts(result.fixed)
    fixed, moving = window_of(result.fixed), window_of(result.moving)
    beneath = [windowed(result.fixed, fixed, view) for view in cuts]
    expected = [error_over_fixed(result, plane, view) for plane, view in zip(beneath, cuts, strict=True)]
    return [
        _film("fixed", "fixed", cuts, map(_grey, beneath)),
        _film("before", "moving before registration", cuts, (_grey(windowed(result.moving, moving, view)) for view in cuts)),
        _film("after", "moving after registration", cuts, (_grey(windowed(result.warped, moving, view)) for view in cuts)),
        _film("error", "expected error over fixed", cuts, expected),
    ]


def _cuts(fixed: sitk.Image) -> list[View]:
    """The axial slices, from the feet up, evenly over the volume."""
    grid = grid_of(fixed)
    axial = views(fixed, np.asarray(grid.centre_mm, dtype=np.float64), longest_px=LONGEST_PX)[0]
    if grid.dim == 2:
        return [axial]
    along = axial.grid.world_from_voxel[:-1, 0]
    along = along / np.linalg.norm(along)
    axis = int(np.argmax(np.abs(along @ (grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)))))
    count = min(MOST_SLICES, grid.shape[axis])
    length_mm = grid.extent_mm[axis]
    cuts = []
    for place in np.linspace(-0.5, 0.5, count):
        moved = axial.grid.world_from_voxel.copy()
        moved[:-1, -1] += place * length_mm * along
        cuts.append(replace(axial, grid=type(axial.grid)(axial.grid.shape, moved)))
    return cuts


def _film(name: str, title: str, cuts: list[View], pictures: Iterable[Bytes]) -> Film:
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures))).save(buffer, format="jpeg", quality=JPEG_QUALITY)
    rows, columns = cuts[0].shape
    return Film(name, title, buffer.getvalue(), len(cuts), rows, columns)


def _grey(brightness: Plane) -> Bytes:
    return (255 * brightness).round().astype(np.uint8)
