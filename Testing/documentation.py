"""The pages for readers, README.md and docs/, as tests look at them: their blocks of code, their links, and the pages they lead to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")])

_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A link or a picture of Markdown to a file of the repository, with the part of the page that it leads to.
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code on a page: the language that it names, and what it holds."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


class Link(NamedTuple):
    """A link on a page to a file, "" for the page itself, and to a part of it, "" for the whole."""

    target: str
    part: str


def name_of(page: Path) -> str:
    """The page as it is called from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, in order, numbered from 1."""
    for number, found in enumerate(_BLOCK.finditer(text_of(page)), 1):
        yield Block(name_of(page), number, found[1].strip(), found[2])


def commands(block: Block) -> list[str]:
    """The commands of a block of the shell: continued lines as one, without comments and what a failure leads to."""
    lines = block.text.replace("\\\n", " ").splitlines()
    plain = (re.split(r"\s#|\|\|", line)[0].strip() for line in lines)
    return [line for line in plain if line and not line.startswith("#")]


def links(page: Path) -> list[Link]:
    """Every link of a page to a file of the repository, or within the page; blocks of code have none."""
    return [Link(found[1], found[2] or "") for found in _LINK.finditer(_without_blocks(page))]


def anchors(page: Path) -> set[str]:
    """What links can lead to within a page: its headings, as GitHub and the site spell them there."""
    return {f"#{_slug(found[1])}" for found in _HEADING.finditer(_without_blocks(page))}


def text_of(page: Path) -> str:
    """The page as Markdown; of a notebook what is written, and below it the code as one block, as each cell needs those before it."""
    if page.suffix != ".ipynb":
        return page.read_text("utf-8")
    written, code = ("\n\n".join("".join(cell["source"]) for cell in cells_of(page, kind)) for kind in ("markdown", "code"))
    return f"{written}\n\n```python\n{code}\n```\n"


def cells_of(notebook: Path, kind: str) -> list[dict[str, Any]]:
    """The cells of one kind, "markdown" or "code"."""
    return [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def listed_pages(page: Path) -> list[Path]:
    """The pages that the tables of contents of a page name."""
    found = [block for block in blocks(page) if block.language == "{toctree}"]
    lines = [line.strip() for block in found for line in block.text.splitlines()]
    named = [page.parent / line for line in lines if line and not line.startswith(":")]
    return [path.with_suffix(".ipynb" if path.with_suffix(".ipynb").exists() else ".md").resolve() for path in named]


def pages_in_the_navigation() -> set[Path]:
    """Every page that the site's first page leads to by tables of contents."""
    found, new = set[Path](), {DOCS / "index.md"}
    while new:
        found |= new
        new = {other for page in new if page.exists() for other in listed_pages(page)} - found
    return found


def _without_blocks(page: Path) -> str:
    return _BLOCK.sub("", text_of(page))


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
