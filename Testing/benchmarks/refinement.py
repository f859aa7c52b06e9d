"""What refinement adds to a network's prediction, and what it costs: of the network's weights, and of the field.

    python -m Testing.benchmarks.refinement [--weights FILE] [--steps 50] [--threads 2]

uniGradICON's network registers two heads (ch2 and MNI, at 1 mm) and is not refined, refined as published, or refined in the field,
each in a process of its own. Without `--weights` its weights are random, small displacements in all directions: nothing learnt, but
the same start for all. Similarity is local correlation over fixed (higher is better), folds are of the transform delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from Testing.benchmarks.known_warps import data_folder

ROWS = ("none", "network", "field")


def random_weights(file: Path) -> None:
    import torch

    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.registration.methods import untrained_network
    from Testing.models.layers.published import randomize

    network = untrained_network(card_named("unigradicon"))
    randomize(network, displacement=0.001)
    torch.save(network.state_dict(), file)


def measure(options: argparse.Namespace) -> None:
    import torch

    from RegistrationNetLib import register

    torch.set_num_threads(options.threads)
    result = register(
        data_folder() / "ch2.nii.gz", data_folder() / "mni.nii.gz", model="unigradicon", weights=options.weights, refine=options.only,
        steps=options.steps if options.only == "network" else None, fixed_modality="mr", moving_modality="mr",
    )  # fmt: skip
    print(json.dumps(result.report()))


def main() -> None:
    parser = argparse.ArgumentParser(description="refinement of the network and of the field")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--steps", type=int, default=50, help="of the network's refinement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or Path(folder) / "weights.trch"
        if not options.weights:
            random_weights(weights)
        print("| refine | similarity | folded % | refine s | total s | MB | steps |\n|---|---|---|---|---|---|---|")
        for row in options.rows.split(","):
            command = [sys.executable, "-m", "Testing.benchmarks.refinement", "--only", row, "--weights", str(weights)]
            command += ["--threads", str(options.threads), "--steps", str(options.steps)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            report = json.loads(done.stdout.splitlines()[-1])
            similarity, seconds = report["similarity"], report["seconds"]
            steps = report.get("steps_done", report["inputs"]["steps"])
            print(
                f"| {row} | {similarity['before']:.4f} → {similarity['after']:.4f} | {report['jacobian']['folded_percent']:.4f} "
                f"| {seconds['refine']:.1f} | {seconds['total']:.1f} | {report['peak_memory_mb']:.0f} | {steps} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
