"""Where the work runs, and how much memory it takes there."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil
import torch
from torch import Tensor

from .choices import DEVICES
from .errors import InputError, ResourceError

VOXELS_PER_THREAD = 50_000
NEWEST_ON_MPS = "aten::grid_sampler_3d_backward"
_MEGABYTE = 2**20
# Where Linux keeps the limit of a container, what is taken, and how much of that are pages of files: "inactive_file 123".
_GROUP = "/sys/fs/cgroup"
_CONTROL_GROUPS = (
    (f"{_GROUP}/memory.max", f"{_GROUP}/memory.current", f"{_GROUP}/memory.stat", "inactive_file "),
    (
        f"{_GROUP}/memory/memory.limit_in_bytes",
        f"{_GROUP}/memory/memory.usage_in_bytes",
        f"{_GROUP}/memory/memory.stat",
        "total_inactive_file ",
    ),
)

# glibc's numbers for what `mallopt` sets: when freed memory goes back to the system, by how much more than needed the heap grows,
# and which blocks (from what size, how many at once) are borrowed from the system each for itself.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 * _MEGABYTE}
# As glibc starts, but for the thresholds: those are as it adapts them itself to programs that free large blocks.
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 * _MEGABYTE, _TOP_PAD: 128 * 1024, _MMAP_THRESHOLD: 32 * _MEGABYTE}


def chosen_device(name: str) -> torch.device:
    """The device `name`; "auto" is the GPU where there is a CUDA one, else the CPU. "cuda:1" is the second GPU.

    Raises:
        InputError: there is no such device on this machine.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdigit())):
        raise InputError(f"There is no device {name!r}; the devices are {', '.join(DEVICES)}. Choose one of them.")
    if name == "auto":
        name = kind = "cuda" if torch.cuda.is_available() else "cpu"
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not is_there or (number and int(number) >= torch.cuda.device_count()):
        raise InputError(f"This machine (or this build of torch {torch.__version__}) has no {name} device. Choose auto or cpu.")
    if kind == "mps" and not _has_operators_on_mps():
        raise InputError(
            f"torch {torch.__version__} cannot do on Apple's GPU what three-dimensional images need ({NEWEST_ON_MPS}); later versions can. Update "
            "torch, choose cpu, or let the CPU help by the environment variable PYTORCH_ENABLE_MPS_FALLBACK=1."
        )
    return torch.device(name)


def _has_operators_on_mps() -> bool:
    """Whether torch has the operator of ours that came last to Apple's GPU, or does on the CPU what is missing."""
    return os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1" or torch._C._dispatch_has_kernel_for_dispatch_key(
        NEWEST_ON_MPS, "MPS"
    )


def without_mps(values: Tensor) -> Tensor:
    """The values on the CPU where they lay on Apple's GPU, which has no double precision and lacks operators; else as they are."""
    return values.cpu() if values.device.type == "mps" else values


def in_double(values: Tensor) -> Tensor:
    """The values in double precision: on their device, or on the CPU where that has none."""
    return without_mps(values).double()


def check_memory(needed_mb: float, device: torch.device, remedy: str) -> None:
    """Refuse before the start what will not fit.

    Raises:
        ResourceError: `needed_mb` is more than what is free on `device`; the message ends with `remedy`.
    """
    free = free_mb(device)
    if needed_mb > free:
        raise ResourceError(
            f"The registration needs about {needed_mb / 1024:.1f} GB on {device.type}; {free / 1024:.1f} GB are free. {remedy}"
        )


def free_mb(device: torch.device) -> float:
    """What is free on `device`, in megabytes."""
    return (_free_on_card(device) if device.type == "cuda" else free_memory_bytes()) / _MEGABYTE


def _free_on_card(device: torch.device) -> int:
    """Bytes that the driver has left, and those that torch keeps from earlier work for the next one."""
    free, _ = torch.cuda.mem_get_info(device.index)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_memory_bytes() -> float:
    """What this process may still take: what the machine has free, within the limits of a container or of `ulimit -v`."""
    return min(psutil.virtual_memory().available, _left_in_container(), _left_of_addresses())


def _left_in_container() -> float:
    """Under the memory limit of a control group (version 2, or 1), of which freeable pages of files do not count."""
    for limit, used, statistics, freeable in _CONTROL_GROUPS:
        try:
            total, taken = int(Path(limit).read_text()), int(Path(used).read_text())
            freed = next(
                (int(line.split()[1]) for line in Path(statistics).read_text().splitlines() if line.startswith(freeable)), 0
            )
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return max(0, total - taken + freed)
    return math.inf


def _left_of_addresses() -> float:
    if sys.platform != "linux":
        return math.inf
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if limit == resource.RLIM_INFINITY else max(0, limit - psutil.Process().memory_info().vms)


@contextmanager
def threads_for(voxels: int) -> Iterator[None]:
    """Inside, torch uses no more threads than lattices of so many voxels can feed.

    Threads that wait for each other after every small piece of work are slower than one, and many times slower where
    another program wants a core too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, voxels // VOXELS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Keepers:
    """How many blocks are within `memory_kept` just now."""

    count = 0
    lock = threading.Lock()


@contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, memory that a tensor leaves stays with this process for the next one; afterwards it goes back to the system.

    Otherwise glibc gives every large tensor back at once, and the system clears it page by page for the next: a third of
    the time of a network on the CPU. For the main thread, and threads that share its heap. Where the C library is not
    glibc (macOS, Windows, musl) nothing changes.
    """
    library = _glibc()
    if library is None:
        yield
        return
    with _Keepers.lock:
        _Keepers.count += 1
        _set_malloc(library, _KEEPING)
    try:
        yield
    finally:
        with _Keepers.lock:
            _Keepers.count -= 1
            if not _Keepers.count:
                _set_malloc(library, _USUAL)
                library.malloc_trim(0)


def memory_returned() -> None:
    """Memory that nothing needs any more goes back to the system, where the C library (glibc) has kept it in pieces."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set_malloc(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)


class PeakMemory:
    """While entered, watches the memory of this process (resident set), or of the GPU; `peak_mb` is the largest value seen."""

    def __init__(self, device: torch.device, interval_seconds: float = 0.02) -> None:
        self.peak_mb = 0.0
        self._device = device
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._device.type == "cuda":
            self.peak_mb = torch.cuda.max_memory_allocated(self._device) / _MEGABYTE

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_mb = max(self.peak_mb, process.memory_info().rss / _MEGABYTE)
            if self._ended.wait(self._interval_seconds):
                return
