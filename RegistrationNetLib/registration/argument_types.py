"""The types of what `register` is called with: a slip in Python is told as every other wrong input is."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import SimpleITK as sitk

from ..errors import InputError

LARGEST_SEED = 2**63 - 1


class _Rule(NamedTuple):
    """What an argument must be, in words, and whether it is."""

    words: str
    is_kept: Callable[[Any], bool]


def check_types(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `register` that are not of the type that they must be; of those not named in `RULES` nothing is asked.

    Raises:
        InputError: one is not; the message says what it must be.
    """
    for name, value in arguments.items():
        rule = RULES.get(name)
        if rule is not None and not rule.is_kept(value):
            raise InputError(f"{name} must be {rule.words}; got {_shown(value)}. {_HINTS.get(name, 'Correct the call.')}")


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text} ({type(value).__name__})" if len(text) <= 40 and " at 0x" not in text else f"a {type(value).__name__}"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _is_above_0(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def _is_list_of_texts(value: object) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_path_or_none(value: object) -> bool:
    return value is None or isinstance(value, str | os.PathLike)


_NAME, _NAME_OR_NONE, _FLAG = (
    _Rule("a name (str)", _is_text),
    _Rule("a name (str) or None", _is_text_or_none),
    _Rule("True or False", _is_flag),
)
RULES: Mapping[str, _Rule] = {
    "model": _NAME,
    "refine": _NAME_OR_NONE,
    "steps": _Rule("a whole number (int) or None", lambda value: value is None or _is_whole(value)),
    "similarity": _NAME,
    "fixed_modality": _NAME_OR_NONE,
    "moving_modality": _NAME_OR_NONE,
    "landmark_labels": _Rule("a list or tuple of texts, or None", _is_list_of_texts),
    "landmarks": _NAME,
    "tolerance": _Rule("a number of mm above 0", _is_above_0),
    "initial": _Rule(
        "the path of a transform file, a SimpleITK transform, or None",
        lambda value: _is_path_or_none(value) or isinstance(value, sitk.Transform),
    ),
    "previous": _Rule(
        "a Registration, the path of a transform file, a SimpleITK transform, or None",
        lambda value: _is_path_or_none(value) or isinstance(value, sitk.Transform) or hasattr(value, "moving_from_fixed"),
    ),
    "align": _Rule("a list or tuple of stages, or None", _is_list_of_texts),
    "device": _NAME,
    "weights": _Rule("the path of a file, or None", _is_path_or_none),
    "smoothness": _Rule("a number above 0", _is_above_0),
    "mirrored": _FLAG,
    "conserve_mass": _FLAG,
    "resolution": _Rule("a number above 0, or None", lambda value: value is None or _is_above_0(value)),
    "repeats": _Rule("a whole number (int) or None", lambda value: value is None or _is_whole(value)),
    "seed": _Rule(
        f"a whole number (int) from 0 to {LARGEST_SEED}", lambda value: _is_whole(value) and 0 <= value <= LARGEST_SEED
    ),
    "progress": _Rule("a function that takes a Progress", callable),
}
_HINTS: Mapping[str, str] = {
    "initial": (
        "A matrix becomes a transform by SimpleITK.AffineTransform(3), SetMatrix(matrix[:3, :3].ravel()) and "
        "SetTranslation(matrix[:3, 3]); it maps points of fixed to points of moving, LPS mm."
    ),
    "align": 'A single stage is a list too: align=["rigid"].',
    "progress": "Leave it out to hear nothing.",
}
