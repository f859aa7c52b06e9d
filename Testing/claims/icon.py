"""ICON: inverse consistency alone makes maps regular."""

from RegistrationNetLib.models.icon import ICONLoss

from .setting import Claim, Setting, number, percent, shapes, similarity, small_gradicon

STEPS = 300
WEIGHT = 1000.0
LOOK_EVERY = 25


def icon(setting: Setting) -> Claim:
    runs = {
        "no regularizer (λ = 0)": setting.learnt(
            "similarity alone", small_gradicon, ICONLoss(similarity(), weight=0.0), shapes(), steps=STEPS
        ),
        f"ICON (λ = {WEIGHT:g})": setting.learnt(
            f"icon {WEIGHT:g}",
            small_gradicon,
            ICONLoss(similarity(), weight=WEIGHT),
            shapes(),
            steps=STEPS,
            look_every=LOOK_EVERY,
        ),
    }
    without, with_it = (run.seen for run in runs.values())
    return Claim(
        paper="ICON, arXiv 2105.04459",
        sentence="a deep network that is only asked to be inverse consistent, at points off the grid, learns maps that are close to "
        "diffeomorphic, without any other regularizer.",
        checked="Hollow triangles and circles. The same network, once with similarity alone, once with ICON's loss added.",
        columns=("loss", "Dice before", "Dice", "folded", "inverse-consistency error (of the image's length)"),
        rows=[
            (name, number(run.seen.dice_before), number(run.seen.dice), percent(run.seen.folded_percent),
             f"{run.seen.inverse_error:.2e}")
            for name, run in runs.items()
        ],
        held=[
            ("folds are below 0.1 % with ICON", with_it.folded_percent < 0.1),
            ("without it they are above 1 %", without.folded_percent > 1),
            ("Dice rises by more than 0.1 with ICON", with_it.dice > with_it.dice_before + 0.1),
        ],
        pictures=[setting.picture(run, f"icon_{place}", name) for place, (name, run) in enumerate(runs.items())],
    )  # fmt: skip
