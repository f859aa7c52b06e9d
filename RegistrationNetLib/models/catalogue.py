"""Model cards: what each method is for, what it expects and where its weights are.

A card is one JSON file, `Resources/Models/NAME.json`; what a method does unless told otherwise stands there. Models that a user
has trained have theirs beside their weights, `NAME.card.json` in the folder of the models, which lies in the user's cache
folder, or in REGISTRATIONNET_CACHE.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

OWN_SUFFIX = ".card.json"
# Methods that are not like the others: no network at all, networks that are fitted to each pair, and those whose training begins otherwise.
DIRECT, NEPHI, CARL = "direct", "nephi", "carl"


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
    package = Path(__file__).resolve().parents[1]
    installed = package / "Resources"
    return installed if installed.is_dir() else package.parent / "Resources"


def cache_folder() -> Path:
    """Where this user's large files lie, by the custom of the system; it need not exist yet.

    Slicer's panel asks for it before anything has been installed, so that no package can tell it.
    """
    if chosen := os.environ.get("REGISTRATIONNET_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(local) / "registrationnet" / "registrationnet" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "registrationnet"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "registrationnet"


def models_folder() -> Path:
    """Where the weights of all models lie, and the cards of the user's own; it need not exist yet."""
    return cache_folder() / "models"


def cards() -> Mapping[str, Card]:
    """All cards by name, sorted; the published ones first, then the user's own.

    Raises:
        InputError: the card of an own model cannot be used.
    """
    own = sorted(models_folder().glob(f"*{OWN_SUFFIX}"))
    return {**_published_cards(), **{file.name.removesuffix(OWN_SUFFIX): read_own_card(file) for file in own}}


@cache
def _published_cards() -> Mapping[str, Card]:
    files = sorted((resource_folder() / "Models").glob("*.json"), key=lambda file: file.stem)
    return {file.stem: _card(file) for file in files}


def own_card_path(name: str) -> Path:
    """Where the card of the user's own model `name` lies, if there is one."""
    return models_folder() / f"{name}{OWN_SUFFIX}"


def read_own_card(file: Path) -> Card:
    """The card of a user's own model, in a file `NAME.card.json`.

    Raises:
        InputError: it cannot be read, is not a card, or has a name that it may not have.
    """
    try:
        card = _card(file)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(
            f"{file} is not the card of a model ({error}); cards are written by a training. Remove it, or copy it again."
        ) from error
    check_own_name(card.name)
    return card


def check_own_name(name: str) -> None:
    """Refuse the name of an own model that is no plain file name, or that of a published one.

    Raises:
        InputError: it is.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(f"A model may not be named {name!r}; small letters, digits and -._ make a name. Choose such a name.")
    if name in _published_cards():
        raise InputError(f"The name {name} is that of a published model; a model of your own needs another. Choose one.")


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
    name = file.name.removesuffix(OWN_SUFFIX).removesuffix(".json")
    assert content["name"] == name, f"{file} names itself {content['name']!r}"
    for key in ("modalities", "anatomy"):
        content[key] = tuple(content[key])
    content["input_shape"] = tuple(content["input_shape"]) if content["input_shape"] else None
    return Card(**content)
