"""What a terminal shows: a progress bar that is true, tables, and warnings."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from ..io.warning import Warn
from ..progress import ProgressCallback, silent
from ..progress_bars import Drawing

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
        yield Drawing(bar)


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
