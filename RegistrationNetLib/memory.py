"""What to do when memory runs out: the same work again, with less of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch

from .errors import ResourceError, is_out_of_memory_text

Result = TypeVar("Result")

IS_RECOMPUTED: ContextVar[bool] = ContextVar("recomputed", default=False)


@contextmanager
def within(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    """Inside, `variable` has the value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def recomputed() -> Iterator[None]:
    """Inside, networks and compositions keep for the gradient only what they are given and what they give.

    What is between is made once more in the backward pass, one by one: less memory for up to a third more arithmetic. Kept is
    what costs little: all at reduced resolution, and the very last step, which the backward pass takes first, when nothing else is
    made anew yet. For `both_ways` and the loss alike. The answer and its gradients stay the same. Without a gradient nothing changes.
    """
    with within(IS_RECOMPUTED, True):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, the half precision of `torch.autocast` around is off: it would round coordinates by a voxel and more."""
    with torch.autocast(device.type, enabled=False):
        yield


@dataclass(frozen=True)
class Way:
    """One way to let a network work; `name` is what the report calls it."""

    name: str
    is_recomputed: bool = False
    is_half: bool = False


FULL = Way("full precision")
RECOMPUTED = Way("full precision, steps recomputed", is_recomputed=True)
HALF = Way("half precision", is_half=True)
RECOMPUTED_HALF = Way("half precision, steps recomputed", is_recomputed=True, is_half=True)


def prediction_ways(device: torch.device, *, is_half: bool = False) -> tuple[Way, ...]:
    """For a prediction: half precision is the last resort of a GPU."""
    if is_half:
        return (HALF,)
    return (FULL,) if device.type == "cpu" else (FULL, HALF)


def refinement_ways(device: torch.device, *, is_half: bool = False) -> tuple[Way, ...]:
    """For the refinement of a network: on the CPU, whose system ends a process that takes too much, the sparing way at once."""
    if is_half:
        return (RECOMPUTED_HALF,)
    return (RECOMPUTED,) if device.type == "cpu" else (FULL, RECOMPUTED, RECOMPUTED_HALF)


def sparingly(ways: Sequence[Way], device: torch.device, work: Callable[[], Result], *, remedy: str) -> tuple[Result, Way]:
    """What `work` gives in the first of `ways` for which the memory is enough, and that way.

    Raises:
        ResourceError: it is enough for none; the message ends with `remedy`.
    """
    failed: BaseException | None = None
    for way in ways:
        try:
            with _in(way, device):
                return work(), way
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = error.with_traceback(None)  # what it holds must be free for the next way
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise ResourceError(f"The memory of {device} is not enough, not even for {ways[-1].name}. {remedy}") from failed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is how torch, on any device, or Python says that memory ran out."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and is_out_of_memory_text(str(error))


@contextmanager
def shortage_told(remedy: str) -> Iterator[None]:
    """Inside, memory that runs out in torch, ITK or Python is a `ResourceError` whose message ends with `remedy`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"The memory of this machine is not enough for these images. {remedy}") from error


@contextmanager
def _in(way: Way, device: torch.device) -> Iterator[None]:
    # float16 has more digits, but gradients of single voxels are too small for it.
    kind = torch.bfloat16 if device.type == "cpu" or way.is_recomputed else torch.float16
    with torch.autocast(device.type, dtype=kind, enabled=way.is_half), recomputed() if way.is_recomputed else nullcontext():
        yield
