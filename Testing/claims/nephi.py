"""NePhi: the accuracy of a field of voxels with less memory, and few folds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from RegistrationNetLib.deformation import Outside
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.models.losses import LossTerms
from RegistrationNetLib.models.nephi import NePhi
from RegistrationNetLib.models.nephi_loss import NePhiLoss
from RegistrationNetLib.models.steps import BothWays
from RegistrationNetLib.networks.latent import LatentCodes
from RegistrationNetLib.similarity import NCC, Measure

from .gradicon import GRADICON
from .setting import Claim, Setting, number, percent, shapes, similarity, small_gradicon

LATTICE = 96
STEPS, NEPHI_STEPS = 300, 2500
VOLUME = 80
EQUAL_DICE = 0.03


@dataclass(frozen=True)
class Coded(BothWays):
    """Maps with the codes of their pair, which the loss keeps short."""

    codes: LatentCodes


class BothWaysOfNePhi(nn.Module):
    """NePhi as the loop of training asks networks: both maps of a pair, together."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = NePhi(shape)

    def both_ways(self, moving: Tensor, fixed: Tensor) -> Coded:
        maps, codes = self.net(moving, fixed)
        return Coded(maps.moving_from_fixed, maps.fixed_from_moving, codes)

    forward = both_ways


@dataclass(frozen=True)
class LossOfNePhi:
    """NePhi's loss in the form of the others'."""

    inner: NePhiLoss = field(default_factory=NePhiLoss)
    similarity: Measure = field(default_factory=NCC)
    weight: float = 10.0
    outside: Outside = "zeros"

    def __call__(self, maps: Coded, moving: Tensor, fixed: Tensor, *, generator: object = None) -> LossTerms:
        with torch.enable_grad():  # its regularity is a derivative, also where the network is only looked at
            return self.inner(maps, maps.codes, moving, fixed, generator=generator)


def nephi(setting: Setting) -> Claim:
    pairs, lattice = shapes(size=LATTICE), (LATTICE, LATTICE)
    ours = setting.learnt("nephi", lambda: BothWaysOfNePhi(lattice), LossOfNePhi(), pairs, steps=NEPHI_STEPS, rate=1e-4)
    loss = GradICONLoss(similarity(), weight=GRADICON, stride=1)
    theirs = setting.learnt(f"gradicon at {LATTICE}", small_gradicon, loss, pairs, steps=STEPS)
    memory = {name: peak_mb(name) for name in ("nephi", "gradicon")}
    runs = {"nephi": ours, "gradicon": theirs}
    return Claim(
        paper="NePhi, arXiv 2309.07322",
        sentence="a deformation told by a small network of the place needs less memory than one told voxel by voxel, is as accurate, and "
        "folds hardly anywhere.",
        checked=f"Hollow triangles and circles of {LATTICE}². Memory: the most that a step of training takes on a volume of {VOLUME}³, "
        "above what the process holds before it, in a process of its own.",
        columns=("network", "Dice before", "Dice", "folded", "memory of a 3-D step"),
        rows=[
            (
                name,
                number(run.seen.dice_before),
                number(run.seen.dice),
                percent(run.seen.folded_percent),
                f"{memory[name]:.0f} MB",
            )
            for name, run in runs.items()
        ],
        held=[
            (f"Dice is at least that of GradICON less {EQUAL_DICE}", ours.seen.dice > theirs.seen.dice - EQUAL_DICE),
            ("folds are below 0.1 %", ours.seen.folded_percent < 0.1),
            ("a step takes less memory", memory["nephi"] < memory["gradicon"]),
        ],
        pictures=[setting.picture(ours, "nephi", "NePhi")],
    )


def peak_mb(name: str) -> float:
    command = [sys.executable, "-m", f"{__package__}.memory", name, str(VOLUME)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[2])
    return float(told.stdout)
