"""The chatter of C libraries, which write to file descriptor 2 past Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_messages_dropped() -> Iterator[None]:
    """Inside, what is written to stderr by whomever is lost: HDF5 and the NIfTI library tell there what SimpleITK raises anyway."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without a stderr, as a program with windows only can be
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
