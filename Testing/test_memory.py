"""When memory runs out: the next way, and a clear end."""

from __future__ import annotations

import pytest
import torch

from RegistrationNetLib.errors import ResourceError
from RegistrationNetLib.memory import (
    FULL,
    HALF,
    RECOMPUTED,
    RECOMPUTED_HALF,
    is_out_of_memory,
    prediction_ways,
    refinement_ways,
    sparingly,
)
from RegistrationNetLib.models.composition import both_ways, mapped_lattice

from .models.layers.published import smooth_pair
from .small_network import random_network, small_card

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_gpu_tries_more_sparing_ways_and_the_cpu_begins_with_them() -> None:
    assert prediction_ways(CPU) == (FULL,)
    assert prediction_ways(CUDA) == (FULL, HALF)
    assert refinement_ways(CPU) == (RECOMPUTED,)
    assert refinement_ways(CUDA) == (FULL, RECOMPUTED, RECOMPUTED_HALF)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("MPS backend out of memory (…)")]
)
def test_the_next_way_is_taken_when_memory_runs_out(error: BaseException) -> None:
    tries = []

    def work() -> str:
        tries.append(torch.is_autocast_enabled("cpu"))
        if len(tries) < 3:
            raise error
        return "done"

    assert sparingly((FULL, RECOMPUTED, RECOMPUTED_HALF), CPU, work, remedy="") == ("done", RECOMPUTED_HALF)
    assert tries == [False, False, True]


def test_when_no_way_is_left_the_remedy_is_told() -> None:
    def work() -> None:
        raise MemoryError

    with pytest.raises(ResourceError, match=r"memory of cpu is not enough, not even for half precision\. Use less"):
        sparingly((FULL, HALF), CPU, work, remedy="Use less.")


def test_other_errors_are_no_reason_to_try_again() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        sparingly((FULL, HALF), CPU, work, remedy="")
    assert len(tries) == 1


def test_an_allocation_that_fails_on_the_cpu_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert is_out_of_memory(raised.value)


def test_half_precision_gives_nearly_the_same_maps() -> None:
    network = random_network(small_card())
    moving, fixed = smooth_pair((32, 36, 40))

    def work() -> torch.Tensor:
        with torch.no_grad():
            return mapped_lattice(both_ways(network, moving, fixed).moving_from_fixed, fixed.shape[2:], fixed)

    (full, _), (half, _) = (sparingly((way,), CPU, work, remedy="") for way in (FULL, HALF))
    assert half.dtype == torch.float32
    error = (half - full).abs().max()
    assert 0 < error < 2e-3
