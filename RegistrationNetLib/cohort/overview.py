"""All results of a cohort for a person: a page with the worst first, and tables for programs."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

from ..io.native_paths import printable
from ..io.outputs import staged_folder
from ..quality.report import MARKS
from ..quality.verdict import WORDS
from .bids import DESCRIPTION
from .pair import CohortPair
from .plan import Plan
from .records import FAILURES_FOLDER, LOCK, failure_of, has_results, is_done, report_of
from .report_numbers import REPORT_NUMBERS, ReportNumber

PAGE, TABLE, FAILURES = "index.html", "pairs.csv", "failures.csv"
# What BIDS does not know in a folder of derivatives, for its validator.
IGNORED, BESIDE_BIDS = ".bidsignore", (PAGE, TABLE, FAILURES, f"{FAILURES_FOLDER}/", LOCK, "*_report.*", "*_thumbnail.jpg")
BINS = 24


# In the table of the page; all are in the CSV file.
SHOWN = ("error_mm_median", "error_mm_p95", "jacobian_min", "jacobian_max", "folded_percent", "dice_before", "dice_after",
         "landmarks_mm_before", "landmarks_mm_after", "seconds")  # fmt: skip
_ORDER = ("red", "amber", "green")


@dataclass(frozen=True)
class Row:
    """A pair in the tables.

    Attributes:
        state: "done"; "failed"; "outdated", where there are results of other files or options; "missing".
        colour, words, reason: of the verdict; empty where there is no result.
        numbers: by the names of `REPORT_NUMBERS`, those that the report has.
        report: address of its page from the overview's.
        thumbnail: JPEG.
        error: why it failed.
    """

    name: str
    state: str
    pair: CohortPair
    colour: str = ""
    words: str = ""
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    report: str = ""
    thumbnail: bytes = b""
    error: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """The worst first: by the verdict, then by the expected error."""
        place = _ORDER.index(self.colour) if self.colour in _ORDER else len(_ORDER)
        return place, -self.numbers.get("error_mm_p95", 0.0)


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram in a picture of 100 by 100, and what is in it by colour of the verdict, lowest first."""

    left: float
    width: float
    parts: tuple[tuple[str, float, float], ...]
    words: str


@dataclass(frozen=True)
class Histogram:
    """How a measure is distributed."""

    title: str
    bars: tuple[Bar, ...]
    low: float
    high: float
    median: float
    count: int


def write_overview(plan: Plan, out: Path, *, is_anonymous: bool = False) -> None:
    """`index.html`, `pairs.csv` and `failures.csv` of what `out` holds of the plan; all or none.

    Args:
        is_anonymous: the tables name no files.

    Raises:
        OutputError: they cannot be written.
    """
    rows = rows_of(plan, out)
    with staged_folder(out) as folder:
        (folder / PAGE).write_text(page(plan, rows), encoding="utf-8")
        (folder / TABLE).write_text(_table(rows, is_anonymous=is_anonymous), encoding="utf-8")
        (folder / FAILURES).write_text(_failures(rows, is_anonymous=is_anonymous), encoding="utf-8")
        if plan.description is not None:
            (folder / DESCRIPTION).write_text(json.dumps(plan.description, indent=2), encoding="utf-8")
            (folder / IGNORED).write_text("".join(f"{one}\n" for one in BESIDE_BIDS), encoding="utf-8")


def rows_of(plan: Plan, out: Path) -> list[Row]:
    """What is known of each pair, the worst first; those without a result at the end."""
    return sorted((_row(pair, out) for pair in plan.pairs), key=lambda row: row.rank)


def page(plan: Plan, rows: Sequence[Row]) -> str:
    """The page as text; it needs no other file, but leads to the reports of the pairs."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["jpeg_address"] = _address
    template = environment.from_string(files(__package__).joinpath("overview_template.html").read_text(encoding="utf-8"))
    with_result = [row for row in rows if row.words]
    known = {name for row in with_result for name in row.numbers}
    return template.render(
        title=Path(plan.source).name,
        rows=with_result,
        failed=[row for row in rows if row.state == "failed"],
        missing=sum(row.state == "missing" for row in rows),
        count=len(rows),
        verdicts=[(colour, WORDS[colour], number) for colour, number in _counted(with_result)],
        symbols=MARKS,
        measures=[measure for measure in REPORT_NUMBERS if measure.name in SHOWN and measure.name in known],
        histograms=[
            histogram(measure, with_result) for measure in REPORT_NUMBERS if measure.has_histogram and measure.name in known
        ],
    )


def histogram(measure: ReportNumber, rows: Sequence[Row]) -> Histogram:
    """The distribution of a measure over the rows that have it, of which there is at least one."""
    having = [row for row in rows if measure.name in row.numbers]
    values = np.array([row.numbers[measure.name] for row in having])
    low, high = min(0.0, float(values.min())), float(values.max())
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    place = (np.searchsorted(edges, values, side="right") - 1).clip(0, BINS - 1)
    tallest = int(np.bincount(place, minlength=BINS).max())
    bars = []
    for number in range(BINS):
        colours = Counter(row.colour for row, one in zip(having, place, strict=True) if one == number)
        parts, base = [], 0.0
        for colour in reversed(_ORDER):
            height = 100 * colours[colour] / tallest
            parts += [(colour, base, height)] if height else []
            base += height
        words = f"{edges[number]:.3g} to {edges[number + 1]:.3g}: {sum(colours.values())}"
        bars.append(Bar(100 * number / BINS, 100 / BINS, tuple(parts), words))
    return Histogram(measure.title, tuple(bars), low, high, float(np.median(values)), len(values))


def _counted(rows: Sequence[Row]) -> list[tuple[Any, int]]:
    """How many rows have each verdict, the worst first."""
    counts = Counter(row.colour for row in rows)
    return [(colour, counts[colour]) for colour in _ORDER if counts[colour]]


def _row(pair: CohortPair, out: Path) -> Row:
    failure = failure_of(pair, out)
    state = "done" if is_done(pair, out) else "outdated" if has_results(pair, out) else "missing"
    if failure is not None and state != "done":
        state = "failed"
    if not has_results(pair, out):
        return Row(pair.name, state, pair, error=failure.error if failure else "")
    report = report_of(pair, out)
    verdict = report["verdict"]
    thumbnail = pair.layout.path(out, "thumbnail.jpg")
    return Row(
        pair.name, state, pair, verdict["colour"], verdict["words"], verdict["reason"],
        numbers={measure.name: number for measure in REPORT_NUMBERS if (number := measure.of(report)) is not None},
        report=quote(pair.layout.path(Path(), "report.html").as_posix()),
        thumbnail=thumbnail.read_bytes() if thumbnail.is_file() else b"",
        error=failure.error if failure else "",
    )  # fmt: skip


def _table(rows: Sequence[Row], *, is_anonymous: bool) -> str:
    sides = () if is_anonymous else ("fixed", "moving")
    header = ["name", "state", "verdict", "reason", *sides, "folder", *(measure.name for measure in REPORT_NUMBERS)]
    lines = [
        [
            row.name, row.state, row.words, row.reason, *(printable(row.pair.files[side]) for side in sides),
            row.pair.layout.folder, *(f"{row.numbers[one.name]:.6g}" if one.name in row.numbers else "" for one in REPORT_NUMBERS),
        ]
        for row in rows
    ]  # fmt: skip
    return _csv([header, *lines])


def _failures(rows: Sequence[Row], *, is_anonymous: bool) -> str:
    sides = () if is_anonymous else ("fixed", "moving")
    lines = [[row.name, row.error, *(printable(row.pair.files[side]) for side in sides)] for row in rows if row.state == "failed"]
    return _csv([["name", "error", *sides], *lines])


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _address(picture: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
