"""Instance optimization of a network: the loss it was trained with, lowered on the pair at hand by changing its weights.

The network that is given stays as it is, bit for bit: a copy is changed, and thrown away when the maps are found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# torch's own algorithm as a function. The class Adam first imports torch's compiler, which takes seconds.
from torch.optim.adam import adam

from ..devices import memory_kept
from ..errors import RefinementError
from ..losses.direction import Direction, DirectionOptions
from ..losses.similarity import Measure, measure_named
from ..memory import full_precision
from ..models.catalogue import Card
from ..models.composition import BothWays, both_ways
from ..models.constricon import VelocityDiffusionLoss
from ..models.gradicon import GradICONLoss
from ..models.icon import ICONLoss
from ..models.loading import watched
from ..models.nephi_loss import NePhiLoss
from ..models.training_loss import Loss, loss_of_directions
from ..progress import StageReport

# The loss is uneven, as its points are random: what counts is its mean over so many steps, and by what share it falls.
WINDOW_STEPS = 8
LEAST_GAIN = 1e-4
DECAYS = (0.9, 0.999)
EPSILON = 1e-8

LOSSES: dict[str, Callable[..., Loss]] = {
    "gradicon": GradICONLoss,
    "icon": ICONLoss,
    "velocity-diffusion": VelocityDiffusionLoss,
    "nephi": NePhiLoss,
}
# What a similarity means at the resolution of the networks, where a card has not its own.
NETWORK_MEASURES: dict[str, Mapping[str, Any]] = {"lncc": {"sigma_vox": 5}, "lncc2": {"sigma_vox": 5}, "mind": {"radius": 2}}


@dataclass(frozen=True)
class NetworkOptions:
    """How the weights are optimized.

    Attributes:
        loss: similarity both ways and the regularity, with its weight.
        learning_rate: of Adam, on all weights.
        steps: at most; it ends before when the loss no longer falls.
        dice_weight: of the Dice loss where both images carry labels.
        conserve_mass: values are densities, which fall where tissue grows (CT of lungs).
    """

    loss: Loss
    learning_rate: float = 2e-5
    steps: int = 50
    dice_weight: float = 1.0
    conserve_mass: bool = False

    @property
    def measure(self) -> Measure:
        """The similarity of the loss."""
        return self.loss.similarity

    def directions(self, moving_volume: float) -> DirectionOptions:
        """What both directions are judged by; `moving_volume` is that of moving's cube over fixed's."""
        return DirectionOptions(self.measure, self.dice_weight, self.loss.outside, moving_volume if self.conserve_mass else None)


def network_options(
    card: Card, similarity: str, *, smoothness: float = 1.0, conserve_mass: bool = False, steps: int | None = None
) -> NetworkOptions:
    """What the card of a network says, with another similarity, smoothness (a factor on the regularity) or number of steps."""
    own = dict(card.refine["network"])
    kind, rate, own_steps = own.pop("loss"), own.pop("learning_rate"), own.pop("steps")
    own_measure = {key: own.pop(key) for key in ("sigma_vox", "epsilon") if key in own}
    if similarity != own.pop("similarity"):
        own_measure = dict(NETWORK_MEASURES.get(similarity, {}))
    weight = smoothness * own.pop("weight")
    loss = LOSSES[kind](similarity=measure_named(similarity, **own_measure), weight=weight, **own)
    return NetworkOptions(loss, rate, own_steps if steps is None else steps, conserve_mass=conserve_mass)


@dataclass(frozen=True)
class NetworkRefined:
    """The maps of the optimized network, and the steps it took."""

    maps: BothWays
    steps: int


def refine_network(
    network: nn.Module,
    directions: tuple[Direction, Direction],
    options: NetworkOptions,
    *,
    seed: int = 0,
    report: StageReport,
) -> NetworkRefined:
    """The maps that `network` gives after its weights were fitted to the pair of `directions`.

    Batch normalization keeps its running statistics. `seed` chooses the random points of the regularity.

    Raises:
        RefinementError: the loss is not finite.
    """
    moving, fixed = directions[0].sampled, directions[1].sampled
    changed = copy.deepcopy(network).requires_grad_(True).eval()
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        return loss_of_directions(options.loss, both_ways(changed, moving, fixed), directions, generator).total

    losses: list[float] = []

    def tick(_: float = 0.0) -> None:
        report(len(losses) / options.steps)

    with torch.enable_grad(), watched(changed, tick):
        for value in _adam(list(changed.parameters()), loss, rate=options.learning_rate):
            losses.append(value)
            tick()
            if len(losses) == options.steps or not _still_falls(losses):
                break
    with torch.no_grad():
        return NetworkRefined(both_ways(changed, moving, fixed), len(losses))


def _adam(parameters: Sequence[Tensor], loss: Callable[[], Tensor], *, rate: float) -> Iterator[float]:
    """Steps of Adam (Kingma and Ba, ICLR 2015) without end; yields the loss before each."""
    means, squares = ([torch.zeros_like(one) for one in parameters] for _ in range(2))
    counts = [torch.tensor(0.0) for _ in parameters]
    while True:
        with memory_kept():
            value = loss()
        if not torch.isfinite(value):
            raise RefinementError(
                "The loss became infinite or NaN; it must stay finite. Check the images, or the weights of the model."
            )
        with memory_kept(), full_precision(value.device):
            gradients = list(torch.autograd.grad(value, parameters))
        with torch.no_grad():
            adam(
                list(parameters), gradients, means, squares, [], counts,
                foreach=False, amsgrad=False, beta1=DECAYS[0], beta2=DECAYS[1], lr=rate,
                weight_decay=0.0, eps=EPSILON, maximize=False,
            )  # fmt: skip
        loss_value = float(value.detach())
        del value, gradients  # as large as the network, and of no use to the next step
        yield loss_value


def _still_falls(losses: Sequence[float]) -> bool:
    """Is the mean of the last losses lower than that of those before them?"""
    if len(losses) < 2 * WINDOW_STEPS:
        return True
    before, last = (sum(part) / WINDOW_STEPS for part in (losses[-2 * WINDOW_STEPS : -WINDOW_STEPS], losses[-WINDOW_STEPS:]))
    return last < before - LEAST_GAIN * abs(before)
