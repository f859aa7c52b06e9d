"""The loop of training: a pair, its loss, a step; on one device or on several.

Everything random in a step comes from a generator that is seeded by the run's seed, the step and the process. So a training
that is resumed at some step goes on as if it had not been interrupted, and there is no state of a sampler to keep.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, RefinementError
from ..losses.direction import DirectionOptions, both_directions
from ..models.composition import BothWays, both_ways
from ..models.layers.unet import DOWN_CHANNELS, TallUNet
from ..models.nephi_loss import NePhiLoss
from ..models.training_loss import Loss, LossTerms, loss_of_directions
from .augmentation import AugmentationOptions, augmented
from .loaders import worked_ahead
from .pairs import Pair, Pairs, stacked
from .processes import ALONE, Processes
from .schedule import ScheduleOptions
from .state import Trainee

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
# Where a U-net's last convolution down meets one voxel, torch (2.13) reads memory that nobody wrote for its gradient in half precision.
SMALL_ON_PROCESSOR = 2 ** (len(DOWN_CHANNELS) - 1)


class TrainingLoss(Loss, Protocol):
    """The loss of a method: of the images as they are, by a call; and by its parts where masks and labels come with them."""

    def __call__(
        self, maps: BothWays, moving: Tensor, fixed: Tensor, *, generator: torch.Generator | None = None
    ) -> LossTerms: ...


@dataclass(frozen=True)
class LearningOptions:
    """How a network learns.

    Args:
        steps: in all, those before an interruption included.
        batch: pairs of each step, on each device.
        learning_rate: of Adam.
        seed: draws pairs, augmentation and the random points of the loss.
        precision: of the U-nets' arithmetic. Weights, maps and losses are in single precision always; so is, without a GPU, a
            U-net on a lattice of 16 voxels or less along an axis.
        keep_statistics: batch normalization keeps the running statistics that it has, as fine-tuning wants it.
        dice_weight: of the Dice loss where labels come with the images.
        ema: where it is above 0, a running mean of the weights is judged and exported in their place, which decays by this factor a
            step; 0.999 is usual.
        augmentation: of the pairs.
        schedule: of the learning rate.

    Raises:
        InputError: an option is out of range.
    """

    steps: int = 10_000
    batch: int = 1
    learning_rate: float = 5e-5
    seed: int = 0
    precision: Precision = "float32"
    keep_statistics: bool = False
    dice_weight: float = 1.0
    ema: float = 0.0
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise InputError(f"{name} must be a whole number from {least} up; got {value!r}. Choose such a number.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be above 0; got {self.learning_rate}. The published networks use 5e-5.")
        if not 0 <= self.dice_weight < math.inf:
            raise InputError(f"dice_weight must be 0 or more; got {self.dice_weight}. 0 leaves the labels out.")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be from 0 to below 1; got {self.ema}. 0 leaves the running mean out.")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"There is no precision {self.precision!r}; the precisions are {', '.join(PRECISIONS)}. Choose one of them."
            )


class Objective(nn.Module):
    """The training objective of a network, as one module: pairs in, terms of the loss out, so that it can be spread over devices."""

    def __init__(self, network: nn.Module, loss: TrainingLoss, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.dice_weight = dice_weight

    def forward(self, pair: Pair, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Total, similarity and regularity of the batch `pair`."""
        maps = both_ways(self.network, pair.moving.values, pair.fixed.values)
        terms = self.terms(maps, pair, generator)
        return terms.total, terms.similarity, terms.regularity

    def terms(self, maps: BothWays, pair: Pair, generator: torch.Generator) -> LossTerms:
        """The loss of `maps` for `pair`, with the masks and the labels that it brings."""
        fixed, moving = pair.sides()
        if isinstance(self.loss, NePhiLoss) and not fixed.mask is moving.mask is None:
            raise InputError(
                "NePhi learns from values at random points, and no mask counts there; the pairs have masks. Leave the masks out."
            )
        if fixed.mask is moving.mask is None and (
            fixed.classes is None or self.dice_weight == 0 or isinstance(self.loss, NePhiLoss)
        ):
            return self.loss(maps, moving.values, fixed.values, generator=generator)
        options = DirectionOptions(self.loss.similarity, self.dice_weight, self.loss.outside)
        return loss_of_directions(self.loss, maps, both_directions(fixed, moving, options), generator)


@dataclass(frozen=True)
class Step:
    """What one step showed: its number from 1 on, the loss and its terms before it, over all processes; and how long it took."""

    number: int
    total: float
    similarity: float
    regularity: float
    seconds: float


def learning(
    trainee: Trainee,
    loss: TrainingLoss,
    pairs: Pairs,
    options: LearningOptions,
    *,
    until: int | None = None,
    processes: Processes = ALONE,
    loaders: int = 0,
) -> Generator[Step, None, None]:
    """Steps of training, from where `trainee` stands to `options.steps`; it changes in place, between one step and the next.

    Args:
        until: stop after so many steps, of those in all.
        loaders: so many processes draw and augment pairs ahead of the steps. The steps are the same.

    Raises:
        RefinementError: the loss or a gradient is not finite. The weights are those of before the step.
        ResourceError: a loader process was killed.
    """
    network = trainee.network
    device = next(network.parameters()).device
    objective = Objective(network, loss, options.dice_weight)
    with ExitStack() as stack:
        stack.enter_context(unets_in(network, options.precision))
        stack.enter_context(_learning_mode(network, is_training=not options.keep_statistics))
        spread = processes.spread(objective)
        numbers = range(trainee.steps, options.steps if until is None else min(until, options.steps))
        batches = stack.enter_context(closing(worked_ahead(_Draw(pairs, options, processes.rank), numbers, processes=loaders)))
        start = time.monotonic()
        for number, drawn in zip(numbers, batches, strict=True):
            random = torch.Generator()
            random.set_state(drawn.random_state)
            pair = drawn.pair.to(device)
            terms = torch.stack(spread(pair, random))
            told = processes.mean(terms.detach())
            _check_finite(told, "loss", number + 1)  # before its gradient: torch crashes where it samples at places that are NaN
            terms[0].backward()
            _check_finite(_largest_gradients(network), "gradient", number + 1)
            trainee.step(options.learning_rate * options.schedule.share(number, options.steps))
            total, similarity, regularity = told.tolist()
            yield Step(number + 1, total, similarity, regularity, time.monotonic() - start)
            start = time.monotonic()


def learning_in_turn(
    trainee: Trainee,
    losses: Sequence[tuple[TrainingLoss, int]],
    pairs: Pairs,
    options: LearningOptions,
    *,
    processes: Processes = ALONE,
    loaders: int = 0,
) -> Generator[Step, None, None]:
    """`learning` by one loss after the other, each up to its step, and none beyond `options.steps`."""
    for loss, until in losses:
        yield from learning(trainee, loss, pairs, options, until=until, processes=processes, loaders=loaders)


class Drawn(NamedTuple):
    """The pairs of a step, and where its source of randomness stands after them."""

    pair: Pair
    random_state: Tensor


@dataclass(frozen=True)
class _Draw:
    """Draws the pairs of any step, in whichever process."""

    pairs: Pairs
    options: LearningOptions
    rank: int

    def __call__(self, number: int) -> Drawn:
        random = step_random(self.options.seed, number, self.rank)
        return Drawn(drawn_batch(self.pairs, self.options, random), random.get_state())


def drawn_batch(pairs: Pairs, options: LearningOptions, random: torch.Generator) -> Pair:
    """The pairs of one step, augmented, as one."""
    drawn = (pairs.draw(random) for _ in range(options.batch))
    return stacked([augmented(pair, options.augmentation, random) for pair in drawn])


def step_random(seed: int, number: int, rank: int) -> torch.Generator:
    """The source of all randomness of one step of one process, on the CPU."""
    (mixed,) = np.random.SeedSequence([seed, number, rank]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def _largest_gradients(network: nn.Module) -> Tensor:
    gradients = [one.grad for one in network.parameters() if one.grad is not None]
    return torch.stack(torch._foreach_norm(gradients, math.inf)) if gradients else torch.zeros(1)


def _check_finite(values: Tensor, what: str, number: int) -> None:
    """What is looked at is shared by all processes, so that all of them stop."""
    if not bool(torch.isfinite(values).all()):
        raise RefinementError(
            f"The {what} of step {number} is not finite; it must be a number. "
            "Lower the learning rate, or look for images with odd values."
        )


@contextmanager
def _learning_mode(network: nn.Module, *, is_training: bool) -> Iterator[None]:
    before = network.training
    network.train(is_training)
    try:
        yield
    finally:
        network.train(before)


@contextmanager
def unets_in(network: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, the U-nets of `network` compute in `precision` and hand on single precision: coordinates need it."""
    unets = [one for one in network.modules() if isinstance(one, TallUNet)] if precision == "bfloat16" else []
    for unet in unets:
        unet.forward = partial(_in_half, unet.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for unet in unets:
            del unet.forward


def _in_half(forward: Any, moving: Tensor, fixed: Tensor) -> Tensor:
    is_safe = moving.device.type != "cpu" or min(moving.shape[2:]) > SMALL_ON_PROCESSOR
    with torch.autocast(moving.device.type, dtype=torch.bfloat16, enabled=is_safe):
        displacement: Tensor = forward(moving, fixed)
    return displacement.float()
