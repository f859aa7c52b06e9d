"""Work that processes of their own do ahead of where it is wanted: a step's pairs are ready when the step before it ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ..errors import ResourceError

Result = TypeVar("Result")

# How many results each process may have ready or at work.
AHEAD = 2
# What a loader process was given when it began; unpickled when it is first asked, so that what fails there is raised where it is wanted.
_given: list[bytes | Callable[[int], Any]] = []


def worked_ahead(work: Callable[[int], Result], numbers: Sequence[int], *, processes: int) -> Generator[Result, None, None]:
    """`work` of each of the `numbers`, in their order, done by so many processes ahead; by this one, when it is asked, with 0.

    The processes are started anew (spawn), so that nothing of this one is shared, and `work` must be picklable. They end with the
    generator, also when it is closed early, and when this process is killed. What `work` raises is raised here.

    Raises:
        ResourceError: a process ended by itself, was killed, or could not begin.
    """
    if not (processes and numbers):
        yield from map(work, numbers)
        return
    # Everything travels by value: shared memory is small in containers, and whoever runs out of it crashes.
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(work),)
    )
    waiting: deque[Future[bytes]] = deque()
    left = iter(numbers)
    try:
        while True:
            while len(waiting) < AHEAD * processes and (number := next(left, None)) is not None:
                with _interrupts_held():
                    waiting.append(pool.submit(_answer, number))
            if not waiting:
                return
            result: Result = pickle.loads(waiting.popleft().result())
            yield result
    except BrokenProcessPool as error:
        raise ResourceError(
            f"One of the {processes} loader processes ended before its work was done. Most often the memory ran out: set fewer "
            "`processes` in [loading], or 0. If it is a script that trains, each process runs it anew, as far as to "
            'if __name__ == "__main__": put what trains below that line.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: bytes) -> None:
    """What a loader process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that it works for decides
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _given.append(work)


def _answer(number: int) -> bytes:
    if isinstance(given := _given[0], bytes):
        _given[0] = given = pickle.loads(given)
    return pickle.dumps(given(number))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that begins inside never hears Ctrl-C, which a terminal sends to all; this one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
