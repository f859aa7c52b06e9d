"""ICON: inverse consistency alone makes maps regular."""

from RegistrationNetLib.models.icon import ICONLoss

from .setting import Claim, Setting, number, percent, shapes, similarity, small_gradicon

STEPS = 800
WEIGHT = 1000.0
LOOK_EVERY = 100


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
        sentence="We find that deep networks combined with an inverse consistency loss and randomized off-grid interpolation "
        "yield well behaved, approximately diffeomorphic, spatial transformations.",
        checked="Hollow triangles and circles. The same network, once with similarity alone, once with ICON's loss added.",
        columns=("loss", "Dice before", "Dice", "folded", "inverse-consistency error (of the image's length)"),
        rows=[
            (name, number(run.seen.dice_before), number(run.seen.dice), percent(run.seen.folded_percent),
             f"{run.seen.inverse_error:.2e}")
            for name, run in runs.items()
        ],
        held=[
            ("folds are below 0.1 % with ICON", with_it.folded_percent < 0.1),
            ("folds are at least ten times as many without", without.folded_percent > 10 * with_it.folded_percent),
            ("Dice rises by more than 0.1 with ICON", with_it.dice > with_it.dice_before + 0.1),
        ],
        pictures=[setting.picture(run, f"icon_{place}", name) for place, (name, run) in enumerate(runs.items())],
    )  # fmt: skip
