"""Slicer's .mrk.json files: lists of points with their labels, coordinate system, and whether each has been placed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .native_paths import printable

SIGNS = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}
MILLIMETRES = ("mm", None)


@dataclass(frozen=True)
class Markups:
    """The content of the file, the points in its one list, and the signs that take their coordinates to LPS."""

    content: dict[str, Any]
    points: tuple[dict[str, Any], ...]
    signs: tuple[int, int, int]

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each point."""
        return tuple(str(point.get("label", "")) for point in self.points)

    @property
    def placed(self) -> tuple[bool, ...]:
        """Which points have a place."""
        return tuple(point.get("positionStatus", "defined") == "defined" for point in self.points)

    def coordinates(self, place: int) -> list[float]:
        """The coordinates of a point, LPS."""
        return [sign * value for sign, value in zip(self.signs, self.points[place]["position"], strict=True)]


def read_markups(path: Path) -> Markups:
    """The one list of points in a .mrk.json file.

    Raises:
        InputError: it cannot be read, or holds no list of points or several, or in another unit or system.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        lists = [one for one in content["markups"] if one.get("controlPoints")]
    except OSError as error:
        raise InputError(f"Cannot read {printable(path)}: {error.strerror}. Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{printable(path)} is not a markups file of Slicer; points come as .mrk.json, .fcsv or CSV. Check the file."
        ) from error
    if len(lists) != 1:
        raise InputError(f"{printable(path)} holds {len(lists)} lists of points; one is needed. Save one list alone.")
    one = lists[0]
    system, unit = str(one.get("coordinateSystem", "LPS")), one.get("coordinateUnits")
    unit = unit[0] if isinstance(unit, list) and unit else unit
    if system not in SIGNS:
        raise InputError(
            f"{printable(path)} is in the coordinate system {system}; points must be in LPS or RAS mm. Save it as LPS."
        )
    if unit not in MILLIMETRES:
        raise InputError(f"{printable(path)} has its coordinates in {unit}; they must be in mm. Save it in mm.")
    markups = Markups(content, tuple(one["controlPoints"]), SIGNS[system])
    for number, (point, is_placed) in enumerate(zip(markups.points, markups.placed, strict=True), 1):
        if is_placed and not _is_position(point.get("position")):
            raise InputError(
                f"{printable(path)}, point {number}: its position is {point.get('position')}; 3 numbers are needed. Check the file."
            )
    return markups


def _is_position(position: Any) -> bool:
    return (
        isinstance(position, list)
        and len(position) == 3
        and all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in position)
    )


def new_markups(labels: tuple[str, ...]) -> Markups:
    """A list of points with these labels, whose positions are still to be set, LPS."""
    points: list[dict[str, Any]] = [
        {"id": str(number), "label": label or f"F-{number}", "position": [0.0, 0.0, 0.0], "positionStatus": "defined"}
        for number, label in enumerate(labels, 1)
    ]
    one = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    return Markups({"markups": [one]}, tuple(points), SIGNS["LPS"])
