"""The client: jobs, their cancelling, and the death of workers. Real workers where registration counts, small scripts elsewhere."""

import ctypes
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from RegistrationNetLib.errors import Cancelled, InputError, OutputError, WorkerError
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import client as client_module
from RegistrationNetLib.slicer_bridge.client import CANCEL_SECONDS, GIVE_WAY_SECONDS, Client, Job, Result
from RegistrationNetLib.slicer_bridge.interpreter import killed
from RegistrationNetLib.slicer_bridge.worker import NICENESS

from ..worker_input import pair

QUICK = {"align": ["centre"], "steps": 0, "repeats": 0}
posix = pytest.mark.skipif(os.name == "nt", reason="a script stands in for the Python")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client() as opened:
        yield opened


def until(client: Client, is_true: Callable[[], bool], seconds: float = 120) -> None:
    """Polls until it is true; the limit only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError
        client.poll()
        time.sleep(0.005)


@dataclass
class Clock:
    """The client's clock, which stands still but where a test sets it, and the pauses that the client makes."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        time.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep))
    return clock


def private_folder(client: Client) -> Path:
    assert client._worker is not None
    return client._worker.folder


def test_a_registration_comes_back_as_volumes_and_numbers(client: Client) -> None:
    stages = []

    def watch(job: Job) -> None:
        if job.progress is not None:
            stages.append(job.progress.stage)

    job = client.register(pair(), options={"steps": 20, "align": ["centre"], "repeats": 1}, with_parts=True, watch=watch)
    assert client.unfinished == (job,)
    result: Result = job.wait()
    assert client.unfinished == ()
    assert set(result.volumes) == {"warped", "jacobian", "moving_from_fixed", "fixed_from_moving", "deformable", "error_mm"}
    assert list(dict.fromkeys(stages)) == ["prepare", "align", "refine", "repeats", "finish"]
    moved = result.volumes["moving_from_fixed"].values
    assert np.linalg.norm(moved[11:13, 11:13, 11:13].mean((0, 1, 2)) - [3, -4, 0]) < 0.5
    assert result.volumes["warped"].values.dtype == np.int16
    assert result.report["model"] == "direct"
    assert np.shape(result.alignment) == (4, 4)


def test_the_folder_is_private_and_holds_nothing_between_jobs(client: Client) -> None:
    client.devices().wait()
    folder = private_folder(client)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 or os.name == "nt"
    assert not list(folder.iterdir())


def test_errors_come_back_as_what_they_were(client: Client) -> None:
    with pytest.raises(InputError, match="no model 'dance'"):
        client.register(pair(), options={"model": "dance"}).wait()
    flat = {**pair(), "moving": Volume(np.zeros((24, 24, 24), np.int16), pair()["moving"].world_from_index)}
    with pytest.raises(InputError, match="moving has one value everywhere"):
        client.register(flat).wait()
    with pytest.raises(InputError, match="needs no weights"):
        client.download("direct").wait()


def test_paths_and_numbers_of_numpy_travel_as_plain_ones(client: Client, tmp_path: Path) -> None:
    options = {
        "steps": np.int64(2),
        "repeats": np.int32(0),
        "align": ["centre"],
        "smoothness": np.float32(1),
        "fixed_landmarks": np.zeros((1, 3)),
        "moving_landmarks": [[0, 0, 0]],
    }
    assert client.register(pair(), options=options).wait().report["inputs"]["steps"] == 2
    with pytest.raises(InputError, match="no weights, but a weights file was given"):
        client.register(pair(), options={"weights": tmp_path}).wait()


def test_what_cannot_travel_fails_its_job_and_no_other(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be sent to the worker"):
        client.register(pair(), options={"steps": object()}).wait()
    with monkeypatch.context() as patch:
        patch.setattr("RegistrationNetLib.slicer_bridge.client.write_volume", lambda *_: 1 / 0)
        with pytest.raises(WorkerError, match="cannot be sent: ZeroDivisionError"):
            client.register(pair()).wait()
    assert client.devices().wait()


def test_devices_and_models_are_asked_for(client: Client) -> None:
    assert client.devices().wait()[0]["name"] == "cpu"
    assert "direct" in [model["name"] for model in client.models().wait()]


def test_a_mask_and_an_initial_transform_travel(client: Client) -> None:
    volumes = pair()
    volumes["fixed_mask"] = Volume(np.ones((24, 24, 24), np.uint8), volumes["fixed"].world_from_index)
    shift = np.eye(4)
    shift[:3, 3] = 3, -4, 0
    field = Volume(np.tile(np.float32([3, -4, 0]), (24, 24, 24, 1)), volumes["fixed"].world_from_index)
    for initial in (shift.tolist(), field):
        result = client.register(volumes, initial=initial, options={**QUICK, "align": []}).wait()
        assert np.allclose(result.volumes["moving_from_fixed"].values, [3, -4, 0], atol=1e-4)
        assert result.report["inputs"]["fixed"]["mask"]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("stage", ["waiting", "prepare", "align", "refine", "repeats", "finish"])
def test_a_worker_lets_go_of_what_is_cancelled_in_any_stage_before_it_must_be_ended(client: Client, stage: str) -> None:
    client.devices().wait()
    same = client._worker

    def cancel_in_stage(job: Job) -> None:
        if job.progress is not None and job.progress.stage == stage:
            job.cancel()

    steps, repeats = (2, 1) if stage in ("repeats", "finish") else (100_000, 2)
    align = ["rigid"] if stage == "align" else ["centre"]
    job = client.register(pair(), options={"steps": steps, "repeats": repeats, "align": align}, watch=cancel_in_stage)
    if stage == "waiting":
        job.cancel()
        job.cancel()
    with pytest.raises(Cancelled, match="nothing was changed"):
        job.wait()
    assert client.devices().wait()
    assert client._worker is same


def test_the_next_job_goes_to_the_worker_that_is_there(client: Client) -> None:
    client.register(pair(), options=QUICK).wait()
    same = client._worker
    client.register(pair(), options=QUICK).wait()
    assert client._worker is same


def test_a_worker_killed_in_mid_run_is_told_and_the_next_request_starts_another(client: Client) -> None:
    job = client.register(pair(), options={"steps": 100_000})
    until(client, lambda: job.progress is not None)
    folder, worker = private_folder(client), client._worker
    assert worker is not None
    killed(worker._process)
    with pytest.raises(WorkerError, match=r"ended before it answered \(exit status .*\).*Try again"):
        job.wait()
    assert not folder.exists()
    assert client.devices().wait()[0]["name"] == "cpu"


def python_that(folder: Path, body: str) -> str:
    """A program that takes the place of the Python which runs the worker."""
    script = folder / "python-stand-in"
    head = "import json, os, sys, time\ndef hear(): return json.loads(sys.stdin.readline())\ndef say(**event): print(json.dumps(event), flush=True)\n"
    script.write_text(f"#!{sys.executable}\n{head}{body}")
    script.chmod(0o700)
    return str(script)


ECHO = "for line in sys.stdin: say(id=json.loads(line)['id'], event='result', result=os.environ.get('PROBE'))\n"


@posix
def test_python_and_environment_can_be_chosen(tmp_path: Path) -> None:
    with Client(python_that(tmp_path, ECHO), {**os.environ, "PROBE": "17"}) as client:
        assert client.devices().wait() == "17"


def test_the_next_request_goes_to_another_python_once_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('these packages are seen')")
    with Client() as client:
        client.devices().wait()
        client.use(None, str(tmp_path))
        with pytest.raises(WorkerError, match="these packages are seen"):
            client.devices().wait()
        client.use(None, None)
        assert client.devices().wait()


@posix
def test_the_worker_stands_back_behind_the_application(client: Client) -> None:
    client.devices().wait()
    assert client._worker is not None
    worker = psutil.Process(client._worker._process.pid)
    assert worker.nice() == min(19, psutil.Process().nice() + NICENESS)


@posix
def test_the_last_words_of_a_worker_are_in_the_error(tmp_path: Path) -> None:
    body = "hear(); sys.stderr.write('libtorch: cannot allocate memory\\n'); sys.exit(3)"
    with Client(python_that(tmp_path, body)) as client, pytest.raises(WorkerError, match=r"status 3\).*cannot allocate memory"):
        client.devices().wait()


@posix
def test_a_worker_that_does_not_let_go_is_ended_and_the_others_are_served_by_a_new_one(tmp_path: Path, clock: Clock) -> None:
    marker = tmp_path / "second"
    body = f"if not os.path.exists({str(marker)!r}):\n    open({str(marker)!r}, 'w'); hear(); time.sleep(60)\n{ECHO}"
    with Client(python_that(tmp_path, body), {**os.environ, "PROBE": "2"}) as client:
        deaf, next_one = client.devices(), client.devices()
        until(client, marker.exists)
        deaf.cancel()
        clock.now += CANCEL_SECONDS
        for _ in range(5):
            client.poll()
        assert not deaf.is_finished
        clock.now += 0.001
        client.poll()
        assert deaf.is_finished
        with pytest.raises(Cancelled, match="nothing was changed"):
            deaf.wait()
        assert next_one.wait() == "2"


@posix
def test_what_is_cancelled_on_its_way_is_never_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = tmp_path / "heard"
    body = f"for line in sys.stdin: open({str(heard)!r}, 'a').write(line); say(id=json.loads(line)['id'], event='result', result=1)\n"
    with Client(python_that(tmp_path, body)) as client:
        monkeypatch.setattr("RegistrationNetLib.slicer_bridge.client.write_volume", lambda *_: job.cancel())
        job = client.register(pair())
        with pytest.raises(Cancelled, match="nothing was changed"):
            job.wait()
        assert client.devices().wait() == 1
        assert not list(private_folder(client).iterdir())
    assert '"register"' not in heard.read_text()


@posix
def test_a_worker_killed_in_the_middle_of_a_word_is_told(tmp_path: Path) -> None:
    body = 'hear(); sys.stdout.write(\'{"id": 1, "ev\'); sys.stdout.flush(); os._exit(1)'
    with Client(python_that(tmp_path, body)) as client, pytest.raises(WorkerError, match="ended before it answered"):
        client.devices().wait()


@posix
def test_a_worker_that_ends_between_two_requests_is_replaced(tmp_path: Path) -> None:
    body = "for line in sys.stdin: say(id=json.loads(line)['id'], event='result', result=os.getpid())"
    with Client(python_that(tmp_path, body)) as client:
        first = client.devices().wait()
        worker = client._worker
        assert worker is not None
        killed(worker._process)
        worker.join()
        with pytest.raises(BrokenPipeError, match="the worker has ended"):
            worker.say({})
        assert client.devices().wait() != first


@posix
def test_children_of_a_launcher_end_with_it(tmp_path: Path) -> None:
    """PythonSlicer is a launcher: killing it alone would leave the worker behind."""
    child_pid = tmp_path / "pid"
    body = f"""
import subprocess
child = subprocess.Popen(['sleep', '60'])
open({str(child_pid)!r}, 'w').write(str(child.pid))
time.sleep(60)
"""
    client = Client(python_that(tmp_path, body))
    client.devices()
    until(client, lambda: child_pid.exists() and bool(child_pid.read_text()))
    client.close()
    status = Path(f"/proc/{child_pid.read_text()}/stat")
    deadline = time.monotonic() + 60
    while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not status.exists() or status.read_text().split()[2] == "Z"


@posix
@pytest.mark.parametrize(
    ("file", "error", "message"), [("__file__", InputError, "is no NRRD file"), ("7", WorkerError, "cannot be read: TypeError")]
)
def test_a_result_that_cannot_be_read_is_an_error_of_that_job(
    tmp_path: Path, file: str, error: type[Exception], message: str
) -> None:
    answer = f"{{'files': {{'warped': {file}}}, 'alignment': [], 'report': {{}}, 'histogram': {{}}}}"
    body = f"for line in sys.stdin: say(id=json.loads(line)['id'], event='result', result={answer})\n"
    with Client(python_that(tmp_path, body)) as client:
        for _ in range(2):
            with pytest.raises(error, match=message):
                client.register(pair()).wait()


@posix
def test_results_are_read_in_another_thread_and_watched_in_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = {}
    answer = "{'files': {'warped': ''}, 'alignment': [], 'report': {}, 'histogram': {}}"
    body = f"for line in sys.stdin: say(id=json.loads(line)['id'], event='result', result={answer})\n"
    monkeypatch.setattr(
        "RegistrationNetLib.slicer_bridge.client.read_volume", lambda _: threads.update(read=threading.current_thread())
    )
    with Client(python_that(tmp_path, body)) as client:
        client.register(pair(), watch=lambda _: threads.update(watch=threading.current_thread())).wait()
    assert threads["watch"] is threading.main_thread()
    assert threads["read"] is not threading.main_thread()


@posix
def test_a_program_that_keeps_pythons_lock_between_two_polls_is_served_all_the_same(tmp_path: Path) -> None:
    """As in Slicer, where threads stand still while the application waits for events."""
    sleep = ctypes.PyDLL(None).usleep  # PyDLL keeps the lock while it is in C
    with Client(python_that(tmp_path, ECHO)) as client:
        client.devices().wait()
        job = client.register({**pair(), "fixed": Volume(np.zeros((128, 128, 128), np.int16), np.eye(4))})

        def is_finished_after_a_wait() -> bool:
            sleep(20_000)
            return job.is_finished

        until(client, is_finished_after_a_wait)
        assert job.is_finished


@posix
def test_a_poll_gives_way_to_the_clients_threads_while_a_job_is_under_way(tmp_path: Path, clock: Clock) -> None:
    with Client(python_that(tmp_path, ECHO)) as client:
        client.poll()
        assert clock.pauses == []
        client.devices()
        client.poll()
        assert clock.pauses == [GIVE_WAY_SECONDS]


@posix
def test_a_full_disk_fails_the_job_and_leaves_no_files(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Client(python_that(tmp_path, ECHO)) as client:
        client.devices().wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(OutputError, match="Free some disk space"):
                client.register(pair()).wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(private_folder(client).iterdir())


def test_without_a_temporary_folder_the_job_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with Client() as client, pytest.raises(OutputError, match="No temporary folder.*No space left"):
        client.devices().wait()


def test_a_python_that_cannot_be_started_fails_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Client(str(tmp_path / "python")) as client, pytest.raises(WorkerError, match="cannot be started"):
        client.devices().wait()
    assert not list(tmp_path.iterdir())


@posix
def test_closing_cancels_what_is_under_way_and_removes_the_files(tmp_path: Path) -> None:
    client = Client(python_that(tmp_path, "time.sleep(60)"))
    job = client.register(pair())
    until(client, lambda: client._worker is not None)
    folder = private_folder(client)
    client.close()
    client.close()
    assert isinstance(job.error, Cancelled)
    assert not folder.exists()
    with pytest.raises(WorkerError, match="This client is closed"):
        client.devices()


@posix
@pytest.mark.parametrize("step", ["started", "write_volume"])
def test_nothing_that_is_asked_for_makes_the_caller_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Neither the start of the worker nor the writing of its files: as long as it lasts, `register` and `poll` come back."""
    begun, may_go_on = threading.Event(), threading.Event()
    real = getattr(client_module, step)

    def held_up(*arguments: object) -> object:
        begun.set()
        assert may_go_on.wait(120)
        return real(*arguments)

    monkeypatch.setattr(client_module, step, held_up)
    with Client(python_that(tmp_path, ECHO)) as client:
        job = client.register(pair())
        until(client, begun.is_set)
        client.poll()
        assert not job.is_finished
        may_go_on.set()
        until(client, lambda: job.is_finished)


@posix
def test_a_worker_that_is_gone_before_it_hears_has_its_last_words_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "sys.stderr.write('libtorch is of another system\\n'); sys.stderr.flush(); sys.exit(3)"
    with Client(python_that(tmp_path, body)) as client:
        say = client_module._WorkerProcess.say

        def late(worker: Any, message: Any) -> None:
            worker._process.wait()
            say(worker, message)

        monkeypatch.setattr(client_module._WorkerProcess, "say", late)
        with pytest.raises(WorkerError, match="libtorch is of another system"):
            client.devices().wait()
