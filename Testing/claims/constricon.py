"""ConstrICON: the inverse by construction, at equal Dice."""

from torch import nn

from RegistrationNetLib.models.constricon import (
    InverseConsistent,
    MatrixExponential,
    TwoStepInverseConsistent,
    VelocityDiffusionLoss,
    VelocityExponential,
)
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.models.layers.matrix import ConvolutionalMatrixNet
from RegistrationNetLib.training.validation import look

from .gradicon import WEIGHTS as ALL_WEIGHTS
from .setting import Claim, Learnt, Setting, number, percent, shapes, similarity, small_gradicon, voxels
from .small_unet import SmallUNet

STEPS = 400
WEIGHTS = (0.01, 0.1, 1.0)  # of the velocities' diffusion; published are 5 and 0.5
GRADICON_WEIGHTS = ALL_WEIGHTS["GradICON"]
EQUAL_DICE = 0.02
MANY_SQUARINGS = 12


def small_constricon() -> nn.Module:
    """ConstrICON's composition with one affine step instead of two, and small U-nets for its two velocities."""
    velocities = TwoStepInverseConsistent(*(VelocityExponential(SmallUNet()) for _ in range(2)))
    return InverseConsistent(TwoStepInverseConsistent(MatrixExponential(ConvolutionalMatrixNet(2)), velocities))


def constricon(setting: Setting) -> Claim:
    ours = {weight: _constricon(setting, weight) for weight in WEIGHTS}
    theirs = {weight: _gradicon(setting, weight) for weight in GRADICON_WEIGHTS}
    roughest, smoothest = ours[WEIGHTS[0]], ours[WEIGHTS[-1]]
    best = max(theirs.values(), key=lambda run: run.seen.dice)
    return Claim(
        paper="ConstrICON, arXiv 2305.00087",
        sentence="a network of several steps whose maps are inverse to each other by construction, and not by a loss, is as accurate.",
        checked=f"Hollow triangles and circles, as many steps for both, each at weights that span two orders of magnitude. The conditions "
        f"are about ConstrICON at λ = {WEIGHTS[-1]:g} and that GradICON whose Dice is best.",
        columns=("network", "λ", "Dice before", "Dice", "folded", "inverse-consistency error"),
        rows=[
            (
                name,
                f"{weight:g}",
                number(run.seen.dice_before),
                number(run.seen.dice),
                percent(run.seen.folded_percent),
                voxels(run.seen.inverse_error),
            )
            for name, runs in (("ConstrICON", ours), ("GradICON", theirs))
            for weight, run in runs.items()
        ],
        held=[
            (f"Dice is at least that of GradICON less {EQUAL_DICE}", smoothest.seen.dice > best.seen.dice - EQUAL_DICE),
            (
                "the inverse-consistency error is at least a hundred times smaller",
                100 * smoothest.seen.inverse_error < best.seen.inverse_error,
            ),
        ],
        remark=f"ConstrICON's error is that of maps which are linear between the points of a coarse lattice, and falls as velocities become "
        f"smoother. More squarings, {MANY_SQUARINGS} instead of 7, hardly change it: {voxels(finer_error(roughest))} at λ = {WEIGHTS[0]:g}.",
        pictures=[setting.picture(smoothest, "constricon", f"ConstrICON, λ = {WEIGHTS[-1]:g}")],
    )  # fmt: skip


def _constricon(setting: Setting, weight: float) -> Learnt:
    loss = VelocityDiffusionLoss(similarity(), weight=weight)
    return setting.learnt(f"constricon {weight:g}", small_constricon, loss, shapes(), steps=STEPS)


def _gradicon(setting: Setting, weight: float) -> Learnt:
    loss = GradICONLoss(similarity(), weight=weight, stride=1)
    return setting.learnt(f"gradicon {weight:g}", small_gradicon, loss, shapes(), steps=STEPS)


def finer_error(run: Learnt) -> float:
    """The inverse-consistency error of the same network where its exponentials are worked out more finely."""
    steps = [one for one in run.objective.network.modules() if isinstance(one, VelocityExponential)]
    before = [one.squarings for one in steps]
    for one in steps:
        one.squarings = MANY_SQUARINGS
    error = look(run.objective, run.held_out).inverse_error
    for one, squarings in zip(steps, before, strict=True):
        one.squarings = squarings
    return error
