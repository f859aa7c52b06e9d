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
from ..io.warning import Warn, python_warning

OWN_SUFFIX = ".card.json"
# How the file of weights of an own model may end; before that stands the model's name.
WEIGHTS_SUFFIXES = (".trch", ".pth", ".pt")
_WEIGHTS_KEYS = {"url", "file", "bytes", "sha256", "state_dict_prefix"}


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

    Raises:
        InputError: this user has no home folder, as in some containers.
    """
    try:
        return _cache_folder()
    except RuntimeError as error:
        raise InputError(
            "There is no home folder for the weights of models; they need a place. Name a folder in REGISTRATIONNET_CACHE."
        ) from error


def _cache_folder() -> Path:
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


def cards(warn: Warn = python_warning) -> Mapping[str, Card]:
    """All cards by name, sorted; the published ones first, then the user's own.

    Args:
        warn: hears of cards of own models that cannot be used; they are left out.
    """
    own = (_own_card_or_none(file, warn) for file in _own_files())
    return {**published_cards(), **{card.name: card for card in own if card is not None}}


def _own_card_or_none(file: Path, warn: Warn) -> Card | None:
    try:
        return read_own_card(file)
    except InputError as error:
        warn(f"An own model is left out. {error}")
        return None


def _own_files() -> list[Path]:
    try:
        return sorted(models_folder().glob(f"*{OWN_SUFFIX}"))
    except InputError:  # no home folder: no own models
        return []


@cache
def published_cards() -> Mapping[str, Card]:
    """The cards that come with the library, by name, sorted."""
    files = sorted((resource_folder() / "Models").glob("*.json"), key=lambda file: file.stem)
    return {file.stem: _card(file) for file in files}


def own_card_path(name: str) -> Path:
    """Where the card of the user's own model `name` lies, if there is one."""
    return models_folder() / f"{name}{OWN_SUFFIX}"


def read_own_card(file: Path) -> Card:
    """The card of a user's own model, in a file `NAME.card.json`.

    Raises:
        InputError: it cannot be read, is not a card, or has a name, or a name of its weights, that it may not have.
    """
    try:
        card = _card(file)
        _check_content(card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        raise InputError(
            f"{file} is not the card of a model ({error}); cards are written by a training. Remove it, or copy it again."
        ) from error
    check_own_name(card.name)
    if card.weights is not None and card.weights["file"] not in [card.name + suffix for suffix in WEIGHTS_SUFFIXES]:
        raise InputError(
            f"{file} names its weights {card.weights['file']!r}; they must be called as the model, {card.name}{WEIGHTS_SUFFIXES[0]}, so that no other "
            "file is touched. Correct the entry `file` of the card."
        )
    return card


def _check_content(card: Card) -> None:
    """That every section is of its kind: cards of own models are files that anybody may have made."""
    for section in (card.paper, card.parameters, card.prepare, card.refine):
        assert isinstance(section, dict), "a section is no table"
    assert all(isinstance(text, str) for text in (card.name, card.title, card.summary, card.method)), "a text is no text"
    assert {"align", "intensity", "mask", "orientation", "mirror_axis"} <= set(card.prepare), "`prepare` is not complete"
    assert {"default", "similarity"} <= set(card.refine), "`refine` is not complete"
    shape = card.input_shape
    assert shape is None or (len(shape) in (2, 3) and all(isinstance(one, int) and 0 < one <= 4096 for one in shape)), (
        "`input_shape`"
    )
    if card.weights is not None:
        assert set(card.weights) >= _WEIGHTS_KEYS, f"`weights` needs {', '.join(sorted(_WEIGHTS_KEYS))}"
        assert isinstance(card.weights["bytes"], int), "`bytes` is no whole number"
        assert card.weights["bytes"] >= 0, "`bytes` is negative"


def check_own_name(name: str) -> None:
    """Refuse the name of an own model that is no plain file name, or that of a published one.

    Raises:
        InputError: it is.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(f"A model may not be named {name!r}; small letters, digits and -._ make a name. Choose such a name.")
    if name in published_cards():
        raise InputError(f"The name {name} is that of a published model; a model of your own needs another. Choose one.")


def card_named(name: str) -> Card:
    """The card `name`.

    Raises:
        InputError: there is no such model (the message lists those there are), or the card of an own one cannot be used.
    """
    published = published_cards()
    if name in published:
        return published[name]
    if any(file.name == name + OWN_SUFFIX for file in _own_files()):
        return read_own_card(own_card_path(name))
    raise InputError(f"There is no model {name!r}; the models are {', '.join(cards())}. Choose one of them.")


def _card(file: Path) -> Card:
    content = json.loads(file.read_text(encoding="utf-8"))
    name = file.name.removesuffix(OWN_SUFFIX).removesuffix(".json")
    assert isinstance(content, dict), "it is no table"
    assert content["name"] == name, f"{file} names itself {content['name']!r}"
    for key in ("modalities", "anatomy"):
        content[key] = tuple(content[key])
    content["input_shape"] = tuple(content["input_shape"]) if content["input_shape"] else None
    return Card(**content)
