"""The worker seen from the program that uses it: requests go out, answers come in, and nothing ever waits.

A `Client` starts the worker when the first request is there, and again if it has died. Its owner calls `poll` over and over,
by a timer or in a loop; that is when jobs learn what has happened, and when the client's own threads get on in a program that
keeps Python's lock while it waits for events, as Slicer does. No Qt, no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import queue
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import Cancelled, InputError, OutputError, RegistrationNetError, WorkerError
from ..io.nrrd import Volume, read_volume, write_volume
from ..progress import Progress
from .interpreter import killed, started, startup_environment, worker_environment, worker_python
from .messages import Message, decoded, encoded, error_from

# A worker that has not let go by then is ended; the next request starts another.
CANCEL_SECONDS = 0.8
# For so long `poll` lets go of Python's lock: PythonQt holds it whenever Slicer waits for events, and threads stand still.
GIVE_WAY_SECONDS = 0.004
LAST_LINES = 20
# How long a worker that does not listen any more may take to say why.
LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True)
class Result:
    """What a registration brought: volumes by name, transforms among them as displacements in mm along the axes asked for.

    `alignment` is the affine part [4, 4], `report` the content of report.json, `histogram` that of the Jacobian determinant, and `body`
    where fixed shows a body, as `packed_mask.packed` has it.
    """

    volumes: Mapping[str, Volume]
    alignment: Sequence[Sequence[float]]
    report: Mapping[str, Any]
    histogram: Mapping[str, Sequence[float]]
    body: Mapping[str, Any] | None = None


@dataclass(eq=False)
class Job:
    """One request under way. `watch` is called by `Client.poll` whenever something has changed."""

    client: Client
    request: dict[str, Any]
    volumes: dict[str, Volume] = field(default_factory=dict, repr=False)
    receive: Callable[[Any], Any] = field(default=lambda answer: answer, repr=False)
    watch: Callable[[Job], None] = field(default=lambda _: None, repr=False)
    progress: Progress | None = None
    answer: Any = field(default=None, repr=False)
    error: RegistrationNetError | None = None
    is_finished: bool = False
    cancel_by: float | None = None

    def cancel(self) -> None:
        """Ask to stop; within a second the job is finished, with `Cancelled` as its error."""
        if not self.is_finished and self.cancel_by is None:
            self.cancel_by = time.monotonic() + CANCEL_SECONDS
            self.client.send_cancel(self)

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """The answer, once it is there; `meanwhile` is called over and over until then.

        Raises:
            RegistrationNetError: what the worker met, as the class that it was there.
        """
        while not self.is_finished:
            self.client.poll()
            meanwhile()
        if self.error is not None:
            raise self.error
        return self.answer


class Client:
    """The worker's owner. Close it when it is no longer needed, or use it in a `with` block.

    Args:
        python: the interpreter; default: PythonSlicer in Slicer, else the running one.
        environment: its environment variables; default: those of this process, in Slicer without what its launcher has set.
    """

    def __init__(self, python: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._python, self._environment = python, environment
        self._packages: str | None = None
        self._startup = startup_environment() if environment is None else None
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._outgoing: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[tuple[_WorkerProcess | None, Message]] = queue.SimpleQueue()
        self._worker: _WorkerProcess | None = None
        self._sender = threading.Thread(target=_deliver, args=(self._outgoing,), daemon=True)
        self._sender.start()
        self._is_closed = False
        this = weakref.ref(self)

        def close() -> None:
            if client := this():
                client.close()

        self._at_exit = close
        atexit.register(close)

    def use(self, python: str | None, packages: str | None) -> None:
        """From the next request on run the worker by another Python (None: the usual one), with a folder of packages beside its own."""
        self._python, self._packages = python, packages
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def register(
        self,
        volumes: Mapping[str, Volume],
        *,
        initial: Sequence[Sequence[float]] | Volume | None = None,
        previous: Mapping[str, Volume] | None = None,
        alignment: Sequence[Sequence[float]] | None = None,
        options: Mapping[str, Any] | None = None,
        with_parts: bool = False,
        displacement_axes: Sequence[int] = (1, 1, 1),
        watch: Callable[[Job], None] = lambda _: None,
    ) -> Job:
        """Start a registration; the job's answer is its `Result`.

        Args:
            volumes: "fixed", "moving", and what there is of "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "rigid", "keep_volume".
            initial: matrix [4, 4] or displacements, points of fixed → points of moving, LPS mm.
            previous: displacements of a result to go on from, "previous", and of its inverse, "previous_inverse", LPS mm.
            alignment: the affine part of that result [4, 4], where it is known.
            options: what else `RegistrationNetLib.register` takes, by name.
            with_parts: the deformable part comes alone too, as "deformable".
            displacement_axes: whether displacements come along x, y, z of LPS (1) or against them (-1).
        """
        request: dict[str, Any] = {
            "do": "register",
            "options": dict(options or {}),
            "parts": with_parts,
            "displacement_axes": list(displacement_axes),
        }
        travelling = dict(volumes)
        if isinstance(initial, Volume):
            travelling["initial"] = initial
        elif initial is not None:
            request["initial"] = {"matrix": [list(map(float, row)) for row in initial]}
        if previous:
            travelling |= previous
            request["previous"] = {"alignment": None if alignment is None else [list(map(float, row)) for row in alignment]}
        return self._submitted(Job(self, request, travelling, receive=_result, watch=watch))

    def devices(self, watch: Callable[[Job], None] = lambda _: None) -> Job:
        """Ask what there is to compute on."""
        return self._submitted(Job(self, {"do": "devices"}, watch=watch))

    def models(self) -> Job:
        """Ask for the model cards and the state of their weights."""
        return self._submitted(Job(self, {"do": "models"}))

    def download(self, model: str, watch: Callable[[Job], None] = lambda _: None, *, sha256: str | None = None) -> Job:
        """Start the download of a model's weights, which must have the checksum `sha256` where one is given."""
        return self._submitted(Job(self, {"do": "download", "model": model, "sha256": sha256}, watch=watch))

    def import_weights(
        self, model: str, file: str, watch: Callable[[Job], None] = lambda _: None, *, sha256: str | None = None
    ) -> Job:
        """Start to take a file as a model's weights; it must have the checksum `sha256` where one is given."""
        return self._submitted(Job(self, {"do": "import", "model": model, "file": file, "sha256": sha256}, watch=watch))

    @property
    def unfinished(self) -> Sequence[Job]:
        """The jobs under way, oldest first."""
        return tuple(self._jobs.values())

    def poll(self) -> None:
        """Let the client's threads get on for a moment, and pass on what has arrived. Takes little longer than the jobs' `watch`."""
        if self._jobs:
            time.sleep(GIVE_WAY_SECONDS)
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(*self._incoming.get_nowait())
        if any(job.cancel_by is not None and time.monotonic() > job.cancel_by for job in self.unfinished):
            self._end_worker()

    def close(self) -> None:
        """End the worker and remove its files; unfinished jobs are cancelled."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self._at_exit)
        self._outgoing.put(None)
        if worker := self._worker:
            worker.end()
        self._sender.join()
        # The sending thread may just have started another one.
        if worker := self._worker:
            worker.end()
            worker.join()
        for job in self.unfinished:
            self._finish(job, error=Cancelled("cancelled; nothing was changed"))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send_cancel(self, job: Job) -> None:
        """Tell the worker to let go of `job`."""
        self._outgoing.put(partial(self._cancel, job))

    def _submitted(self, job: Job) -> Job:
        if self._is_closed:
            raise WorkerError("This client is closed; its worker has ended. Make another client.")
        job.request["id"] = next(self._ids)
        self._jobs[job.request["id"]] = job
        self._outgoing.put(partial(self._send, job))
        return job

    def _send(self, job: Job) -> None:
        """In the sending thread: the files, then the request. A dead worker is replaced first."""
        if job.cancel_by is not None or self._is_closed:
            self._incoming.put((None, {"id": job.request["id"], "event": "cancelled"}))
            return
        try:
            self._living().send(job)
        except RegistrationNetError as error:
            self._incoming.put((None, {"id": job.request["id"], "event": "failed", "error": error}))
        except Exception as error:  # noqa: BLE001, a thread that dies of it would leave this job and all others waiting for ever
            told = WorkerError(f"The request cannot be sent: {type(error).__name__}: {error}")
            self._incoming.put((None, {"id": job.request["id"], "event": "failed", "error": told}))

    def _cancel(self, job: Job) -> None:
        worker = self._worker
        if worker is not None:
            with contextlib.suppress(OSError):
                worker.say({"id": job.request["id"], "do": "cancel"})

    def _living(self) -> _WorkerProcess:
        worker = self._worker
        if worker is None or not worker.is_running:
            environment = worker_environment(self._environment, self._startup)
            worker = self._worker = _WorkerProcess(
                self._python or worker_python(), environment, self._incoming, packages=self._packages
            )
        return worker

    def _end_worker(self) -> None:
        """The last resort: the worker does not react."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()
        for job in self.unfinished:
            if job.cancel_by is not None:
                self._finish(job, error=Cancelled("cancelled; nothing was changed"))
            elif worker is not None and worker.jobs.pop(job.request["id"], None) is not None:
                # It only waited behind the one that was cancelled.
                self._outgoing.put(partial(self._send, job))

    def _take(self, worker: _WorkerProcess | None, event: Message) -> None:
        if event["event"] == "ended":
            self._take_end(worker, event)
            return
        job = self._jobs.get(event["id"])
        if job is None:
            return
        if event["event"] == "progress":
            job.progress = Progress(event["stage"], event["fraction"], event["seconds_left"])
            if job.cancel_by is None:
                job.watch(job)
        elif event["event"] == "cancelled" or job.cancel_by is not None:
            self._finish(job, error=Cancelled("cancelled; nothing was changed"))
        elif event["event"] == "result":
            self._finish(job, answer=event["answer"])
        else:
            self._finish(job, error=event["error"] if event["event"] == "failed" else error_from(event))

    def _take_end(self, worker: _WorkerProcess | None, event: Message) -> None:
        assert worker is not None
        if worker is self._worker:
            self._worker = None
        for job in [one for one in worker.jobs.values() if not one.is_finished]:
            if job.cancel_by is not None:
                self._finish(job, error=Cancelled("cancelled; nothing was changed"))
                continue
            self._finish(
                job,
                error=WorkerError(
                    f"The worker ended before it answered (exit status {event['status']}). {event['last_words']}Try again; "
                    "a new one is started then. If it was killed for memory, use smaller images."
                ),
            )

    def _finish(self, job: Job, *, answer: Any = None, error: RegistrationNetError | None = None) -> None:
        self._jobs.pop(job.request["id"], None)
        job.answer, job.error, job.is_finished = answer, error, True
        job.volumes.clear()
        job.watch(job)


class _WorkerProcess:
    """One worker process, from its start to its end, with a folder of its own."""

    def __init__(
        self, python: str, environment: Mapping[str, str], incoming: queue.SimpleQueue[Any], *, packages: str | None = None
    ) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="registrationnet-"))
        except OSError as error:
            raise OutputError(f"No temporary folder can be made ({error.strerror}). Free some disk space.") from error
        try:
            self._process = started(python, self.folder, environment, packages)
        except WorkerError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.jobs: dict[int, Job] = {}
        self._incoming = incoming
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._listener = threading.Thread(target=_keep_last_lines, args=(self._process.stderr, self._last_lines), daemon=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._listener.start()
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, job: Job) -> None:
        """The job's volumes as files, then its request.

        Raises:
            OutputError: the disk is full.
            Cancelled: the job was cancelled meanwhile.
            WorkerError: the worker does not listen any more.
        """
        folder, volumes = self.folder / str(job.request["id"]), dict(job.volumes)
        paths = {name: folder / f"{name}.nrrd" for name in volumes}
        images = {name: str(path) for name, path in paths.items()}
        told: dict[str, Any] = {"initial": {"field": images.pop("initial")}} if "initial" in images else {}
        if "previous" in images:
            fields = {"field": images.pop("previous"), "inverse": images.pop("previous_inverse", None)}
            told["previous"] = {**job.request["previous"], **fields}
        self.jobs[job.request["id"]] = job
        try:
            folder.mkdir()
            for name, path in paths.items():
                write_volume(volumes[name], path)
            if job.cancel_by is not None:
                raise Cancelled("cancelled; nothing was changed")
            self.say({**job.request, **told, "folder": str(folder), "images": images})
        except Exception as error:
            del self.jobs[job.request["id"]]
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, RegistrationNetError) or not isinstance(error, OSError):
                raise
            self._listener.join(LAST_WORDS_SECONDS)
            raise WorkerError(
                f"The worker cannot be reached ({error.strerror}). {self._last_words()}Try again; a new one is started then."
            ) from error

    def say(self, message: Message) -> None:
        """Send `message`.

        Raises:
            OSError: the worker does not listen any more.
        """
        stdin, line = self._process.stdin, encoded(message)
        assert stdin is not None
        try:
            stdin.write(line)
            stdin.flush()
        except ValueError as error:
            # The reader has seen the worker's end and closed the pipe.
            raise BrokenPipeError(errno.EPIPE, "the worker has ended") from error

    def end(self) -> None:
        """Kill, without waiting; the reader clears up."""
        killed(self._process)

    def join(self) -> None:
        self._reader.join()

    def _read(self) -> None:
        """Pass on what the worker says; at its end, say so and remove its folder."""
        stdout = self._process.stdout
        assert stdout is not None
        for line in iter(stdout.readline, b""):
            try:
                event = dict(decoded(line))
            except InputError:
                # Cut short: the worker was killed while it wrote it.
                continue
            if event["event"] != "progress":
                job = self.jobs.pop(event["id"], None)
                if job is not None and event["event"] == "result":
                    event = _received(job, event)
                shutil.rmtree(self.folder / str(event["id"]), ignore_errors=True)
            self._incoming.put((self, event))
        status = self._process.wait()
        self._listener.join()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._incoming.put((self, {"event": "ended", "status": status, "last_words": self._last_words()}))

    def _last_words(self) -> str:
        return f"Its last words: {' / '.join(self._last_lines)} " if self._last_lines else ""


def _deliver(outgoing: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    for task in iter(outgoing.get, None):
        task()


def _keep_last_lines(stderr: BinaryIO, last_words: deque[str]) -> None:
    with stderr:
        for line in stderr:
            if text := line.decode("utf-8", "replace").strip():
                last_words.append(text)


def _received(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    """The event with the answer as its job wants it, or with what went wrong on the way."""
    try:
        return {"id": event["id"], "event": "result", "answer": job.receive(event["result"])}
    except RegistrationNetError as error:
        return {"id": event["id"], "event": "failed", "error": error}
    except Exception as error:  # noqa: BLE001, a thread that dies of it would leave the job waiting for ever
        return {
            "id": event["id"],
            "event": "failed",
            "error": WorkerError(f"The result cannot be read: {type(error).__name__}: {error}"),
        }


def _result(answer: Mapping[str, Any]) -> Result:
    volumes = {name: read_volume(Path(path)) for name, path in answer["files"].items()}
    return Result(volumes, answer["alignment"], answer["report"], answer["histogram"], answer.get("body"))
