"""A plan carried out: what is missing, failed or changed is registered, on Dask, and the overview is written."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import Cancelled, InputError, OutputError, ResourceError
from ..io.native_paths import printable
from ..io.outputs import check_folder_name
from ..progress import Progress, ProgressCallback, silent
from .clusters import TIMEOUTS, Place, client_of
from .estimate import voxels_of
from .overview import write_overview
from .pair import CohortPair
from .plan import Plan
from .records import LOCK, Failure, Outcome, Setting, Work, begin_run, end_run, is_done, note_failure, run_name
from .work import carry_out

# How long the cluster is left alone before it is looked whether it is still there.
LOOK_SECONDS = 1.0
# How long a run on this machine waits for processes when all have died; a killed one is back in a few seconds.
REVIVAL_SECONDS = 90.0


@dataclass(frozen=True)
class Summary:
    """How a run ended: how many pairs were done before, how many now, and which failed."""

    before: int
    now: int
    failures: tuple[Failure, ...]


def run_cohort(
    plan: Plan,
    out: Path,
    *,
    place: Place = Place(),
    is_anonymous: bool = False,
    work: Work = carry_out,
    progress: ProgressCallback = silent,
) -> Summary:
    """Register every pair of `plan` that has no results in `out` yet, of these files with these options.

    The results of each pair appear whole or not at all. A pair that fails does not end the others. Whatever ends the run, the same
    call goes on where it ended.

    Args:
        work: what is done with each pair, on the cluster.
        progress: hears after each pair, and may raise `Cancelled` to stop.

    Raises:
        InputError: there is no such scheduler or queue, or another run is at work in `out`.
        OutputError: `out` cannot be written, or the disk is full.
        ResourceError: the scheduler was lost on the way, or all processes.
    """
    check_folder_name(out)
    with _alone(out):
        missing = [pair for pair in plan.pairs if not is_done(pair, out)]
        setting = begin_run(out, run_name())
        counted = _Counted(len(plan.pairs), len(plan.pairs) - len(missing), progress)
        try:
            if missing:
                patience = _Patience(REVIVAL_SECONDS if place.is_here else math.inf)
                with client_of(place, len(missing)) as client:
                    _carry_out_all(
                        client, _ordered(missing), replace(setting, is_anonymous=is_anonymous), work, counted, patience
                    )
        finally:
            end_run(setting)
            write_overview(plan, out, is_anonymous=is_anonymous)
    return Summary(counted.before, counted.now, tuple(counted.failures))


def run_one(plan: Plan, out: Path, number: int, *, is_anonymous: bool = False, work: Work = carry_out) -> Summary:
    """Register the pair of that number in the plan, counted from 1, in this process: one element of a job array.

    The overview is not written, as other elements are at work at the same time.

    Raises:
        InputError: the plan has no such pair.
        OutputError: the disk is full.
    """
    if not 1 <= number <= len(plan.pairs):
        raise InputError(f"There is no pair {number}; the plan has {len(plan.pairs)}, counted from 1. Correct the job array.")
    check_folder_name(out)
    pair = plan.pairs[number - 1]
    if is_done(pair, out):
        return Summary(1, 0, ())
    setting = replace(begin_run(out, f"array-{number}"), is_anonymous=is_anonymous)
    try:
        outcome = work(pair, setting)
    finally:
        end_run(setting)
    if outcome.is_disk_full:
        raise OutputError(outcome.error)
    failures = (Failure(pair.name, outcome.error, outcome.seconds),) if outcome.error else ()
    return Summary(0, int(not failures), failures)


@dataclass
class _Counted:
    """What has ended so far, and the progress that follows."""

    total: int
    before: int
    progress: ProgressCallback

    def __post_init__(self) -> None:
        self.now, self.failures = 0, list[Failure]()
        self._started_at, self._work, self._worked = time.monotonic(), 0.0, 0.0

    def expect(self, voxels: Iterable[int]) -> None:
        """How much there is to do, in voxels."""
        self._work = max(1.0, float(sum(voxels)))
        self._tell()

    def hear(self, outcome: Outcome, voxels: int) -> None:
        """A pair has ended."""
        self._worked += voxels
        if outcome.error:
            self.failures.append(Failure(outcome.name, outcome.error, outcome.seconds))
        else:
            self.now += 1
        self._tell()

    def _tell(self) -> None:
        fraction = min(1.0, self._worked / self._work)
        elapsed = time.monotonic() - self._started_at
        left = elapsed * (1 - fraction) / fraction if fraction > 0 else None
        self.progress(Progress(f"{self.before + self.now + len(self.failures)}/{self.total}", fraction, left))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Inside, no other run works in `out`; the lock of a run that was killed is free."""
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another run is at work in {printable(out)}; one at a time can be. Wait for its end, or choose another folder."
        ) from error
    except OSError as error:
        raise OutputError(
            f"Cannot write into {printable(out)}: {error.strerror or error}. Choose a folder that can be written."
        ) from error
    with lock:
        yield


@dataclass(frozen=True)
class _Sized:
    """A pair, and its size; `is_alone` where it is tried when all others have ended."""

    pair: CohortPair
    voxels: int
    is_alone: bool = False


def _ordered(pairs: Sequence[CohortPair]) -> list[_Sized]:
    """Large ones first, so that none begins when all others have ended; those of one model together, whose network is then kept."""
    sized = [_Sized(pair, voxels_of(pair)) for pair in pairs]
    largest: dict[str, int] = {}
    for one in sized:
        largest[_network(one.pair)] = max(largest.get(_network(one.pair), 0), one.voxels)
    return sorted(sized, key=lambda one: (-largest[_network(one.pair)], _network(one.pair), -one.voxels))


def _network(pair: CohortPair) -> str:
    return f"{pair.options.get('model', 'direct')} {pair.files.get('weights', '')}"


@dataclass
class _Patience:
    """Ends a run whose processes have all been gone for so many seconds: nobody would ever hear of its pairs again."""

    seconds: float

    def __post_init__(self) -> None:
        self._last_seen = time.monotonic()

    def hear(self, processes: int) -> None:
        """How many there are now.

        Raises:
            ResourceError: there have been none for too long.
        """
        now = time.monotonic()
        if processes:
            self._last_seen = now
        elif now - self._last_seen > self.seconds:
            raise ResourceError(
                "The processes of the cohort have all died and were not started again, as where memory runs out; what had ended is kept. "
                "Give the same command with fewer --processes: it goes on from there."
            )


def _carry_out_all(
    client: Any, pairs: Sequence[_Sized], setting: Setting, work: Work, counted: _Counted, patience: _Patience
) -> None:
    """Keep every process of the cluster at work with one pair, and hear how each ends.

    A pair over which processes have died, as they do where others leave no memory, gets another try when it is alone.
    """
    counted.expect(one.voxels for one in pairs)
    waiting, last, running = deque(pairs), deque[_Sized](), dict[Any, _Sized]()
    try:
        while waiting or last or running:
            processes = len(_asked(client, client.nthreads))
            patience.hear(processes)
            while waiting and len(running) < max(1, processes):  # one while they are awaited
                one = waiting.popleft()
                running[_submitted(client, work, one, setting)] = one
            if not running:
                one = replace(last.popleft(), is_alone=True)
                running[_submitted(client, work, one, setting)] = one
            for future in _ended(client, running):
                one = running.pop(future)
                if _was_killed(future) and not one.is_alone:
                    last.append(one)
                    continue
                outcome = _outcome(future, one.pair, setting)
                if outcome.is_cancelled:
                    raise Cancelled("cancelled; the run's unfinished work was removed by somebody else")
                if outcome.is_disk_full:
                    raise OutputError(f"The disk is full: {outcome.error} The same command goes on from there.")
                counted.hear(outcome, one.voxels)
    except BaseException:
        end_run(setting)  # which stops what works on other machines
        _let_go(client, running)
        raise


def _submitted(client: Any, work: Work, one: _Sized, setting: Setting) -> Any:
    # A key of its own for each run: what an ended run has left on a scheduler is not the answer.
    key = f"registrationnet-{setting.run}-{one.pair.name}{'-alone' * one.is_alone}"
    return client.submit(work, one.pair, setting, key=key, pure=False, priority=one.voxels)


def _ended(client: Any, running: Iterable[Any]) -> set[Any]:
    """Those that have ended by now, or soon."""
    from distributed import wait

    def some() -> set[Any]:
        with client.as_current():
            ended = wait(list(running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
        return set(ended.done)

    try:
        return _asked(client, some)
    except TIMEOUTS:
        _asked(client, client.nthreads)
        return set()


def _asked(client: Any, question: Callable[[], Any]) -> Any:
    """What the cluster answers.

    Raises:
        ResourceError: it is gone.
    """
    from distributed import CancelledError

    try:
        if client.status == "running":
            return question()
        lost: BaseException | None = None
    except (CancelledError, ConnectionError, OSError) as error:
        if isinstance(error, TIMEOUTS):
            raise
        lost = error
    raise ResourceError(
        "The scheduler is gone, and with it the work that was under way; what had ended is kept. Start it again, and give the same "
        "command: it goes on from there."
    ) from lost


def _outcome(future: Any, pair: CohortPair, setting: Setting) -> Outcome:
    """How a pair ended, also where its process could not say so any more."""
    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    failure = Failure(pair.name, _what_happened(future), 0.0)
    note_failure(failure, setting.out)
    return Outcome(pair.name, failure.error)


def _was_killed(future: Any) -> bool:
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _what_happened(future: Any) -> str:
    if _was_killed(future):
        return (
            "The process that worked on it was killed, again and again, also when nothing else was at work, as systems do where memory "
            "runs out. Give it more memory, or a coarser resolution."
        )
    error = future.exception()
    return f"failed inside: {type(error).__name__}: {' '.join(str(error).split())}"


def _let_go(client: Any, running: Iterable[Any]) -> None:
    """Nobody waits for these any more."""
    try:
        client.cancel(list(running), force=True)
    except Exception:  # noqa: BLE001, the cluster may be what has failed
        return
