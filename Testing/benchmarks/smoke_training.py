"""A 3-D training at 48³ on synthetic anatomies, which must beat the identity clearly on held-out pairs.

    python -m Testing.benchmarks.smoke_training [--minutes 14] [--threads 1] [--size 48]

Minutes are those of processor time, so that a busy machine gives the figures of an idle one. Prints Dice and the loss of similarity before and after; exit status 1 unless Dice rises by more than 0.05 and folds stay below 0.1 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from RegistrationNetLib.losses.similarity import LNCC
from RegistrationNetLib.models.gradicon import GradICONLoss, gradicon_network
from RegistrationNetLib.training.learning import LearningOptions, Objective, learning
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.validation import Look, look

HELD_OUT = 6
LOOK_EVERY_SECONDS = 60
RISE = 0.05
FOLDED_PERCENT = 0.1


def told(number: int, seconds: float, seen: Look) -> str:
    return (
        f"step {number}, {seconds:.0f} s: Dice {seen.dice_before:.3f} → {seen.dice:.3f}, loss of similarity {seen.similarity_before:.3f} → "
        f"{seen.similarity:.3f}, folds {seen.folded_percent:.4f} %"
    )


def trained(minutes: float, size: int) -> Look:
    """How a network does on held-out pairs after so many minutes of processor time, validation included."""
    torch.manual_seed(0)
    trainee = Trainee(gradicon_network(3, has_last_step=False))
    pairs = AnatomyPairs((size,) * 3, one_contrast=True)
    loss, held_out = GradICONLoss(LNCC(sigma_vox=3)), pairs.first(HELD_OUT)
    objective = Objective(trainee.network, loss, dice_weight=0.0)
    start = looked = time.process_time()
    step = None
    for step in learning(trainee, loss, pairs, LearningOptions(steps=10**9, learning_rate=3e-4, dice_weight=0.0)):
        now = time.process_time()
        if now - start > 60 * minutes:
            break
        if now - looked > LOOK_EVERY_SECONDS:
            looked = now
            print(told(step.number, now - start, look(objective, held_out)), flush=True)
    seen = look(objective, held_out)
    print(told(step.number if step else 0, time.process_time() - start, seen))
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A short 3-D training that must beat the identity")
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=48)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    seen = trained(options.minutes, options.size)
    return 0 if seen.dice > seen.dice_before + RISE and seen.folded_percent < FOLDED_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
