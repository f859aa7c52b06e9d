"""The messages of C libraries, which write to file descriptor 2 past Python."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# How ITK names the object that failed: its class and its address.
_OBJECT = re.compile(r"\w*\(0x[0-9a-f]+\):? ?")


class _Redirection:
    """How many blocks drop messages just now, and the copy of stderr that the last one to end puts back."""

    lock = threading.Lock()
    count = 0
    kept: int | None = None


@contextmanager
def native_messages_dropped() -> Iterator[None]:
    """Inside, what is written to stderr by whomever is lost: HDF5 and the NIfTI library tell there what SimpleITK raises anyway.

    Blocks may overlap in several threads: stderr is given back when the last of them ends.
    """
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    with _Redirection.lock:
        if _Redirection.count == 0:
            _Redirection.kept = _redirected()
        _Redirection.count += 1


def _redirected() -> int | None:
    """A copy of stderr, which goes nowhere from now on; None in a process without one, as a program with windows only can be."""
    try:
        kept = os.dup(2)
    except OSError:
        return None
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    return kept


def _end() -> None:
    with _Redirection.lock:
        _Redirection.count -= 1
        if _Redirection.count == 0 and _Redirection.kept is not None:
            os.dup2(_Redirection.kept, 2)
            os.close(_Redirection.kept)
            _Redirection.kept = None


# What SimpleITK raises; the second where the message itself quotes bytes of a file that are no text.
NATIVE_ERRORS = (RuntimeError, UnicodeDecodeError)


def native_reason(error: Exception) -> str:
    """What an error of SimpleITK says: its last line, without the names and addresses of ITK's objects."""
    if isinstance(error, UnicodeDecodeError):
        return "it holds bytes that are no text"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[-1].strip().removeprefix("ITK ERROR: ").removeprefix("sitk::ERROR: ")
    return _OBJECT.sub("", line).strip(" .").encode("utf-8", "replace").decode("utf-8")
