"""A synthetic head with its organs, and the demonstration's pair: that head before and after a known map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import vector_length
from ..geometry.smooth_noise import smooth_noise
from ..geometry.space import Grid, grid_of, image_on
from .known_pair import known_pair
from .known_warp import KnownMap, WarpOptions


class Tissue(IntEnum):
    """The labels of `head_phantom`."""

    AIR = 0
    SCALP = 1
    SKULL = 2
    CSF = 3
    GRAY = 4
    WHITE = 5
    VENTRICLE = 6
    NUCLEUS = 7
    CEREBELLUM = 8
    BRAINSTEM = 9
    EYE = 10


@dataclass(frozen=True)
class _Organ:
    """An ellipsoid in mm from the head's centre, axes S, P, L (array order); a pair lies at +L and -L. Intensity as in T1."""

    tissue: Tissue
    intensity: float
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    is_pair: bool = False


_FIELD_OF_VIEW_MM = (208.0, 240.0, 200.0)
_HEAD = _Organ(Tissue.SCALP, 0.85, (10, 0, 0), (80, 98, 77))
_FACE = _Organ(Tissue.SCALP, 0.85, (-48, -42, 0), (60, 54, 52))
_NECK = _Organ(Tissue.SCALP, 0.85, (-90, 26, 0), (120, 54, 55))
_CRANIUM = _Organ(Tissue.SKULL, 0.10, (18, 2, 0), (70, 87, 68))
_FOSSA = _Organ(Tissue.SKULL, 0.10, (-34, 38, 0), (35, 42, 60))
_CEREBRUM = _Organ(Tissue.GRAY, 0.52, (19, 1, 0), (61, 78, 60))
_CEREBELLUM = _Organ(Tissue.CEREBELLUM, 0.55, (-37, 42, 0), (25, 31, 49))
_FACE_ORGANS = (
    _Organ(Tissue.EYE, 0.22, (-16, -76, 31), (12, 12, 12), is_pair=True),
    _Organ(Tissue.AIR, 0.02, (-48, -62, 25), (15, 15, 10), is_pair=True),
    _Organ(Tissue.AIR, 0.02, (-42, -66, 0), (18, 22, 6)),
    _Organ(Tissue.AIR, 0.02, (-75, -22, 0), (26, 7, 9)),
    _Organ(Tissue.SKULL, 0.12, (-90, 34, 0), (58, 17, 17)),
)
_DEEP_ORGANS = (
    _Organ(Tissue.BRAINSTEM, 0.74, (-50, 22, 0), (62, 11, 11)),
    _Organ(Tissue.BRAINSTEM, 0.74, (-26, 14, 0), (16, 13, 15)),
    _Organ(Tissue.VENTRICLE, 0.15, (-34, 30, 0), (9, 5, 7)),
    _Organ(Tissue.NUCLEUS, 0.60, (8, 10, 12), (10, 15, 9), is_pair=True),
    _Organ(Tissue.NUCLEUS, 0.56, (8, -6, 26), (11, 18, 6), is_pair=True),
    _Organ(Tissue.NUCLEUS, 0.55, (19, -18, 15), (9, 12, 5), is_pair=True),
    _Organ(Tissue.VENTRICLE, 0.15, (24, -14, 9), (8, 22, 5), is_pair=True),
    _Organ(Tissue.VENTRICLE, 0.15, (20, 26, 17), (9, 20, 6), is_pair=True),
    _Organ(Tissue.VENTRICLE, 0.15, (8, 6, 0), (13, 13, 2.5)),
)


class Head(NamedTuple):
    """A T1-like image (float32, about 0 to 1) and its `Tissue` labels (uint8) on the same grid."""

    image: sitk.Image
    labels: sitk.Image


def head_phantom(shape: Sequence[int], spacing_mm: Sequence[float], seed: int) -> Head:
    """A synthetic head that fills the lattice of `shape` (D, H, W) with `spacing_mm` per array axis, centred on the origin.

    Scalp, skull, fluid, folded cortex, white matter, ventricles, deep nuclei, cerebellum, brain stem and eyes; the seed
    bends and folds it, so that each seed is another person. Boundaries have partial volume. In 2-D it is an axial slice.

    Raises:
        InputError: the lattice is neither 2-D nor 3-D, or shape and spacing differ in length.
    """
    if len(shape) not in (2, 3) or len(spacing_mm) != len(shape):
        came = f"shape {tuple(shape)} and spacing {tuple(spacing_mm)}"
        raise InputError(f"The phantom's lattice is unusable; it must have 2 or 3 axes, got {came}. Give both per array axis.")
    grid = _centred_grid(shape, spacing_mm)
    canvas = _Canvas(grid, torch.Generator().manual_seed(seed))
    _paint_outside(canvas)
    _paint_brain(canvas)
    for organ in _DEEP_ORGANS:
        canvas.paint(organ.tissue, organ.intensity, canvas.depth(organ))
    texture = 1 + 0.03 * canvas.noise(2.0)[0] + 0.04 * canvas.noise(25.0)[0]
    image = (canvas.intensity * texture).float().numpy()
    return Head(image_on(grid, image), image_on(grid, canvas.labels.numpy()))


def _centred_grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> Grid:
    dim = len(shape)
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = np.diag(spacing_mm)[::-1]
    matrix[:-1, -1] = -matrix[:-1, :-1] @ (0.5 * (np.array(shape) - 1))
    return Grid(tuple(shape), matrix)


class _Canvas:
    """An image and its labels in the making, painted from the outside in; lengths in mm of a head of standard size."""

    def __init__(self, grid: Grid, random: torch.Generator) -> None:
        lengths = [size * spacing for size, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
        scale = min(length / full for length, full in zip(lengths, _FIELD_OF_VIEW_MM[-grid.dim :], strict=True))
        self._random = random
        self._spacing = float(np.mean(grid.spacing_mm)) / scale
        self.intensity = torch.zeros(grid.shape)
        self.labels = torch.zeros(grid.shape, dtype=torch.uint8)
        sizes = zip(grid.shape, grid.spacing_mm, strict=True)
        axes = [(torch.arange(size) - 0.5 * (size - 1)) * step / scale for size, step in sizes]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        points = points + 2.0 * self.noise(22.0, channels=grid.dim)
        # A 2-D head is the axial slice through ventricles and nuclei.
        self.points = torch.cat([torch.full((3 - grid.dim, *grid.shape), 14.0), points])

    def noise(self, sigma_mm: float, *, channels: int = 1) -> Tensor:
        """Smooth noise [channels, *shape] of unit variance."""
        return smooth_noise(self.labels.shape, sigma_mm / self._spacing, self._random, channels=channels)[0]

    def depth(self, organ: _Organ) -> Tensor:
        """About how deep each point lies below the organ's surface in mm, negative outside: [*shape]."""
        points = self.points
        if organ.is_pair:
            points = torch.cat([points[:2], points[2:].abs()])
        column = (3, *(1,) * (points.dim() - 1))
        radii = torch.tensor(organ.radii).view(column)
        from_centre = (points - torch.tensor(organ.centre, dtype=points.dtype).view(column)) / radii
        level = vector_length(from_centre, axis=0)[0]
        return level * (1 - level) / vector_length(from_centre / radii, axis=0)[0].clamp(min=1e-6)

    def paint(self, tissue: Tissue, intensity: float | Tensor, depth: Tensor) -> None:
        """Cover what lies at positive depth; a voxel on the boundary keeps part of what was there."""
        share = (depth / self._spacing + 0.5).clamp(0.0, 1.0)
        self.intensity = self.intensity + share * (intensity - self.intensity)
        self.labels[depth > 0] = int(tissue)


def _paint_outside(canvas: _Canvas) -> None:
    """Scalp of fat over muscle, air, eyes, and the skull with marrow between its tables, filled with fluid."""
    head = _union([canvas.depth(organ) for organ in (_HEAD, _FACE, _NECK)], blend_mm=6.0)
    canvas.paint(Tissue.SCALP, _HEAD.intensity, head)
    canvas.paint(Tissue.SCALP, 0.42 + 0.08 * canvas.noise(4.0)[0], head - 4.0)
    for organ in _FACE_ORGANS:
        canvas.paint(organ.tissue, organ.intensity, torch.minimum(canvas.depth(organ), head - 2.0))
    cranium = torch.minimum(canvas.depth(_CRANIUM), _above_skull_base(canvas.points))
    skull = _union([cranium, canvas.depth(_FOSSA)], blend_mm=4.0)
    canvas.paint(Tissue.SKULL, _CRANIUM.intensity, torch.minimum(skull, head - 4.0))
    marrow = 1.0 - (skull - 3.0).abs() + 0.7 * canvas.noise(9.0)[0]
    canvas.paint(Tissue.SKULL, 0.5, torch.minimum(marrow, head - 6.0))
    canvas.paint(Tissue.CSF, 0.18, torch.minimum(skull - 6.0, head - 8.0))


def _paint_brain(canvas: _Canvas) -> None:
    """Cerebrum and cerebellum: below a folded surface gray matter, below that white."""
    height, behind, aside = canvas.points.unbind()
    above_cerebellum = height + 12 + (15 - behind).clamp(min=0)
    above_base = torch.minimum(_above_skull_base(canvas.points) - 8, above_cerebellum)
    cerebrum = torch.minimum(canvas.depth(_CEREBRUM), above_base)
    fissure = aside.abs() + (cerebrum - 24).clamp(min=0)
    folded = torch.minimum(_below_folds(cerebrum, canvas.noise(3.6)[0], 3.6, folds_mm=17.0), fissure)
    canvas.paint(Tissue.GRAY, _CEREBRUM.intensity, folded - 0.8)
    canvas.paint(Tissue.WHITE, 0.80, folded - 4.0)
    cerebellum = canvas.depth(_CEREBELLUM)
    folded = _below_folds(cerebellum, canvas.noise(1.8)[0], 1.8, folds_mm=12.0)
    canvas.paint(Tissue.CEREBELLUM, _CEREBELLUM.intensity - 0.25, cerebellum)
    canvas.paint(Tissue.CEREBELLUM, _CEREBELLUM.intensity, torch.minimum(cerebellum, folded) - 0.4)
    canvas.paint(Tissue.CEREBELLUM, 0.76, torch.minimum(cerebellum, folded) - 2.2)


def _above_skull_base(points: Tensor) -> Tensor:
    """Distance above the base of the skull, which rises towards the forehead."""
    height, behind = points[0], points[1]
    return height + 36 - 0.3 * (-behind - 15).clamp(min=0)


def _below_folds(depth: Tensor, noise: Tensor, sigma_mm: float, *, folds_mm: float) -> Tensor:
    """Depth in mm below a surface that also dives along the sheets where `noise` is 0, down to `folds_mm`."""
    # Smoothed white noise of unit variance changes by 1 over about 0.9 sigma.
    from_sheet = 0.9 * sigma_mm * noise.abs()
    return torch.minimum(depth, from_sheet + (depth - folds_mm).clamp(min=0))


def _union(depths: Sequence[Tensor], *, blend_mm: float) -> Tensor:
    """Depth below the joint surface of several bodies, the joints rounded."""
    joint: Tensor = torch.logsumexp(torch.stack(list(depths)) / blend_mm, dim=0)
    return blend_mm * joint


class DemoPair(NamedTuple):
    """A known pair of synthetic heads with the `Tissue` labels of both."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    known: KnownMap


def demo_pair(seed: int = 0, *, shape: Sequence[int] = (96, 112, 96), spacing_mm: float = 2.0) -> DemoPair:
    """A synthetic head and the same head deformed by a known map, for demonstrations and tests.

    The head is made finer than the result, so that both images are sampled once from it.
    """
    fine = [round(1.25 * size) for size in shape]
    head = head_phantom(fine, [spacing_mm * size / new for size, new in zip(shape, fine, strict=True)], seed)
    grid = grid_of(head.image).resized(shape)
    warp = WarpOptions(displacement_mm=9.0, correlation_mm=24.0, lattice_mm=spacing_mm)
    pair = known_pair(head.image, grid, seed=seed, warp=warp)
    reference = pair.fixed
    still = sitk.Transform(grid.dim, sitk.sitkIdentity)
    fixed_labels, moving_labels = (
        sitk.Resample(head.labels, reference, transform, sitk.sitkNearestNeighbor, 0)
        for transform in (still, pair.known.fixed_from_moving)
    )
    return DemoPair(pair.fixed, pair.moving, fixed_labels, moving_labels, pair.known)
