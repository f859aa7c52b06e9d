"""The picture of the packages in docs/architecture.md, drawn from the imports.

    python -m Testing.architecture

A package stands above all that it imports. An arrow leads to what it imports, unless a longer way of arrows leads there too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from html import escape

from .test_layers import LIBRARY, PLAN, imports_of, order, package_of

PICTURE = LIBRARY.parent / "docs" / "architecture.svg"
WIDTH, HEIGHT, GAP_ACROSS, GAP_DOWN, MARGIN = 330, 84, 40, 48, 24
LETTERS_IN_LINE = 46

Graph = Mapping[str, frozenset[str]]


def packages() -> Graph:
    """Which packages each package imports from; "" is the library's own folder."""
    lower: dict[str, set[str]] = {name: set() for name in PLAN}
    for file in order():
        lower[package_of(file)] |= {package_of(other) for other in imports_of(file)}
    return {name: frozenset(others - {name}) for name, others in lower.items()}


def heights(graph: Graph) -> dict[str, int]:
    """How many arrows the longest way down from each package has."""
    found: dict[str, int] = {}
    for name in PLAN:  # lowest first
        found[name] = 1 + max((found[other] for other in graph[name]), default=-1)
    return found


def arrows(graph: Graph) -> list[tuple[str, str]]:
    """From a package to each that it imports, but for those that one of the others imports as well, directly or not."""
    below: dict[str, frozenset[str]] = {}
    for name in PLAN:
        below[name] = graph[name].union(*(below[other] for other in graph[name]))
    return [
        (name, other)
        for name in PLAN
        for other in PLAN
        if other in graph[name] and not any(other in below[between] for between in graph[name])
    ]


def what_lives_in(package: str) -> str:
    """The first sentence of the package's docstring, as far as its first colon or full stop."""
    path = LIBRARY / package / "__init__.py"
    if not package:
        return "What every package needs: errors, progress, devices, memory"
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.split(". ")[0].split(".\n")[0].replace("\n", " ").replace("`", "").removesuffix(".")


def wrapped(text: str, lines: int) -> list[str]:
    """`text` in at most so many lines."""
    result = [""]
    for word in text.split():
        if len(result[-1]) + len(word) + 1 > LETTERS_IN_LINE:
            result.append("")
        result[-1] = f"{result[-1]} {word}".strip()
    return result if len(result) <= lines else [*result[: lines - 1], result[lines - 1].rstrip(",;:") + " …"]


def picture() -> str:
    """The picture as SVG."""
    graph = packages()
    level = heights(graph)
    rows = [[name for name in PLAN if level[name] == height] for height in range(max(level.values()) + 1)]
    widest = max(map(len, rows))
    width = 2 * MARGIN + widest * WIDTH + (widest - 1) * GAP_ACROSS
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP_DOWN
    places = {}
    for number, row in enumerate(rows):
        indent = (width - len(row) * WIDTH - (len(row) - 1) * GAP_ACROSS) / 2
        top = height - MARGIN - HEIGHT - number * (HEIGHT + GAP_DOWN)
        places.update({name: (indent + place * (WIDTH + GAP_ACROSS), top) for place, name in enumerate(row)})
    parts = [_arrow(places[name], places[other]) for name, other in arrows(graph)]
    parts += [_box(name, *places[name]) for name in PLAN]
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#5b6b7b"/></marker>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif">',
            f'<defs>{head}</defs><rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(name: str, left: float, top: float) -> str:
    lines = [
        f'<rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3f8" stroke="#5b6b7b"/>',
        f'<text x="{left + 12:g}" y="{top + 24:g}" font-size="15" font-weight="bold">{name or LIBRARY.name}</text>',
    ]
    for number, line in enumerate(wrapped(what_lives_in(name), 3)):
        lines.append(f'<text x="{left + 12:g}" y="{top + 44 + 16 * number:g}" font-size="12">{escape(line)}</text>')
    return "\n".join(lines)


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    """From the lower edge of a box to the upper edge of another, bent so that it leaves and arrives upright."""
    x, y = source[0] + WIDTH / 2, source[1] + HEIGHT
    to_x, to_y = target[0] + WIDTH / 2, target[1]
    middle = (y + to_y) / 2
    path = f"M{x:g} {y:g} C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"
    return f'<path d="{path}" fill="none" stroke="#5b6b7b" stroke-width="1.5" marker-end="url(#head)"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
