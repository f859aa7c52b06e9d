"""What of an image is the object: not the padding outside a scanner's field of view, and not the air around a body.

Padding is found in the values as they came, air in the prepared image. Neither knows a modality or a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..devices import in_double
from ..io.order_statistics import order_statistics

# Padding is one exact value at an end of the range, in so many of the voxels, and this many times farther from every other
# value than the others' range (without their extremes) is wide.
PADDING_SHARE, PADDING_GAP = 0.002, 0.5
EXTREMES = 0.01
# Air is what differs by less than this share of the intensity window from the value that most of the border has.
AIR_WITHIN, AIR_SHARE_OF_BORDER = 0.08, 0.5
BORDER_BINS = 32


def padding_of(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where `values` (any shape) hold no measurement but a value that stands for "nothing here"; None if that is nowhere."""
    found: NDArray[np.bool_] | None = None
    for extreme in (values.min(), values.max()):
        is_extreme = values == extreme
        share = np.count_nonzero(is_extreme) / values.size
        if not PADDING_SHARE <= share < 1:
            continue
        rest = values[~is_extreme]
        # A lone second value would be an image of two values, in which the lower one says as much as the other.
        low, high = order_statistics(rest, [max(1, int(share * rest.size)) for share in (EXTREMES, 1 - EXTREMES)])
        gap = min(abs(float(end) - float(extreme)) for end in (rest.min(), rest.max()))
        if low < high and gap > PADDING_GAP * (high - low):
            found = is_extreme if found is None else found | is_extreme
    return found


def foreground_of(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Where the image `values` [1, 1, *shape] in [0, 1] holds the object: boolean, of the same shape.

    The value of the air is the commonest one along the border; where less than half of the border is air, as in an image from
    within a body, all of it is object. Only voxels that are `counted` can be (None: all). To be found on a lattice that is coarse
    enough to have averaged the noise away.
    """
    everywhere = torch.ones_like(values, dtype=torch.bool) if counted is None else counted
    border = values[_is_border(values.shape[2:], values.device)[None, None] & everywhere]
    if border.numel() == 0:
        return everywhere
    counts = torch.histc(border, BORDER_BINS, 0.0, 1.0)
    air = (float(counts.argmax()) + 0.5) / BORDER_BINS
    if float(in_double((border - air).abs() < AIR_WITHIN).mean()) < AIR_SHARE_OF_BORDER:
        return everywhere
    found = ((values - air).abs() >= AIR_WITHIN) & everywhere
    return found if bool(found.any()) else everywhere


def _is_border(shape: Sequence[int], device: torch.device) -> Tensor:
    inside = torch.zeros(tuple(shape), dtype=torch.bool, device=device)
    inside[tuple(slice(1, -1) for _ in shape)] = True
    return ~inside
