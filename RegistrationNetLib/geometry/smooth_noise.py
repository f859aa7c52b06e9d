"""Smooth random fields: Gaussian-blurred white noise that is equally strong up to the border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .separable import Matrix, apply_along_axes, blur_matrix, bspline_matrix, on

_CUT_SIGMA = 4.0  # a Gaussian is cut at this many standard deviations


def smooth_noise(shape: Sequence[int], sigma_vox: float, random: torch.Generator, *, channels: int = 1) -> Tensor:
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
