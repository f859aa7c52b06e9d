"""What all claims share: networks that learn for a fixed number of steps, held-out pairs, and how a claim is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from torch import Tensor, nn

from RegistrationNetLib.geometry.deformation import identity_points
from RegistrationNetLib.losses.direction import DirectionOptions, both_directions
from RegistrationNetLib.losses.similarity import LNCC, SSD, Measure
from RegistrationNetLib.models.composition import BothWays, Downsample, FunctionFromVectorField, TwoStep
from RegistrationNetLib.models.layers.unet import TallUNet
from RegistrationNetLib.registration.network_refinement import NetworkOptions, refine_network
from RegistrationNetLib.training.augmentation import AugmentationOptions
from RegistrationNetLib.training.learning import LearningOptions, Objective, TrainingLoss, learning_in_turn
from RegistrationNetLib.training.pairs import Example, Pair, Pairs
from RegistrationNetLib.training.record import draw_maps, draw_pair
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.synthetic import AnatomyPairs, ShapePairs
from RegistrationNetLib.training.validation import Look, look

from .course import Course
from .small_unet import SmallUNet

SIZE = 48
BATCH = 8
HELD_OUT = 24
KEEP_EVERY = 50
IO_STEPS, IO_RATE = 50, 2e-4
ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "build" / "claims"
SLICES = ROOT.parent / "shared" / "data" / "oasis2d"


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, and whether it held.

    Attributes:
        paper, sentence: where it stands, and what it says, in our words.
        checked: what of it is checked here, and how.
        columns, rows: the figures.
        held: each condition in words, and whether it is met.
        pictures: files in the folder of the pictures, with a caption.
        remark: what the figures do not say by themselves.
    """

    paper: str
    sentence: str
    checked: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    held: Sequence[tuple[str, bool]]
    pictures: Sequence[tuple[str, str]] = ()
    remark: str = ""


class Skipped(Exception):
    """A claim cannot be checked here; the message says why."""


@dataclass
class Setting:
    """How long things learn, and where pictures go.

    Args:
        share: of the steps that the full run takes; the quick one shows only that everything runs.
        pictures: the folder.
        slices: of the 2-D brain images, which are not shipped.
        runs: where trainings are kept on their way.
        goes_on: take trainings up where they are kept; else they start anew.
    """

    share: float
    pictures: Path
    slices: Path = SLICES
    runs: Path = RUNS
    goes_on: bool = False
    said: Callable[[str], None] = print
    seconds_before: float = 0.0
    kept: dict[str, Learnt] = field(default_factory=dict)

    def steps(self, full: int) -> int:
        return max(2, round(self.share * full))

    def learnt(self, name: str, make: Callable[[], nn.Module], loss: TrainingLoss, pairs: Pairs, **options: Any) -> Learnt:
        """A network that has learnt; what two claims need is made once, under one `name`."""
        if name not in self.kept:
            self.kept[name] = self._learn(name, make, loss, pairs, **options)
        return self.kept[name]

    def _learn(
        self,
        name: str,
        make: Callable[[], nn.Module],
        loss: TrainingLoss,
        pairs: Pairs,
        *,
        steps: int,
        rate: float = 1e-3,
        seed: int = 0,
        batch: int = BATCH,
        look_every: int | None = None,
        begin: tuple[TrainingLoss, int] | None = None,
        augmentation: AugmentationOptions = AugmentationOptions(),
    ) -> Learnt:
        torch.manual_seed(seed)
        trainee = Trainee(make())
        options = LearningOptions(
            steps=self.steps(steps), batch=batch, learning_rate=rate, seed=seed, dice_weight=0.0, augmentation=augmentation
        )
        objective, held_out = Objective(trainee.network, loss, dice_weight=0.0), pairs.first(max(2, round(self.share * HELD_OUT)))
        course = Course(self.runs / name.replace(" ", "_"), options)
        if self.goes_on:
            course.take_up(trainee)
            self.seconds_before += course.seconds_before
        every = self.steps(look_every or steps)
        losses = [*([] if begin is None else [(begin[0], self.steps(begin[1]))]), (loss, options.steps)]
        for step in learning_in_turn(trainee, losses, Unlabelled(pairs), options):
            if step.number % every == 0:
                course.curve.append((step.number, look(objective, held_out)))
            if step.number % KEEP_EVERY == 0 or step.number == options.steps:
                course.keep(trainee)
        seen, seconds = look(objective, held_out), course.seconds
        self.said(
            f"  {name}: {options.steps} steps, {seconds:.0f} s of processor time, "
            f"Dice {seen.dice_before:.3f} → {seen.dice:.3f}, folds {seen.folded_percent:.3f} %"
        )
        return Learnt(objective, seen, course.curve, held_out)

    def picture_of(self, pair: Pair, maps: BothWays, name: str, caption: str) -> tuple[str, str]:
        """A drawn pair."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        draw_maps(maps, pair, self.pictures / f"{name}.png")
        return f"{name}.png", caption

    def picture(self, learnt: Learnt, name: str, caption: str, place: int = 0) -> tuple[str, str]:
        """A drawn held-out pair."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        draw_pair(learnt.objective, learnt.held_out[place], self.pictures / f"{name}.png")
        return f"{name}.png", caption

    def brains(self) -> BrainPairs:
        """The 2-D brain slices.

        Raises:
            Skipped: they are not on this machine.
        """
        files = sorted(self.slices.glob("*.nrrd"))
        if len(files) < 8:
            raise Skipped(f"{self.slices} does not hold the brain slices")
        return BrainPairs(tuple(_brain(file) for file in files))


@dataclass(frozen=True)
class Learnt:
    """A network after training, how it does on held-out pairs, and how it came there."""

    objective: Objective
    seen: Look
    curve: Sequence[tuple[int, Look]]
    held_out: Sequence[Pair]


def refined_maps(setting: Setting, run: Learnt, pair: Pair) -> BothWays:
    """The maps of a pair after the network's weights were fitted to it (IO)."""
    loss = run.objective.loss
    options = NetworkOptions(loss, learning_rate=IO_RATE, steps=setting.steps(IO_STEPS))
    directions = both_directions(*unlabelled(pair).sides(), DirectionOptions(loss.similarity, outside=loss.outside))
    return refine_network(run.objective.network, directions, options, report=lambda _: None).maps


def still_points(pair: Pair) -> Tensor:
    """The lattice of a pair where nothing moves."""
    return identity_points(pair.fixed.values.shape[2:], pair.fixed.values)


@dataclass(frozen=True)
class Unlabelled:
    """Pairs without their labels: these judge, and are not learnt from."""

    pairs: Pairs

    def draw(self, random: torch.Generator) -> Pair:
        return unlabelled(self.pairs.draw(random))

    def first(self, count: int) -> list[Pair]:
        return [unlabelled(pair) for pair in self.pairs.first(count)]


def unlabelled(pair: Pair) -> Pair:
    return Pair(replace(pair.fixed, labels=None), replace(pair.moving, labels=None))


@dataclass(frozen=True)
class BrainPairs:
    """Slices of the brains of different people. The last four are held out."""

    images: tuple[Example, ...]

    def draw(self, random: torch.Generator) -> Pair:
        known = len(self.images) - 4
        first = int(torch.randint(known, (), generator=random))
        second = (first + 1 + int(torch.randint(known - 1, (), generator=random))) % known
        return Pair(self.images[first], self.images[second])

    def first(self, count: int) -> list[Pair]:
        held_out = self.images[-4:]
        pairs = [Pair(one, other) for one in held_out for other in held_out if one is not other]
        return pairs[:count]


def _brain(file: Path) -> Example:
    """A slice at half resolution, with three classes of brightness as labels: what is dark, grey and white within the head."""
    values = torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))).float()[None, None]
    values = torch.nn.functional.avg_pool2d(values, 2)
    values = values / values.max()
    inside = values > 0.05
    low, high = torch.quantile(values[inside], torch.tensor([0.33, 0.66]))
    labels = inside.long() + (values > low).long() + (values > high).long()
    return Example(values, labels=labels * inside)


@dataclass(frozen=True)
class Mixed:
    """Pairs of several families, each as likely as the others."""

    families: tuple[Pairs, ...]

    def draw(self, random: torch.Generator) -> Pair:
        return self.families[int(torch.randint(len(self.families), (), generator=random))].draw(random)

    def first(self, count: int) -> list[Pair]:
        return [pair for family in self.families for pair in family.first(count // len(self.families))]


def small_gradicon() -> nn.Module:
    """GradICON's composition without its coarsest and its last step, and with small U-nets: at half and at full resolution."""
    return _two_steps(SmallUNet(), SmallUNet())


def wide_gradicon() -> nn.Module:
    """The same, with the published U-nets."""
    return _two_steps(TallUNet(2), TallUNet(2))


def _two_steps(coarse: nn.Module, fine: nn.Module) -> nn.Module:
    return TwoStep(Downsample(FunctionFromVectorField(coarse)), FunctionFromVectorField(fine))


def shapes(*, size: int = SIZE, hollow: bool = True) -> ShapePairs:
    return ShapePairs(size, hollow=hollow, noise=0.01)


def anatomies(size: int = SIZE) -> AnatomyPairs:
    return AnatomyPairs((size, size), one_contrast=True)


def similarity(kind: str = "ssd") -> Measure:
    """SSD for images of one brightness; LNCC over the neighbourhood that the published networks use, for their lattice."""
    return {"ssd": SSD(), "lncc": LNCC(sigma_vox=3)}[kind]


def percent(value: float) -> str:
    return f"{value:.3f} %"


def number(value: float) -> str:
    return f"{value:.3f}"


def voxels(value: float, size: int = SIZE) -> str:
    """A length in lengths of the cube, in voxels."""
    return f"{value * (size - 1):.2e} vox"
