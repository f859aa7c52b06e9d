"""What the background process costs: its start, its answers, and the way of the images there and back.

    python -m Testing.benchmarks.worker --size 256 --runs 5

Nodes of a scene go in and nodes come out, by the module's logic on the real MRML, on the stand-in for Slicer's Qt side. The registration
itself is left out (`answering_worker`), so that all the time from start to result is what the way through the worker adds to a direct call.
Seconds are the best of the runs, standstills the longest of all. "Lock kept" is as in Slicer, where PythonQt holds Python's lock
whenever the application waits for events, here for 20 ms between two polls.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "host"))

import slicer_host  # noqa: E402

slicer_host.start(ROOT / "Testing" / "host" / "slicer_layer")
slicer_host.slicer.mrmlScene.RegisterNodeClass(slicer_host.slicer.vtkMRMLColorLegendDisplayNode())
slicer_host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")

import slicer  # noqa: E402
from PySide6 import QtCore  # noqa: E402

from RegistrationNet import RegistrationNetLogic  # noqa: E402
from RegistrationNetLib.io.nrrd import Volume  # noqa: E402
from RegistrationNetLib.slicer_bridge.client import Client  # noqa: E402
from Testing.module.nodes import volume_node  # noqa: E402


def cold_start_seconds() -> float:
    """From nothing to the first answer of the real worker."""
    start = time.monotonic()
    with Client() as client:
        client.devices().wait()
        return time.monotonic() - start


def run(logic: Any, pair: list[Any], wait: Callable[[Any], None]) -> dict[str, float]:
    """Seconds until the worker has begun, until the nodes are there, and of the processors in this process and in the worker."""
    begun: list[float] = []
    before, start = processor_seconds(logic), time.monotonic()
    job = logic.startRegistration(*pair, onChanged=lambda job: begun.append(time.monotonic()) if job.progress else None)
    wait(job)
    end = time.monotonic()
    if job.error is not None:
        raise job.error
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.RemoveItem(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(job.result.warpedNode)))  # with all within
    here, there = np.subtract(processor_seconds(logic), before)
    return {"begun": begun[0] - start, "whole": end - start, "here": here, "there": there}


def processor_seconds(logic: Any) -> tuple[float, float]:
    """Of this process, and of the worker."""
    worker = logic.client._worker
    used = [psutil.Process().cpu_times(), *([psutil.Process(worker._process.pid).cpu_times()] if worker else [])]
    here, there = ([one.user + one.system for one in used] + [0.0])[:2]
    return here, there


def with_lock_kept(logic: Any, job: Any, ticks: list[float]) -> None:
    """Wait in C with Python's lock kept, noting each time that the application has its turn."""
    sleep = ctypes.PyDLL(None).usleep  # PyDLL keeps the lock while it is in C
    while not job.isFinished:
        sleep(20_000)
        ticks.append(time.monotonic())
        logic.poll()
    ticks.append(time.monotonic())


def with_ticks(job: Any, ticks: list[float]) -> None:
    """Wait by events, a timer of 10 ms noting each time that it is served."""
    timer = QtCore.QTimer()
    timer.setInterval(10)
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    timer.start()
    while not job.isFinished:
        slicer.app.processEvents()
        time.sleep(0.001)
    slicer.app.processEvents()
    ticks.append(time.monotonic())
    timer.stop()


def measured(size: int, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m Testing.benchmarks.answering_worker {size} "$3"\n')
        python.chmod(0o700)
        logic = RegistrationNetLogic()
        logic.client.close()
        logic.client = Client(str(python))
        try:
            print(
                "| | worker begins | nodes are there | processor time in Slicer | in the worker | longest standstill |\n|---|---|---|---|---|---|"
            )
            table(logic, size, runs)
        finally:
            logic.close()


def table(logic: Any, size: int, runs: int) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (size,) * 3, dtype=np.int16)
    pair = [volume_node(slicer.mrmlScene, Volume(values, np.eye(4)), name) for name in ("fixed", "moving")]
    ways: dict[str, Callable[[Any, list[float]], None]] = {"events": with_ticks, "lock kept": partial(with_lock_kept, logic)}
    for name, way in ways.items():
        ticks: list[list[float]] = []

        def wait(job: Any, way: Callable[[Any, list[float]], None] = way, ticks: list[list[float]] = ticks) -> None:
            ticks.append([])
            way(job, ticks[-1])

        # The first one has the worker to start.
        times = [slicer_host.inLoop(partial(run, logic, pair, wait)) for _ in range(runs + 1)][1:]
        best = {what: min(one[what] for one in times) for what in times[0]}
        print(
            f"| {name} | {best['begun']:.3f} s | {best['whole']:.3f} s | {best['here']:.2f} s | {best['there']:.2f} s "
            f"| {1000 * max(np.diff(one).max() for one in ticks):.0f} ms |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"cold start: {min(cold_start_seconds() for _ in range(3)):.2f} s\n")
    measured(arguments.size, arguments.runs)


if __name__ == "__main__":
    main()
