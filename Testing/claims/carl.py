"""CARL: shifting or turning one image leaves Dice as it was, GradICON's drops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RegistrationNetLib.deformation import identity_points
from RegistrationNetLib.models.equivariant import RotationFunctionFromVectorField
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.models.steps import Downsample, TwoStep, both_ways, mapped_lattice
from RegistrationNetLib.networks.attention import CoordinateAttention
from RegistrationNetLib.networks.features import DilatedFeatures, Equivariantize
from RegistrationNetLib.training.examples import Example, Pair, stacked
from RegistrationNetLib.training.learning import step_random
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.trainee import Trainee
from RegistrationNetLib.training.validation import overlap

from .gradicon import GRADICON
from .setting import Claim, Learnt, Setting, number, similarity, small_gradicon

SHAPE, MARGIN = 32, 16
WIDE = SHAPE + 2 * MARGIN
FEATURES = 32  # of a cell; the published networks have 128
KNOWN_STEPS, STEPS, GRADICON_STEPS = 1500, 1200, 1200
KEPT_DICE, DROPPED_DICE = 0.05, 0.1
# Shapes will not do: a circle looks the same after half a turn, and so do features that are averaged over half turns.
ANATOMIES = AnatomyPairs((SHAPE, SHAPE), classes=5, displacement=0.1, one_contrast=True, blur_vox=0.5, bias=0.0, noise=0.02)
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda image: image,
    "shifted by 4 voxels": lambda image: image.roll((4, 0), (2, 3)),
    "by 5 and 3": lambda image: image.roll((5, -3), (2, 3)),
    "by 8 and 8": lambda image: image.roll((8, -8), (2, 3)),
    "turned by 180°": lambda image: image.flip((2, 3)),
}


@dataclass(frozen=True)
class WithMargin:
    """Anatomies with so much background around them that a shift leaves them within the image."""

    pairs: AnatomyPairs

    def draw(self, random: torch.Generator) -> Pair:
        return _widened(self.pairs.draw(random))

    def first(self, count: int) -> list[Pair]:
        return [_widened(pair) for pair in self.pairs.first(count)]

    def known(self, random: torch.Generator) -> tuple[Pair, Tensor]:
        """A pair, and where the lattice of what is not margin lies in moving: [1, 2, SHAPE, SHAPE]."""
        known = self.pairs.known(random)
        points = known.moving_from_fixed(identity_points((SHAPE, SHAPE), known.pair.fixed.values))
        return _widened(known.pair), (points * (SHAPE - 1) + MARGIN) / (WIDE - 1)


def _widened(pair: Pair) -> Pair:
    return Pair(*(_example_widened(one) for one in (pair.fixed, pair.moving)))


def _example_widened(example: Example) -> Example:
    values, labels = (F.pad(one, (MARGIN,) * 4) for one in (example.values, example.labels))
    return replace(example, values=values, labels=labels)


def attention_begun(setting: Setting, pairs: WithMargin) -> nn.Module:
    """CARL's first step, with fewer features, after some steps towards maps that are known."""
    torch.manual_seed(0)
    features = Equivariantize(DilatedFeatures(2, channels=FEATURES))
    attention = Downsample(Downsample(RotationFunctionFromVectorField(CoordinateAttention(features))))
    trainee = Trainee(attention.train())
    inside = (slice(None), slice(None), *[slice(MARGIN, -MARGIN)] * 2)
    for step in range(setting.steps(KNOWN_STEPS)):
        random = step_random(0, step, 0)
        drawn = [pairs.known(random) for _ in range(2)]
        pair, truth = stacked([one for one, _ in drawn]), torch.cat([points for _, points in drawn])
        found = mapped_lattice(attention(pair.moving.values, pair.fixed.values), (WIDE, WIDE), truth)[inside]
        ((found - truth) * WIDE).square().mean().backward()
        trainee.step(1e-3)
    return attention


def carl(setting: Setting) -> Claim:
    pairs = WithMargin(ANATOMIES)
    loss = GradICONLoss(similarity(), weight=GRADICON, outside="border", stride=1)
    ours = setting.learnt(
        "carl", lambda: TwoStep(attention_begun(setting, pairs), small_gradicon()), loss, pairs, steps=STEPS, rate=5e-4, batch=4
    )
    theirs = setting.learnt("gradicon with margin", small_gradicon, loss, pairs, steps=GRADICON_STEPS, batch=4)
    dice = {
        name: [dice_where(run, change) for change in CHANGES.values()] for name, run in (("CARL", ours), ("GradICON", theirs))
    }
    drop = {name: values[0] - min(values[1:]) for name, values in dice.items()}
    return Claim(
        paper="CARL, arXiv 2405.16738",
        sentence="networks that predict displacements follow only where both images move alike; attention to coordinates follows where "
        "each moves for itself, also in a network of several steps.",
        checked=f"Synthetic anatomies of {SHAPE}² within {WIDE}². CARL's composition for turns, with {FEATURES} features a cell; its "
        f"attention first learns {KNOWN_STEPS} steps from maps that are known, and then all learns by GradICON's loss. No network meets a "
        "shift or a turn while it learns; then moving alone is shifted or turned.",
        columns=("network", "Dice before", *CHANGES),
        rows=[
            (name, number(ours.seen.dice_before), *(number(value) for value in values)) for name, values in dice.items()
        ],
        held=[
            *(
                (f"{name} registers the pairs as they are: Dice rises by more than 0.1", dice[name][0] > run.seen.dice_before + 0.1)
                for name, run in (("CARL", ours), ("GradICON", theirs))
            ),
            (f"CARL's Dice falls by less than {KEPT_DICE}", drop["CARL"] < KEPT_DICE),
            (f"GradICON's falls by more than {DROPPED_DICE}", drop["GradICON"] > DROPPED_DICE),
        ],
        pictures=[setting.picture(ours, "carl", "CARL")],
    )  # fmt: skip


@torch.no_grad()
def dice_where(run: Learnt, change: Callable[[Tensor], Tensor]) -> float:
    """Mean Dice of the held-out pairs where moving is changed."""
    run.lesson.network.eval()
    scores = []
    for pair in run.held_out:
        assert pair.moving.labels is not None
        changed = Pair(pair.fixed, Example(change(pair.moving.values), labels=change(pair.moving.labels)))
        maps = both_ways(run.lesson.network, changed.moving.values, changed.fixed.values)
        scores.append(overlap(changed, mapped_lattice(maps.moving_from_fixed, pair.fixed.values.shape[2:], pair.fixed.values)))
    return fmean(scores)
