"""An image at coarser resolutions, made a few layers at a time, so that no second copy of a large image is ever held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .separable import apply_along_axes, coarsening_matrix, on

LAYERS_AT_A_TIME = 8
# Voxels that weigh less than this in a blur are not read.
NEGLIGIBLE = 1e-6


def coarsened(values: Tensor, shape: Sequence[int]) -> Tensor:
    """`values` [1, C, *any] of any dtype on a coarser lattice with the same first and last points, blurred against aliasing.

    float32 [1, C, *shape]. Beside it only a few layers of the first axis are held.
    """
    if values.shape[2:] == torch.Size(shape):
        return values.float()
    first, *rest = (coarsening_matrix(new, old) for new, old in zip(shape, values.shape[2:], strict=True))
    result = torch.empty(1, values.shape[1], *shape, device=values.device)
    for start in range(0, shape[0], LAYERS_AT_A_TIME):
        rows = first[start : start + LAYERS_AT_A_TIME]
        read = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        layers = slice(int(read[0]), int(read[-1]) + 1)
        part = values[:, :, layers].float()
        result[:, :, start : start + LAYERS_AT_A_TIME] = apply_along_axes(part, on([rows[:, layers], *rest], part))
    return result


def pyramid(values: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """`values` [1, C, *shape] on the lattices of `shapes`, finest first, each made from the one before; its own is not copied."""
    images: list[Tensor] = []
    for shape in shapes:
        finer = images[-1] if images else values
        images.append(finer if finer.shape[2:] == torch.Size(shape) else coarsened(finer, shape))
    return images
