"""Is this machine ready? Versions, devices, memory, folders, model cards; each finding with what to do about it."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import SimpleITK as sitk

from ..errors import InputError
from ..models.catalogue import cache_folder, cards
from ..models.weights import weights_state
from ..version import __version__
from .console import table, wants_json
from .interruption import Interruption

MIB = 2**20
NEEDED_MEMORY_MIB = 2000
NEEDED_DISK_MIB = 500


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `advice` is empty where all is well."""

    what: str
    value: str
    advice: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to do about it."""
        return not self.advice


def run_doctor(options: Namespace, interruption: Interruption) -> int:
    """Say whether this machine is ready."""
    interruption.check()
    findings: list[Finding] = list(examine())
    if wants_json(options):
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print(table([("ok" if finding.is_fine else "!!", finding.what, finding.value) for finding in findings], indent=""))
        for finding in findings:
            if not finding.is_fine:
                print(f"!! {finding.what}: {finding.advice}")
    return 0 if all(finding.is_fine for finding in findings) else 1


def examine() -> Iterator[Finding]:
    """Every finding, in the order of reading. Nothing is created, downloaded or changed."""
    yield Finding("registrationnet", __version__)
    yield Finding("Python", f"{platform.python_version()} ({sys.executable})")
    yield _version("numpy", np.__version__, (1, 24))
    yield _version("SimpleITK", sitk.Version.VersionString(), (2, 3))
    yield from _of_torch()
    yield _memory()
    yield _folder("temporary folder", Path(tempfile.gettempdir()))
    yield _cache()
    yield from _cards()


def _of_torch() -> Iterator[Finding]:
    """What torch is, and what it finds: the one part that may be installed and still not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "it must be installed and load: pip install --force-reinstall torch"
        yield Finding("torch", f"does not load ({type(error).__name__}: {error})", advice)
        return
    yield _version("torch", torch.__version__, (2, 2))
    yield _threads(torch)
    yield from _devices(torch)


def _version(name: str, version: str, minimum: tuple[int, int]) -> Finding:
    major, minor = (int(part) for part in version.split(".")[:2])
    needed = ".".join(map(str, minimum))
    advice = "" if (major, minor) >= minimum else f"version {needed} or later is needed: pip install --upgrade {name}"
    return Finding(name, version, advice)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    free = memory.available // MIB
    advice = "" if free >= NEEDED_MEMORY_MIB else f"less than {NEEDED_MEMORY_MIB} MiB are free: close other programs"
    return Finding("memory", f"{free} MiB free of {memory.total // MIB} MiB", advice)


def _threads(torch: ModuleType) -> Finding:
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    advice = f"only one of {cores} cores is used: unset OMP_NUM_THREADS" if threads == 1 < cores else ""
    return Finding("threads", f"{threads} on {cores} logical cores", advice)


def _devices(torch: ModuleType) -> Iterator[Finding]:
    yield Finding("device cpu", platform.processor() or platform.machine())
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding(f"device cuda:{index}", f"{name}, {free // MIB} MiB free of {total // MIB} MiB")
    if torch.backends.mps.is_available():
        yield Finding("device mps", "Apple GPU")


def _folder(what: str, folder: Path) -> Finding:
    """The folder may not exist yet; then its nearest parent that does is looked at."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = psutil.disk_usage(str(existing)).free // MIB
    advice = ""
    if not os.access(existing, os.W_OK):
        advice = f"{existing} cannot be written: change its permissions"
    elif free < NEEDED_DISK_MIB:
        advice = f"less than {NEEDED_DISK_MIB} MiB of disk are free: delete something"
    return Finding(what, f"{folder} ({free} MiB free)", advice)


def _cache() -> Finding:
    try:
        return _folder("cache folder", cache_folder())
    except InputError as error:
        return Finding("cache folder", "none", str(error))


def _cards() -> Iterator[Finding]:
    found = cards()
    if not found:
        yield Finding("models", "none", "the installation is incomplete: install registrationnet again")
    for name, card in found.items():
        try:
            state = weights_state(card)
        except InputError:  # there is no cache folder, which has been told
            continue
        fetch = f"registrationnet models download {name}"
        value = f"weights {state}" + (f": {fetch}" if state.kind == "missing" else "")
        yield Finding(f"model {name}", value, f"the file is not whole: {fetch}" if state.kind == "damaged" else "")
