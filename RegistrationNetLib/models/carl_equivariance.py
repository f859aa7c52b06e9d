"""What keeps CARL's maps equivariant beyond its attention: linear extrapolation, and a blur that respects it.

Greer et al., CVPR 2025 (CARL). A displacement that were constant outside the cube would bend a rotation there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..geometry.deformation import Composition, DisplacementField, identity_points, sample
from ..geometry.separable import Matrix, apply_along_axes, blur_matrix, on
from .composition import mapped_lattice
from .layers.attention import CoordinateAttention


@dataclass(frozen=True, eq=False)
class ExtrapolatedField(DisplacementField):
    """x ↦ x + u(x) in the cube; outside, x ↦ x + 2 u(b) - u(r), with b the nearest border point and r the reflection of x.

    So an affine displacement goes on affinely, to one cube's length away.
    """

    def __call__(self, points: Tensor) -> Tensor:
        moved = points + sample(self.displacement, points)
        rows = points.flatten(2)
        outside = ((rows < 0) | (rows > 1)).flatten(0, 1).any(dim=0).nonzero()[:, 0]  # of any entry of the batch
        beyond = rows[:, :, outside]
        further = sample(self.displacement, beyond) - sample(self.displacement, _reflected(beyond))
        return moved.flatten(2).index_add_(2, outside, further).view_as(moved)


def _reflected(points: Tensor) -> Tensor:
    """Points outside the cube reflected at its faces."""
    return torch.where(points > 1, 2 - points, points.abs())


class RotationFunctionFromVectorField(nn.Module):
    """`FunctionFromVectorField` with linear extrapolation of the displacement that `net` gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed."""
        if torch.is_grad_enabled() or self.training or isinstance(self.net, CoordinateAttention):
            return Composition((ExtrapolatedField(self.net(moving, fixed)),))
        # One entry of the batch after the other: half the memory for a pair and its reverse. Attention does so by itself, and
        # takes no image through its features twice.
        pairs = zip(moving.split(1), fixed.split(1), strict=True)
        return Composition((ExtrapolatedField(torch.cat([self.net(*pair) for pair in pairs])),))


class Blur(nn.Module):
    """The map that `net` gives, as one displacement on the images' lattice, blurred by a Gaussian of `sigma_vox`.

    Values beyond the border go on linearly, as the map does. Published with a kernel of 3 sigma voxels.

    Raises:
        InputError: (when called) the lattice is not wider than the kernel's half.
    """

    def __init__(self, net: nn.Module, sigma_vox: int) -> None:
        super().__init__()
        self.net = net
        self.sigma_vox = sigma_vox

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """The blurred moving_from_fixed."""
        shape = tuple(fixed.shape[2:])
        reach = 3 * self.sigma_vox // 2
        if min(shape) <= reach:
            raise InputError(
                f"This network blurs over {reach} voxels and needs a lattice of more along each axis; got {list(shape)} "
                "where it does. Resize the images to the shape that its card names."
            )
        displacement = mapped_lattice(self.net(moving, fixed), shape, fixed) - identity_points(shape, fixed)
        return Composition((ExtrapolatedField(blurred_linearly_extended(displacement, self.sigma_vox)),))


def blurred_linearly_extended(values: Tensor, sigma_vox: int) -> Tensor:
    """`values` [B, C, *shape] blurred by a Gaussian; beyond the border they are twice the border's minus their reflection.

    Neither the repeated border nor the reflection alone leaves an affine field as it is; this leaves it.
    """
    matrices = zip(*(_blurs(size, sigma_vox) for size in values.shape[2:]), strict=True)
    repeated, reflected = (apply_along_axes(values, on(some, values)) for some in matrices)
    return repeated.mul_(2).sub_(reflected)


@lru_cache(maxsize=64)
def _blurs(size: int, sigma_vox: int) -> tuple[Matrix, Matrix]:
    """The blur of a line whose border is repeated, and of one that is reflected at its ends, [size, size] each."""
    reach = 3 * sigma_vox // 2
    blur = blur_matrix(size + 2 * reach, sigma_vox, 2 * reach + 1)[reach : reach + size]
    line = np.arange(-reach, size + reach)
    repeated, reflected = np.clip(line, 0, size - 1), size - 1 - np.abs(size - 1 - np.abs(line))
    every = np.eye(size)
    return blur @ every[repeated], blur @ every[reflected]
