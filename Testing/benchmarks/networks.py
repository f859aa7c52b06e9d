"""Time and peak memory of the GradICON network beside the published one, and how far their maps differ.

    python -m Testing.benchmarks.networks [--shape 175] [--threads 2] [--huge-pages]

Each runs in a fresh process on the same threads, with the same random weights and images, and gives the maps of both
directions on the lattice. Time is the better of two runs, peak memory that of the whole process; what it holds before the
network runs is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from Testing.networks.published import randomize, smooth_pair

NETWORKS = ("published", "ours")


def published(shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    import unigradicon

    net = unigradicon.make_network([1, 1, *shape], include_last_step=True).eval()
    randomize(net.regis_net, displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        net.identity_map.isIdentity = True
        return net.regis_net(moving, fixed)(net.identity_map), net.regis_net(fixed, moving)(net.identity_map)

    return register


def ours(shape: tuple[int, ...]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from RegistrationNetLib.models.gradicon import gradicon_network
    from RegistrationNetLib.models.steps import both_ways, mapped_lattice

    net = gradicon_network(len(shape)).eval()
    randomize(net, displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        maps = both_ways(net, moving, fixed)
        return mapped_lattice(maps.moving_from_fixed, shape, fixed), mapped_lattice(maps.fixed_from_moving, shape, fixed)

    return register


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def measure(name: str, shape: tuple[int, ...], threads: int, out: Path) -> None:
    """Runs one network and writes its figures as a line of JSON, its maps to `out`."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = smooth_pair(shape)
    register = {"published": published, "ours": ours}[name](shape)
    before = peak_mb()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        maps = register(*images)
        seconds.append(time.perf_counter() - start)
    figures = {"seconds": min(seconds), "first": seconds[0], "before_mb": before, "peak_mb": peak_mb()}
    torch.save(maps, out)
    print(json.dumps(figures))


def run(name: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if options.huge_pages:
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    command = [sys.executable, "-m", "Testing.benchmarks.networks", "--only", name, "--out", str(out)]
    command += ["--threads", str(options.threads), "--shape", *(str(size) for size in options.shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="GradICON's network beside the published one")
    parser.add_argument("--shape", type=int, nargs="+", default=[175])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--huge-pages", action="store_true", help="let torch ask the kernel for huge pages, for both")
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape * 3 if len(options.shape) == 1 else options.shape
    if options.only:
        measure(options.only, tuple(options.shape), options.threads, options.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in NETWORKS}
        figures = {name: run(name, options, files[name]) for name in NETWORKS}
        theirs, mine = (torch.load(file, weights_only=True) for file in files.values())
    print(f"{'×'.join(map(str, options.shape))}, {options.threads} threads, both directions, fp32")
    for name, values in figures.items():
        print(
            f"{name:10s} {values['seconds']:7.2f} s (first {values['first']:.2f} s)   "
            f"peak {values['peak_mb']:6.0f} MB, of which {values['before_mb']:.0f} MB before the network runs"
        )
    a, b = figures["published"], figures["ours"]
    print(
        f"ratio      {a['seconds'] / b['seconds']:7.2f} (first {a['first'] / b['first']:.2f})   {a['peak_mb'] / b['peak_mb']:.2f}"
    )
    differences = [float((one - other).abs().max()) for one, other in zip(theirs, mine, strict=True)]
    print(f"largest difference of the maps: {max(differences):.1e} of the unit cube")


if __name__ == "__main__":
    main()
