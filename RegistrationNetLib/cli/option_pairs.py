"""Options that come in pairs, one of fixed and one of moving."""

from __future__ import annotations

from argparse import Namespace

from ..errors import InputError
from ..io.landmark_matching import Matched, matched
from ..io.landmarks import read_points
from ..io.warning import Warn


def landmarks_of(options: Namespace, warn: Warn) -> Matched | None:
    """The landmarks of both sides, matched; None where none came."""
    if not is_pair(options, "landmarks"):
        return None
    return matched(read_points(options.fixed_landmarks, warn=warn), read_points(options.moving_landmarks, warn=warn), warn)


def is_pair(options: Namespace, what: str) -> bool:
    """Whether both sides of `what` came.

    Raises:
        InputError: only one did.
    """
    given = [side for side in ("fixed", "moving") if getattr(options, f"{side}_{what}")]
    if len(given) == 1:
        other = "moving" if given == ["fixed"] else "fixed"
        raise InputError(f"--{given[0]}-{what} came alone; {what} are compared in pairs. Add --{other}-{what}.")
    return bool(given)
