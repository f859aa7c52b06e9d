"""ICON: inverse consistency alone makes maps regular."""

from RegistrationNetLib.models.icon import ICONLoss

from .setting import Claim, Learnt, Setting, number, percent, shapes, similarity, small_gradicon

STEPS = 400
WEIGHT = 100.0
LOOK_EVERY = 25


def learnt_by_icon(setting: Setting, weight: float) -> Learnt:
    """The small network after training with ICON's loss at that weight; 0 is similarity alone."""
    loss = ICONLoss(similarity(), weight=weight)
    return setting.learnt(f"icon {weight:g}", small_gradicon, loss, shapes(), steps=STEPS, look_every=LOOK_EVERY)


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
