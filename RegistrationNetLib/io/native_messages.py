"""The messages of C libraries, which write to the descriptors of stdout and stderr past Python."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# How ITK names the object that failed: its class and its address.
_OBJECT = re.compile(r"\w*\(0x[0-9a-f]+\):? ?")


# Of stdout and stderr.
_DESCRIPTORS = (1, 2)


class _Redirection:
    """How many blocks drop messages just now, and the copies of stdout and stderr that the last one to end puts back."""

    lock = threading.Lock()
    count = 0
    kept: Mapping[int, int] = {}


@contextmanager
def native_messages_dropped() -> Iterator[None]:
    """Inside, what is written to stdout and stderr by whomever is lost.

    HDF5 and the NIfTI library tell there what SimpleITK raises anyway, and GDCM's JPEG decoder writes into the middle of what the
    program itself prints. Blocks may overlap in several threads: both are given back when the last of them ends.
    """
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    with _Redirection.lock:
        if _Redirection.count == 0:
            _flush()
            _Redirection.kept = dict(_redirected())
        _Redirection.count += 1


def _flush() -> None:
    """What Python and the C library hold back goes where it belongs now."""
    for stream in (sys.stdout, sys.stderr):
        # None in a program with windows only; closed, or a stand-in without a file, in others.
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    _flush_native()


def _flush_native() -> None:
    """Only stdout: C's stderr holds nothing back, and to flush every file would wait for a thread that reads from a terminal."""
    with suppress(AttributeError, ValueError, OSError):
        library, stdout = _c_stdout()
        library.fflush(stdout)


def _c_stdout() -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    if sys.platform == "win32":
        library = ctypes.CDLL("ucrtbase")
        library.__acrt_iob_func.restype = ctypes.c_void_p
        return library, ctypes.c_void_p(library.__acrt_iob_func(1))
    library = ctypes.CDLL(None)
    return library, ctypes.c_void_p.in_dll(library, "__stdoutp" if sys.platform == "darwin" else "stdout")


def _redirected() -> Iterator[tuple[int, int]]:
    """Each descriptor, which goes nowhere from now on, and a copy of it; none that the process does not have."""
    for descriptor in _DESCRIPTORS:
        try:
            kept = os.dup(descriptor)
        except OSError:
            continue
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
        yield descriptor, kept


def _end() -> None:
    with _Redirection.lock:
        _Redirection.count -= 1
        if _Redirection.count == 0:
            _flush_native()
            for descriptor, kept in _Redirection.kept.items():
                os.dup2(kept, descriptor)
                os.close(kept)
            _Redirection.kept = {}


# What SimpleITK raises; the second where the message itself quotes bytes of a file that are no text.
NATIVE_ERRORS = (RuntimeError, UnicodeDecodeError)


def native_reason(error: Exception) -> str:
    """What an error of SimpleITK says: its last line, without the names and addresses of ITK's objects."""
    if isinstance(error, UnicodeDecodeError):
        return "it holds bytes that are no text"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[-1].strip().removeprefix("ITK ERROR: ").removeprefix("sitk::ERROR: ")
    return _OBJECT.sub("", line).strip(" .").encode("utf-8", "replace").decode("utf-8")
