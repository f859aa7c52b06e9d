"""Model cards: what each method is for, what it expects and where its weights are.

A card is one JSON file, `Resources/Models/NAME.json`; what a method does unless told otherwise stands there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class Card:
    """One method: names, paper, parameters, preparation, refinement, weights and intended use."""

    name: str
    title: str
    summary: str
    paper: Mapping[str, Any]
    method: str
    parameters: Mapping[str, Any]
    input_shape: tuple[int, ...] | None
    prepare: Mapping[str, Any]
    refine: Mapping[str, Any]
    weights: Mapping[str, Any] | None
    modalities: tuple[str, ...]
    anatomy: tuple[str, ...]
    intended_use: str
    not_for: str

    def as_dict(self) -> dict[str, Any]:
        """The card as its JSON file holds it."""
        return asdict(self)


def resource_folder() -> Path:
    """The folder `Resources`: inside the installed package, else beside it in the source tree."""
    package = Path(__file__).resolve().parent
    installed = package / "Resources"
    return installed if installed.is_dir() else package.parent / "Resources"


@cache
def cards() -> Mapping[str, Card]:
    """All cards by name, sorted."""
    files = sorted((resource_folder() / "Models").glob("*.json"), key=lambda file: file.stem)
    return {file.stem: _card(file) for file in files}


def card_named(name: str) -> Card:
    """The card `name`.

    Raises:
        InputError: there is no such model; the message lists those there are.
    """
    known = cards()
    if name not in known:
        raise InputError(f"There is no model {name!r}; the models are {', '.join(known)}. Choose one of them.")
    return known[name]


def _card(file: Path) -> Card:
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["name"] == file.stem, f"{file} names itself {content['name']!r}"
    for key in ("modalities", "anatomy"):
        content[key] = tuple(content[key])
    content["input_shape"] = tuple(content["input_shape"]) if content["input_shape"] else None
    return Card(**content)
