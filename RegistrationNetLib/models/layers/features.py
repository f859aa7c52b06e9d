"""The feature networks of CARL and uniCARL, and the average over rotations that makes one equivariant to them.

Greer et al., CVPR 2025 (CARL). Their parameters bear the names of the published files.

# B batch, C channel; N… the shape of the image
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from .unet import halved

BLOCKS = 3
Turns = Literal["half", "quarter"]

_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


class DilatedFeatures(nn.Module):
    """Features [B, channels, N…] of an image [B, 1, N…], one vector for each voxel.

    A convolution, and three residual blocks, each of normalization and one convolution for each of the `dilations`. Published
    as `NoDownsampleNet`; with a fourth dilation, 8, as `NoDownsampleNetBroad`.
    """

    def __init__(self, dim: int, *, dilations: Sequence[int] = (1, 2, 4), channels: int = 128) -> None:
        super().__init__()
        conv, batch_norm = _LAYERS[dim]
        self.dim = dim
        self.channels = channels
        self.batchnorms = nn.ModuleList(batch_norm(channels) for _ in range(BLOCKS))
        first = conv(1, channels, kernel_size=3, padding=1)
        dilated = [_same(conv, channels, dilation) for dilation in dilations for _ in range(BLOCKS)]
        self.convs = nn.ModuleList([first, *dilated])

    def forward(self, image: Tensor) -> Tensor:
        """The features of `image`."""
        return _through_blocks(_activated(self.convs[0](image)), self.batchnorms, list(self.convs)[1:])

    def values_out(self, voxels: int) -> int:
        """How many numbers the features of so many voxels are."""
        return self.channels * voxels

    def values_working(self, voxels: int, *, keeps_gradients: bool = False) -> int:
        """About how many numbers are held at most while they are computed."""
        return self.channels * voxels * (len(self.convs) + BLOCKS + 3 if keeps_gradients else 5)


class CoarseFeatures(nn.Module):
    """Features [B, channels, ceil(N / 4)…] of an image [B, 1, N…], one vector for a cell of 4 voxels per axis.

    Two convolutions, the lattice halved after each, and three residual blocks of normalization and three convolutions.
    Published as `SomeDownsampleNoDilationNet`, uniCARL's.
    """

    def __init__(self, dim: int, *, channels: int = 384) -> None:
        super().__init__()
        conv, batch_norm = _LAYERS[dim]
        self.dim = dim
        self.channels = channels
        self.batchnorms = nn.ModuleList(batch_norm(channels) for _ in range(BLOCKS))
        self.convs0 = conv(1, channels // 4, kernel_size=2)
        second = conv(channels // 4, channels, kernel_size=2)
        self.convs = nn.ModuleList([second, *(_same(conv, channels, 1) for _ in range(3 * BLOCKS))])

    def forward(self, image: Tensor) -> Tensor:
        """The features of `image`."""
        behind = (0, 1) * (image.dim() - 2)  # a kernel of 2 reaches one voxel past the end
        features = halved(self.convs0(F.pad(image, behind)))
        features = halved(self.convs[0](F.pad(features, behind)))
        return _through_blocks(_activated(features), self.batchnorms, list(self.convs)[1:])

    def values_out(self, voxels: int) -> int:
        """How many numbers the features of so many voxels are."""
        return self.channels * voxels // 4**self.dim

    def values_working(self, voxels: int, *, keeps_gradients: bool = False) -> int:
        """About how many numbers are held at most while they are computed; the first layer holds most."""
        cells = self.values_out(voxels) * (len(self.convs) + BLOCKS + 3 if keeps_gradients else 0)
        return cells + self.channels // 4 * voxels * 2


class Equivariantize(nn.Module):
    """The mean of `net` over rotations of its image, each result turned back: it turns with the image exactly.

    Args:
        net: from an image [B, C, N…] to features.
        turns: "half", as published, averages over the rotations by 180° about the axes (4 in 3-D, 2 in 2-D); "quarter" over
            all that map the lattice's axes onto each other (24 and 4), at as many times the cost of `net`.

    Raises:
        InputError: there are no such turns.
    """

    def __init__(self, net: DilatedFeatures | CoarseFeatures, *, turns: Turns = "half") -> None:
        super().__init__()
        if turns not in ("half", "quarter"):
            raise InputError(
                f"There are no turns {turns!r}; features are averaged over half or quarter turns. Choose one of them."
            )
        self.net = net
        self.channels = net.channels
        self.rotations = tuple(one for one in lattice_rotations(net.dim) if turns == "quarter" or one.is_half_turn)

    def values_out(self, voxels: int) -> int:
        """How many numbers the features of so many voxels are."""
        return self.net.values_out(voxels)

    def values_working(self, voxels: int, *, keeps_gradients: bool = False) -> int:
        """About how many numbers are held at most while they are computed."""
        once = self.net.values_working(voxels, keeps_gradients=keeps_gradients)
        return self.net.values_out(voxels) + once * (len(self.rotations) if keeps_gradients else 1)

    def forward(self, image: Tensor) -> Tensor:
        """The features of `image`."""
        first, *others = self.rotations
        total: Tensor = first.undone(self.net(first(image)))
        for one in others:
            total = total.add_(one.undone(self.net(one(image))))
        return total / len(self.rotations)


@dataclass(frozen=True)
class LatticeRotation:
    """A rotation that maps the lattice's axes onto each other: first they come in `order`, then those `flipped` are reversed."""

    order: tuple[int, ...]
    flipped: tuple[int, ...]

    @property
    def is_half_turn(self) -> bool:
        """Whether every axis stays one, or this is the identity."""
        return self.order == tuple(range(len(self.order)))

    def __call__(self, values: Tensor) -> Tensor:
        """`values` [B, C, N…], turned."""
        return values.permute(0, 1, *(2 + axis for axis in self.order)).flip([2 + axis for axis in self.flipped])

    def undone(self, values: Tensor) -> Tensor:
        """`values` [B, C, N…], turned back."""
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return values.flip([2 + axis for axis in self.flipped]).permute(0, 1, *(2 + axis for axis in back))


def lattice_rotations(dim: int) -> Iterator[LatticeRotation]:
    """All rotations of a lattice onto itself, the identity first: 4 in 2-D, 24 in 3-D."""
    for order in itertools.permutations(range(dim)):
        swaps = sum(one > two for one, two in itertools.combinations(order, 2))
        for count in range(dim + 1):
            if (swaps + count) % 2 == 0:  # a reflection otherwise
                yield from (LatticeRotation(order, flipped) for flipped in itertools.combinations(range(dim), count))


def _same(conv: type[nn.Module], channels: int, dilation: int) -> nn.Module:
    """A convolution that keeps channels and shape."""
    return conv(channels, channels, kernel_size=3, padding=dilation, dilation=dilation)


def _through_blocks(features: Tensor, norms: nn.ModuleList, convs: Sequence[nn.Module]) -> Tensor:
    """Block i normalizes with norm i and goes through convolutions i, i + 3, i + 6, …"""
    for block, norm in enumerate(norms):
        features = norm(features)
        fresh = features
        for place, conv in enumerate(convs[block::BLOCKS]):
            fresh = conv(_activated(fresh) if place else fresh)
        features = fresh.add_(features)
    return features


def _activated(features: Tensor) -> Tensor:
    return F.relu(features, inplace=not features.requires_grad)
