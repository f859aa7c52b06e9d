"""Time and peak memory of the ConstrICON network beside the published one, and how far their maps differ.

    python -m Testing.benchmarks.constricon [--shape 128] [--threads 1] [--runs 2] [--keep-memory]

Each runs in a fresh process on the same threads, with the same random weights and images, and gives the maps of both
directions on the lattice. Time is the best of the runs, on the wall and of all processors together (which is what counts where
others use the machine); peak memory is that of the whole process, with what it holds before the network runs beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from Testing.benchmarks.networks import peak_mb
from Testing.models.layers.published import randomize, smooth_pair

NETWORKS = ("ours", "published")
# glibc then keeps freed memory instead of giving it back to the kernel, which costs time to ask for it again.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456"}

Register = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def published(shape: tuple[int, ...]) -> Register:
    from Testing.models.published_constricon import whole

    net = whole(len(shape))
    net.assign_identity_map([1, 1, *shape])  # type: ignore[operator]
    randomize(net.eval(), displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        forward, backward = net.net(moving, fixed)  # type: ignore[operator]
        return forward(net.identity_map), backward(net.identity_map)

    return register


def ours(shape: tuple[int, ...]) -> Register:
    from RegistrationNetLib.models.composition import both_ways, mapped_lattice
    from RegistrationNetLib.models.constricon import constricon_network

    net = constricon_network(len(shape)).eval()
    randomize(net, displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        maps = both_ways(net, moving, fixed)
        return mapped_lattice(maps.moving_from_fixed, shape, fixed), mapped_lattice(maps.fixed_from_moving, shape, fixed)

    return register


@torch.no_grad()
def measure(options: argparse.Namespace) -> None:
    """Runs one network and writes its figures as a line of JSON, its maps to `options.out`."""
    torch.set_num_threads(options.threads)
    shape = tuple(options.shape)
    torch.manual_seed(0)
    images = smooth_pair(shape)
    register = {"published": published, "ours": ours}[options.only](shape)
    before, runs, maps = peak_mb(), [], None
    for _ in range(options.runs):
        del maps
        start = time.perf_counter(), time.process_time()
        maps = register(*images)
        runs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    seconds, processor = (min(one) for one in zip(*runs, strict=True))
    torch.save(maps, options.out)
    print(json.dumps({"seconds": seconds, "processor": processor, "before_mb": before, "peak_mb": peak_mb()}))


def run(name: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), **(KEEP_MEMORY if options.keep_memory else {})}
    command = [sys.executable, "-m", "Testing.benchmarks.constricon", "--only", name, "--out", str(out)]
    command += ["--threads", str(options.threads), "--runs", str(options.runs), "--shape", *map(str, options.shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="ConstrICON's network beside the published one")
    parser.add_argument("--shape", type=int, nargs="+", default=[128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2, help="the best of them counts")
    parser.add_argument("--keep-memory", action="store_true", help="have glibc keep freed memory, for both")
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape * 3 if len(options.shape) == 1 else options.shape
    if options.only:
        measure(options)
        return
    print(f"{'×'.join(map(str, options.shape))}, {options.threads} threads, both directions, fp32")
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in NETWORKS}
        figures = {}
        for name in NETWORKS:
            figures[name] = values = run(name, options, files[name])
            print(
                f"{name:10s} {values['seconds']:7.2f} s (processor {values['processor']:.2f} s)   "
                f"peak {values['peak_mb']:6.0f} MB, of which {values['before_mb']:.0f} MB before the network runs",
                flush=True,
            )
        mine, theirs = (torch.load(files[name], weights_only=True) for name in NETWORKS)
    ratio = {key: figures["published"][key] / figures["ours"][key] for key in figures["ours"]}
    print(f"ratio      {ratio['seconds']:7.2f} (processor {ratio['processor']:.2f})   peak {ratio['peak_mb']:.2f}")
    differences = [float((one - other).abs().max()) for one, other in zip(theirs, mine, strict=True)]
    print(f"largest difference of the maps: {max(differences):.1e} of the unit cube")


if __name__ == "__main__":
    main()
