"""Work done ahead by other processes: the same results in the same order, and clean ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import ClassVar, cast

import psutil
import pytest

from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.training import loaders
from RegistrationNetLib.training.loaders import worked_ahead

ROOT = Path(__file__).resolve().parents[2]
REFUSED, KILLED = 5, 7


def work(number: int) -> tuple[int, int]:
    """The number and the process that got it; some numbers are refused, or end the process."""
    if number == REFUSED:
        raise InputError("image 5 is damaged; it must be whole. Leave it out.")
    if number == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number, os.getpid()


def children() -> set[int]:
    """Processes of this one that may work; multiprocessing's tracker stays."""
    return {one.pid for one in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(one.cmdline())}


def test_without_processes_the_work_is_done_here_and_when_it_is_asked_for() -> None:
    done: list[int] = []
    results = worked_ahead(done.append, range(3), processes=0)
    next(results)
    assert done == [0]


class Inline:
    """A pool that works at once in this process, and notes what it was asked and that it was shut down."""

    asked: ClassVar[list[int]] = []
    is_shut = False

    def __init__(self, _processes: int, _context: object, **how: object) -> None:
        loaders._given[:] = [cast(tuple[bytes], how["initargs"])[0]]
        self.asked.clear()
        type(self).is_shut = False

    def submit(self, function: Callable[[int], bytes], number: int) -> Future[bytes]:
        self.asked.append(number)
        future: Future[bytes] = Future()
        try:
            if number == KILLED:
                raise BrokenProcessPool
            future.set_result(function(number))
        except Exception as error:  # noqa: BLE001, as a pool does
            future.set_exception(error)
        return future

    def shutdown(self, *, cancel_futures: bool) -> None:
        assert cancel_futures
        type(self).is_shut = True


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> type[Inline]:
    monkeypatch.setattr(loaders, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(loaders, "_given", [])
    return Inline


def test_results_come_in_order_and_a_few_are_worked_at_ahead(inline: type[Inline]) -> None:
    results = worked_ahead(work, range(10, 20), processes=2)
    assert next(results)[0] == 10
    assert inline.asked == [10, 11, 12, 13]
    assert [number for number, _ in results] == list(range(11, 20))
    assert inline.is_shut


def test_the_pool_ends_with_what_it_is_asked_for(inline: type[Inline]) -> None:
    results = worked_ahead(work, range(10, 20), processes=1)
    next(results)
    results.close()
    assert inline.is_shut


def test_what_fails_in_a_process_is_raised_here_as_it_is(inline: type[Inline]) -> None:
    with pytest.raises(InputError, match=r"^image 5 is damaged; it must be whole. Leave it out.$"):
        list(worked_ahead(work, [3, REFUSED], processes=1))
    assert inline.is_shut
    with pytest.raises(ResourceError, match=r"One of the 3 loader processes ended.*set fewer `processes` in \[loading\]"):
        list(worked_ahead(work, [3, KILLED], processes=3))
    assert inline.is_shut


class Unloadable:
    """Work that no process can take over."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return work, (REFUSED,)


def test_work_that_a_process_cannot_take_over_is_told_as_what_it_is(inline: type[Inline]) -> None:
    with pytest.raises(InputError, match=r"^image 5 is damaged; it must be whole. Leave it out.$"):
        next(worked_ahead(Unloadable(), [1, 2], processes=1))
    assert inline.is_shut


def test_a_process_that_ended_may_also_be_a_script_that_runs_itself(inline: type[Inline]) -> None:
    with pytest.raises(
        ResourceError, match=r'memory ran out: .*If it is a script .*if __name__ == "__main__": put what trains below'
    ):
        list(worked_ahead(work, [KILLED], processes=1))
    assert inline.is_shut


def test_no_process_begins_for_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(loaders, "ProcessPoolExecutor")
    assert list(worked_ahead(work, range(4, 4), processes=2)) == []


@pytest.mark.slow
def test_work_that_another_process_cannot_take_over_is_told_as_what_it_is() -> None:
    with pytest.raises(InputError, match=r"^image 5 is damaged"):
        next(worked_ahead(Unloadable(), [1, 2], processes=1))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1
    assert 'if __name__ == "__main__": put what trains below that line.' in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_results_come_in_order_from_other_processes_until_one_is_refused_in_one_line() -> None:
    results, before = worked_ahead(work, range(3, 9), processes=1), children()
    (three, process), (four, _) = next(results), next(results)
    assert (three, four) == (3, 4)
    assert process != os.getpid()
    with pytest.raises(InputError) as refused:
        next(results)
    assert str(refused.value) == "image 5 is damaged; it must be whole. Leave it out."
    assert children() <= before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_process_that_is_killed_is_told_in_one_line_and_the_others_end(recwarn: pytest.WarningsRecorder) -> None:
    before = children()
    results = worked_ahead(work, [3, KILLED, 8, 9], processes=1)
    assert next(results)[0] == 3
    with pytest.raises(ResourceError, match=r"One of the 1 loader processes ended.*set fewer `processes` in \[loading\]"):
        list(results)
    assert children() <= before
    assert not recwarn.list


@pytest.mark.slow
def test_two_processes_share_the_work_and_end_when_it_is_given_up() -> None:
    before = children()
    with closing(worked_ahead(work, range(100, 200), processes=2)) as results:
        found = [next(results) for _ in range(20)]
        assert len(children() - before) == 2
    assert [number for number, _ in found] == list(range(100, 120))
    assert len({process for _, process in found}) == 2
    assert children() <= before


SCRIPT = """
import signal, time
from Testing.training.test_loaders import children, work
from RegistrationNetLib.training.loaders import worked_ahead
if __name__ == "__main__":
    results = worked_ahead(work, range(100, 200), processes=2)
    try:
        next(results)
        print(*children(), flush=True)
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        number, _ = next(results)  # the loaders have not heard it
        results.close()
        print("left", number, *children(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_is_for_the_process_that_is_served_and_none_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as one:  # fmt: skip
        assert one.stdout is not None
        started = [int(process) for process in one.stdout.readline().split()]
        assert len(started) == 2
        if number == signal.SIGINT:
            os.killpg(one.pid, number)  # as a terminal does
        else:
            one.send_signal(number)
        told, errors = one.communicate(timeout=120)
    if number == signal.SIGINT:
        assert told == "left 101\n"
        assert errors == ""
    for _ in range(300):
        if not any(psutil.pid_exists(process) for process in started):
            return
        time.sleep(0.1)
    raise AssertionError("a loader process lives on")
