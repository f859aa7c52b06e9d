"""A result as a notebook shows it, and in two lines: what was registered how, and the verdict with its reason."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, Protocol

import SimpleITK as sitk

from .marks import Colour
from .pictures import Result as Drawable
from .pictures import error_over_fixed, grey, largest_edge_mm, lettered, png, window_of, windowed
from .slices import View, centre_of_foreground_mm, views
from .verdict import Verdict

LONGEST_PX = 192
# Of the line that tells the verdict; symbol and words tell them apart without colour.
COLOURS: Mapping[Colour, str] = {"green": "#1a7f37", "amber": "#9a6700", "red": "#cf222e"}
SYMBOLS: Mapping[Colour, str] = {"green": "✓", "amber": "!", "red": "✗"}


class Result(Drawable, Protocol):
    """A registration as it is summed up; `facts` holds what `report.json` does of the inputs and the model."""

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, with the reason."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of `report.json`: `inputs`, `model`, `refine`, `device`, `seconds`, `warnings`."""


def in_two_lines(result: Result) -> str:
    """What was registered and how, and below it the verdict with its reason."""
    return f"{_heading(result)}\n{result.verdict}"


def notebook_html(result: Result) -> str:
    """The result as a piece of HTML that needs nothing else: verdict, warnings, and an axial slice of each image."""
    verdict = result.verdict
    said = f"{SYMBOLS[verdict.colour]} {verdict.words.capitalize()}"
    pictures = "".join(
        f'<figure style="margin:0 8px 8px 0"><img alt="{name}" src="data:image/png;base64,{base64.b64encode(picture).decode("ascii")}">'
        f'<figcaption style="font-size:smaller">{name}</figcaption></figure>'
        for name, picture in _pictures(result)
    )
    warnings = "".join(f"<p>Warning: {escape(one)}</p>" for one in result.facts["warnings"])
    return (
        f'<div><p>{escape(_heading(result))}</p><p><b style="color:{COLOURS[verdict.colour]}">{said}</b>: '
        f'{escape(verdict.reason)}</p>{warnings}<div style="display:flex;flex-wrap:wrap">{pictures}</div></div>'
    )


def _heading(result: Result) -> str:
    facts = result.facts
    fixed, moving = (_described(name, image, facts["inputs"]) for name, image in _images(result))
    refined = "" if facts["refine"] == "none" else f" and refinement of the {facts['refine']}"
    return f"Registration of {moving} to {fixed} by {facts['model']}{refined}, {facts['seconds']['total']:.1f} s on {facts['device']}"


def _images(result: Result) -> tuple[tuple[str, sitk.Image], tuple[str, sitk.Image]]:
    return ("fixed", result.fixed), ("moving", result.moving)


def _described(name: str, image: sitk.Image, inputs: Mapping[str, Any]) -> str:
    file = inputs[name]["file"]
    size = "×".join(map(str, image.GetSize()))
    spacing = "×".join(f"{one:.3g}" for one in image.GetSpacing())
    return f"{Path(file).name if file else name} ({size} voxels of {spacing} mm)"


def _pictures(result: Result) -> Iterator[tuple[str, bytes]]:
    """An axial slice through the centre of the bright tissue: of fixed, of moving before and after, and of the expected error."""
    where = centre_of_foreground_mm(result.fixed)
    view: View = views(result.fixed, where, longest_px=LONGEST_PX)[0]
    of_moving = window_of(result.moving)
    fixed = windowed(result.fixed, window_of(result.fixed), view)
    drawn = {
        "fixed": grey(fixed),
        "moving, before": grey(windowed(result.moving, of_moving, view)),
        "moving, after": grey(windowed(result.warped, of_moving, view)),
        f"expected error above {largest_edge_mm(result):.2g} mm": error_over_fixed(result, fixed, view),
    }
    for name, pixels in drawn.items():
        yield name, png(lettered(pixels, view))
