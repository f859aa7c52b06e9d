"""Gradient descent on one tensor: Adam with a step that shortens along a cosine, the loss being a sum worked out in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

# torch's own algorithm as a function. The class Adam first imports torch's compiler, which takes longer than aligning two images.
from torch.optim.adam import adam

from ..errors import RefinementError

LAST_STEP_FRACTION = 0.1
DECAYS = (0.9, 0.99)

Loss = Callable[[], Tensor]


def descend(parameters: Tensor, losses: Sequence[Loss], *, steps: int, first_step: float, flat: float = 1e-8) -> Iterator[int]:
    """Lower the sum of `losses` by changing `parameters` (a leaf that requires a gradient) in place; yields each step's number.

    Kingma and Ba, ICLR 2015, with the step shortening from `first_step` to a tenth of it along half a cosine. On the CPU each
    loss has a thread of its own: one meeting per step, where torch's threads would meet in every operation, and wait for each
    other whenever another program wants a core.

    Args:
        losses: each a scalar that depends on `parameters`.
        first_step: how far each parameter goes in the first steps, in its own unit.
        flat: gradients below this are not stretched to a full step.

    Raises:
        RefinementError: the loss is infinite or NaN.
    """
    mean, square, count = torch.zeros_like(parameters), torch.zeros_like(parameters), torch.tensor(0.0)
    workers = len(losses) if parameters.device.type == "cpu" else 1
    threads = max(1, torch.get_num_threads() // workers)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        for step in range(steps):
            gradient = torch.stack(list(pool.map(lambda loss: _gradient(loss, parameters), losses))).sum(dim=0)
            shortened = LAST_STEP_FRACTION + (1 - LAST_STEP_FRACTION) * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.no_grad():
                adam(
                    [parameters], [gradient], [mean], [square], [], [count],
                    foreach=False, amsgrad=False, beta1=DECAYS[0], beta2=DECAYS[1], lr=first_step * shortened,
                    weight_decay=0.0, eps=flat, maximize=False,
                )  # fmt: skip
            yield step + 1


def _gradient(loss: Loss, parameters: Tensor) -> Tensor:
    value = loss()
    if not torch.isfinite(value):
        raise RefinementError("The loss became infinite or NaN; it must stay finite. Check the images, or raise the smoothness.")
    return torch.autograd.grad(value, parameters)[0]
