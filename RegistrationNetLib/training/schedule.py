"""How the learning rate goes with the steps. It is a function of the step alone, so that there is no state to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError

KINDS = ("constant", "cosine", "step")


@dataclass(frozen=True)
class ScheduleOptions:
    """The share of the learning rate that each step takes; the default is the whole, always.

    Args:
        kind: "constant"; "cosine", which falls as half a cosine over all steps (Loshchilov and Hutter, ICLR 2017); or "step", which
            falls by `factor` after every `every` steps.
        warm_up: in so many first steps it climbs in a straight line, whatever the kind.
        last: the share at which "cosine" ends.
        every: steps, for "step".
        factor: for "step".

    Raises:
        InputError: there is no such kind, or an option is out of range.
    """

    kind: str = "constant"
    warm_up: int = 0
    last: float = 0.0
    every: int = 0
    factor: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"There is no schedule {self.kind!r}; the schedules are {', '.join(KINDS)}. Choose one of them.")
        for name, least in (("warm_up", 0), ("every", 1 if self.kind == "step" else 0)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise InputError(
                    f"schedule: {name} must be a whole number from {least} up; got {value!r}. It counts steps: choose such a number."
                )
        for name in ("last", "factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"schedule: {name} must be from 0 to 1; got {getattr(self, name)}. It is a share of the learning rate."
                )

    @property
    def depends_on_steps(self) -> bool:
        """Whether more steps in all would change those before."""
        return self.kind == "cosine"

    def share(self, number: int, steps: int) -> float:
        """The share of the learning rate that step `number` (from 0 on) of `steps` takes."""
        if number < self.warm_up:
            return (number + 1) / self.warm_up
        if self.kind == "cosine":
            gone = (number - self.warm_up) / max(1, steps - 1 - self.warm_up)
            return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * min(gone, 1.0)))
        return self.factor ** (number // self.every) if self.kind == "step" else 1.0
