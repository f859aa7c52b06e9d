"""CARL: shifting or turning one image leaves Dice as it was, GradICON's drops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RegistrationNetLib.geometry.deformation import jacobian_determinant
from RegistrationNetLib.models.carl import DiffusionLoss
from RegistrationNetLib.models.carl_equivariance import RotationFunctionFromVectorField
from RegistrationNetLib.models.composition import Downsample, TwoStep, both_ways, mapped_lattice
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.models.layers.attention import CoordinateAttention
from RegistrationNetLib.models.layers.features import DilatedFeatures, Equivariantize
from RegistrationNetLib.training.pairs import Example, Pair
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.validation import overlap

from .setting import Claim, Learnt, Setting, number, percent, similarity, small_gradicon

SHAPE, MARGIN = 48, 24
WIDE = SHAPE + 2 * MARGIN
FEATURES = 32  # of a cell; the published networks have 128
BEGIN_STEPS = 500
LEARNING: Mapping[str, Any] = {"steps": 1000, "rate": 5e-4, "batch": 4}
LNCC, WEIGHT = similarity("lncc"), 1.5  # as published, for both losses
KEPT_DICE, DROPPED_DICE = 0.05, 0.1
# Shapes will not do: a circle looks the same after half a turn, and so do features that are averaged over half turns.
ANATOMIES = AnatomyPairs(
    (SHAPE, SHAPE), classes=5, displacement=0.2, one_contrast=True, anatomy=0, blur_vox=0.5, bias=0.0, noise=0.02
)
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda image: image,
    "shifted by 4 voxels": lambda image: image.roll((4, 0), (2, 3)),
    "shifted by 7 and 5": lambda image: image.roll((7, -5), (2, 3)),
    "shifted by 12 and 12": lambda image: image.roll((12, -12), (2, 3)),
    "turned by 180°": lambda image: image.flip((2, 3)),
}

SHOWN = {"shifted by 12 and 12": "shifted", "turned by 180°": "turned"}


@dataclass(frozen=True)
class WithMargin:
    """Anatomies with so much background around them that a shift leaves them within the image."""

    pairs: AnatomyPairs

    def draw(self, random: torch.Generator) -> Pair:
        return _widened(self.pairs.draw(random))

    def first(self, count: int) -> list[Pair]:
        return [_widened(pair) for pair in self.pairs.first(count)]


def _widened(pair: Pair) -> Pair:
    return Pair(*(_example_widened(one) for one in (pair.fixed, pair.moving)))


def _example_widened(example: Example) -> Example:
    values, labels = (F.pad(one, (MARGIN,) * 4) for one in (example.values, example.labels))
    return replace(example, values=values, labels=labels)


def small_carl() -> nn.Module:
    """CARL's composition for turns, with fewer features and small U-nets."""
    features = Equivariantize(DilatedFeatures(2, channels=FEATURES))
    attention = Downsample(Downsample(RotationFunctionFromVectorField(CoordinateAttention(features))))
    return TwoStep(attention, small_gradicon())


def carl(setting: Setting) -> Claim:
    pairs = WithMargin(ANATOMIES)
    loss = GradICONLoss(LNCC, weight=WEIGHT, outside="border", stride=1)
    ours = setting.learnt("carl", small_carl, loss, pairs, begin=(DiffusionLoss(LNCC, weight=WEIGHT), BEGIN_STEPS), **LEARNING)
    theirs = setting.learnt("gradicon with margin", small_gradicon, loss, pairs, **LEARNING)
    dice = {
        name: [dice_where(run, change) for change in CHANGES.values()] for name, run in (("CARL", ours), ("GradICON", theirs))
    }
    drop = {name: values[0] - min(values[1:]) for name, values in dice.items()}
    return Claim(
        paper="CARL, arXiv 2405.16738",
        sentence="networks that predict displacements follow only where both images move alike; attention to coordinates follows where "
        "each moves for itself, also in a network of several steps.",
        checked=f"One synthetic anatomy, deformed anew for each image, of {SHAPE}² within {WIDE}². CARL's composition for turns, with {FEATURES} features a cell. "
        f"As published it begins with diffusion, for {BEGIN_STEPS} steps, and goes on with GradICON's loss, by which GradICON learns all "
        "the while. No network meets a shift or a turn while it learns; then moving alone is shifted or turned.",
        columns=("network", "folded, in the body", "Dice before", *CHANGES),
        rows=[
            (name, percent(folded_in_body(run)), number(run.seen.dice_before), *(number(value) for value in dice[name]))
            for name, run in (("CARL", ours), ("GradICON", theirs))
        ],
        held=[
            *(
                (f"{name} registers the pairs as they are: Dice rises by more than 0.1", dice[name][0] > run.seen.dice_before + 0.1)
                for name, run in (("CARL", ours), ("GradICON", theirs))
            ),
            (f"CARL's Dice falls by less than {KEPT_DICE}", drop["CARL"] < KEPT_DICE),
            (f"GradICON's falls by more than {DROPPED_DICE}", drop["GradICON"] > DROPPED_DICE),
        ],
        pictures=[
            setting.picture(ours, "carl", "CARL"),
            *(_shown(setting, run, name, change) for name, run in (("CARL", ours), ("GradICON", theirs)) for change in SHOWN),
        ],
    )  # fmt: skip


@torch.no_grad()
def dice_where(run: Learnt, change: Callable[[Tensor], Tensor]) -> float:
    """Mean Dice of the held-out pairs where moving is changed."""
    run.objective.network.eval()
    scores = []
    for pair in run.held_out:
        changed = _changed(pair, change)
        maps = both_ways(run.objective.network, changed.moving.values, changed.fixed.values)
        scores.append(overlap(changed, mapped_lattice(maps.moving_from_fixed, pair.fixed.values.shape[2:], pair.fixed.values)))
    return fmean(scores)


@torch.no_grad()
def folded_in_body(run: Learnt) -> float:
    """Share of the fixed body where the maps of the held-out pairs fold, in percent; in an empty corner nothing tells places apart."""
    folded = []
    for pair in run.held_out:
        assert pair.fixed.labels is not None
        maps = both_ways(run.objective.network, pair.moving.values, pair.fixed.values)
        points = mapped_lattice(maps.moving_from_fixed, pair.fixed.values.shape[2:], pair.fixed.values)
        folded.append((jacobian_determinant(points) <= 0)[pair.fixed.labels > 0])
    return 100 * float(torch.cat(folded).float().mean())


@torch.no_grad()
def _shown(setting: Setting, run: Learnt, name: str, change: str) -> tuple[str, str]:
    """A picture of the first held-out pair where moving is changed; after `dice_where`, which leaves the network as it predicts."""
    pair = _changed(run.held_out[0], CHANGES[change])
    maps = both_ways(run.objective.network, pair.moving.values, pair.fixed.values)
    return setting.picture_of(pair, maps, f"carl_{name.lower()}_{SHOWN[change]}", f"{name}, moving {change}")


def _changed(pair: Pair, change: Callable[[Tensor], Tensor]) -> Pair:
    assert pair.moving.labels is not None
    return Pair(pair.fixed, Example(change(pair.moving.values), labels=change(pair.moving.labels)))
