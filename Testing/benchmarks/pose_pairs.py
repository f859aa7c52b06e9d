"""Pairs of images of one object in any pose, part and contrast, with the truth between them.

Fixed is an image at 3 mm; moving is the same image bent by a smooth known map, then moved by an affine, on a lattice of its own,
and seen in part or in another contrast. Both get independent noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import Array, Grid, affine_transform, displacements_mm, grid_of, image_on
from RegistrationNetLib.quality.known_warp import WarpOptions, random_map
from RegistrationNetLib.quality.phantom import head_phantom

SPACING_MM = 3.0
NOISE = 0.02
WARP = WarpOptions(rotation_degrees=0.0, translation_mm=0.0, displacement_mm=6.0, lattice_mm=SPACING_MM)
FILES = {"ch2": "ch2.nii.gz", "mni": "mni.nii.gz", "thorax": "lung_ct_small.mha"}
# Hounsfield units below which a voxel of the thorax is air around the body, not lung.
AIR_HU = -940.0


@dataclass(frozen=True)
class Source:
    """The object in the contrast of fixed and in that of moving, on one lattice, and which of its voxels count."""

    image: sitk.Image
    moving: sitk.Image
    body: sitk.Image


@dataclass(frozen=True)
class PosePair:
    """Two images, the true transforms between them both ways, where the error counts, and what `register` is told beside.

    `unit_mm` is the length of the unit in which the pair's geometry is written.
    """

    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform
    inverse: sitk.Transform
    counted: sitk.Image
    unit_mm: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a pair is drawn: ranges of the pose, which part of moving is kept, and the contrast.

    Attributes:
        degrees: range of the angle about a random axis.
        shift_mm: range of the length of the shift in a random direction; moving's lattice goes along.
        log_scale: the scale lies within exp(±log_scale).
        cut: moving's lattice to the part of it that is kept.
        is_warped: whether the smooth map bends it.
        noise: standard deviation on each image, as a share of the range.
    """

    degrees: tuple[float, float] = (0.0, 7.0)
    shift_mm: tuple[float, float] = (0.0, 10.0)
    log_scale: float = 0.0
    cut: Callable[[Grid, np.random.Generator], Grid] = lambda grid, _: grid
    is_warped: bool = True
    noise: float = NOISE


def pose_pair(source: Source, recipe: Recipe, seed: int) -> PosePair:
    """The pair that the seed draws."""
    random = np.random.default_rng(seed)
    grid = grid_of(source.image)
    pose, frame = _pose(grid, recipe, random)
    warp = random_map(grid, seed, WARP if recipe.is_warped else replace(WARP, displacement_mm=0.0))
    truth = sitk.CompositeTransform([affine_transform(pose), warp.moving_from_fixed])
    inverse = sitk.CompositeTransform([warp.fixed_from_moving, affine_transform(np.linalg.inv(pose))])
    lattice = recipe.cut(_around(grid, frame, is_turned=recipe.degrees[1] > 10), random)
    lowest = float(sitk.GetArrayViewFromImage(source.moving).min())
    like = image_on(lattice, np.zeros(lattice.shape, dtype=np.uint8))
    moved = sitk.Resample(source.moving, like, inverse, sitk.sitkLinear, lowest, sitk.sitkFloat32)
    fixed, moving = (_noisy(image, recipe.noise, random) for image in (source.image, moved))
    seen = sitk.Resample(like + 1, source.image, truth, sitk.sitkNearestNeighbor, 0)
    return PosePair(fixed, moving, truth, inverse, sitk.Cast(source.body, sitk.sitkUInt8) * seen)


def in_unit(pair: PosePair, factor: float) -> PosePair:
    """The same pair with all lengths written `factor` times as large; the truth stays in mm."""
    return replace(pair, fixed=_scaled(pair.fixed, factor), moving=_scaled(pair.moving, factor), unit_mm=1 / factor)


def in_mm(transform: sitk.Transform, pair: PosePair, image: sitk.Image) -> Array:
    """World displacements in mm of `transform`, found in the pair's unit, at the voxels of `image` in mm."""
    factor = 1 / pair.unit_mm
    return displacements_mm(transform, grid_of(_scaled(image, factor))) * pair.unit_mm


def exchanged(pair: PosePair) -> PosePair:
    """Fixed and moving in each other's place; the error counts over all of the new fixed that lies in the new moving."""
    like = image_on(grid_of(pair.moving), np.zeros(grid_of(pair.moving).shape, dtype=np.uint8))
    counted = sitk.Resample(pair.counted, like, pair.inverse, sitk.sitkNearestNeighbor, 0)
    return replace(pair, fixed=pair.moving, moving=pair.fixed, truth=pair.inverse, inverse=pair.truth, counted=counted)


def padded(pair: PosePair, value: float) -> PosePair:
    """Both images with `value` outside a round field of view, whose middle differs, as scanners write CT."""
    images, insides = [], []
    for image, shift in ((pair.fixed, 0.0), (pair.moving, 0.06)):
        array = sitk.GetArrayFromImage(image)
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in array.shape[1:]), indexing="ij")
        inside = np.broadcast_to(np.hypot(axes[0] - shift, axes[1] + shift) <= 0.92, array.shape)
        images.append(image_on(grid_of(image), np.where(inside, array, np.float32(value))))
        insides.append(image_on(grid_of(image), inside.astype(np.uint8)))
    seen = insides[0] * sitk.Resample(insides[1], pair.fixed, pair.truth, sitk.sitkNearestNeighbor, 0)
    return replace(pair, fixed=images[0], moving=images[1], counted=pair.counted * seen)


def _scaled(image: sitk.Image, factor: float) -> sitk.Image:
    scaled = sitk.Image(image)
    scaled.SetSpacing([factor * step for step in image.GetSpacing()])
    scaled.SetOrigin([factor * place for place in image.GetOrigin()])
    return scaled


def _pose(grid: Grid, recipe: Recipe, random: np.random.Generator) -> tuple[Array, Array]:
    """Matrix moving_from_fixed, and where it takes the middle of `grid`."""
    axis = _direction(grid.dim, random)
    angle = math.radians(random.uniform(*recipe.degrees))
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    linear = turn * math.exp(random.uniform(-recipe.log_scale, recipe.log_scale))
    middle = grid.centre_mm + _direction(grid.dim, random) * random.uniform(*recipe.shift_mm)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = linear, middle - linear @ grid.centre_mm
    return pose, middle if max(recipe.shift_mm) > 10 else grid.centre_mm


def _direction(dim: int, random: np.random.Generator) -> Array:
    direction = random.normal(size=dim)
    return direction / np.linalg.norm(direction)


def _around(grid: Grid, middle: Array, *, is_turned: bool) -> Grid:
    """A lattice like `grid` about `middle`; a cube of its longest edge where the object may be turned, so that it holds it."""
    shape = (max(grid.shape),) * grid.dim if is_turned else grid.shape
    matrix = grid.world_from_voxel.copy()
    matrix[:-1, -1] = middle - matrix[:-1, :-1] @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, matrix)


def _noisy(image: sitk.Image, noise: float, random: np.random.Generator) -> sitk.Image:
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    low, high = array.min(), np.quantile(array, 0.999)
    return image_on(grid_of(image), (array + noise * (high - low) * random.normal(size=array.shape)).astype(np.float32))


# ---- parts ----


def half(grid: Grid, random: np.random.Generator) -> Grid:
    """One half along a random axis."""
    axis, upper = int(random.integers(grid.dim)), bool(random.integers(2))
    ranges = [slice(0, size) for size in grid.shape]
    size = grid.shape[axis]
    ranges[axis] = slice(size // 2, size) if upper else slice(0, size // 2)
    return grid.cropped(ranges)


def corner(grid: Grid, random: np.random.Generator) -> Grid:
    """0.6 of every edge, at a random corner."""
    kept = [math.ceil(0.6 * size) for size in grid.shape]
    starts = [int(random.integers(2)) * (size - keep) for size, keep in zip(grid.shape, kept, strict=True)]
    return grid.cropped([slice(start, start + keep) for start, keep in zip(starts, kept, strict=True)])


def slab(grid: Grid, random: np.random.Generator) -> Grid:
    """A third of the edge along a random axis, somewhere about the middle."""
    axis = int(random.integers(grid.dim))
    ranges = [slice(0, size) for size in grid.shape]
    size, keep = grid.shape[axis], math.ceil(grid.shape[axis] / 3)
    start = int(random.integers(size // 4, size - size // 4 - keep + 1))
    ranges[axis] = slice(start, start + keep)
    return grid.cropped(ranges)


def upper_half(grid: Grid, _: np.random.Generator) -> Grid:
    """The half towards the head (+z in LPS)."""
    rising = grid.world_from_voxel[2, :-1]
    axis = int(np.argmax(np.abs(rising)))
    size = grid.shape[axis]
    ranges = [slice(0, one) for one in grid.shape]
    ranges[axis] = slice(size // 2, size) if rising[axis] > 0 else slice(0, size // 2)
    return grid.cropped(ranges)


# ---- objects ----


def real_source(name: str, seed: int, folder: Path) -> Source:
    """Phantom (another person for each seed), ch2, mni or thorax at 3 mm in one contrast."""
    image = head_phantom((69, 80, 66), [SPACING_MM] * 3, seed).image if name == "phantom" else _file(folder / FILES[name])
    body = image > AIR_HU if name == "thorax" else sitk.OtsuThreshold(image, 0, 1)
    return Source(image, image, body)


@lru_cache(maxsize=4)
def _file(path: Path) -> sitk.Image:
    """The file at 3 mm; FileNotFoundError where it is missing."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    return at_3_mm(sitk.ReadImage(str(path), sitk.sitkFloat32))


def at_3_mm(image: sitk.Image) -> sitk.Image:
    """The image at 3 mm over the same extent, blurred before where it is finer."""
    grid = grid_of(image)
    for axis, step in enumerate(image.GetSpacing()):
        if step < SPACING_MM:
            image = sitk.RecursiveGaussian(image, 0.5 * math.sqrt(SPACING_MM**2 - step**2), False, 0, axis)
    coarse = grid.resized([round(size * step / SPACING_MM) for size, step in zip(grid.shape, grid.spacing_mm, strict=True)])
    like = image_on(coarse, np.zeros(coarse.shape, dtype=np.uint8))
    return sitk.Resample(image, like, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
