"""Ctrl-C and SIGTERM as a clean end of the work at any moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from ..errors import Cancelled
from ..progress import Progress, ProgressCallback

# While the first one is being cleaned up after, further ones are ignored.
GRACE_SECONDS = 5.0


@dataclass
class Interruption:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt and are remembered in `is_requested`.

    The memory is needed because libraries turn a KeyboardInterrupt that hits them into other errors, or swallow it.
    Signals that the process was told to ignore stay ignored. Outside the main thread nothing is caught.
    """

    is_requested: bool = False
    _requested_at: float = -GRACE_SECONDS
    _is_deaf: bool = False
    _is_patient: bool = False
    _previous: dict[signal.Signals, Any] = field(default_factory=dict)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002, the signature is the signal module's
        now = time.monotonic()
        if self._is_deaf or now - self._requested_at < GRACE_SECONDS:
            return
        is_first = not self.is_requested
        self.is_requested, self._requested_at = True, now
        if not (self._is_patient and is_first):
            raise KeyboardInterrupt

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Inside, the first signal waits for the next check: for work that stops well only between its steps."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False

    def check(self) -> None:
        """Raise `Cancelled` if the user has asked to stop and a library swallowed it."""
        if self.is_requested:
            raise Cancelled("cancelled; nothing was written")

    def checked(self, callback: ProgressCallback) -> ProgressCallback:
        """`callback`, but each call also checks."""

        def checking(progress: Progress) -> None:
            self.check()
            callback(progress)

        return checking

    def too_late(self) -> None:
        """The results are written: from now on there is nothing to cancel."""
        self.check()
        self._is_deaf = True
