"""The worker by its pipes: a real process, spoken to in JSON lines."""

import io
import itertools
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from RegistrationNetLib.errors import WorkerError
from RegistrationNetLib.io.nrrd import write_volume
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.slicer_bridge import worker as worker_module
from RegistrationNetLib.slicer_bridge.interpreter import worker_environment
from RegistrationNetLib.slicer_bridge.worker import POLITE_SECONDS, Dispatcher

from ..worker_input import pair


class Worker:
    """A worker process and its pipes."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "RegistrationNetLib.worker", *arguments]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, env=worker_environment(), **pipes)
        self.errors = b""

    def say(self, **message: object) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        heard: dict[str, Any] = json.loads(self.process.stdout.readline())
        return heard

    def hear_until(self, *events: str) -> dict[str, Any]:
        return next(event for event in iter(self.hear, None) if event["event"] in events)

    def end(self) -> int:
        rest, self.errors = self.process.communicate()
        assert not rest
        return self.process.returncode


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.say(id=0, do="quit")
    assert started.end() == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("images")
    for name, volume in pair().items():
        write_volume(volume, folder / f"{name}.nrrd")
    return {name: str(folder / f"{name}.nrrd") for name in ("fixed", "moving")}


def test_a_registration_reports_its_stages_and_leaves_its_results(worker: Worker, images: dict[str, str], tmp_path: Path) -> None:
    worker.say(id=1, do="register", images=images, folder=str(tmp_path), options={"steps": 5, "align": ["centre"], "repeats": 1})
    events = [worker.hear()]
    while events[-1]["event"] == "progress":
        events.append(worker.hear())
    assert {event["id"] for event in events} == {1}
    assert events[-1]["event"] == "result", events[-1]
    assert list(dict.fromkeys(event["stage"] for event in events[:-1])) == ["prepare", "align", "refine", "repeats", "finish"]
    fractions = [event["fraction"] for event in events[:-1]]
    assert fractions == sorted(fractions)
    files = events[-1]["result"]["files"]
    assert set(files) == {"warped", "jacobian", "moving_from_fixed", "fixed_from_moving", "error_mm"}
    assert {path.name for path in tmp_path.iterdir()} == {Path(path).name for path in files.values()}


def test_bad_requests_are_answered_and_the_worker_lives_on(worker: Worker) -> None:
    worker.write(b"not json\n")
    heard = worker.hear()
    assert (heard["id"], heard["event"], heard["kind"]) == (None, "error", "InputError")
    worker.say(id=2, do="dance")
    assert "no request 'dance'" in worker.hear()["message"]
    worker.say(id=3, do="register", options={"speed": 3}, images={"fixed": "a", "moving": "b"})
    assert worker.hear()["kind"] == "InputError"
    worker.say(id=4, do="register", options={"steps": {}}, images={"fixed": "a", "moving": "b"})
    assert worker.hear()["event"] == "error"
    worker.say(id=5, do="devices")
    heard = worker.hear()
    (processor,) = heard["result"]
    assert (heard["id"], heard["event"]) == (5, "result")
    assert (processor["name"], processor["title"]) == ("cpu", platform.processor() or platform.machine())
    assert 0 < processor["free_mb"] <= psutil.virtual_memory().total / 2**20


def test_what_is_cancelled_ends_and_the_next_request_is_served(worker: Worker, images: dict[str, str], tmp_path: Path) -> None:
    worker.say(id=6, do="register", images=images, folder=str(tmp_path), options={"steps": 100_000, "align": ["centre"]})
    worker.say(id=7, do="register", images=images, folder=str(tmp_path))
    worker.say(id=8, do="models")
    worker.say(id=8, do="devices")
    assert "a request 8 already" in worker.hear_until("error")["message"]
    while worker.hear()["stage"] != "refine":
        pass
    worker.say(id=7, do="cancel")
    worker.say(id=99, do="cancel")
    assert worker.hear_until("cancelled")["id"] == 7
    worker.say(id=6, do="cancel")
    assert worker.hear_until("cancelled", "result", "error") == {"id": 6, "event": "cancelled"}
    assert worker.hear()["id"] == 8
    assert not list(tmp_path.iterdir())


def test_it_ends_when_its_stdin_closes_even_in_the_middle_of_work(images: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "image.nrrd").write_bytes(b"x")
    worker = Worker(str(folder))
    worker.say(id=1, do="register", images=images, options={"steps": 100_000, "align": ["centre"]})
    while worker.hear()["stage"] != "refine":
        pass
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.process.stdin = None
    # Progress that was under way may still be in the pipe.
    assert worker.process.stdout is not None
    worker.process.stdout.read()
    assert worker.end() == 0
    assert not folder.exists()


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """As when Slicer crashes: nobody closes anything, the system does."""
    script = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'RegistrationNetLib.worker', sys.argv[1]], stdin=subprocess.PIPE); print(child.pid, flush=True); child.wait()"
    folder = tmp_path / "private"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=worker_environment(), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) > 0
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists()


def test_what_libraries_print_stays_off_the_line(tmp_path: Path) -> None:
    (tmp_path / "printing.py").write_text(
        "import os, sys\nfrom RegistrationNetLib.slicer_bridge import worker_services, worker\n"
        "def noisy(*_):\n    print('from python'); os.write(1, b'from C'); return 1\n"
        "worker_services.SERVICES['devices'] = noisy\nworker.main([])\n"
    )
    process = subprocess.run(
        [sys.executable, str(tmp_path / "printing.py")],
        input=b'{"id": 1, "do": "devices"}\n',
        env=worker_environment(),
        capture_output=True,
        check=False,
    )
    # Its stdin closes at once, so the answer may or may not come; but nothing else may.
    assert process.stdout in (b"", b'{"id": 1, "event": "result", "result": 1}\n')
    assert process.returncode == 0


class Reply(io.BytesIO):
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


def served(service: Callable[..., Any], *then: bytes) -> list[dict[str, Any]]:
    """What a dispatcher in this process says while `service` does the devices; `then` are requests that come while it works."""
    reply = Reply()
    dispatcher = Dispatcher(reply)
    ended = threading.Event()
    read_end, write_end = os.pipe()

    def work(request: object, progress: object) -> Any:
        os.write(write_end, b"".join(then))
        return service(request, progress)

    class Enough(BaseException):
        pass

    def enough(*_: object) -> None:
        raise Enough

    with os.fdopen(read_end, "rb") as requests:
        os.write(write_end, b'{"id": 1, "do": "devices"}\n')
        threading.Thread(target=dispatcher.listen, args=(requests, ended.set), daemon=True).start()
        real = dispatcher._answer

        def answer(*arguments: Any) -> None:
            real(*arguments)
            raise Enough

        dispatcher._answer = answer  # type: ignore[method-assign]
        with pytest.raises(Enough):
            dispatcher.serve(lambda: {"devices": work})
        os.close(write_end)
        assert ended.wait(60)
    return reply.events()


CANCEL = b'{"id": 1, "do": "cancel"}\n'


def deaf(*_: object) -> None:
    """Work of 20 s without a report."""
    for _ in range(2000):
        time.sleep(0.01)


def test_work_that_never_reports_is_interrupted_where_it_stands_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class ShortTimer(threading.Timer):
        def __init__(self, interval: float, function: Callable[[], None]) -> None:
            waits.append(interval)
            super().__init__(0.01, function)

    monkeypatch.setattr(threading, "Timer", ShortTimer)
    assert served(deaf, CANCEL) == [{"id": 1, "event": "cancelled"}]
    assert waits == [POLITE_SECONDS]


def test_a_library_that_makes_another_error_of_the_interruption_is_still_cancelled() -> None:
    def wrapping(*_: object) -> None:
        try:
            deaf()
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("something in C++") from interrupt

    assert served(wrapping, CANCEL) == [{"id": 1, "event": "cancelled"}]


def test_a_failure_inside_is_told_and_its_traceback_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise IndexError("seven")

    (event,) = served(broken)
    assert event == {"id": 1, "event": "error", "kind": "WorkerError", "message": "The worker failed inside: IndexError: seven"}
    assert "in broken" in capfd.readouterr().err


def test_progress_is_sent_twenty_times_a_second_and_at_every_new_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 100 + next(ticks) / 128)  # a report every 1 / 128 s
    monkeypatch.setattr(worker_module, "time", clock)

    def busy(_: object, progress: Callable[[Progress], None]) -> int:
        for stage in ("align", "refine"):
            for step in range(1000):
                progress(Progress(stage, step / 1000, None))
        return 1

    events = served(busy)
    assert [event["event"] for event in events][-1] == "result"
    every_seventh = [step / 1000 for step in range(0, 1000, 7)]  # 7 / 128 s are the first above 1 / 20 s
    for stage in ("align", "refine"):
        assert [event["fraction"] for event in events[:-1] if event["stage"] == stage] == every_seventh


def test_a_python_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from RegistrationNetLib.slicer_bridge import worker

    monkeypatch.setitem(sys.modules, "RegistrationNetLib.slicer_bridge.worker_services", None)
    services = worker._services()
    with pytest.raises(WorkerError, match="lacks what registration needs"):
        services["register"]({}, lambda _: None)
