"""When memory runs out: the next way, and a clear end."""

from __future__ import annotations

import pytest
import torch

from RegistrationNetLib.errors import ResourceError
from RegistrationNetLib.losses.direction import Side, both_directions
from RegistrationNetLib.memory import (
    FULL,
    HALF,
    RECOMPUTED,
    RECOMPUTED_HALF,
    full_precision,
    is_out_of_memory,
    prediction_ways,
    refinement_ways,
    shortage_told,
    sparingly,
)
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.training_loss import loss_of_directions
from RegistrationNetLib.registration.network_refinement import network_options

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


PAIRS = {"unigradicon": (40, 36), "constricon": (40, 36), "carl": (24, 28)}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_both_kinds_of_half_precision_leave_coordinates_whole(name: str, kind: torch.dtype) -> None:
    network = random_network(small_card(name, shape=PAIRS[name]), displacement=0.004)
    moving, fixed = smooth_pair(PAIRS[name])

    def mapped() -> torch.Tensor:
        return mapped_lattice(both_ways(network, moving, fixed).moving_from_fixed, fixed.shape[2:], fixed)

    full = mapped()
    with torch.autocast("cpu", dtype=kind):
        half = mapped()
    assert half.dtype == torch.float32
    error = float((half - full).abs().max())
    assert 0 < error < 2e-3  # coordinates in bfloat16 alone would miss by 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unigradicon", "constricon", pytest.param("carl", marks=pytest.mark.slow)])
def test_the_gradient_in_half_precision_leads_the_same_way(name: str) -> None:
    card = small_card(name, shape=PAIRS[name])
    network = random_network(card, displacement=0.004).requires_grad_(True)
    moving, fixed = smooth_pair(PAIRS[name])
    options = network_options(card, "lncc")
    directions = both_directions(Side(fixed), Side(moving), options.directions(1.0))

    def gradient() -> torch.Tensor:
        maps = both_ways(network, moving, fixed)
        loss = loss_of_directions(options.loss, maps, directions, torch.Generator().manual_seed(0)).total
        with full_precision(CPU):
            found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        return torch.cat([one.flatten() for one in found if one is not None])

    (full, _), (half, _) = (sparingly((way,), CPU, gradient, remedy="") for way in (FULL, RECOMPUTED_HALF))
    assert float(torch.nn.functional.cosine_similarity(full, half, dim=0)) > 0.9


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        RuntimeError("ITK ERROR: Failed to allocate memory for image."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_runs_out_anywhere_is_told_with_a_remedy(error: BaseException) -> None:
    with (
        pytest.raises(ResourceError, match=r"The memory of this machine is not enough for these images\. Crop them\."),
        shortage_told("Crop them."),
    ):
        raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), shortage_told("Crop them."):
        raise RuntimeError("shapes do not match")
