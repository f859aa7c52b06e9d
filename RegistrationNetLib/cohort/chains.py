"""In which order the frames of a series are registered to their reference: away from it, each after its neighbour."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError

MEAN = "mean"
# The frames that can be named; "mean" is the mean of all.
REFERENCES = ("first", "middle", "last", MEAN)


def reference_number(named: str | int, count: int) -> int | None:
    """Which of `count` frames is the reference; None for the mean of all.

    Raises:
        InputError: there is no such frame.
    """
    if named == MEAN:
        return None
    numbers: Mapping[str, int] = {"first": 0, "middle": count // 2, "last": count - 1}
    number = numbers.get(named, -1) if isinstance(named, str) else named
    if not (isinstance(number, int) and 0 <= number < count):
        raise InputError(
            f"There is no reference {named!r}; it is one of {', '.join(REFERENCES)}, or a frame from 0 to {count - 1}. Choose one of them."
        )
    return number


def chains(count: int, reference: int | None) -> list[list[int]]:
    """The frames after the reference and those before it, each in the order away from it; all in order where it is none of them."""
    if reference is None:
        return [list(range(count))]
    both = [list(range(reference + 1, count)), list(range(reference - 1, -1, -1))]
    return [chain for chain in both if chain]
