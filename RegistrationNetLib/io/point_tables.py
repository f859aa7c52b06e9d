"""Text tables of points, whoever wrote them: which columns hold the coordinates, in which system, and which lines are points.

Read are CSV of any delimiter, Slicer's .fcsv and its tables (l, p, s or r, a, s), ANTs' tables, pandas' with an index, elastix'
`point` files, and columns of numbers between spaces (MATLAB). Where the meaning is not plain the table is refused.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .native_paths import printable

Row = tuple[str, ...]

DELIMITERS = ",;\t"
# Names of the columns of each system, and what takes its coordinates to LPS.
SYSTEMS = {("x", "y", "z"): (1, 1, 1), ("l", "p", "s"): (1, 1, 1), ("r", "a", "s"): (-1, -1, 1)}
# As .fcsv says it; by number in older files.
FCSV_SYSTEMS = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}
LABELS = ("label", "name")
# In .fcsv, behind the columns that it names, stands whether a point has been placed: 2 where it has.
FCSV_STATUS, FCSV_PLACED = 14, "2"
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Table:
    """The rows of a file and what they mean.

    Attributes:
        rows: all lines, comments and headers too; a comment is a row of one cell.
        places: which rows are points, placed or not.
        columns: of the coordinates.
        signs: what takes the coordinates to LPS.
        labels: of the points, "" where there is none.
        placed: which of the points have a place.
        delimiter: between cells; " " for any white space.
        has_decimal_comma: numbers are written 1,5.
    """

    rows: tuple[Row, ...]
    places: tuple[int, ...]
    columns: tuple[int, ...]
    signs: tuple[int, ...]
    labels: tuple[str, ...]
    placed: tuple[bool, ...]
    delimiter: str
    has_decimal_comma: bool
    has_header: bool

    def coordinates(self, place: int) -> list[float]:
        """The coordinates of a row, LPS."""
        return [sign * number(self.rows[place][column]) for column, sign in zip(self.columns, self.signs, strict=True)]

    def shown(self, value: float, axis: int) -> str:
        """A coordinate as the table writes it."""
        text = f"{value * self.signs[axis] + 0.0:.6f}"
        return text.replace(".", ",") if self.has_decimal_comma else text


def read_table(path: Path, *, dim: int | None = None) -> Table:
    """The table in the file `path`.

    Raises:
        InputError: it cannot be read, holds no points, a line is not made of numbers (with its number), or the meaning is not plain.
    """
    lines = _logical_lines(_text(path))
    delimiter = _delimiter(lines)
    try:
        rows = [_row(line, delimiter) for line in lines]
    except csv.Error as error:
        raise InputError(
            f"{printable(path)} has a line that cannot be split into cells ({error}); quotation marks must come in pairs. Check the file."
        ) from error
    body = [place for place, row in enumerate(rows) if any(map(str.strip, row)) and not _is_comment(row)]
    body, is_elastix = _without_elastix_head(rows, body, path)
    header, is_first_row = _header(rows, body)
    if is_first_row:
        body = body[1:]
    if not body:
        raise InputError(f"{printable(path)} holds no points; each line after the header is one point. Check the file.")
    columns, signs = _columns(header, rows, body, dim, path) if not is_elastix else _all_columns(rows[body[0]], dim)
    if path.name.lower().endswith(".fcsv"):
        signs = _fcsv_signs(rows, path)[: len(columns)]
    placed = tuple(_is_placed(rows[place], header, path) for place in body)
    for place, has_place in zip(body, placed, strict=True):
        if has_place:
            _check_point(rows[place], columns, f"{printable(path)}, line {place + 1}")
    label = next((header.index(name) for name in LABELS if header is not None and name in header), None)
    return Table(
        rows=tuple(rows),
        places=tuple(body),
        columns=columns,
        signs=signs,
        labels=tuple(_cell(rows[place], label).strip() for place in body),
        placed=placed,
        delimiter=delimiter,
        has_decimal_comma=any(_DECIMAL_COMMA.fullmatch(rows[place][column]) for place in body for column in columns[:1]),
        has_header=header is not None,
    )


def _text(path: Path) -> str:
    """The text of the file: UTF-8, UTF-16 where it says so, else Latin-1 where that gives no control characters."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read {printable(path)}: {reason}. Check the path.") from error
    encodings = ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if all((letter >= " " and not "\x7f" <= letter < "\xa0") or letter in "\t\r\n\x0c" for letter in text):
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise InputError(f"{printable(path)} is not a text file; points come as a table with columns x, y, z. Check the file.")


def _logical_lines(text: str) -> list[str]:
    """Lines, of which one goes on where a quotation mark is open."""
    lines: list[str] = []
    is_open = False
    for line in text.split("\n")[: -1 if text.endswith("\n") else None]:
        if is_open:
            lines[-1] += "\n" + line
        else:
            lines.append(line)
        is_open = lines[-1].count('"') % 2 == 1 and not lines[-1].startswith("#")
    return lines


def _is_comment(row: Row) -> bool:
    return row[0].startswith("#") or (len(row) == 1 and row[0].lower().startswith("sep="))


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter of the first line that is no comment: one of the usual ones, else white space."""
    first = next(
        (line for line in lines if line.strip() and not line.startswith("#") and not line.lower().startswith("sep=")), ""
    )
    found = max(DELIMITERS, key=first.count)
    if ";" in first and all(_DECIMAL_COMMA.fullmatch(cell) or not cell.strip(" 0123456789+-") for cell in first.split(";")):
        return ";"
    if found in first:
        return found
    numbers = [line for line in lines if line.strip() and not line.startswith("#")]
    # White space is a delimiter where every line has as many words; elastix' files have two lines before.
    return " " if len(numbers) > 0 and any(len(line.split()) > 1 for line in numbers) else ","


def _row(line: str, delimiter: str) -> Row:
    if line.startswith("#") or line.lower().startswith("sep="):
        return (line,)
    if delimiter == " ":
        return tuple(line.split()) or ("",)
    return tuple(next(csv.reader([line], delimiter=delimiter), [])) or ("",)


def _without_elastix_head(rows: Sequence[Row], body: Sequence[int], path: Path) -> tuple[list[int], bool]:
    """The lines after the two with which elastix' files begin: `point` (or `index`), and how many there are."""
    kind = rows[body[0]][0].strip().lower() if body and len(rows[body[0]]) == 1 else ""
    if kind not in ("point", "index"):
        return list(body), False
    if kind == "index":
        raise InputError(
            f"{printable(path)} holds indices of voxels (elastix' `index`); points must be in mm, LPS. Save them as `point`."
        )
    count = rows[body[1]][0] if len(body) > 1 and len(rows[body[1]]) == 1 else ""
    if not count.isdigit() or int(count) != len(body) - 2:
        raise InputError(
            f"{printable(path)} announces {count or 'no number of'} points and holds {max(0, len(body) - 2)}; both must be the same. "
            "Check the file."
        )
    return list(body[2:]), True


def _header(rows: Sequence[Row], body: Sequence[int]) -> tuple[Row | None, bool]:
    """The names of the columns in small letters: Slicer's `# columns = …`, or a first row without any number, and whether it is that."""
    for row in rows:
        name, _, value = row[0].lstrip("# ").partition("=")
        if row[0].startswith("#") and name.strip().lower() == "columns":
            return tuple(one.strip().lower() for one in value.split(",")), False
    if body and not any(is_number(cell) for cell in rows[body[0]]):
        return tuple(one.strip().lower() for one in rows[body[0]]), True
    return None, False


def _columns(
    header: Row | None, rows: Sequence[Row], body: Sequence[int], dim: int | None, path: Path
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which columns hold the coordinates, and the signs that take these to LPS."""
    if header is None:
        return _plain_columns(rows[body[0]], dim, path)
    for names, signs in SYSTEMS.items():
        count = dim or (3 if names[2] in header else 2)
        wanted = names[:count]
        if all(header.count(name) == 1 for name in wanted) and (names[0] == "x" or count == 3):
            return tuple(header.index(name) for name in wanted), signs[:count]
    missing = [name for name in ("x", "y", "z")[: dim or 3] if header.count(name) != 1]
    raise InputError(
        f"{printable(path)} has no one column {', '.join(missing)}; a header must name x, y, z (LPS mm), or Slicer's l, p, s or r, a, s. "
        f"It names {', '.join(header)}. Rename the columns."
    )


def _plain_columns(first: Row, dim: int | None, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Without a header: the only numbers of the line, where they are as many as there are coordinates."""
    numbers = [column for column, cell in enumerate(first) if is_number(cell)]
    needed = dim or len(numbers)
    rule = f"a point is {needed} numbers, LPS mm" if dim else "a point is 2 or 3 numbers, LPS mm"
    if len(numbers) > needed or needed > 3:
        raise InputError(
            f"{printable(path)} has {len(numbers)} columns of numbers and no header that says which are x, y, z; {rule}. "
            "Add a first line with the names of the columns."
        )
    if len(numbers) < max(2, needed):
        raise InputError(f"{printable(path)} has {len(numbers)} columns of numbers in its first line; {rule}. Check the file.")
    return tuple(numbers), (1,) * needed


def _all_columns(first: Row, dim: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count = dim or len(first)
    return tuple(range(count)), (1,) * count


def _fcsv_signs(rows: Sequence[Row], path: Path) -> tuple[int, ...]:
    """By the line `# CoordinateSystem = LPS`."""
    for row in rows:
        name, _, value = row[0].lstrip("# ").partition("=")
        if row[0].startswith("#") and name.strip().lower() == "coordinatesystem":
            if value.strip() in FCSV_SYSTEMS:
                return FCSV_SYSTEMS[value.strip()]
            raise InputError(
                f"{printable(path)} is in the coordinate system {value.strip()}; points must be in LPS or RAS mm. Save it as LPS."
            )
    raise InputError(
        f"{printable(path)} does not say its coordinate system (# CoordinateSystem = LPS); points must be in LPS or RAS mm. "
        "Save it again with Slicer."
    )


def _is_placed(row: Row, header: Row | None, path: Path) -> bool:
    """Whether the point of a row has been placed, as Slicer's tables say; elsewhere every point has."""
    if path.name.lower().endswith(".fcsv"):
        return len(row) <= FCSV_STATUS or row[FCSV_STATUS].strip() in (FCSV_PLACED, "")
    if header is not None and "defined" in header:
        return _cell(row, header.index("defined")).strip().lower() not in ("0", "false")
    return True


def _check_point(row: Row, columns: tuple[int, ...], where: str) -> None:
    rule = f"a point is {len(columns)} numbers, LPS mm"
    if len(row) <= max(columns):
        raise InputError(f"{where} has {len(row)} columns; {rule}. Correct the line.")
    for column in columns:
        if not is_number(row[column]):
            raise InputError(f"{where}: {row[column]!r} is not a number; {rule}. Correct the line.")


def _cell(row: Row, column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def is_number(text: str) -> bool:
    """Whether a cell is a finite number; 1,5 is one too."""
    try:
        return math.isfinite(number(text))
    except ValueError:
        return False


def number(text: str) -> float:
    """The number of a cell.

    Raises:
        ValueError: it is none.
    """
    return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
