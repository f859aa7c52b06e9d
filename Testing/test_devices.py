"""Where the work runs, what fits there, and how much it took."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from RegistrationNetLib import devices
from RegistrationNetLib.devices import VOXELS_PER_THREAD, PeakMemory, check_memory, chosen_device, memory_kept, threads_for
from RegistrationNetLib.errors import InputError, ResourceError

CPU = torch.device("cpu")


@pytest.mark.parametrize("has_cuda", [True, False])
def test_auto_is_the_gpu_where_there_is_one(has_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert chosen_device("auto") == torch.device("cuda" if has_cuda else "cpu")
    assert chosen_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_there_is_taken_and_one_that_is_not_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}[name]
    monkeypatch.setattr(backend, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_has_operators_on_mps", lambda: True)
    assert chosen_device(name).type == name
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"has no {name} device. Choose auto or cpu"):
        chosen_device(name)


def test_a_torch_without_the_operators_on_apples_gpu_is_refused_unless_the_cpu_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *given: asked.append(given) or len(asked) > 1)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    with pytest.raises(
        InputError,
        match=r"cannot do on Apple's GPU what three-dimensional .* later versions can\. Update torch, choose cpu, or let",
    ):
        chosen_device("mps")
    assert asked == [("aten::grid_sampler_3d_backward", "MPS")]
    assert chosen_device("mps").type == "mps"
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    assert chosen_device("mps").type == "mps"


@pytest.mark.parametrize("kind", ["mps", "cpu"])
def test_double_precision_is_made_where_there_is_some(kind: str) -> None:
    values = SimpleNamespace(device=torch.device(kind), cpu=lambda: torch.ones(2), double=lambda: "on its device")
    found = devices.in_double(values)  # type: ignore[arg-type]
    assert found == "on its device" if kind == "cpu" else found.dtype == torch.float64


def test_each_of_several_cards_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="has no cuda:2 device. Choose auto or cpu"):
        chosen_device("cuda:2")


@pytest.mark.parametrize("name", ["tpu", "cuda:first", "cpu:1", "CPU", ""])
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=f"no device '{name}'; the devices are auto, cpu, cuda, mps"):
        chosen_device(name)


def test_what_does_not_fit_into_memory_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 2**30))
    check_memory(2047.0, CPU, "")
    with pytest.raises(ResourceError, match=r"needs about 2\.5 GB on cpu; 2\.0 GB are free\. Crop the images\."):
        check_memory(2560.0, CPU, "Crop the images.")


def test_on_a_gpu_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 8 * 2**30))
    check_memory(1000.0, torch.device("cuda"), "")
    with pytest.raises(ResourceError, match=r"2\.0 GB on cuda; 1\.0 GB are free"):
        check_memory(2048.0, torch.device("cuda"), "")


def test_an_allocation_of_200_mb_is_seen_in_the_peak() -> None:
    # In a process of its own: this one holds memory of earlier tests, which the allocation would use.
    script = """
import time
import numpy as np
import torch
from RegistrationNetLib.devices import PeakMemory
with PeakMemory(torch.device("cpu")) as before:
    while not before.peak_mb:
        time.sleep(0.01)
with PeakMemory(torch.device("cpu")) as memory:
    held = np.ones(200 * 2**20, dtype=np.uint8)
    deadline = time.monotonic() + 30
    while memory.peak_mb < before.peak_mb + 190 and time.monotonic() < deadline:  # the watching thread may be late
        time.sleep(0.01)
print(memory.peak_mb - before.peak_mb)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 190 < float(done.stdout) < 260


def test_the_watch_ends_with_its_block_also_when_that_fails() -> None:
    threads = threading.active_count()
    memory = PeakMemory(CPU)
    with pytest.raises(ZeroDivisionError), memory:
        assert threading.active_count() == threads + 1
        raise ZeroDivisionError
    assert threading.active_count() == threads
    assert memory.peak_mb > 1


def test_the_peak_of_a_gpu_is_what_torch_has_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", counted.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 123 * 2**20)
    with PeakMemory(torch.device("cuda")) as memory:
        assert counted == [torch.device("cuda")]
    assert memory.peak_mb == 123


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("lattice", [10, 2 * VOXELS_PER_THREAD, 100 * VOXELS_PER_THREAD])
def test_small_lattices_get_few_threads_and_none_are_lost_after(before: int, lattice: int) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        with pytest.raises(ZeroDivisionError), threads_for(lattice):
            assert torch.get_num_threads() == (1 if lattice == 10 else before)
            raise ZeroDivisionError
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(usual)


def mallopt_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: calls.append((option, value)), malloc_trim=lambda _: None)
    monkeypatch.setattr(devices, "_glibc", lambda: library)
    return calls


def test_memory_is_kept_until_the_last_block_ends_also_when_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = mallopt_calls(monkeypatch)
    most_borrowed = -4
    with pytest.raises(ZeroDivisionError), memory_kept():
        with memory_kept():
            pass
        assert dict(calls)[most_borrowed] == 0
        raise ZeroDivisionError
    assert dict(calls)[most_borrowed] > 0


def test_where_there_is_no_glibc_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    with memory_kept():
        assert asked == []
    assert asked == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_memory_that_is_kept_is_not_cleared_again() -> None:
    script = """
import resource, torch
from RegistrationNetLib.devices import memory_kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
with memory_kept():
    faults()
    print(usual, faults())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    usual, kept = (int(word) for word in done.stdout.split())
    if devices._glibc():
        assert kept < 0.01 * usual


# what is free within the limits of a container or of the shell


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"max": "1000000", "current": "700000", "stat": "anon 5\ninactive_file 200000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = tuple(str(tmp_path / name) for name in files)
    monkeypatch.setattr(devices, "_CONTROL_GROUPS", (("/missing", "/missing", "/missing", "x"), (*group, "inactive_file ")))
    assert devices.free_memory_bytes() == 500_000
    (tmp_path / "max").write_text("max")
    assert devices.free_memory_bytes() > 500_000
    (tmp_path / "max").write_text("100000")
    assert devices.free_memory_bytes() == 0


LIMITED = """
import resource
from RegistrationNetLib import devices
before = devices.free_memory_bytes()
resource.setrlimit(resource.RLIMIT_AS, (2**50, 2**50))
assert devices.free_memory_bytes() == before or devices.free_memory_bytes() > 0
taken = devices.psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, taken + 2**28))
assert 0 < devices.free_memory_bytes() <= 2**28, devices.free_memory_bytes()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is kept on Linux")
def test_the_limit_of_the_shell_counts() -> None:
    subprocess.run([sys.executable, "-c", LIMITED], check=True, cwd=Path(__file__).resolve().parents[1])
