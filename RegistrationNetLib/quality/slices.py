"""Which slices of a volume are shown: in true proportions, as a radiologist hangs them.

Every slice is a lattice of square pixels in the world, cut along the axes of fixed. An oblique volume is shown along its own
axes, each under the anatomical one it lies nearest to: patient's right on the left of the picture, front up in axial slices,
head up in the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..geometry.space import Grid, axes_towards, grid_of

Array = NDArray[np.float64]

LONGEST_PX = 320
# What a direction cosine must reach for its letter to be named beside the main one (20 degrees).
LETTER_COSINE = math.sin(math.radians(20))


@dataclass(frozen=True)
class View:
    """One slice: where its pixels lie (`grid`, one voxel thick in 3-D) and the letters at its edges ("" where unknown)."""

    name: str
    grid: Grid
    left: str
    right: str
    top: str
    bottom: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns in pixels."""
        rows, columns = self.grid.shape[-2:]
        return rows, columns

    @property
    def axes(self) -> Array:
        """Unit vectors of the world down the rows and along the columns: [2, dim]."""
        columns = self.grid.world_from_voxel[:-1, -3:-1]
        return (columns / np.linalg.norm(columns, axis=0)).T


def views(fixed: sitk.Image, through_mm: Array, *, longest_px: int = LONGEST_PX) -> tuple[View, ...]:
    """Axial, coronal and sagittal slices of `fixed` through a point, all at one scale; of a 2-D image its only slice.

    The longest edge of the volume has `longest_px` pixels; pixels are square in millimetres.
    """
    grid = grid_of(fixed)
    towards_lps = Grid(grid.shape, np.block([[np.eye(grid.dim)[::-1], np.zeros((grid.dim, 1))], [np.zeros((1, grid.dim)), 1]]))
    order, flipped = axes_towards(grid, towards_lps)
    columns = grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)
    # Per anatomical axis (superior, posterior, left): the direction of fixed's nearest axis, and the length along it.
    directions = [columns[:, axis] * (-1 if flip else 1) for axis, flip in zip(order, flipped, strict=True)]
    edges_mm = [grid.shape[axis] * grid.spacing_mm[axis] for axis in order]
    pixel_mm = max(edges_mm) / longest_px

    def view(name: str, row: tuple[int, int], column: tuple[int, int], normal: int | None) -> View:
        (row_axis, row_sign), (column_axis, column_sign) = row, column
        down, right = row_sign * directions[row_axis], column_sign * directions[column_axis]
        shape = tuple(max(1, round(edges_mm[axis] / pixel_mm)) for axis in (row_axis, column_axis))
        middle = grid.centre_mm
        across = []
        if normal is not None:
            across = [directions[normal]]
            middle = middle + across[0] * float(across[0] @ (through_mm - middle))
        world_from_pixel = np.eye(grid.dim + 1)
        world_from_pixel[:-1, :-1] = np.stack([*across, down * pixel_mm, right * pixel_mm], axis=1)
        world_from_pixel[:-1, -1] = middle - pixel_mm * (down * (shape[0] - 1) + right * (shape[1] - 1)) / 2
        edges = (letters(-right), letters(right), letters(-down), letters(down))
        return View(name, Grid((1,) * len(across) + shape, world_from_pixel), *edges)

    if grid.dim == 2:
        return (view("Image", (0, 1), (1, 1), None),)
    return (
        view("Axial", (1, 1), (2, 1), 0),
        view("Coronal", (0, -1), (2, 1), 1),
        view("Sagittal", (0, -1), (1, 1), 2),
    )


def letters(direction: Array) -> str:
    """The patient's direction that a world vector (LPS) points to, the main one first: "L", or "LA" when oblique.

    Empty in 2-D, where the file does not say how the slice lies in the patient.
    """
    if len(direction) == 2:
        return ""
    cosines = direction / np.linalg.norm(direction)
    named = [("RAI"[axis], "LPS"[axis])[int(cosine > 0)] for axis, cosine in enumerate(cosines)]
    main_first = sorted(range(3), key=lambda axis: -abs(cosines[axis]))
    return "".join(named[axis] for axis in main_first if abs(cosines[axis]) > LETTER_COSINE)


def centre_of_foreground_mm(image: sitk.Image) -> Array:
    """World coordinates of the voxel nearest to the centre of mass of what is brighter than Otsu's threshold."""
    bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1)) > 0
    dim = bright.ndim
    voxel = np.ones(dim + 1)
    for axis in range(dim):
        along = bright.sum(axis=tuple(other for other in range(dim) if other != axis))
        voxel[axis] = round(float(np.average(np.arange(len(along)), weights=along)))
    world: Array = grid_of(image).world_from_voxel @ voxel
    return world[:-1]


def worst_fold_mm(jacobian: sitk.Image) -> Array:
    """World coordinates of the voxel with the smallest determinant."""
    values = sitk.GetArrayViewFromImage(jacobian)
    voxel = np.array([*np.unravel_index(values.argmin(), values.shape), 1.0])
    world: Array = grid_of(jacobian).world_from_voxel @ voxel
    return world[:-1]
