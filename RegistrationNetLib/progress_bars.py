"""A progress bar for whoever calls from Python: in a notebook a widget, on a terminal a line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from tqdm import tqdm

REDRAW_SECONDS = 0.1


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A callback for the `progress` of `register`, which draws stage, fraction and time left.

        with progress_bar() as progress:
            result = register(fixed, moving, progress=progress)

    In a notebook it is a widget where ipywidgets are installed, and text elsewhere.
    """
    # It asks at its import whether this is a notebook.
    from tqdm.auto import tqdm

    with tqdm(total=1.0, unit="", bar_format="{desc} {percentage:3.0f}% {bar} {unit}") as bar:
        yield Drawing(bar)


class Drawing:
    """A callback that draws on a bar of tqdm, whose whole is 1, not more often than an eye follows."""

    def __init__(self, bar: tqdm) -> None:  # type: ignore[type-arg]  # generic in what it iterates over; here over nothing
        self._bar = bar
        self._drawn_at = 0.0
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and progress.fraction < 1 and now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at, self._stage = now, progress.stage
        self._bar.n = progress.fraction
        self._bar.set_description_str(progress.stage, refresh=False)
        self._bar.unit = time_left(progress.seconds_left)
        self._bar.refresh()


def time_left(seconds: float | None) -> str:
    """In words that a glance can take in; "" while it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"
