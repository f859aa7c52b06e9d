"""All that changes while a network learns: its weights, the moments of its optimizer, and how many steps it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# torch's own algorithm as a function. The class Adam first imports torch's compiler, which takes seconds.
from torch.optim.adam import adam

DECAYS = (0.9, 0.999)
EPSILON = 1e-8
# A mean over so few steps begins short: after t of them it weighs the last by 9 / (10 + t) at least.
MEAN_BEGINS = 10


@dataclass
class Moments:
    """What Adam (Kingma and Ba, ICLR 2015) keeps for one parameter: running means of the gradient and its square, and a count."""

    mean: Tensor
    square: Tensor
    count: Tensor


@dataclass
class Trainee:
    """A network that learns. `steps` counts those it took.

    With `ema` above 0 there is a running mean of all its numbers (`averages`), weights and statistics, which decays by that factor
    a step (Polyak and Juditsky, 1992, with the exponential weights that are usual today).
    """

    network: nn.Module
    steps: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    ema: float = 0.0
    averages: dict[str, Tensor] = field(default_factory=dict)

    def step(self, learning_rate: float) -> None:
        """One step of Adam along the gradients of the parameters, which are taken from them. Those without one stay."""
        named = [(name, one) for name, one in self.network.named_parameters() if one.grad is not None]
        kept = [self._moments(name, one) for name, one in named]
        with torch.no_grad():
            adam(
                [one for _, one in named], list(taken_gradients([one for _, one in named])),
                [one.mean for one in kept], [one.square for one in kept], [], [one.count for one in kept],
                foreach=None, amsgrad=False, beta1=DECAYS[0], beta2=DECAYS[1], lr=learning_rate,
                weight_decay=0.0, eps=EPSILON, maximize=False,
            )  # fmt: skip
        self.steps += 1
        if self.ema:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.ema, (1 + self.steps) / (MEAN_BEGINS + self.steps))
        for name, value in self.network.state_dict().items():
            if name not in self.averages or not value.is_floating_point():
                self.averages[name] = value.clone()
            else:
                self.averages[name].lerp_(value, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network is the running mean, if there is one; afterwards it is what it was, bit for bit."""
        own = {name: value.clone() for name, value in self.network.state_dict().items()} if self.averages else {}
        try:
            if own:
                self.network.load_state_dict(self.averages)
            yield
        finally:
            if own:
                self.network.load_state_dict(own)

    def _moments(self, name: str, parameter: Tensor) -> Moments:
        if name not in self.moments:
            self.moments[name] = Moments(torch.zeros_like(parameter), torch.zeros_like(parameter), torch.tensor(0.0))
        return self.moments[name]

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: `network.…`, `mean.…`, `square.…`, `count.…` of each parameter that has moved, and `average.…`."""
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, one in self.moments.items():
            named |= {f"{kind}.{name}": value for kind, value in vars(one).items()}
        return named | {f"average.{name}": value for name, value in self.averages.items()}

    def restore(self, tensors: dict[str, Tensor], *, steps: int) -> None:
        """Become what `tensors` told, on the device of the network."""
        device = next(self.network.parameters()).device
        self.network.load_state_dict(_under("network.", tensors), strict=True)
        means, squares, counts = (_under(f"{kind}.", tensors) for kind in ("mean", "square", "count"))
        self.moments = {name: Moments(mean.to(device), squares[name].to(device), counts[name]) for name, mean in means.items()}
        self.averages = {name: value.to(device) for name, value in _under("average.", tensors).items()}
        self.steps = steps


def taken_gradients(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """The gradients, which are None afterwards."""
    for one in parameters:
        assert one.grad is not None
        yield one.grad
        one.grad = None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
