"""The result as one page for people: marks with their rules, pictures, facts. Self-contained; nothing is fetched to show it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import jinja2

from ..errors import OutputError
from ..geometry.space import grid_of
from .assessment import Quality, lattice_stride
from .film import films
from .marks import Colour, Mark
from .pictures import Panel, difference_legend, error_legend, jacobian_legend, panels
from .pictures import Result as Drawable
from .truth import Truth
from .verdict import Verdict

# Symbol and word tell the colours apart without colour.
MARKS: Mapping[Colour, tuple[str, str]] = {"green": ("✓", "good"), "amber": ("!", "check"), "red": ("✗", "alarm")}
ADVICE: Mapping[Colour, str] = {
    "green": "Look at the pictures before you rely on it: what the images do not show, no number tells.",
    "amber": "Look at the pictures, first where the expected error is coloured, before you rely on it.",
    "red": "Do not rely on this result.",
}


class Result(Drawable, Protocol):
    """A registration as the page needs it; `report` gives what `report.json` holds, `inputs` with the `file` of each (or None)."""

    @property
    def quality(self) -> Quality:
        """The numbers of the page."""

    @property
    def marks(self) -> Sequence[Mark]:
        """Every measure with its colour."""

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, with the reason."""

    def report(self) -> Mapping[str, Any]:
        """What `report.json` holds, with the `file` of each of the `inputs` (or None)."""


@dataclass(frozen=True)
class Picture:
    """A slice on the page: its name, its PNG as a data address, and that of the slice beneath it ("" for none)."""

    name: str
    source: str
    beneath: str


def write_html(result: Result, path: str | Path, *, truth: Truth | None = None) -> None:
    """The page of `result` as an HTML file, UTF-8, with the truth about it where that is known.

    Raises:
        OutputError: the file cannot be written.
    """
    page = html(result, truth=truth)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as reason:
        raise OutputError(
            f"The report cannot be written to {path}: {reason.strerror}. Choose another folder or free some space."
        ) from reason


def html(result: Result, *, truth: Truth | None = None) -> str:
    """The page of `result` as text."""
    report = result.report()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["jpeg_address"] = partial(_address, kind="jpeg")
    template = environment.from_string(files(__package__).joinpath("report_template.html").read_text(encoding="utf-8"))
    drawn = panels(result)
    return template.render(
        fixed=_name(report, "fixed"),
        moving=_name(report, "moving"),
        report=report,
        marks=result.marks,
        symbols=MARKS,
        verdict=result.verdict,
        advice=ADVICE[result.verdict.colour],
        truth=truth,
        films={film.name: film for film in films(result)},
        similarity=result.quality.similarity,
        similarity_name=result.quality.similarity_name,
        stride=lattice_stride(grid_of(result.fixed)),
        displacement=result.quality.displacement_mm,
        panels=drawn,
        slices={name: _slices(panel, drawn) for name, panel in drawn.items()},
        compared=_laid_over(drawn["warped"], drawn["fixed"]),
        legends={
            "jacobian": _address(jacobian_legend()),
            "difference": _address(difference_legend()),
            "error": _address(error_legend(max(result.quality.voxel_mm))),
        },
        landmarks=result.quality.landmarks,
        facts=_facts(report),
    )


def _name(report: Mapping[str, Any], image: str) -> str:
    """The name of the file that held an image, or which of the two it is where it came without one."""
    file = report["inputs"][image]["file"]
    return Path(file).name if file else f"{image} image"


def _slices(panel: Panel, drawn: Mapping[str, Panel]) -> list[Picture]:
    if panel.over:
        return _laid_over(panel, drawn[panel.over])
    return [Picture(view.name, _address(png), "") for view, png in zip(panel.views, panel.pngs(), strict=True)]


def _laid_over(panel: Panel, beneath: Panel) -> list[Picture]:
    both = zip(panel.views, panel.pngs(), beneath.pngs(), strict=True)
    return [Picture(view.name, _address(above), _address(below)) for view, above, below in both]


def _address(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def _facts(report: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Names and values of the report by section; what stands at its top level comes under "run". The marks have their table."""
    sections = {key: value for key, value in report.items() if isinstance(value, Mapping) and key != "marks"}
    for image in ("fixed", "moving"):
        # The path of a patient's folder is nobody's business who is shown the page.
        sections["inputs"] = {**sections["inputs"], image: {**sections["inputs"][image], "file": _name(report, image)}}
    if "landmarks" in sections:  # each of them has a line in a table of its own
        sections["landmarks"] = {key: value for key, value in sections["landmarks"].items() if key != "points"}
    run = [line for key, value in report.items() if not isinstance(value, Mapping) for line in _flat(value, _words(key))]
    return {"run": run} | {_words(key): list(_flat(value)) for key, value in sections.items()}


def _words(key: str) -> str:
    return key.replace("_", " ")


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a nested report, one line per value; names are joined by a space."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {_words(str(key))}".strip())
    elif isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        for number, inner in enumerate(value, start=1):
            yield from _flat(inner, f"{name} {number}".strip())
    elif isinstance(value, list | tuple):
        yield name, ", ".join(_text(one) for one in value)
    else:
        yield name, _text(value)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
