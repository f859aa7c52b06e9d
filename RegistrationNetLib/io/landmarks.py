"""Points in LPS mm from files and into files.

Whatever else stands in a file, other columns, comments and points that were never placed, is kept when mapped points are written.
"""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .landmark_matching import Points
from .markups import Markups, new_markups, read_markups
from .native_paths import printable
from .outputs import staged
from .point_tables import Table, read_table
from .warning import Warn, python_warning

JSON, FCSV = ".json", ".fcsv"
POINT_SUFFIXES = (".csv", ".tsv", ".txt", ".fcsv", ".json", ".pts")


@dataclass(frozen=True)
class PointTable:
    """`points_mm` [N, dim], LPS, of the points that have a place, and the file that they came from.

    `numbers` are their places among all points of the file, from 0; `count` is how many these are.
    """

    points_mm: Points
    labels: tuple[str, ...]
    numbers: tuple[int, ...]
    count: int
    source: Table | Markups

    def moved(self, points_mm: Points) -> PointTable:
        """The same file with other coordinates."""
        return replace(self, points_mm=points_mm)


def mapped(points_mm: Points, transform: sitk.Transform) -> Points:
    """Each point through the transform."""
    return np.array([transform.TransformPoint(point) for point in points_mm.tolist()])


def read_points(path: Path, *, dim: int | None = None, warn: Warn = python_warning) -> PointTable:
    """The points of a file: a table, or Slicer's .fcsv or .mrk.json.

    A header names the columns x, y (and z), in LPS mm, or Slicer's l, p, s or r, a, s, in any place; without one they are the only
    numbers of a line. Lines starting with # are comments. Without `dim` points are three-dimensional where a third coordinate stands.

    Args:
        warn: hears of points that were never placed, which are left out, and of coordinates that may be indices.

    Raises:
        InputError: the file cannot be read, holds no points, or its meaning is not plain.
    """
    source = read_markups(path) if path.name.lower().endswith(JSON) else read_table(path, dim=dim)
    numbers = tuple(number for number, is_placed in enumerate(source.placed) if is_placed)
    if not numbers:
        raise InputError(
            f"{printable(path)} holds no point that has been placed; at least one must be. Place them, and save again."
        )
    if len(numbers) < len(source.placed):
        warn(
            f"{printable(path)}: {len(source.placed) - len(numbers)} of its {len(source.placed)} points were never placed; left out."
        )
    places = source.places if isinstance(source, Table) else tuple(range(len(source.points)))
    points = np.array([source.coordinates(places[number]) for number in numbers])
    if dim is not None and points.shape[1] != dim:
        raise InputError(f"{printable(path)} holds points of {points.shape[1]} coordinates; {dim} are needed. Check the file.")
    if isinstance(source, Table) and not source.has_header and (points >= 0).all() and (points == np.round(points)).all():
        warn(
            f"{printable(path)} holds whole numbers only; they were taken as LPS mm. Indices of voxels would have to be converted first."
        )
    return PointTable(points, tuple(source.labels[number] for number in numbers), numbers, len(source.placed), source)


def write_points(table: PointTable, path: Path) -> None:
    """The points as a file, whole or not at all: as they came where the suffix is that of the source, else in the suffix's form.

    Raises:
        OutputError: it could not be written.
    """
    suffix = path.suffix.lower()
    with staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        if suffix == JSON:
            json.dump(_markups_content(table), file, indent=2)
        elif isinstance(table.source, Table):
            _write_rows(_rows(table, table.source), table.source.delimiter, file)
        else:
            header = ("label", *("x", "y", "z")[: table.points_mm.shape[1]])
            rows = [
                (label, *(f"{value:.6f}" for value in point)) for label, point in zip(table.labels, table.points_mm, strict=True)
            ]
            _write_rows([header, *rows], ",", file)


def _write_rows(rows: Sequence[Sequence[str]], delimiter: str, file) -> None:  # type: ignore[no-untyped-def]
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    for row in rows:
        if len(row) == 1 and (row[0].startswith("#") or not row[0]):
            file.write(row[0] + "\n")
        else:
            writer.writerow(row)


def _rows(table: PointTable, source: Table) -> list[list[str]]:
    rows = [list(row) for row in source.rows]
    for number, point in zip(table.numbers, table.points_mm, strict=True):
        for axis, (column, value) in enumerate(zip(source.columns, point, strict=True)):
            rows[source.places[number]][column] = source.shown(value, axis)
    return rows


def _markups_content(table: PointTable) -> dict[str, object]:
    """The content of a .mrk.json file: that which was read, with other positions, or a new one."""
    source = table.source if isinstance(table.source, Markups) else new_markups(table.labels)
    numbers = table.numbers if isinstance(table.source, Markups) else range(len(table.labels))
    content = copy.deepcopy(source.content)
    points = next(one for one in content["markups"] if one.get("controlPoints"))["controlPoints"]
    for number, point in zip(numbers, table.points_mm, strict=True):
        points[number]["position"] = [sign * float(value) for sign, value in zip(source.signs, point, strict=True)]
    return content
