"""What stands behind an option of the command line, read from its text. `argparse` tells the error."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from ..choices import ALIGNMENT_STAGES, DEVICES

# Of an option whose number may be left out.
AS_THE_QUEUE_SAYS = -1


def device_name(text: str) -> str:
    """One of the devices, or a CUDA one by its number; whether this machine has it is asked later."""
    if text not in DEVICES and not re.fullmatch(r"cuda:\d{1,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(DEVICES)}, cuda:1 (the second GPU)")
    return text


def checksum(text: str) -> str:
    """A SHA-256 checksum in hexadecimal."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256 checksum of 64 hexadecimal digits")
    return text.lower()


def whole_number(text: str) -> int:
    """A whole number from 0 up."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def any_number(text: str) -> float:
    """A finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


class Pulling(argparse.Action):
    """`--landmarks-pull [MM]`: landmarks guide the registration, placed so exactly as the number says."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:  # noqa: ARG002
        """Note both in the names that `register` has for them."""
        namespace.landmarks = "pull"
        if values is not None:
            try:
                namespace.tolerance = positive_number(values)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from error


def alignment_stages(text: str) -> tuple[str, ...]:
    """Stages between commas; none for none."""
    names = () if text == "none" else tuple(text.split(","))
    unknown = [name for name in names if name not in ALIGNMENT_STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(ALIGNMENT_STAGES)}")
    return names


def key_and_value(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return key, value


def frame_name(text: str) -> str | int:
    """A frame of a series by its number, or by a name."""
    return int(text) if text.isascii() and text.isdigit() else text
