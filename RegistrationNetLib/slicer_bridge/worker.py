"""The background process: requests come on stdin and events leave on stdout, one JSON message per line.

`python -m RegistrationNetLib.worker [FOLDER]`. It works on one request after the other, is told to cancel at any moment, and ends
when its stdin closes; then it also removes FOLDER, where the client that started it keeps the images.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from ..errors import Cancelled, InputError, RegistrationNetError, WorkerError
from ..progress import Progress, ProgressCallback
from .messages import WORK, Message, checked_request, decoded, described_error, encoded

Service = Callable[[Message, ProgressCallback], Any]

# Work that has not reported by then is interrupted where it stands.
POLITE_SECONDS = 0.3
PROGRESS_SECONDS = 0.05
# How far the worker stands back behind other programs, on a system that has that.
NICENESS = 5


@dataclass
class Work:
    """The request that is being worked on."""

    id: int
    is_cancelled: bool = False
    is_interruptible: bool = True

    def cancel(self) -> None:
        """It is to end as soon as it can."""
        self.is_cancelled = True
        timer = threading.Timer(POLITE_SECONDS, self._interrupt)
        timer.daemon = True
        timer.start()

    def _interrupt(self) -> None:
        if self.is_interruptible:
            _thread.interrupt_main()


@dataclass
class Dispatcher:
    """Where requests arrive (in a thread of their own) and are worked on, one after the other (in the main thread)."""

    out: BinaryIO
    _pending: deque[Message] = field(default_factory=deque)
    _work: Work | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _out_lock: threading.Lock = field(default_factory=threading.Lock)
    _arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def listen(self, requests: BinaryIO, end: Callable[[], None]) -> None:
        """Take every request that comes; at the last one, call `end`."""
        for line in iter(requests.readline, b""):
            message: Message = {}
            try:
                message = decoded(line)
                if checked_request(message)["do"] == "quit":
                    break
                self._take(message)
            except InputError as error:
                self._send(message.get("id"), event="error", **described_error(error))
        end()

    def serve(self, load: Callable[[], Mapping[str, Service]]) -> None:
        """Work on what was asked for, without end. `load`, which is slow, is called when the first request is there."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._arrived.acquire()
        services = load()
        while True:
            with self._lock:
                # It may have been cancelled while it waited.
                request = self._pending.popleft() if self._pending else None
                self._work = Work(request["id"]) if request else None
            if request is not None and self._work is not None:
                self._answer(request, self._work, services[request["do"]])
            self._arrived.acquire()

    def _take(self, request: Message) -> None:
        with self._lock:
            known = {one["id"] for one in self._pending} | ({self._work.id} if self._work else set())
            if request["do"] != "cancel":
                if request["id"] in known:
                    raise InputError(f"There is a request {request['id']} already; ids are used once. Number the requests.")
                self._pending.append(request)
                self._arrived.release()
            elif self._work is not None and self._work.id == request["id"]:
                self._work.cancel()
            elif request["id"] in known:
                self._pending = deque(one for one in self._pending if one["id"] != request["id"])
                self._send(request["id"], event="cancelled")

    def _answer(self, request: Message, work: Work, service: Service) -> None:
        event: dict[str, Any]
        try:
            event = {"event": "result", "result": service(request, self._progress(work))}
        except BaseException as error:  # noqa: BLE001, whatever fails is told, and the worker lives on
            if work.is_cancelled or isinstance(error, (Cancelled, KeyboardInterrupt)):
                event = {"event": "cancelled"}
            else:
                if not isinstance(error, RegistrationNetError):
                    traceback.print_exception(error)
                event = {"event": "error", **described_error(error)}
        work.is_interruptible = False
        with self._lock:
            self._work = None
        self._send(work.id, **event)

    def _progress(self, work: Work) -> ProgressCallback:
        told: dict[str, float] = {}

        def tell(progress: Progress) -> None:
            if work.is_cancelled:
                raise Cancelled("cancelled; nothing was written")
            now = time.monotonic()
            if now - told.get(progress.stage, -PROGRESS_SECONDS) >= PROGRESS_SECONDS:
                told[progress.stage] = now
                self._send(work.id, event="progress", **vars(progress))

        return tell

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002, the signature is the signal module's
        if self._work is not None and self._work.is_cancelled and self._work.is_interruptible:
            raise KeyboardInterrupt

    def _send(self, request_id: object, **event: Any) -> None:
        with self._out_lock:
            self.out.write(encoded({"id": request_id, **event}))
            self.out.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve until stdin closes."""
    folder = Path(arguments[0]) if arguments else None
    if hasattr(os, "nice"):
        # The work takes every core there is; the application, which answers its user, comes first.
        os.nice(NICENESS)
    dispatcher = Dispatcher(_own_stdout())
    threading.Thread(target=dispatcher.listen, args=(sys.stdin.buffer, lambda: _end(folder)), daemon=True).start()
    dispatcher.serve(_services)


def _own_stdout() -> BinaryIO:
    """The pipe to the client, kept to ourselves: what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


def _end(folder: Path | None) -> None:
    """Leave at once, whatever is being worked on: nobody waits for it any more."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _services() -> Mapping[str, Service]:
    try:
        # Heavy: what must react at once, the listening, is at work before.
        from .worker_services import SERVICES
    except ImportError as error:
        missing = error

        def lacking(*_: object) -> Any:
            raise WorkerError(
                f"The Python {sys.executable} lacks what registration needs ({missing}). Install it, for Slicer by the extension's panel."
            ) from missing

        return dict.fromkeys(WORK, lacking)
    return SERVICES
