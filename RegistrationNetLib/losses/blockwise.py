"""Two large images compared block by block, so that beside them only what a block takes is held.

What a voxel adds to a local measure depends on its surroundings alone. So each block is compared with what lies around it, and counts
by its own voxels; together they give what the whole does. A block stays in the processor's cache, and one in which nothing counts,
as in the air around a body, takes no time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import without_mps
from ..geometry.deformation import Outside, sample, sample_with_slopes
from ..geometry.layered_points import Box
from .measure import Comparison, Measure

# Voxels of a block on the CPU, without what lies around it; smaller images are compared as a whole.
BLOCK_VOXELS = 2**18
# What a measure may reach, as a share of a block's side: with more, blocks would mostly consist of what lies around them.
WIDEST_REACH = 1 / 16


@dataclass(frozen=True, eq=False)
class Block:
    """A block of fixed with what lies around it (`box`), ready to be compared, and its share of all that counts."""

    box: Box
    comparison: Comparison
    share: float


@dataclass(frozen=True, eq=False)
class BlockwiseComparison:
    """As `Comparison`, of all blocks in which something counts."""

    blocks: tuple[Block, ...]
    highest: float

    def with_sampled(self, sampled: Tensor, outside: Outside) -> BlockwiseLoss:
        """The loss of the points at which the other image, `sampled` [1, C, *any], is read."""
        return BlockwiseLoss(self, sampled, outside)


@dataclass(frozen=True, eq=False)
class BlockwiseLoss:
    """The loss as a sum over boxes; see `layered_points.AddedUp`."""

    comparison: BlockwiseComparison
    sampled: Tensor
    outside: Outside

    @property
    def boxes(self) -> Sequence[Box]:
        """Those of the blocks."""
        return [block.box for block in self.comparison.blocks]

    def of(self, points: Tensor, number: int, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """What one block adds, and its gradient with respect to the points."""
        block = self.comparison.blocks[number]
        if not wanted:
            return block.share * block.comparison.loss(sample(self.sampled, points, outside=self.outside)), None
        warped, slopes = sample_with_slopes(self.sampled, points, self.outside)
        with torch.enable_grad():
            value = block.share * block.comparison.loss(warped.requires_grad_())
        (by_values,) = torch.autograd.grad(value, warped)
        return value.detach(), slopes.mul_(by_values)


def blockwise(measure: Measure, fixed: Tensor, mask: Tensor | None) -> BlockwiseComparison | None:
    """The comparison with `fixed` [1, 1, *shape] in blocks; None where it is small, or must be seen as a whole.

    That is on a graphics card, whose many units want all the work at once; for a measure that reaches far; and where nothing counts.
    """
    if not _is_for_blocks(measure, fixed) or (mask is not None and not bool(mask.any())):
        return None
    reach = measure.reach_vox
    assert reach is not None
    counted = torch.ones_like(fixed[:, :1], dtype=torch.bool) if mask is None else mask != 0
    blocks, weights = [], []
    for whole in _cores(fixed.shape[2:], measure.every_vox):
        core = _tight(counted, whole, measure.every_vox)
        if core is None:
            continue
        box = _around(core, fixed.shape[2:], reach, measure.every_vox)
        own = torch.zeros_like(_part(counted, box))
        inner = tuple(slice(part.start - wide.start, part.stop - wide.start) for part, wide in zip(core, box, strict=True))
        _part(own, inner).copy_(_part(counted, core))
        weights.append(float(without_mps(measure.places(own)).sum(dtype=torch.float64)))
        blocks.append((box, measure.against(_part(fixed, box), own)))
    total = sum(weights)
    return BlockwiseComparison(
        tuple(Block(box, comparison, weight / total) for (box, comparison), weight in zip(blocks, weights, strict=True)),
        measure.highest,
    )


def _is_for_blocks(measure: Measure, fixed: Tensor) -> bool:
    if measure.reach_vox is None or fixed.device.type != "cpu" or fixed.shape[:2] != (1, 1):
        return False
    return fixed[0, 0].numel() >= 2 * BLOCK_VOXELS and measure.reach_vox <= WIDEST_REACH * _side_vox(fixed.dim() - 2)


def _side_vox(dim: int) -> int:
    return round(BLOCK_VOXELS ** (1 / dim))


def _part(values: Tensor, box: Box) -> Tensor:
    """A view of `values` [1, C, *shape]: [1, C, *box]."""
    every = (slice(None), slice(None), *box)
    return values[every]


def _cores(shape: Sequence[int], every: int) -> Iterator[Box]:
    """Blocks that cover the lattice once, each beginning where the mean is taken."""
    side = max(every, _side_vox(len(shape)) // every * every)
    lines = []
    for size in shape:
        count = max(1, round(size / side))
        step = -(-size // (count * every)) * every
        lines.append([slice(start, min(start + step, size)) for start in range(0, size, step)])
    return itertools.product(*lines)


def _tight(counted: Tensor, core: Box, every: int) -> Box | None:
    """The part of a block that holds all that counts in it, beginning where the mean is taken; None where nothing does."""
    part = _part(counted, core)[0, 0]
    tight = []
    for axis, whole in enumerate(core):
        others = tuple(other for other in range(part.dim()) if other != axis)
        found = part.any(dim=others).nonzero().flatten()
        if not len(found):
            return None
        start, stop = int(found[0]) // every * every, -(-(int(found[-1]) + 1) // every) * every
        tight.append(slice(whole.start + start, min(whole.start + stop, whole.stop)))
    return tuple(tight)


def _around(core: Box, shape: Sequence[int], reach: int, every: int) -> Box:
    """With what the neighbourhoods of its voxels reach, beginning where the mean is taken."""
    return tuple(
        slice(max(0, (part.start - reach) // every * every), min(size, (part.stop - 1) // every * every + reach + 1))
        for part, size in zip(core, shape, strict=True)
    )
