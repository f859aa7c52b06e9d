"""ICON: inverse consistency alone makes maps regular."""

from RegistrationNetLib.models.icon import ICONLoss
from RegistrationNetLib.training.learning import TrainingLoss

from .setting import Claim, Learnt, Setting, number, percent, shapes, similarity, wide_gradicon

STEPS, RATE = 500, 5e-4
WEIGHT = 100.0
LOOK_EVERY = 25


def learnt_with(setting: Setting, name: str, loss: TrainingLoss) -> Learnt:
    """The network of the claims about ICON and GradICON, after training with that loss."""
    return setting.learnt(name, wide_gradicon, loss, shapes(), steps=STEPS, rate=RATE, look_every=LOOK_EVERY)


def learnt_by_icon(setting: Setting, weight: float) -> Learnt:
    """After training with ICON's loss at that weight; 0 is similarity alone."""
    return learnt_with(setting, f"wide, icon {weight:g}", ICONLoss(similarity(), weight=weight))


def icon(setting: Setting) -> Claim:
    runs = {weight: learnt_by_icon(setting, weight) for weight in (0.0, 0.1 * WEIGHT, WEIGHT)}
    without, with_it = (runs[weight].seen for weight in (0.0, WEIGHT))
    return Claim(
        paper="ICON, arXiv 2105.04459",
        sentence="a deep network that is only asked to be inverse consistent, at points off the grid, learns maps that are close to "
        "diffeomorphic, without any other regularizer.",
        checked="Hollow triangles and circles. The same network with similarity alone (λ = 0), and with ICON's loss added at two weights; "
        f"the conditions are about λ = {WEIGHT:g}.",
        columns=("λ", "Dice before", "Dice", "folded", "inverse-consistency error (of the image's length)"),
        rows=[
            (f"{weight:g}", number(run.seen.dice_before), number(run.seen.dice), percent(run.seen.folded_percent),
             f"{run.seen.inverse_error:.2e}")
            for weight, run in runs.items()
        ],
        held=[
            ("folds are below 0.1 % with ICON", with_it.folded_percent < 0.1),
            ("without it they are above 1 %", without.folded_percent > 1),
            ("Dice rises by more than 0.1 with ICON", with_it.dice > with_it.dice_before + 0.1),
        ],
        pictures=[setting.picture(runs[weight], f"icon_{weight:g}", f"ICON, λ = {weight:g}") for weight in (0.0, WEIGHT)],
    )  # fmt: skip
