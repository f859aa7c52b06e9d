"""Labels as a few smooth channels that are compared by squares: any number of labels costs what four do.

Each label is a direction of a space of few dimensions, its code, and a label image the image of their codes, blurred a little. Where two
codes differ the squares pull one label's border smoothly onto the other's; memberships, which are steps, pull by fits and starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.deformation import sample
from ..geometry.pyramid import in_layers, pyramid
from ..geometry.separable import coarsening_matrix, replicating_blur_matrix
from .label_overlap import numbered

# So many labels have codes at right angles; of more, codes lie as far apart as so many dimensions let them.
CHANNELS = 4
# Of the codes, in voxels of their finest lattice.
BLUR_VOX = 1.0
# Random directions among which those of each label are chosen, for each of them.
TRIED_FOR_EACH = 64


@dataclass(frozen=True, eq=False)
class CodePair:
    """The codes of the labels of two images on one lattice, [1, channels, *shape] each."""

    fixed: Tensor
    moving: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the lattice."""
        return tuple(self.fixed.shape[2:])

    def loss(self, way: int, points: Tensor) -> Tensor:
        """Squared difference as a share of both images' squares, 0 for equal labels and about 1 - Dice of others; a scalar.

        Args:
            way: 0 compares fixed's with moving's at `points`, 1 moving's with fixed's.
            points: the moved lattice, [1, dim, *shape] of the unit cube.
        """
        compared, sampled = (self.fixed, self.moving) if way == 0 else (self.moving, self.fixed)
        everything = compared.square().sum() + sampled.square().sum()
        return (sample(sampled, points) - compared).square().sum() / everything


def code_pairs(fixed: Tensor, moving: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[CodePair]:
    """The labels [1, 1, *any] that both images have, as codes on each of the lattices, which are named finest first.

    Raises:
        InputError: they have none in common besides background (0).
    """
    *both, count = numbered(fixed, moving)
    table = torch.cat([torch.zeros(1, min(count, CHANNELS)), _directions(count)]).to(fixed.device)
    codes = [pyramid(_coded(one, table, shapes[0]), shapes) for one in both]
    return [CodePair(*pair) for pair in zip(*codes, strict=True)]


def _coded(numbers: Tensor, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The codes of a `table` [labels + 1, channels] of an image of `numbers` on a coarser lattice of `shape`, blurred."""
    matrices = [
        replicating_blur_matrix(new, BLUR_VOX) @ coarsening_matrix(new, old)
        for new, old in zip(shape, numbers.shape[2:], strict=True)
    ]
    return in_layers(lambda layers: table[numbers[0, 0, layers].long()].movedim(-1, 0)[None], matrices)


def _directions(count: int) -> Tensor:
    """Directions of so many labels, [count, at most `CHANNELS`]; the same in every run."""
    if count <= CHANNELS:
        return torch.eye(count)
    tried = torch.randn(TRIED_FOR_EACH * count, CHANNELS, generator=torch.Generator().manual_seed(0))
    tried /= tried.norm(dim=1, keepdim=True)
    chosen, nearest = tried[:1], tried @ tried[0]
    for _ in range(count - 1):
        chosen = torch.cat([chosen, tried[nearest.argmin()][None]])
        nearest = torch.maximum(nearest, tried @ chosen[-1])
    return chosen
