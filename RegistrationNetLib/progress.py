"""Progress and cancelling: one small protocol.

Work reports `(stage, fraction)` to a `ProgressCallback`; the callback stops the work by raising `Cancelled`.
`Stages` turns the fractions of single stages into one fraction of the whole with the time left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial


@dataclass(frozen=True)
class Progress:
    """How far the work is: the stage's name, the fraction of the whole in [0, 1], and the seconds left (None: not known yet)."""

    stage: str
    fraction: float
    seconds_left: float | None


_log = logging.getLogger(__name__)

ProgressCallback = Callable[[Progress], None]
StageReport = Callable[[float], None]


def silent(_: Progress) -> None:
    """The callback of those who do not watch."""


@dataclass
class Stages:
    """Stages with their share of the whole work, and the time each took.

    `weights` maps each stage's name to its expected cost in any common unit; order is the order of work.
    """

    callback: ProgressCallback
    weights: Mapping[str, float]
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    _current: str = field(default="", init=False)
    _stage_start: float = field(default=0.0, init=False)
    _work_start: float = field(init=False)

    def __post_init__(self) -> None:
        self._work_start = time.monotonic()

    def begin(self, stage: str) -> StageReport:
        """Start `stage` and return the function to which its fraction in [0, 1] is reported."""
        if stage not in self.weights:
            raise KeyError(f"unknown stage {stage!r}; the stages are {', '.join(self.weights)}")
        self.finish()
        self._current, self._stage_start = stage, time.monotonic()
        _log.debug("%s begins", stage)
        report = partial(self._report, stage)
        report(0.0)
        return report

    def finish(self) -> None:
        """End the current stage and note its time."""
        if self._current:
            took = time.monotonic() - self._stage_start
            self.seconds[self._current] = self.seconds.get(self._current, 0.0) + took
            _log.info("%s took %.2f s", self._current, took)
            self._current = ""

    @property
    def total_seconds(self) -> float:
        """Seconds since these stages were made."""
        return time.monotonic() - self._work_start

    def _report(self, stage: str, fraction: float) -> None:
        done_before = 0.0
        for name, weight in self.weights.items():
            if name == stage:
                break
            done_before += weight
        whole = sum(self.weights.values())
        overall = (done_before + self.weights[stage] * min(max(fraction, 0.0), 1.0)) / whole
        elapsed = self.total_seconds
        left = elapsed * (1.0 - overall) / overall if overall > 0.02 and elapsed > 0.5 else None
        self.callback(Progress(stage, overall, left))
