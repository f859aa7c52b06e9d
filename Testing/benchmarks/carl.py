"""Time and peak memory of CARL and uniCARL beside the published ones, and of coordinate attention alone.

    python -m Testing.benchmarks.carl [--composition unicarl] [--shape 160] [--threads 2] [--runs 2] [--keep-freed]
    python -m Testing.benchmarks.carl --attention 175

Each network runs in a fresh process on the same threads, with the same random weights and images, and gives the maps of both
directions on the lattice. Time is the best of the runs, on the wall and of all processors together (which is what counts where
others use the machine); peak memory is that of the whole process. `--keep-freed` tells glibc not to hand large freed tensors
back to the kernel, for both.

The second form measures the attention of CARL at images of that many voxels per axis, one direction: a quarter of them as
queries, and the same and 9 voxels of padding around as keys, with 128 features.
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

from RegistrationNetLib.devices import PeakMemory
from RegistrationNetLib.models.carl import COMPOSITIONS, carl_network
from RegistrationNetLib.models.composition import both_ways, mapped_lattice
from RegistrationNetLib.models.layers.attention import coordinate_attention, features_memory_mb, padded_lattice
from RegistrationNetLib.models.layers.features import CoarseFeatures, DilatedFeatures
from Testing.benchmarks.memory import peak_memory_mb
from Testing.models.layers.published import smooth_pair

NETWORKS = ("published", "ours")
KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456"}
Register = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def published(options: argparse.Namespace) -> Register:
    from Testing.models.published_carl import on_the_cpu, published, state_of

    net = published(options.composition, options.shape)
    torch.save(state_of(net), options.folder / "state")
    net.identity_map.isIdentity = True

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        with on_the_cpu():
            return net.regis_net(moving, fixed)(net.identity_map), net.regis_net(fixed, moving)(net.identity_map)

    return register


def ours(options: argparse.Namespace) -> Register:
    shape = tuple(options.shape)
    with torch.device("meta"):
        net = carl_network(options.composition, dim=len(shape)).eval()
    net.load_state_dict(torch.load(options.folder / "state", weights_only=True, mmap=True), strict=True, assign=True)

    def register(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        maps = both_ways(net, moving, fixed)
        return mapped_lattice(maps.moving_from_fixed, shape, fixed), mapped_lattice(maps.fixed_from_moving, shape, fixed)

    return register


@torch.no_grad()
def measure(options: argparse.Namespace) -> None:
    """Runs one network and writes its figures as a line of JSON, its maps beside."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = smooth_pair(options.shape)
    register = {"published": published, "ours": ours}[options.only](options)
    before, runs = peak_memory_mb(), []
    for _ in range(options.runs):
        start = time.perf_counter(), time.process_time()
        maps = register(*images)
        runs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    seconds, processor = (min(one) for one in zip(*runs, strict=True))
    torch.save(maps, options.folder / options.only)
    print(json.dumps({"seconds": seconds, "processor": processor, "before_mb": before, "peak_mb": peak_memory_mb()}))


def run(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), **(KEEP_FREED if options.keep_freed else {})}
    command = [sys.executable, "-m", "Testing.benchmarks.carl", "--only", name, "--folder", str(folder)]
    command += ["--composition", options.composition, "--threads", str(options.threads), "--runs", str(options.runs)]
    command += ["--shape", *(str(size) for size in options.shape)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compare(options: argparse.Namespace) -> None:
    kept = ", freed memory kept" if options.keep_freed else ""
    print(f"{options.composition}, {'×'.join(map(str, options.shape))}, {options.threads} threads, both directions, fp32{kept}")
    with tempfile.TemporaryDirectory() as name:
        folder, figures = Path(name), {}
        for network in NETWORKS:
            figures[network] = values = run(network, options, folder)
            print(
                f"{network:10s} {values['seconds']:7.2f} s (processor {values['processor']:.2f} s)   "
                f"peak {values['peak_mb']:6.0f} MB, of which {values['before_mb']:.0f} MB before the network runs",
                flush=True,
            )
        theirs, mine = (torch.load(folder / network, weights_only=True) for network in NETWORKS)
    ratio = {key: figures["published"][key] / figures["ours"][key] for key in figures["ours"]}
    print(f"ratio      {ratio['seconds']:7.2f} (processor {ratio['processor']:.2f})   peak {ratio['peak_mb']:.2f}")
    differences = [float((one - other).abs().max()) for one, other in zip(theirs, mine, strict=True)]
    print(f"largest difference of the maps: {max(differences):.1e} of the unit cube")


@torch.no_grad()
def measure_attention(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    cells = -(-options.attention // 4)
    places = padded_lattice([cells] * 3, 9, torch.zeros(1))
    keys = torch.randn(1, 128, *places.shape[1:])
    keys *= 4 / keys.square().sum(dim=1, keepdim=True).sqrt()
    queries = keys[:, :, 9:-9, 9:-9, 9:-9].contiguous()
    before, start = peak_memory_mb(), (time.perf_counter(), time.process_time())
    found = coordinate_attention(queries, keys, places)
    seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    print(f"{queries[0, 0].numel()} queries, {keys[0, 0].numel()} keys, 128 features, {options.threads} threads: {seconds:.1f} s")
    print(f"processor {processor:.1f} s, peak {peak_memory_mb():.0f} MB, of which {before:.0f} MB before")
    rows = keys.flatten(2)[0].double()
    worst = 0.0
    for query in range(0, queries[0, 0].numel(), 997):
        weights = (queries.flatten(2)[0, :, query].double() @ rows).softmax(dim=0)
        worst = max(worst, float((found.flatten(2)[0, :, query] - places.flatten(1).double() @ weights).abs().max()))
    print(f"largest difference from double precision, of every 997th query: {worst:.1e} of the unit cube")


@torch.no_grad()
def measure_features(options: argparse.Namespace) -> None:
    """What the features of one image take beside the estimate, in a process of its own."""
    torch.set_num_threads(options.threads)
    shape = [options.features] * 3
    net = {"dilated": DilatedFeatures, "coarse": CoarseFeatures}[options.kind](3).eval()
    before = peak_memory_mb()
    with PeakMemory(torch.device("cpu")):
        net(torch.rand(1, 1, *shape))
    print(
        f"{options.kind} {shape}: {peak_memory_mb() - before:.0f} MB, estimate {features_memory_mb(net, shape, images=1):.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="CARL and uniCARL beside the published ones")
    parser.add_argument("--composition", choices=COMPOSITIONS, default="unicarl")
    parser.add_argument("--shape", type=int, nargs="+", default=[160])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2, help="the best of them counts")
    parser.add_argument("--keep-freed", action="store_true", help="glibc keeps freed memory, for both")
    parser.add_argument("--attention", type=int, metavar="VOXELS", help="attention alone, at images of so many voxels per axis")
    parser.add_argument("--features", type=int, metavar="VOXELS", help="features alone, of an image of so many voxels per axis")
    parser.add_argument("--kind", choices=("dilated", "coarse"), default="dilated", help="for --features")
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = options.shape * 3 if len(options.shape) == 1 else options.shape
    if options.only:
        measure(options)
    elif options.attention:
        measure_attention(options)
    elif options.features:
        measure_features(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
