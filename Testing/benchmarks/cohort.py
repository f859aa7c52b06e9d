"""What many registrations cost beside the registrations themselves, what they survive, and how close a template comes.

    python -m Testing.benchmarks.cohort overhead | growth | killed | scheduler | template [--pairs N] [--processes N]

Pairs are small (2-D, 24 by 24 voxels), so that what is measured is the cohort and not the registration.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from RegistrationNetLib import register
from RegistrationNetLib.cohort.clusters import Place
from RegistrationNetLib.cohort.plan import Plan
from RegistrationNetLib.cohort.records import is_done
from RegistrationNetLib.cohort.run import run_cohort
from RegistrationNetLib.cohort.template import Course, build_template
from RegistrationNetLib.geometry.deformation import DisplacementField
from RegistrationNetLib.geometry.space import grid_of, inverse_transform_from_map
from RegistrationNetLib.io.image_files import read_image
from RegistrationNetLib.io.transform_files import read_transform
from RegistrationNetLib.io.warping import warp_image
from RegistrationNetLib.progress import Progress

from ..cohort.small import QUICK, small_plan

OPTIONS: dict[str, Any] = {"align": ("centre",), "steps": 1, "repeats": 0}
KILLS = 10
# The phantoms of the template.
SHAPE, WARPS, LARGEST_MM, BRIGHT = (64, 64), 4, 3.0, 100.0


def overhead(folder: Path, pairs: int, processes: int) -> None:
    """What each pair takes beyond `register` and `save`, when the processes have warmed up: seconds, and seconds of the processor.

    On a machine that others use as well, only the second can be compared. Beside it what comes once: the start of the processes until
    each has ended its first pair, and a second call, which looks whether all is done and writes the overview.
    """
    plan, ended, begun = small_plan(folder, pairs, **QUICK), list[tuple[float, float]](), _used()
    run_cohort(
        plan, folder / "out", place=Place(processes=processes), progress=lambda _: ended.append((time.perf_counter(), _used()))
    )
    again = time.process_time()
    assert run_cohort(plan, folder / "out", place=Place(processes=processes)).before == pairs
    again = time.process_time() - again
    # From the end of the first pair of each process on.
    took = (np.array(ended[-1]) - np.array(ended[processes])) / (pairs - processes) * np.array([processes, 1])
    alone = []
    for pair in plan.pairs:
        start = (time.perf_counter(), time.process_time())
        result = register(pair.files["fixed"], pair.files["moving"], **OPTIONS)
        result.save(folder / "alone")
        alone.append(np.array((time.perf_counter(), time.process_time())) - start)
    usual = np.mean(alone[1:], axis=0)
    for what, one, other in zip(("seconds", "seconds of the processor"), took, usual, strict=True):
        print(f"{what} a pair: {one:.3f} in the cohort, {other:.3f} alone, {one - other:+.3f}")
    print(f"seconds of the processor until every process has ended its first pair: {ended[processes][1] - begun:.1f}")
    print(f"seconds of the processor for a second call: {again:.2f}, {again / pairs:.4f} a pair")


def _used() -> float:
    """Seconds of the processor that this process and those that it has started have used."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def growth(folder: Path, pairs: int, processes: int) -> None:
    """How much the memory of each process grows over a run, from when it has done its first pairs."""
    plan, own = small_plan(folder, pairs, **QUICK), psutil.Process()
    seen: dict[int, list[float]] = {}

    def hear(_: Progress) -> None:
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                seen.setdefault(process.pid, []).append(process.memory_info().rss / 2**20)

    run_cohort(plan, folder / "out", place=Place(processes=processes), progress=hear)
    for pid, sizes in seen.items():
        warm = sizes[min(len(sizes) // 4, 20) :]
        if len(warm) > 4:
            first, last = statistics.median(warm[:5]), statistics.median(warm[-5:])
            print(f"process {pid}: {first:.0f} MB after the first pairs, {last:.0f} MB at the end: {last - first:+.0f} MB")


def killed(folder: Path, pairs: int, processes: int) -> None:
    """A run whose processes are killed at random, ten times."""
    plan, out, generator = small_plan(folder, pairs, **QUICK), folder / "out", random.Random(0)
    over, kills = threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(generator.uniform(1.0, 6.0)) and len(kills) < KILLS:
            if not list(out.glob(".unfinished/*/pair-*")):
                continue  # nobody is at work just now
            victims = [one for one in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]
            if victims:
                victim = generator.choice(victims)
                kills.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = run_cohort(plan, out, place=Place(processes=processes))
    over.set()
    killer.join()
    print(f"{len(kills)} processes killed; {summary.now} of {pairs} pairs registered, {len(summary.failures)} failed")
    _check(plan, out)


def _check(plan: Plan, out: Path) -> None:
    """Each result is that of the pair registered alone."""
    wrong = []
    for pair in plan.pairs:
        alone = register(pair.files["fixed"], pair.files["moving"], **OPTIONS)
        found = read_transform(pair.layout.path(out, "transform.h5"))
        points = [(5.0, 7.0), (20.0, 22.0), (40.0, 31.0)]
        off = max(
            np.abs(np.subtract(found.TransformPoint(one), alone.moving_from_fixed.TransformPoint(one))).max() for one in points
        )
        wrong += [] if is_done(pair, out) and off < 1e-6 else [pair.name]
    print(f"{len(plan.pairs) - len(wrong)} of {len(plan.pairs)} right {wrong or ''}")


def scheduler(folder: Path, pairs: int, processes: int) -> None:
    """Workers in processes of their own against a scheduler of its own."""
    plan = small_plan(folder, pairs, **QUICK)
    with ExitStack() as stack:
        file = folder / "scheduler.json"
        stack.enter_context(_process("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                                     "--scheduler-file", str(file), "--no-dashboard"))  # fmt: skip
        for _ in range(processes):
            stack.enter_context(_process("distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1",
                                         "--no-dashboard", "--memory-limit", "0"))  # fmt: skip
        while not file.exists():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        summary = run_cohort(plan, folder / "out", place=Place(scheduler=address))
    print(f"{processes} workers: {summary.now} of {pairs} pairs registered, {len(summary.failures)} failed")
    _check(plan, folder / "out")


@contextmanager
def _process(*arguments: str) -> Any:
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def template(folder: Path, pairs: int, processes: int) -> None:
    """The mean of eight phantoms, made from one by warps whose mean is the identity: its shape must be that of the one."""
    del pairs
    base, warps = _phantom(), list(_warps())
    grid = grid_of(base)
    files = []
    for number, warp in enumerate(warps):
        files.append(folder / f"phantom{number}.nii.gz")
        sitk.WriteImage(warp_image(base, base, _inverse(warp)), str(files[-1]))
    built = build_template(files, folder / "out", course=Course(), options={"repeats": 0}, place=Place(processes=processes))
    body = sitk.GetArrayFromImage(base) > BRIGHT / 4
    places = np.argwhere(body)[:, ::-1]
    points = np.array([base.TransformIndexToPhysicalPoint([int(one) for one in place]) for place in places])
    off = np.zeros_like(points)
    for number, warp in enumerate(warps):
        back, forward = _inverse(warp), read_transform(built.transforms[f"phantom{number}"])
        off += np.array([back.TransformPoint(forward.TransformPoint(point)) for point in points.tolist()]) - points
    distance = np.linalg.norm(off / len(warps), axis=1) / min(grid.spacing_mm)
    before = [np.linalg.norm(warp[body], axis=1).mean() for warp in warps]
    print(
        f"warps of {min(before):.2f} to {max(before):.2f} mm mean; iterations: {len(built.moved_mm)}, converged: {built.has_converged}"
    )
    print(f"moved by {', '.join(f'{one.p95:.3f}' for one in built.moved_mm)} mm (95 %)")
    print(
        f"off the mean shape by {distance.mean():.3f} voxels mean, {np.percentile(distance, 95):.3f} for 95 %, {distance.max():.3f} largest"
    )
    read = sitk.GetArrayFromImage(read_image(folder / "out" / "template.nii.gz"))[body]
    print(f"correlation with the phantom {np.corrcoef(read, sitk.GetArrayFromImage(base)[body])[0, 1]:.3f}")


def _phantom() -> sitk.Image:
    """An ellipse with structures within, 64 by 64 voxels of 1 mm."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - 31.5
    values = BRIGHT / (1 + np.exp(6 * (np.hypot(x / 22, y / 17) - 1) * 3))
    for centre_x, centre_y, radius, contrast in (
        (-9, 2, 4, -60),
        (8, -3, 5, 50),
        (2, 8, 3, -40),
        (11, 7, 2.5, 60),
        (-4, -8, 3.5, 40),
    ):
        values += contrast / (1 + np.exp(2 * (np.hypot(x - centre_x, y - centre_y) - radius)))
    return sitk.GetImageFromArray((values + np.random.default_rng(0).normal(0, 1.0, SHAPE)).astype(np.float32))


def _warps() -> Sequence[NDArray[np.float64]]:
    """Displacements [*shape, 2] in mm, each with its opposite, so that their mean is 0."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / SHAPE[0]
    generator = np.random.default_rng(1)
    warps = []
    for _ in range(WARPS):
        phases = generator.uniform(0, 2 * np.pi, 4)
        one = np.stack([np.sin(2 * np.pi * x + phases[0]) + np.cos(2 * np.pi * y + phases[1]),
                        np.sin(2 * np.pi * y + phases[2]) + np.cos(2 * np.pi * x + phases[3])], axis=-1)  # fmt: skip
        one *= LARGEST_MM / np.linalg.norm(one, axis=-1).max()
        warps += [one, -one]
    return warps


def _inverse(warp: NDArray[np.float64]) -> sitk.Transform:
    grid = grid_of(_phantom())
    unit = torch.as_tensor(grid.unit_from_world[:-1, :-1])
    field = torch.einsum("dw,...w->d...", unit, torch.as_tensor(warp))[None].float()
    return inverse_transform_from_map(DisplacementField(field), grid, grid, np.eye(3))


MEASURES: dict[str, tuple[Callable[[Path, int, int], None], int, int]] = {
    "overhead": (overhead, 20, 1),
    "growth": (growth, 400, 2),
    "killed": (killed, 40, 2),
    "scheduler": (scheduler, 12, 3),
    "template": (template, 0, 2),
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--processes", type=int)
    options = parser.parse_args()
    measure, pairs, processes = MEASURES[options.what]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.pairs or pairs, options.processes or processes)


if __name__ == "__main__":
    main()
