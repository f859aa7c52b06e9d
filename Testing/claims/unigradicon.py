"""uniGradICON: one network for two unlike families of images, and for a third that it never saw."""

from __future__ import annotations

from statistics import fmean

import torch

from RegistrationNetLib.models.composition import both_ways
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.training.augmentation import AugmentationOptions
from RegistrationNetLib.training.pairs import Pair, Pairs
from RegistrationNetLib.training.validation import mapped_points, overlap

from .setting import (
    IO_STEPS,
    Claim,
    Learnt,
    Mixed,
    Setting,
    anatomies,
    number,
    refined_maps,
    shapes,
    similarity,
    small_gradicon,
    still_points,
)

STEPS = 500
WEIGHT = 1.5
PAIRS = 8
WORKS = 0.03  # of Dice


def unigradicon(setting: Setting) -> Claim:
    brains = setting.brains()
    size = brains.images[0].values.shape[-1]
    known: dict[str, Pairs] = {"hollow shapes": shapes(size=size), "brain slices": brains}
    loss = GradICONLoss(similarity("lncc"), weight=WEIGHT)
    unseen = anatomies(size)
    affine = AugmentationOptions(affine=0.03)
    one = setting.learnt(
        "one for two families", small_gradicon, loss, Mixed(tuple(known.values())), steps=STEPS, augmentation=affine
    )
    own = setting.learnt("one for the third alone", small_gradicon, loss, unseen, steps=STEPS, augmentation=affine)
    rows = {name: (*_dice(one, pairs), None, None) for name, pairs in known.items()}
    before, zero_shot = _dice(one, unseen)
    refined, specialist = _refined_dice(setting, one, unseen), _dice(own, unseen)[1]
    rows["anatomies (never seen)"] = (before, zero_shot, refined, specialist)
    return Claim(
        paper="uniGradICON, arXiv 2403.05780",
        sentence="one network, trained once on several unlike data sets, does well on all of them and on new ones that it never saw, and "
        "some steps of instance optimization (IO) bring it to where a network of that data set alone is.",
        checked=f"One network of {size}², trained on hollow shapes and on 2-D brain slices (OASIS), {PAIRS} held-out pairs of each; the labels of "
        f"a slice are three classes of its brightness. IO: {IO_STEPS} steps on the weights, for each pair anew.",
        columns=("family", "Dice before", "the one network", "with IO", "a network trained on it alone"),
        rows=[(name, *("" if value is None else number(value) for value in values)) for name, values in rows.items()],
        held=[
            *((f"it works on {name}", values[1] > values[0] + WORKS) for name, values in rows.items()),
            ("IO closes at least half of the gap to a network of the family's own", _is_closed(zero_shot, refined, specialist)),
        ],
        pictures=[setting.picture(one, "unigradicon", "the one network, on a hollow shape")],
    )


def _is_closed(zero_shot: float, refined: float, specialist: float) -> bool:
    return refined - zero_shot >= 0.5 * max(0.0, specialist - zero_shot)


@torch.no_grad()
def _dice(run: Learnt, pairs: Pairs) -> tuple[float, float]:
    """Mean Dice of held-out pairs where nothing moves, and by the network."""
    return tuple(  # type: ignore[return-value]
        fmean(scores) for scores in zip(*(_both(run, pair) for pair in pairs.first(PAIRS)), strict=True)
    )


def _both(run: Learnt, pair: Pair) -> tuple[float, float]:
    run.objective.network.eval()
    maps = both_ways(run.objective.network, pair.moving.values, pair.fixed.values)
    return overlap(pair, still_points(pair)), overlap(pair, mapped_points(maps, pair)[0])


def _refined_dice(setting: Setting, run: Learnt, pairs: Pairs) -> float:
    """Mean Dice after the weights were fitted to each pair."""
    return fmean(overlap(pair, mapped_points(refined_maps(setting, run, pair), pair)[0]) for pair in pairs.first(PAIRS))
