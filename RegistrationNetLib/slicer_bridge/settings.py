"""What the application keeps for its user from one start to the next: presets, and another Python."""

from __future__ import annotations

import json
from typing import Any

import slicer

_GROUP = "RegistrationNet"


def kept(name: str, default: Any) -> Any:
    """What was kept under `name`; `default` where nothing was, or nothing that can be read."""
    text = slicer.app.userSettings().value(f"{_GROUP}/{name}")
    try:
        return json.loads(text) if text else default
    except ValueError:
        return default


def keep(name: str, value: Any) -> None:
    """Keep `value`, made of what JSON knows."""
    slicer.app.userSettings().setValue(f"{_GROUP}/{name}", json.dumps(value))
