"""An installation in a process of its own, so that the application stays responsive, with its progress, and ended at any moment."""

from __future__ import annotations

import importlib
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import Cancelled, ResourceError
from . import dependencies
from .interpreter import killed, piped, worker_environment, worker_python

# The tool by which the PyTorch extension installs torch: it chooses the build that suits the graphics card and its driver.
TORCH_INSTALLER = "light-the-torch>=0.5"
_PIP = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input")
LAST_LINES = 30


def commands(path: Path, slicer: Any) -> list[tuple[str, ...]]:
    """What the application's own Python is asked, one after the other, so that what is missing is there.

    Args:
        path: the file of requirements beside the module.
        slicer: the package of the running application.

    Raises:
        ResourceError: torch is missing, and the PyTorch extension, which brings it.
    """
    found: list[tuple[str, ...]] = []
    if dependencies.missing([dependencies.TORCH]):
        dependencies.check_pytorch_extension(slicer)
        found += [(*_PIP, TORCH_INSTALLER), ("-m", "light_the_torch", "install", dependencies.TORCH)]
    if others := dependencies.missing(dependencies.requirements(path)):
        found.append((*_PIP, *others))
    return found


class _InstallerFailed(Exception):
    """What an installer said last; `output` is more of it."""

    output = ""


class Installation:
    """An installation under way. Its owner calls `poll` over and over until `is_finished`.

    Args:
        path: the file of requirements beside the module.
        slicer: the package of the running application.
        startup: the environment in which the application was started (`startup_environment`).

    Attributes:
        line: what the installer said last.
        step: which of the `steps` is under way, from 1.
        error: why it ended without success; None where it succeeded.

    Raises:
        ResourceError: as for `commands`.
        WorkerError: there is no Python to ask.
    """

    def __init__(self, path: Path, slicer: Any, startup: Mapping[str, str] | None = None) -> None:
        self._path, self._environment = path, worker_environment(None, startup)
        self._commands = commands(path, slicer)
        self._python = worker_python()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[str] = deque(maxlen=LAST_LINES)
        self.line, self.step, self.steps = "", 0, len(self._commands)
        self.is_finished = False
        self.error: Exception | None = None

    def poll(self) -> None:
        """Go on with what can be done; returns at once."""
        if self.is_finished:
            return
        if self._process is not None:
            self.line = self._said[-1] if self._said else self.line
            if self._process.poll() is None:
                return
            if self._process.returncode:
                self._fail(self._process.returncode)
                return
        if self.step == self.steps:
            self._end()
        else:
            self._begin()

    def cancel(self) -> None:
        """End it; what was installed until then stays."""
        if not self.is_finished:
            self.is_finished, self.error = True, Cancelled("cancelled; what was installed until then stays")
        if self._process is not None:
            killed(self._process)

    def _begin(self) -> None:
        command = [self._python, *self._commands[self.step]]
        self.step += 1
        self._said = deque(maxlen=LAST_LINES)
        self._process = piped(command, self._environment)
        threading.Thread(target=_listen, args=(self._process, self._said), daemon=True).start()

    def _fail(self, status: int) -> None:
        self.is_finished = True
        error = _InstallerFailed(self._said[-1] if self._said else f"exit status {status}")
        error.output = "\n".join(self._said)
        wanted = ", ".join(dependencies.lacking(self._path))
        self.error = ResourceError(f"{wanted} was not installed: {dependencies.meaning(error)}")
        self.error.__cause__ = error

    def _end(self) -> None:
        """What is there now is looked for anew."""
        self.is_finished = True
        importlib.invalidate_caches()
        if still := dependencies.lacking(self._path):
            self.error = dependencies.still_lacking(still)


def _listen(process: subprocess.Popen[bytes], said: deque[str]) -> None:
    """Note what it says, to its end."""
    assert process.stdout is not None
    with process.stdout as stdout:
        for line in stdout:
            if text := line.decode("utf-8", "replace").strip():
                said.append(text)
    process.wait()


def in_one_line(said: str, *, longest: int = 80) -> str:
    """What an installer says, short enough for a label."""
    return said if len(said) <= longest else said[: longest - 1] + "…"
