"""A large image on coarser lattices, made a few layers at a time, so that no second copy of it is ever held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .separable import Matrix, apply_along_axes, coarsening_matrix, on

LAYERS_AT_A_TIME = 12
# Voxels that weigh less than this in a blur are not read.
NEGLIGIBLE = 1e-6


def in_layers(read: Callable[[slice], Tensor], matrices: Sequence[Matrix]) -> Tensor:
    """An image with a matrix [out, in] applied along each axis, as `apply_along_axes` does it, [1, C, *out].

    `read` gives some layers of its first axis, [1, C, layers, *rest]; beside the result only a few of them are held.
    """
    first, *rest = matrices
    result: Tensor | None = None
    for start in range(0, len(first), LAYERS_AT_A_TIME):
        rows = first[start : start + LAYERS_AT_A_TIME]
        taken = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        layers = slice(int(taken[0]), int(taken[-1]) + 1)
        part = read(layers)
        made = apply_along_axes(part, on([rows[:, layers], *rest], part))
        if result is None:
            result = part.new_empty(1, part.shape[1], *(len(matrix) for matrix in matrices))
        result[:, :, start : start + LAYERS_AT_A_TIME] = made
    assert result is not None
    return result


def coarsened(values: Tensor, shape: Sequence[int]) -> Tensor:
    """`values` [1, C, *any] of any dtype on a coarser lattice with the same first and last points, blurred against aliasing.

    float32 [1, C, *shape]. Beside it only a few layers of the first axis are held.
    """
    if values.shape[2:] == torch.Size(shape):
        return values.float()
    matrices = [coarsening_matrix(new, old) for new, old in zip(shape, values.shape[2:], strict=True)]
    return in_layers(lambda layers: values[:, :, layers].float(), matrices)


def pyramid(values: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """`values` [1, C, *shape] on the lattices of `shapes`, finest first, each made from the one before; its own is not copied."""
    images: list[Tensor] = []
    for shape in shapes:
        finer = images[-1] if images else values
        images.append(finer if finer.shape[2:] == torch.Size(shape) else coarsened(finer, shape))
    return images
