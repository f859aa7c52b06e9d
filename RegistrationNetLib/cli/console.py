"""What a terminal shows: a progress bar that is true, tables, and warnings."""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from ..io.warning import Warn
from ..progress import Progress, ProgressCallback, silent

REDRAW_SECONDS = 0.1
PAINT = {"green": "\033[32m", "amber": "\033[33m", "red": "\033[31m"}


@contextmanager
def progress_bar(*, is_wanted: bool = True) -> Iterator[ProgressCallback]:
    """A callback that draws stage, fraction and time left on stderr where that is a terminal, and nothing elsewhere."""
    if not (is_wanted and sys.stderr.isatty()):
        yield silent
        return
    # Given here because tqdm draws nothing on a terminal that does not tell its size.
    columns, lines = shutil.get_terminal_size()
    layout = "{desc:<8.8} {percentage:3.0f}% |{bar:30}| {unit}"
    with tqdm(total=1.0, file=sys.stderr, leave=False, bar_format=layout, unit="", ncols=columns, nrows=lines) as bar:
        yield _Drawing(bar)


class _Drawing:
    def __init__(self, bar: tqdm) -> None:  # type: ignore[type-arg]  # generic in what it iterates over; here over nothing
        self._bar = bar
        self._drawn_at = 0.0
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at, self._stage = now, progress.stage
        self._bar.n = progress.fraction
        self._bar.set_description_str(progress.stage, refresh=False)
        self._bar.unit = time_left(progress.seconds_left)
        self._bar.refresh()


def time_left(seconds: float | None) -> str:
    """In words that a glance can take in."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> str:
    """Rows with their columns aligned; the last column may be as long as it likes."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    return "\n".join(
        indent + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def painted(text: str, colour: str) -> str:
    """`text` in the colour of a mark where stdout is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{PAINT[colour]}{text}\033[0m"


def wants_json(options: Namespace) -> bool:
    """Whether a command that can print JSON is to."""
    return getattr(options, "json", False)


def warned(options: Namespace) -> Warn:
    """Prints a warning in one line on stderr, unless all is to be quiet."""

    def warn(text: str) -> None:
        if not getattr(options, "quiet", False):
            print(f"registrationnet: warning: {' '.join(text.split())}", file=sys.stderr)

    return warn
