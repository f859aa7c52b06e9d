"""A known pair: an image, and the same image deformed by a known map and changed in contrast, shading and noise.

The changes see to it that matching intensities alone does not suffice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import identity_points, sample
from ..geometry.smooth_noise import smooth_noise
from ..geometry.space import Grid, image_on, tensor_of
from .known_warp import KnownMap, WarpOptions, percentile_of, random_map, require_in_range


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
            require_in_range(name, getattr(self, name), minimum=0.0, maximum=0.9, is_minimum_allowed=True)


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
    lowest, highest = float(values.min()), percentile_of(values, 0.999)
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
    noise = smooth_noise(coarse, 2.0, random)
    noise = noise / noise.abs().max()
    return 1 + bias * sample(noise, identity_points(grid.shape, noise))


def _as_image(values: Tensor, grid: Grid) -> sitk.Image:
    return image_on(grid, values[0, 0].numpy())
