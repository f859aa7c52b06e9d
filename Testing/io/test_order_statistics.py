"""Order statistics are those of the sorted values, of any type of number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from RegistrationNetLib.io import order_statistics as module
from RegistrationNetLib.io.order_statistics import order_statistics

random = np.random.default_rng(0)
ARRAYS: dict[str, NDArray[Any]] = {
    "int16": random.integers(-2000, 3000, (7, 11, 13)).astype(np.int16),
    "whole range": np.array([[-32768, 32767, 5]], dtype=np.int16),
    "wide": random.integers(-(2**40), 2**40, 500),
    "unsigned": random.integers(0, 2**63, 500).astype(np.uint64),
    "real": random.normal(size=(20, 30)).astype(np.float32),
    "one value": np.full((4, 4), 7, dtype=np.uint8),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_they_are_those_of_the_sorted_values(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES_AT_A_TIME", 100)
    values = ARRAYS[what]
    before, ranks = values.copy(), [1, max(1, values.size // 3), values.size]
    assert order_statistics(values, ranks) == [float(np.sort(values, axis=None)[rank - 1]) for rank in ranks]
    assert np.array_equal(values, before)
