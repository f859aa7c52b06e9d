"""Tables of points: CSV with columns x, y, z in LPS mm, and Slicer's .fcsv.

Whatever else stands in the table, other columns and comments, is kept when mapped points are written.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..errors import InputError
from .outputs import staged

AXES = ("x", "y", "z")
DELIMITERS = ",;\t"

Points = NDArray[np.float64]


@dataclass(frozen=True)
class PointTable:
    """`points_mm` [N, dim] and the table they came from; `rows` counts all its lines, `places` which of them are points."""

    points_mm: Points
    rows: tuple[tuple[str, ...], ...]
    places: tuple[int, ...]
    columns: tuple[int, ...]
    delimiter: str

    def moved(self, points_mm: Points) -> PointTable:
        """The same table with other coordinates."""
        rows = [list(row) for row in self.rows]
        for place, point in zip(self.places, points_mm, strict=True):
            for column, value in zip(self.columns, point, strict=True):
                rows[place][column] = f"{value:.6f}"
        return replace(self, points_mm=points_mm, rows=tuple(map(tuple, rows)))


def mapped(points_mm: Points, transform: sitk.Transform) -> Points:
    """Each point through the transform."""
    return np.array([transform.TransformPoint(point) for point in points_mm.tolist()])


def read_points(path: Path, *, dim: int | None = None) -> PointTable:
    """The points of a table, LPS mm.

    A header names the columns x, y (and z) in any place; without one they are the first. Lines starting with # are comments.
    Without `dim` the points are three-dimensional where a third coordinate stands.

    Raises:
        InputError: the file cannot be read, holds no points or RAS points, or a line is not made of numbers (with its number).
    """
    lines = _lines(path)
    _refuse_ras(path, lines)
    delimiter = _delimiter(lines)
    rows = [(line,) if line.startswith("#") else tuple(*csv.reader([line], delimiter=delimiter)) for line in lines]
    body = [place for place, row in enumerate(rows) if any(map(str.strip, row)) and not row[0].startswith("#")]
    header = _header(rows, body, lines)
    if body and header is not None and rows[body[0]] == header:
        body = body[1:]
    if not body:
        raise InputError(f"{path} holds no points; each line after the header is one point. Check the file.")
    dim = dim or _dimension(header, rows[body[0]])
    columns = _columns(header, dim, path)
    points = np.array([_point(rows[place], columns, f"{path}, line {place + 1}", dim) for place in body])
    return PointTable(points, tuple(rows), tuple(body), columns, delimiter)


def write_points(table: PointTable, path: Path) -> None:
    """The table as a file, whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    with staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=table.delimiter, lineterminator="\n")
        for row in table.rows:
            if len(row) == 1 and row[0].startswith("#"):
                file.write(row[0] + "\n")
            else:
                writer.writerow(row)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file; points come as CSV with columns x, y, z. Check the file.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Check the path.") from error


def _refuse_ras(path: Path, lines: Sequence[str]) -> None:
    """A Slicer file says `# CoordinateSystem = LPS`; older ones say RAS, or 0 for it."""
    for line in lines:
        name, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and name.strip().lower() == "coordinatesystem" and value.strip() not in ("LPS", "1"):
            raise InputError(f"{path} is in the coordinate system {value.strip()}; points must be in LPS mm. Save it as LPS.")


def _delimiter(lines: Sequence[str]) -> str:
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    return max(DELIMITERS, key=first.count)


def _header(rows: Sequence[tuple[str, ...]], body: Sequence[int], lines: Sequence[str]) -> tuple[str, ...] | None:
    """The names of the columns: Slicer's `# columns = …`, or a first row without any number."""
    for line in lines:
        name, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and name.strip().lower() == "columns":
            return tuple(value.split(","))
    if body and not any(_is_number(cell) for cell in rows[body[0]]):
        return rows[body[0]]
    return None


def _dimension(header: tuple[str, ...] | None, first: Sequence[str]) -> int:
    if header is not None:
        return 3 if "z" in (name.strip().lower() for name in header) else 2
    return 3 if len(first) > 2 and _is_number(first[2]) else 2


def _columns(header: tuple[str, ...] | None, dim: int, path: Path) -> tuple[int, ...]:
    if header is None:
        return tuple(range(dim))
    names = [name.strip().lower() for name in header]
    missing = [axis for axis in AXES[:dim] if axis not in names]
    if missing:
        hint = " Columns r, a, s are RAS; save the points as LPS." if {"r", "a", "s"} <= set(names) else " Rename the columns."
        raise InputError(
            f"{path} has no column {', '.join(missing)}; a header must name {', '.join(AXES[:dim])} (LPS mm). "
            f"It names {', '.join(header)}.{hint}"
        )
    return tuple(names.index(axis) for axis in AXES[:dim])


def _point(row: Sequence[str], columns: Sequence[int], where: str, dim: int) -> list[float]:
    rule = f"a point is {dim} numbers, LPS mm"
    if len(row) <= max(columns):
        raise InputError(f"{where} has {len(row)} columns; {rule}. Correct the line.")
    for column in columns:
        if not _is_number(row[column]):
            raise InputError(f"{where}: {row[column]!r} is not a number; {rule}. Correct the line.")
    return [float(row[column]) for column in columns]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
