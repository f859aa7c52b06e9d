"""Time and peak memory of the GradICON network beside the published one, and how far their answers differ.

    python -m Testing.benchmarks.networks [--what inference|step] [--shape 175] [--threads 2] [--runs 2] [--huge-pages]

Each runs in a fresh process on the same threads, with the same random weights and images. `inference` gives the maps of both
directions on the lattice. `step` is one of instance optimization: the loss of both directions, the gradients of all weights, and
what Adam makes of them; `--keep-all` does not make features anew in the backward pass to spare memory. Time is the best of
the runs, on the wall and of all processors together (which is what counts where others use the machine); peak memory is that of
the whole process, with what it holds before the network runs beside it.
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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from Testing.models.layers.published import randomize, smooth_pair

NETWORKS = ("ours", "published")


LEARNING_RATE = 2e-5

Answer = dict[str, Tensor]


def published(options: argparse.Namespace) -> Callable[[Tensor, Tensor], Answer]:
    import unigradicon

    net = unigradicon.make_network([1, 1, *options.shape], include_last_step=True).eval()
    randomize(net.regis_net, displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> Answer:
        net.identity_map.isIdentity = True
        maps = net.regis_net(moving, fixed)(net.identity_map), net.regis_net(fixed, moving)(net.identity_map)
        return {"moving_from_fixed": maps[0], "fixed_from_moving": maps[1]}

    def step(moving: Tensor, fixed: Tensor) -> Answer:
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
        torch.manual_seed(1)
        loss = net(moving, fixed).all_loss
        loss.backward()
        optimizer.step()
        return answer_of_step(loss, net.regis_net)

    return {"inference": torch.no_grad()(register), "step": step}[options.what]


def ours(options: argparse.Namespace) -> Callable[[Tensor, Tensor], Answer]:
    from torch.optim.adam import adam

    from RegistrationNetLib.devices import memory_kept
    from RegistrationNetLib.memory import recomputed
    from RegistrationNetLib.models.composition import both_ways, mapped_lattice
    from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network

    net = gradicon_network(len(options.shape)).eval()
    randomize(net, displacement=0.01)

    def register(moving: Tensor, fixed: Tensor) -> Answer:
        with memory_kept():
            maps = both_ways(net, moving, fixed)
            return {name: mapped_lattice(getattr(maps, name), options.shape, fixed) for name in vars(maps)}

    def step(moving: Tensor, fixed: Tensor) -> Answer:
        with memory_kept():
            with nullcontext() if options.keep_all else recomputed():
                torch.manual_seed(1)
                loss = GradICONLoss()(both_ways(net, moving, fixed), moving, fixed).total
            loss.backward()
            weights = list(net.parameters())
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
            with torch.no_grad():
                adam(
                    weights, gradients, means, squares, [], [torch.tensor(0.0) for _ in weights], foreach=False, amsgrad=False,
                    beta1=0.9, beta2=0.999, lr=LEARNING_RATE, weight_decay=0.0, eps=1e-8, maximize=False,
                )  # fmt: skip
        return answer_of_step(loss, net)

    return {"inference": torch.no_grad()(register), "step": step}[options.what]


def answer_of_step(loss: Tensor, net: nn.Module) -> Answer:
    return {"loss": loss.detach(), **{name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: argparse.Namespace) -> None:
    """Runs one network and writes its figures as a line of JSON, its answer to `options.out`."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = smooth_pair(options.shape)
    register = {"published": published, "ours": ours}[options.only](options)
    before = peak_mb()
    runs = []
    for _ in range(options.runs):
        start = time.perf_counter(), time.process_time()
        answer = register(*images)
        runs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    seconds, processor = (min(one) for one in zip(*runs, strict=True))
    figures = {"seconds": seconds, "processor": processor, "before_mb": before, "peak_mb": peak_mb()}
    torch.save(answer, options.out)
    print(json.dumps(figures))


def run(name: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if options.huge_pages:
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    command = [sys.executable, "-m", "Testing.benchmarks.networks", "--only", name, "--out", str(out), "--what", options.what]
    command += ["--keep-all"] if options.keep_all else []
    command += ["--threads", str(options.threads), "--runs", str(options.runs), "--shape", *(str(size) for size in options.shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="GradICON's network beside the published one")
    parser.add_argument("--what", choices=("inference", "step"), default="inference")
    parser.add_argument("--keep-all", action="store_true", help="keep what a step's backward pass needs, which takes more memory")
    parser.add_argument("--shape", type=int, nargs="+", default=[175])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2, help="the best of them counts")
    parser.add_argument("--huge-pages", action="store_true", help="let torch ask the kernel for huge pages, for both")
    parser.add_argument("--only", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shape = tuple(options.shape * 3 if len(options.shape) == 1 else options.shape)
    if options.only:
        measure(options)
        return
    print(f"{'×'.join(map(str, options.shape))}, {options.what}, {options.threads} threads, both directions, fp32")
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
    if options.what == "inference":
        difference = max(float((theirs[name] - mine[name]).abs().max()) for name in theirs)
        print(f"largest difference of the maps: {difference:.1e} of the unit cube")
    else:
        differences = {name: float((theirs[name] - mine[name]).norm() / theirs[name].norm()) for name in theirs}
        print(
            f"relative difference of the loss: {differences.pop('loss'):.1e}; of the gradients: {max(differences.values()):.1e} at most"
        )


if __name__ == "__main__":
    main()
