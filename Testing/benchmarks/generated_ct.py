"""A generated CT of a thorax in Hounsfield units, at any resolution, and the same thorax bent by a known map; int16, as scanners give it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.geometry.space import Grid, grid_of, image_on
from RegistrationNetLib.quality.known_pair import KnownPair
from RegistrationNetLib.quality.known_warp import WarpOptions, random_map

AIR, LUNG, FAT, MUSCLE, BLOOD, BONE = -1000.0, -820.0, -100.0, 50.0, 180.0, 500.0
NOISE_HU = 20.0
# Half the widths of the body along z, y, x, and of its two lungs and the heart, as shares of the longest in-plane edge; centres too.
BODY, HEART = (2.0, 0.33, 0.44), ((0.05, -0.06, 0.05), (0.14, 0.11, 0.12))
LUNGS = (((0.0, -0.02, -0.21), (0.42, 0.21, 0.15)), ((0.0, -0.02, 0.21), (0.42, 0.21, 0.15)))
SPINE, AORTA = ((0.2, 0.0), 0.06), ((0.11, 0.05), 0.03)


def thorax(grid: Grid, seed: int) -> sitk.Image:
    """A thorax on the lattice of `grid`, in Hounsfield units, float32, without the scanner's noise."""
    random = torch.Generator().manual_seed(seed)
    places = _places(grid)
    values = torch.full(grid.shape, AIR)
    body = _inside(places, (0.0, 0.0, 0.0), BODY)
    fat, muscle = body, body - 0.12
    _paint(values, fat, FAT)
    _paint(values, muscle, MUSCLE)
    _paint(values, muscle, MUSCLE + 40 * _noise(grid, 4.0, random), least=0.0)
    ribs = torch.cos(places[0] * 55 + places[2].abs() * 12).clamp(min=0) - 0.75
    _paint(values, torch.minimum(torch.minimum(muscle, 0.1 - muscle), ribs), BONE)
    vessels = _vessels(grid, random)
    for centre, radii in LUNGS:
        lung = torch.minimum(_inside(places, centre, radii), muscle - 0.12)
        _paint(values, lung, LUNG)
        _paint(values, torch.minimum(lung, vessels), MUSCLE)
    _paint(values, _inside(places, *HEART), BLOOD - 60)
    for (y, x), radius in (SPINE, AORTA):
        tube = 1 - ((places[1] - y) ** 2 + (places[2] - x) ** 2).sqrt() / radius
        _paint(values, tube, BLOOD)
        if radius == SPINE[1]:
            _paint(values, torch.minimum(tube, 0.8 + torch.cos(places[0] * 70)), BONE - 150 + 120 * _noise(grid, 2.0, random))
    values += 15 * _noise(grid, 1.5, random) * (body > 0)
    return image_on(grid, values.numpy())


def _places(grid: Grid) -> list[Tensor]:
    """Coordinates z, y, x from the middle, in shares of the longest in-plane edge; each broadcasts along the other axes."""
    longest = max(grid.extent_mm[1:])
    lines = [
        (torch.arange(size) / (size - 1) - 0.5) * extent / longest
        for size, extent in zip(grid.shape, grid.extent_mm, strict=True)
    ]
    return [line.view(*(-1 if axis == one else 1 for one in range(3))) for axis, line in enumerate(lines)]


def _inside(places: Sequence[Tensor], centre: Sequence[float], radii: Sequence[float]) -> Tensor:
    """1 in the middle of an ellipsoid, 0 on its surface, negative outside."""
    return 1 - sum(((place - c) / r) ** 2 for place, c, r in zip(places, centre, radii, strict=True)).sqrt()  # type: ignore[union-attr]


def _paint(values: Tensor, depth: Tensor, intensity: float | Tensor, *, least: float = 0.0) -> None:
    torch.where(depth > least, torch.as_tensor(intensity), values, out=values)


def _noise(grid: Grid, sigma_mm: float, random: torch.Generator) -> Tensor:
    """Smooth noise of about `sigma_mm`, of unit variance."""
    sigma_vox = max(0.5, sigma_mm / float(np.prod(grid.spacing_mm) ** (1 / 3)))
    return smooth_noise(grid.shape, sigma_vox, random)[0, 0]


def _vessels(grid: Grid, random: torch.Generator) -> Tensor:
    """Above 0 within tubes that branch at random: where two kinds of smooth noise are near 0 at once."""
    first = _noise(grid, 7.0, random).square_()
    return (0.06 - first.add_(_noise(grid, 7.0, random).square_())).sign_()


def ct_grid(shape: Sequence[int], extent_mm: Sequence[float]) -> Grid:
    """A lattice of `shape` (z, y, x) over `extent_mm`, its axes along those of the world."""
    spacing = [extent / size for extent, size in zip(extent_mm, shape, strict=True)]
    image = sitk.Image(list(shape[::-1]), sitk.sitkUInt8)
    image.SetSpacing(spacing[::-1])
    return grid_of(image)


def ct_pair(grid: Grid, seed: int, *, displacement_mm: float = 12.0) -> KnownPair:
    """A thorax on `grid` and the same bent by a known map, both int16 with noise of their own; each is sampled once from one source."""
    half = np.eye(4)
    half[:3, 3] = 0.5  # so that neither image is sampled at the source's own voxels, and both are equally blurred
    source = thorax(Grid(grid.shape, grid.world_from_voxel @ half), seed)
    known = random_map(grid, seed, WarpOptions(displacement_mm=displacement_mm, lattice_mm=4.0))
    reference = image_on(grid, np.zeros(grid.shape, dtype=np.uint8))
    random = np.random.default_rng(seed)
    fixed, moving = (
        _noisy(sitk.Resample(source, reference, transform, sitk.sitkLinear, AIR, sitk.sitkFloat32), random)
        for transform in (sitk.Transform(3, sitk.sitkIdentity), known.fixed_from_moving)
    )
    return KnownPair(fixed, moving, known)


def _noisy(image: sitk.Image, random: np.random.Generator) -> sitk.Image:
    values = sitk.GetArrayViewFromImage(image)
    noisy = np.empty(values.shape, dtype=np.int16)
    for number, plane in enumerate(values):
        noisy[number] = np.rint(plane + NOISE_HU * random.standard_normal(plane.shape, dtype=np.float32)).clip(-1024, 3071)
    result = sitk.GetImageFromArray(noisy)
    result.CopyInformation(image)
    return result


def label_pair(grid: Grid, known: KnownPair, count: int, seed: int) -> tuple[sitk.Image, sitk.Image]:
    """`count` labels all over fixed, and where moving has them; int16."""
    random = np.random.default_rng(seed)
    side = math.ceil(count ** (1 / 3))
    numbers: NDArray[np.int16] = (random.permutation(side**3) % count + 1).astype(np.int16).reshape(side, side, side)
    cells = [np.arange(size) * side // size for size in grid.shape]
    labels = image_on(grid, numbers[np.ix_(*cells)])
    moved = sitk.Resample(labels, known.moving, known.known.fixed_from_moving, sitk.sitkNearestNeighbor, 0.0)
    return labels, moved
