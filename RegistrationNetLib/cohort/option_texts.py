"""The options of a registration as a table writes them: each text is read as its value."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..choices import ALIGNMENT_STAGES, LANDMARK_USES, MODALITIES, OPTIONS, REFINEMENTS, SIMILARITIES
from ..registration.pipeline import register

# What `register` takes where nothing is said.
DEFAULTS: Mapping[str, Any] = {name: inspect.signature(register).parameters[name].default for name in OPTIONS}

_TRUE, _FALSE = ("yes", "true", "1"), ("no", "false", "0")


def option_value(name: str, text: str) -> Any:
    """The value of the option `name` that `text` stands for.

    Raises:
        ValueError: it stands for none; the message says what it must be.
    """
    return _READERS[name](text.strip())


def without_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from what `register` does where nothing is said."""
    return {name: value for name, value in options.items() if value != DEFAULTS[name]}


def _one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return read


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("must be a whole number from 0 up")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"must be a number above 0{', with a point and no comma' * (',' in text)}")
    return number


def _flag(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("must be yes or no")
    return text.lower() in _TRUE


def _stages(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(re.split(r"[\s,;+]+", text))
    if not set(names) <= set(ALIGNMENT_STAGES):
        raise ValueError(f"must be none, or some of {', '.join(ALIGNMENT_STAGES)}, with + between them")
    return names


_READERS: Mapping[str, Callable[[str], Any]] = {
    "model": str,
    "refine": _one_of(*REFINEMENTS),
    "steps": _whole,
    "similarity": _one_of("auto", *SIMILARITIES),
    "fixed_modality": _one_of(*MODALITIES),
    "moving_modality": _one_of(*MODALITIES),
    "landmarks": _one_of(*LANDMARK_USES),
    "tolerance": _positive,
    "align": _stages,
    "device": str,
    "weights": str,
    "smoothness": _positive,
    "mirrored": _flag,
    "conserve_mass": _flag,
    "repeats": _whole,
    "seed": _whole,
    "resolution": _positive,
}
