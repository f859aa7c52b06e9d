"""The values at given ranks of a large array, exactly, without a copy of it in floating point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Whole numbers within so wide a range are counted, each value for itself.
COUNTED_RANGE = 2**17
VALUES_AT_A_TIME = 2**22


def order_statistics(values: NDArray[Any], ranks: Sequence[int]) -> list[float]:
    """The `ranks`-th smallest of the values, 1 being the smallest; of real numbers one copy is held meanwhile.

    Args:
        values: any shape, at least one value.
        ranks: each from 1 to the number of values.
    """
    flat = values.reshape(-1)
    if np.issubdtype(flat.dtype, np.integer) and flat.dtype != np.uint64:
        low, high = int(flat.min()), int(flat.max())
        if high - low < COUNTED_RANGE:
            below = _counts(flat, low, high).cumsum()
            return [float(low + int(np.searchsorted(below, rank))) for rank in ranks]
    ordered = np.partition(flat, [rank - 1 for rank in ranks])
    return [float(ordered[rank - 1]) for rank in ranks]


def _counts(flat: NDArray[Any], low: int, high: int) -> NDArray[np.int64]:
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for start in range(0, flat.size, VALUES_AT_A_TIME):
        part = flat[start : start + VALUES_AT_A_TIME].astype(np.int64) - low
        counts += np.bincount(part, minlength=len(counts))
    return counts
