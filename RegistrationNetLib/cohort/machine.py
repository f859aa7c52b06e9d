"""Registrations that run at the same time on one machine share its memory and its GPUs.

Each says what it will take before it starts, in a folder that all processes of the user see, and waits until there is room. A process
that ends, however it ends, takes its word back: what it had said counts only as long as it lives.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from ..devices import free_memory_bytes

WAIT_SECONDS = 0.2
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Claim:
    """What a registration takes, or waits for: `came` orders those that wait."""

    pid: int
    born: float
    memory_mb: float
    came: int
    is_running: bool

    @property
    def is_alive(self) -> bool:
        """Whether the process that said so is still there, and not another one of the same number."""
        try:
            return psutil.Process(self.pid).create_time() == self.born
        except psutil.Error:
            return False

    @property
    def still_to_come_mb(self) -> float:
        """What of it the process has not taken yet."""
        try:
            return max(0.0, self.memory_mb - psutil.Process(self.pid).memory_info().rss / _MEGABYTE)
        except psutil.Error:
            return 0.0


def fits(mine: Claim, others: list[Claim], free_mb: float) -> bool:
    """Whether the registration of `mine` may start beside the others.

    Alone it may: whether it fits is then its own question. Else there must be room for it and for what the others will still
    take, and nobody may be waiting longer, so that a large one gets its turn.
    """
    running = [one for one in others if one.is_running]
    if not running:
        return not any(one.came < mine.came for one in others)
    left_mb = free_mb - sum(one.still_to_come_mb for one in running)
    return mine.memory_mb <= left_mb and not any(one.came < mine.came for one in others if not one.is_running)


@contextmanager
def memory_reserved(memory_mb: float, check: Callable[[], None], folder: Path | None = None) -> Iterator[None]:
    """Waits until the machine has room for so much; inside, other processes leave it free.

    Args:
        check: called while it waits; raises to give up.
        folder: which all processes see that share the memory.
    """
    folder = _shared_folder() if folder is None else folder
    mine = Claim(os.getpid(), psutil.Process().create_time(), memory_mb, time.time_ns(), is_running=False)
    file = folder / f"{mine.pid}-{mine.came}.json"
    try:
        while not _started(mine, file, folder):
            check()
            time.sleep(WAIT_SECONDS)
        yield
    finally:
        file.unlink(missing_ok=True)


def _started(mine: Claim, file: Path, folder: Path) -> bool:
    """Says what is wanted, or that it has begun; True if it has."""
    with FileLock(folder / "claims.lock"):
        others = _others(folder, file)
        begins = fits(mine, others, free_memory_bytes() / _MEGABYTE)
        file.write_text(json.dumps(asdict(mine) | {"is_running": begins}), encoding="utf-8")
    return begins


def _others(folder: Path, mine: Path) -> list[Claim]:
    """What living processes have said; what others have left is removed."""
    claims = []
    for file in folder.glob("*.json"):
        if file == mine:
            continue
        try:
            claim = Claim(**json.loads(file.read_text(encoding="utf-8")))
        except OSError:
            continue  # its process has just removed it
        except (ValueError, TypeError):
            # Who writes holds the lock, which is ours now: the writer was killed.
            file.unlink(missing_ok=True)
            continue
        if claim.is_alive:
            claims.append(claim)
        else:
            file.unlink(missing_ok=True)
    return claims


@contextmanager
def gpu_reserved(device: str, check: Callable[[], None], folder: Path | None = None) -> Iterator[str]:
    """The name of the device to work on, of which no other registration of a cohort works on the same card inside.

    Args:
        device: as `register` takes it. "auto" and "cuda" are the first card that is free.
        check: called while it waits; raises to give up.
        folder: which all processes see that share the cards.
    """
    cards = _cards(device)
    if not cards:
        yield device
        return
    folder = _shared_folder() if folder is None else folder
    with contextlib.ExitStack() as stack:
        while True:
            for card in cards:
                with contextlib.suppress(Timeout):
                    stack.enter_context(FileLock(folder / f"{card.replace(':', '-')}.lock").acquire(timeout=0))
                    yield card
                    return
            check()
            time.sleep(WAIT_SECONDS)


def _cards(device: str) -> list[str]:
    """The CUDA cards that may serve; none where the work is not done on one."""
    if device.startswith("cuda:"):
        return [device]
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return []


def _shared_folder() -> Path:
    """For this user's processes on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "user"
    folder = Path(tempfile.gettempdir()) / f"registrationnet-{re.sub('[^A-Za-z0-9._-]', '-', user)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
