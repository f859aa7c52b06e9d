"""Warnings about what came in: what was read with a doubt, said once where it is noticed and carried to `report.json`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

Warn = Callable[[str], None]
"""Takes one sentence or two about something that was read with a doubt."""


class DataWarning(UserWarning):
    """What came in was read, but not without a doubt; the text says what and how."""


def python_warning(text: str) -> None:
    """The `Warn` of those who collect none: Python's own warning."""
    warnings.warn(text, DataWarning, stacklevel=3)
