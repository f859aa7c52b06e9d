"""Names in the order in which people count: phase2 before phase10."""

from __future__ import annotations

import re
from typing import Any


def natural(name: str) -> list[Any]:
    """Sorts names by their numbers as numbers, and by the letters between; names that are alike but for leading zeros by their text."""
    parts = re.split(r"(\d+)", name)
    return [
        *((part.casefold(), int(digits or 0)) for part, digits in zip(parts[::2], [*parts[1::2], ""], strict=True)),
        (name, 0),
    ]
