"""Random pieces of a lattice, on which images are compared where the whole lattice would be too large.

A piece is a small lattice of its own, so that every measure of similarity works on it, those of neighbourhoods too; near its
faces, where a neighbourhood would reach beyond it, it does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..geometry.deformation import Affine, Outside, sample
from ..geometry.interpolation import crossings, interpolated

# Half the windows of the measures in use: three voxels of LNCC with sigma 1.5, of MIND with radius 1 and dilation 2.
MARGIN_VOX = 3


@dataclass(frozen=True, eq=False)
class View:
    """An image as it is seen from a cube in which points are asked for.

    Attributes:
        values: [1, 1, *shape] of any dtype, unchanged; what is not float32 is converted where it is read.
        own_from_cube: from points of that cube to those of the image's own.
        mask: boolean [1, 1, *any] over the image's cube; None counts every voxel.
        outside: what the image is beyond its border.
    """

    values: Tensor
    own_from_cube: Affine
    mask: Tensor | None = None
    outside: Outside = "border"

    def at(self, points: Tensor) -> Tensor:
        """The image at `points` [B, dim, *any] of the cube: [B, 1, *any]."""
        own = self.own_from_cube(points)
        if self.values.dtype == own.dtype:
            return sample(self.values, own, outside=self.outside)
        return interpolated(self.values, own).movedim(-1, 1)

    @torch.no_grad()
    def counts(self, points: Tensor) -> Tensor:
        """Where `points` [B, dim, *any] fall onto voxels that count, half a voxel around counted in: boolean [B, 1, *any]."""
        own = self.own_from_cube(points)
        margin = own.new_tensor([0.5 / (size - 1) for size in self.values.shape[2:]]).view(1, -1, *(1,) * (own.dim() - 2))
        inside = ((own >= -margin) & (own <= 1 + margin)).all(dim=1, keepdim=True)
        if self.mask is None:
            return inside
        return inside & (interpolated(self.mask, own).movedim(-1, 1) > 0.5)


@dataclass(frozen=True, eq=False)
class Patches:
    """Some pieces of `side` voxels of the lattice of `shape` that spans the unit cube.

    Attributes:
        corners: index of the first voxel of each, [P, dim].
    """

    corners: Tensor
    side: tuple[int, ...]
    shape: tuple[int, ...]

    def lines(self, counts: Sequence[int]) -> list[Tensor]:
        """Coordinates of `counts` points along each axis from the first to the last voxel of every piece: [P, count] each."""
        reaches = [
            torch.linspace(0, side - 1, count, device=self.corners.device) for side, count in zip(self.side, counts, strict=True)
        ]
        return [(self.corners[:, axis : axis + 1] + reach) / (self.shape[axis] - 1) for axis, reach in enumerate(reaches)]

    def points(self) -> Tensor:
        """The voxels: [P, dim, *side] of the unit cube."""
        return crossings(self.lines(self.side))

    def inner(self) -> Tensor:
        """Voxels whose neighbourhoods lie in the piece, or are cut by the border of the image itself: boolean [P, 1, *side]."""
        inner = torch.ones(len(self.corners), 1, *self.side, dtype=torch.bool, device=self.corners.device)
        for axis, (side, size) in enumerate(zip(self.side, self.shape, strict=True)):
            index = torch.arange(side, device=self.corners.device)
            corner = self.corners[:, axis : axis + 1]
            near = (index < MARGIN_VOX) & (corner > 0) | (index >= side - MARGIN_VOX) & (corner + side < size)
            inner &= ~near.view(len(self.corners), 1, *(side if other == axis else 1 for other in range(len(self.side))))
        return inner


@dataclass(frozen=True, eq=False)
class PatchDraw:
    """How pieces are drawn from a lattice: at most `count` of `side_vox` voxels a side, around random ones of its voxels.

    Attributes:
        centres: the voxels that may be in the middle, as points of the unit cube [N, dim]; None means all.
    """

    shape: tuple[int, ...]
    count: int
    side_vox: int
    centres: Tensor | None = None

    @cached_property
    def side(self) -> tuple[int, ...]:
        """Voxels of a piece per axis: `side_vox`, or the whole axis where that is shorter."""
        return tuple(min(self.side_vox, size) for size in self.shape)

    @cached_property
    def pieces(self) -> int:
        """Not more than cover the lattice once."""
        inner = math.prod(
            side if side == size else side - 2 * MARGIN_VOX for side, size in zip(self.side, self.shape, strict=True)
        )
        return min(self.count, math.ceil(math.prod(self.shape) / inner))

    def draw(self, generator: torch.Generator, device: torch.device) -> Patches:
        """Pieces at random; they lie in the lattice, so that its border is seen as often as its middle."""
        sizes = torch.tensor(self.shape)
        if self.centres is None:
            centre = torch.rand(self.pieces, len(self.shape), generator=generator)
        else:
            centre = self.centres[torch.randint(len(self.centres), (self.pieces,), generator=generator)]
        middle = (centre * (sizes - 1)).round().long()
        jitter = torch.stack(
            [torch.randint(-(side // 3), side // 3 + 1, (self.pieces,), generator=generator) for side in self.side], 1
        )
        corners = (middle + jitter - torch.tensor(self.side) // 2).clamp(min=0).minimum(sizes - torch.tensor(self.side))
        return Patches(corners.to(device), self.side, self.shape)
