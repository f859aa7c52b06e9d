"""The stand-in refuses what a real card refuses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from .stand_in_card import MEMORY, stand_in_card

DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def on_card() -> Iterator[None]:
    with stand_in_card():
        yield


def test_tensors_of_both_devices_do_not_mix() -> None:
    there = torch.ones(3, device="cuda")
    assert there.device == DEVICE
    assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a number without an axis may lie anywhere
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        there + torch.ones(3)


def test_a_tensor_on_the_card_is_no_array() -> None:
    there = torch.ones(3).to(DEVICE)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        np.asarray(there)
    assert there.cpu().numpy().tolist() == [1, 1, 1]


def test_gradients_cross_to_the_card_and_back() -> None:
    here = torch.ones(3, dtype=torch.float64, requires_grad=True)
    there = here.to("cuda", torch.float32)
    (gradient,) = torch.autograd.grad((there * there).sum().cpu(), here)
    assert gradient.dtype == torch.float64
    assert gradient.tolist() == [2, 2, 2]


def test_memory_runs_out_and_comes_back() -> None:
    before = MEMORY.allocated
    MEMORY.limit = before + 1000
    there = torch.zeros(200, device="cuda")
    view = there[:3]
    with pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"):
        torch.zeros(200, device="cuda")
    del there
    assert MEMORY.allocated == before + 800
    del view
    assert MEMORY.allocated == before
