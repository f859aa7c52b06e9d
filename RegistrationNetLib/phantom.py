"""Data whose truth is known: a known warp of any image, the error against it, and a synthetic head with its organs.

A known warp is the closest thing to ground truth that deformable registration has: the image is deformed by a map that is
known in both directions, then its contrast is changed and noise added, so that matching intensities alone does not suffice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .deformation import identity_points, sample
from .errors import InputError
from .separable import Matrix, apply_along_axes, blur_matrix, bspline_matrix, on
from .space import Array, Grid, affine_transform, field_transform, grid_of, image_on, tensor_of, world_displacement

_CUT_SIGMA = 4.0  # a Gaussian is cut at this many standard deviations
_SAMPLE_POINTS = 200_000  # enough for a percentile


@dataclass(frozen=True)
class WarpOptions:
    """How a random `KnownMap` is drawn.

    Args:
        rotation_degrees: largest rotation about each axis through the image's centre.
        translation_mm: largest shift along each axis.
        displacement_mm: 95th percentile, over the image, of the deformation's velocity integrated over unit time.
        correlation_mm: standard deviation of the Gaussian that smooths the white noise; small is wriggly.
        margin_mm: how far around the image the deformation goes on, fading to nothing.
        lattice_mm: spacing of the displacement fields.
    """

    rotation_degrees: float = 4.0
    translation_mm: float = 6.0
    displacement_mm: float = 12.0
    correlation_mm: float = 20.0
    margin_mm: float = 40.0
    lattice_mm: float = 2.0

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "translation_mm", "displacement_mm"):
            _require(name, getattr(self, name), minimum=0.0, is_minimum_allowed=True)
        for name in ("correlation_mm", "margin_mm", "lattice_mm"):
            _require(name, getattr(self, name), minimum=0.0)


@dataclass(frozen=True)
class AppearanceOptions:
    """How the moving image of a known pair comes to look unlike the fixed one, each a fraction; 0 switches it off.

    Args:
        contrast: bend of the intensity curve (a random gamma within exp(±contrast) and a wave); it stays monotone.
        bias: largest deviation from 1 of the smooth factor that shades the image.
        noise: standard deviation of the Gaussian noise on both images, as a fraction of the intensity range.
    """

    contrast: float = 0.4
    bias: float = 0.25
    noise: float = 0.03

    def __post_init__(self) -> None:
        for name in ("contrast", "bias", "noise"):
            _require(name, getattr(self, name), minimum=0.0, maximum=0.9, is_minimum_allowed=True)


def _require(name: str, value: float, *, minimum: float, maximum: float = math.inf, is_minimum_allowed: bool = False) -> None:
    is_low = value < minimum or (value == minimum and not is_minimum_allowed)
    if is_low or not value <= maximum or not math.isfinite(value):
        rule = f"{'at least' if is_minimum_allowed else 'more than'} {minimum:g}"
        rule += f" and at most {maximum:g}" if math.isfinite(maximum) else ""
        raise InputError(f"{name} is out of range; it must be {rule}, got {value:g}. Choose a value in the range.")


@dataclass(frozen=True)
class KnownMap:
    """A map known in both directions: T = rigid ∘ exp(v), and T⁻¹ = exp(-v) ∘ rigid⁻¹, in LPS mm.

    `moving_from_fixed` is T, `fixed_from_moving` is T⁻¹. Each displacement field fades to nothing at the edge of its
    lattice, beyond which only the rigid part acts, so both are defined everywhere. There and back misses by the error of
    linear interpolation between lattice points, about 0.01 mm with the default options.
    """

    moving_from_fixed: sitk.CompositeTransform
    fixed_from_moving: sitk.CompositeTransform


def random_map(grid: Grid, seed: int, options: WarpOptions = WarpOptions()) -> KnownMap:
    """A random `KnownMap` around the image lattice `grid`; the same seed gives the same map."""
    random = torch.Generator().manual_seed(seed)
    rigid = _random_rigid(grid.centre_mm, random, options)
    lattice = _lattice_around(grid, options)
    velocity = _random_velocity(lattice, random, options)
    forward, backward = (_flow(direction * velocity, lattice) for direction in (1.0, -1.0))
    return KnownMap(
        _chain(affine_transform(rigid), forward),
        _chain(backward, affine_transform(np.asarray(np.linalg.inv(rigid), dtype=np.float64))),
    )


def _chain(*transforms: sitk.Transform) -> sitk.CompositeTransform:
    """The last one acts first, as in a product of matrices."""
    composite = sitk.CompositeTransform(transforms[0].GetDimension())
    for transform in transforms:
        composite.AddTransform(transform)
    return composite


def _random_rigid(centre_mm: Array, random: torch.Generator, options: WarpOptions) -> Array:
    """Homogeneous matrix of a rotation in every coordinate plane about the centre, and a shift."""
    dim = len(centre_mm)
    planes = list(itertools.combinations(range(dim), 2))
    draws = (2 * torch.rand(len(planes) + dim, generator=random, dtype=torch.float64) - 1).numpy()
    rotation = np.eye(dim)
    for (a, b), draw in zip(planes, draws, strict=False):
        angle = math.radians(options.rotation_degrees) * draw
        turn = np.eye(dim)
        turn[[a, b], [a, b]] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = rotation
    matrix[:dim, dim] = centre_mm - rotation @ centre_mm + options.translation_mm * draws[len(planes) :]
    return matrix


def _lattice_around(grid: Grid, options: WarpOptions) -> Grid:
    """A lattice along the axes of `grid`, of `lattice_mm` spacing, that covers it and its margin."""
    step, dim = options.lattice_mm, grid.dim
    shape = tuple(math.ceil((extent + 2 * options.margin_mm) / step) + 1 for extent in grid.extent_mm)
    columns = step * grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = columns
    matrix[:-1, -1] = grid.centre_mm - columns @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, matrix)


def _random_velocity(lattice: Grid, random: torch.Generator, options: WarpOptions) -> Tensor:
    """Smooth random velocity on `lattice` that fades within the margin: [1, dim, *shape], unit-cube coordinates per unit time."""
    velocity = _smooth_noise(lattice.shape, options.correlation_mm / options.lattice_mm, random, channels=lattice.dim)
    border = round(options.margin_mm / options.lattice_mm)
    inside = (..., *(slice(border, -border or None) for _ in lattice.shape))
    percentile = _percentile(_length(velocity[inside], axis=1), 0.95)
    for axis, size in enumerate(lattice.shape):
        velocity = velocity * _along(axis, _fade(size, border), lattice.dim)
    edges_mm = torch.tensor(lattice.extent_mm, dtype=velocity.dtype).view(1, -1, *(1,) * lattice.dim)
    return velocity * (options.displacement_mm / percentile) / edges_mm


def _smooth_noise(shape: Sequence[int], sigma_vox: float, random: torch.Generator, *, channels: int = 1) -> Tensor:
    """Gaussian-smoothed white noise [1, channels, *shape] float32 of unit variance, alike up to the border."""
    matrices = [_noise_matrix(size, sigma_vox) for size in shape]
    noise = torch.randn(1, channels, *(matrix.shape[1] for matrix in matrices), generator=random)
    return apply_along_axes(noise, on(matrices, noise))


def _noise_matrix(size: int, sigma_vox: float) -> Matrix:
    """White noise on a lattice about as coarse as sigma allows, blurred, as coefficients of cubic B-splines: [size, noise]."""
    intervals = max(1, round((size - 1) / max(0.5 * sigma_vox, 1.0)))
    step_vox = max(size - 1, 1) / intervals
    # A cubic B-spline smooths by itself, with a variance of a third of its step.
    sigma_steps = math.sqrt(max((sigma_vox / step_vox) ** 2 - 1 / 3, 0.0))
    reach = math.ceil(_CUT_SIGMA * sigma_steps)
    # Noise is drawn beyond the border too, so that its strength does not sink there.
    blur = blur_matrix(intervals + 3 + 2 * reach, sigma_steps, 2 * reach + 1)[reach : intervals + 3 + reach]
    matrix = bspline_matrix(size, intervals) @ blur
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float64)


def _fade(size: int, border: int) -> Tensor:
    """1 inside, falling to 0 at both ends over `border` points as a raised cosine."""
    position = torch.arange(size)
    inward = (torch.minimum(position, size - 1 - position) / max(border, 1)).clamp(max=1.0)
    return 0.5 - 0.5 * torch.cos(math.pi * inward)


def _along(axis: int, values: Tensor, dim: int) -> Tensor:
    """A row of values [N] so shaped that it multiplies along one spatial axis of [1, C, *shape]."""
    return values.view(1, 1, *(-1 if d == axis else 1 for d in range(dim)))


def _length(vectors: Tensor, *, axis: int) -> Tensor:
    """Euclidean length along a leading axis; many times faster there than `Tensor.norm`."""
    return vectors.square().sum(dim=axis).sqrt()


def _percentile(values: Tensor, fraction: float) -> float:
    flat = values.flatten()
    return float(torch.quantile(flat[:: max(1, flat.numel() // _SAMPLE_POINTS)], fraction))


def _flow(velocity: Tensor, lattice: Grid, *, steps: int = 2) -> sitk.DisplacementFieldTransform:
    """exp(v) by Runge-Kutta steps of fourth order at every lattice point, as a transform.

    Not by scaling and squaring: that interpolates the map again at each squaring, and the errors of forward and backward
    add up to three times those of this; it is also what registration uses, and a truth should be independent of it.
    """
    start = identity_points(lattice.shape, velocity)
    points, step = start, 1.0 / steps
    for _ in range(steps):
        first = sample(velocity, points)
        second = sample(velocity, points + 0.5 * step * first)
        third = sample(velocity, points + 0.5 * step * second)
        fourth = sample(velocity, points + step * third)
        points = points + (step / 6) * (first + 2 * second + 2 * third + fourth)
    return field_transform(world_displacement(points, lattice), lattice)


class KnownPair(NamedTuple):
    """Two images of one object and the truth between them: `known.moving_from_fixed` maps points of fixed to moving."""

    fixed: sitk.Image
    moving: sitk.Image
    known: KnownMap


def known_pair(
    source: sitk.Image,
    grid: Grid,
    *,
    seed: int,
    warp: WarpOptions = WarpOptions(),
    appearance: AppearanceOptions = AppearanceOptions(),
) -> KnownPair:
    """`source` on the lattice `grid`, and a warped copy of it with other contrast, shading and noise on the same lattice.

    Each is sampled once from `source` (cubic B-splines; blurred before where `grid` is coarser), so that neither is more
    blurred than the other. Outside `source` its border goes on. Both are float32.

    Args:
        source: scalar image, best finer than `grid`.
        grid: the lattice of both results, unsheared.
        seed: draws the map, the contrast and the noise; the same seed gives the same pair.

    Raises:
        InputError: `source` has one value everywhere or one that is not finite.
    """
    known = random_map(grid, seed, warp)
    source = _blurred_for(sitk.Cast(source, sitk.sitkFloat32), grid)
    lowest, highest = _range_of(source)
    still = sitk.Transform(grid.dim, sitk.sitkIdentity)
    fixed, moving = (_sampled(source, grid, transform) for transform in (still, known.fixed_from_moving))
    random = torch.Generator().manual_seed(seed + 1_000_003)
    moving = _with_contrast((moving - lowest) / (highest - lowest), appearance.contrast, random)
    moving = moving * _shading(grid, appearance.bias, random) * (highest - lowest) + lowest
    sigma = appearance.noise * (highest - lowest)
    fixed, moving = (image + sigma * torch.randn(image.shape, generator=random) for image in (fixed, moving))
    return KnownPair(_as_image(fixed, grid), _as_image(moving, grid), known)


def _range_of(image: sitk.Image) -> tuple[float, float]:
    values = tensor_of(image)
    lowest, highest = float(values.min()), _percentile(values, 0.999)
    if not math.isfinite(lowest + float(values.sum())):
        raise InputError("The source has values that are not finite; a known pair needs numbers. Replace NaN and inf first.")
    if highest <= lowest:
        raise InputError(f"The source has one value everywhere ({lowest:g}); a known pair needs contrast. Check the file.")
    return lowest, highest


def _blurred_for(image: sitk.Image, grid: Grid) -> sitk.Image:
    """Blurred just so that sampling on the coarser `grid` does not alias; axes are compared by the mean spacing of `grid`."""
    coarse = float(np.mean(grid.spacing_mm))
    for axis, spacing in enumerate(image.GetSpacing()):
        if coarse > 1.05 * spacing:
            image = sitk.RecursiveGaussian(image, 0.5 * math.sqrt(coarse**2 - spacing**2), False, 0, axis)
    return image


def _sampled(image: sitk.Image, grid: Grid, transform: sitk.Transform) -> Tensor:
    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(image_on(grid, np.zeros(grid.shape, dtype=np.uint8)))
    resample.SetTransform(transform)
    resample.SetInterpolator(sitk.sitkBSpline)
    resample.SetOutputPixelType(sitk.sitkFloat32)
    # The edge of the field of view would otherwise be seen in moving as a structure that fixed lacks.
    resample.UseNearestNeighborExtrapolatorOn()
    return tensor_of(resample.Execute(image))


def _with_contrast(values: Tensor, contrast: float, random: torch.Generator) -> Tensor:
    """`values`, mostly in [0, 1], through a monotone curve: a gamma and a wave, both random; values outside stay as they are."""
    inside = values.clamp(0.0, 1.0)
    exponent = math.exp(contrast * (2 * float(torch.rand((), generator=random)) - 1))
    phase = 2 * math.pi * float(torch.rand((), generator=random))
    bent = inside**exponent
    # The wave's slope stays below 1, so the curve keeps rising.
    wave = torch.sin(2 * math.pi * bent + phase) - math.sin(phase)
    return bent + contrast / (2 * math.pi) * wave + (values - inside)


def _shading(grid: Grid, bias: float, random: torch.Generator) -> Tensor:
    """A smooth factor within 1 ± bias: [1, 1, *shape]."""
    coarse = tuple(8 for _ in grid.shape)
    noise = _smooth_noise(coarse, 2.0, random)
    noise = noise / noise.abs().max()
    return 1 + bias * sample(noise, identity_points(grid.shape, noise))


def _as_image(values: Tensor, grid: Grid) -> sitk.Image:
    return image_on(grid, values[0, 0].numpy())


@dataclass(frozen=True)
class ErrorMm:
    """Distances in mm over the voxels of a mask."""

    mean: float
    p95: float
    max: float


def error_mm(transform: sitk.Transform, known: KnownMap, mask: sitk.Image) -> ErrorMm:
    """How far `transform` takes the points of fixed from where `known.moving_from_fixed` takes them.

    Args:
        transform: estimated moving_from_fixed, LPS mm.
        mask: the voxels of fixed that count, those above 0; its grid is where the two are compared.

    Raises:
        InputError: the mask is empty.
    """
    inside = sitk.GetArrayViewFromImage(mask) > 0
    if not inside.any():
        raise InputError("The mask is empty; an error needs at least one voxel above 0. Check the mask.")
    estimated, true = (displacement_mm(one, grid_of(mask))[inside] for one in (transform, known.moving_from_fixed))
    distance = np.linalg.norm(estimated - true, axis=-1)
    return ErrorMm(float(distance.mean()), float(np.quantile(distance, 0.95)), float(distance.max()))


def displacement_mm(transform: sitk.Transform, grid: Grid) -> Array:
    """World displacements [*shape, dim] (x, y, z) of a transform at the lattice of `grid`."""
    like = image_on(grid, np.zeros(grid.shape, dtype=np.uint8))
    size, origin, spacing, direction = like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, size, origin, spacing, direction)
    return np.asarray(sitk.GetArrayFromImage(field), dtype=np.float64)


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
        return _smooth_noise(self.labels.shape, sigma_mm / self._spacing, self._random, channels=channels)[0]

    def depth(self, organ: _Organ) -> Tensor:
        """About how deep each point lies below the organ's surface in mm, negative outside: [*shape]."""
        points = self.points
        if organ.is_pair:
            points = torch.cat([points[:2], points[2:].abs()])
        column = (3, *(1,) * (points.dim() - 1))
        radii = torch.tensor(organ.radii).view(column)
        from_centre = (points - torch.tensor(organ.centre, dtype=points.dtype).view(column)) / radii
        level = _length(from_centre, axis=0)
        return level * (1 - level) / _length(from_centre / radii, axis=0).clamp(min=1e-6)

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
    floor = torch.minimum(_above_skull_base(canvas.points) - 8, above_cerebellum)
    cerebrum = torch.minimum(canvas.depth(_CEREBRUM), floor)
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
