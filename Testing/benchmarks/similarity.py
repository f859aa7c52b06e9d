"""Time and peak memory of similarity losses with their gradient, beside icon_registration, each in its own process.

    python Testing/benchmarks/similarity.py --size 128

Peak memory is what the process gained over its size with the two images loaded. "prepared" is `measure.against(fixed)` made
once and called again, as an optimizer does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from RegistrationNetLib.losses.similarity import MEASURES, measure_named
from Testing.benchmarks.memory import peak_memory_mb

WAYS = ("reference", "ours", "prepared")
REFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "lncc": ("LNCC", {"sigma": 5}),
    "lncc2": ("SquaredLNCC", {"sigma": 5}),
    "ncc": ("NCC", {}),
    "ssd": ("SSD", {}),
    "mind": ("MINDSSC", {"radius": 2, "dilation": 2}),
}


def loss_of(way: str, name: str, fixed: Tensor) -> Callable[[Tensor], Tensor]:
    """warped ↦ loss, in one of the `WAYS`."""
    if way == "reference":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            losses = importlib.import_module("icon_registration.losses")
        class_name, options = REFERENCES[name]
        reference = getattr(losses, class_name)(**options)
        return lambda warped: reference(warped, fixed)
    measure = measure_named(name)
    return measure.against(fixed).loss if way == "prepared" else lambda warped: measure.loss(warped, fixed)


def measured(way: str, name: str, *, size: int, repeats: int, threads: int) -> dict[str, float]:
    """Best seconds of loss and gradient, and the peak memory gained, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    fixed, warped = torch.rand(2, 1, 1, size, size, size).unbind()
    warped.requires_grad_()
    loss_of(way, name, fixed[..., :9, :9, :9])(warped[..., :9, :9, :9]).backward()
    before = peak_memory_mb()
    loss = loss_of(way, name, fixed)
    seconds = []
    for _ in range(repeats):
        warped.grad = None
        start = time.perf_counter()
        loss(warped).backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "memory_mb": peak_memory_mb() - before}


def in_own_process(way: str, name: str, arguments: argparse.Namespace) -> dict[str, float]:
    options = ["--size", arguments.size, "--repeats", arguments.repeats, "--threads", arguments.threads, "--one", way, name]
    done = subprocess.run([sys.executable, __file__, *map(str, options)], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(name: str, arguments: argparse.Namespace) -> str:
    results = {way: in_own_process(way, name, arguments) for way in WAYS if way != "reference" or name in REFERENCES}
    cells = [name]
    for key, form in (("seconds", "{:.2f} s"), ("memory_mb", "{:.0f} MB")):
        values = {way: result[key] for way, result in results.items()}
        cells += [form.format(values[way]) if way in values else "–" for way in WAYS]
        cells.append(f"{values['reference'] / max(values['prepared'], 1e-3):.1f}" if "reference" in values else "–")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, name = arguments.one
        print(json.dumps(measured(way, name, size=arguments.size, repeats=arguments.repeats, threads=arguments.threads)))
        return
    print(f"{arguments.size}³, {arguments.threads} thread(s), best of {arguments.repeats}; ratio = reference / prepared\n")
    print("| measure | reference | ours | prepared | ratio | reference | ours | prepared | ratio |")
    print("|---" * 9 + "|")
    for name in MEASURES:
        print(row(name, arguments), flush=True)


if __name__ == "__main__":
    main()
