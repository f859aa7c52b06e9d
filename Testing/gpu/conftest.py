"""The card of a test: the real one where the marker `gpu` asks for it, and by default its stand-in.

Nothing here needs more than pytest, so that these tests run on a machine that has little else. All tests marked `gpu` lie here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from .stand_in_card import MEMORY, stand_in_card

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")])


@dataclass(frozen=True)
class Card:
    """A CUDA device, real or not."""

    is_real: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")

    def shape(self, real: Sequence[int], stand_in: Sequence[int]) -> tuple[int, ...]:
        """Of images: those that make the card work, or those that the CPU can afford."""
        return tuple(real if self.is_real else stand_in)

    def peak(self) -> int:
        """Bytes that torch has taken at most since `forget_peak`."""
        return torch.cuda.max_memory_reserved() if self.is_real else MEMORY.peak

    def forget_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def limited(self, size: int) -> Iterator[None]:
        """Inside, torch gets no more than `size` bytes of the card."""
        torch.cuda.empty_cache()
        if self.is_real:
            torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
        else:
            MEMORY.limit = size
        try:
            yield
        finally:
            MEMORY.limit = 2**40
            if self.is_real:
                torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(params=[CUDA, "stand-in"])
def card(request: pytest.FixtureRequest) -> Iterator[Card]:
    torch.manual_seed(0)
    if request.param == "cuda":
        yield Card(is_real=True)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with stand_in_card():
        yield Card(is_real=False)
    torch.set_num_threads(threads)
