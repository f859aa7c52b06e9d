"""All that changes while a network learns: its weights, the moments of its optimizer, and how many steps it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# torch's own algorithm as a function. The class Adam first imports torch's compiler, which takes seconds.
from torch.optim.adam import adam

DECAYS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass
class Moments:
    """What Adam (Kingma and Ba, ICLR 2015) keeps for one parameter: running means of the gradient and its square, and a count."""

    mean: Tensor
    square: Tensor
    count: Tensor


@dataclass
class Trainee:
    """A network that learns. `steps` counts those it took."""

    network: nn.Module
    steps: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)

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

    def _moments(self, name: str, parameter: Tensor) -> Moments:
        if name not in self.moments:
            self.moments[name] = Moments(torch.zeros_like(parameter), torch.zeros_like(parameter), torch.tensor(0.0))
        return self.moments[name]

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: `network.…` and `mean.…`, `square.…`, `count.…` of each parameter that has moved."""
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, one in self.moments.items():
            named |= {f"{kind}.{name}": value for kind, value in vars(one).items()}
        return named

    def restore(self, tensors: dict[str, Tensor], *, steps: int) -> None:
        """Become what `tensors` told, on the device of the network."""
        device = next(self.network.parameters()).device
        self.network.load_state_dict(_under("network.", tensors), strict=True)
        means, squares, counts = (_under(f"{kind}.", tensors) for kind in ("mean", "square", "count"))
        self.moments = {name: Moments(mean.to(device), squares[name].to(device), counts[name]) for name, mean in means.items()}
        self.steps = steps


def taken_gradients(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """The gradients, which are None afterwards."""
    for one in parameters:
        assert one.grad is not None
        yield one.grad
        one.grad = None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
