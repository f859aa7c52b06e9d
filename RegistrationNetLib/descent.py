"""Gradient descent on one tensor: Adam with a step that shortens along a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# torch's own algorithm as a function. The class Adam first imports torch's compiler, which takes longer than aligning two images.
from torch.optim.adam import adam

from .errors import RefinementError

LAST_STEP_FRACTION = 0.1
DECAYS = (0.9, 0.99)


def descend(
    parameters: Tensor, loss: Callable[[], Tensor], *, steps: int, first_step: float, flat: float = 1e-8
) -> Iterator[int]:
    """Lower `loss` by changing `parameters` (a leaf that requires a gradient) in place; yields the number of each step done.

    Kingma and Ba, ICLR 2015, with the step shortening from `first_step` to a tenth of it along half a cosine.

    Args:
        first_step: how far each parameter goes in the first steps, in its own unit.
        flat: gradients below this are not stretched to a full step.

    Raises:
        RefinementError: the loss is infinite or NaN.
    """
    mean, square, count = torch.zeros_like(parameters), torch.zeros_like(parameters), torch.tensor(0.0)
    for step in range(steps):
        value = loss()
        if not torch.isfinite(value):
            raise RefinementError(
                "The loss became infinite or NaN; it must stay finite. Check the images, or raise the smoothness."
            )
        (gradient,) = torch.autograd.grad(value, parameters)
        shortened = LAST_STEP_FRACTION + (1 - LAST_STEP_FRACTION) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.no_grad():
            adam(
                [parameters], [gradient], [mean], [square], [], [count],
                foreach=False, amsgrad=False, beta1=DECAYS[0], beta2=DECAYS[1], lr=first_step * shortened,
                weight_decay=0.0, eps=flat, maximize=False,
            )  # fmt: skip
        yield step + 1
