"""The picture in docs/architecture.md is the one that today's imports give, and what the page names exists."""

import re
from pathlib import Path

from .architecture import PICTURE, arrows, heights, packages, picture, wrapped

PAGE = PICTURE.with_suffix(".md")
ROOT = PICTURE.parents[1]


def test_the_picture_is_current() -> None:
    assert PICTURE.read_text("utf-8") == picture(), "run `python -m Testing.architecture`"


def test_every_arrow_leads_down() -> None:
    graph = packages()
    level = heights(graph)
    assert all(level[name] > level[other] for name, others in graph.items() for other in others)


def test_an_arrow_that_a_longer_way_replaces_is_left_out() -> None:
    graph = packages()
    assert "geometry" in graph["registration"]
    drawn = arrows(graph)
    assert ("registration", "geometry") not in drawn
    assert {("losses", "geometry"), ("registration", "models")} <= set(drawn)


def test_a_text_that_is_too_long_ends_in_dots() -> None:
    assert wrapped("one two", 1) == ["one two"]
    assert wrapped(" ".join(["word"] * 40), 2)[-1].endswith("…")
    assert len(wrapped(" ".join(["word"] * 40), 2)) == 2


def test_every_file_and_folder_that_the_page_names_exists() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"`([\w./]+(?:/|\.(?:py|md|json|html)))`", text)) | set(re.findall(r"\]\(([\w./]+)\)", text))
    places = (ROOT, ROOT / "RegistrationNetLib", PAGE.parent)
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []
    assert len(named) > 20


def test_the_page_has_the_packages_of_the_picture() -> None:
    rows = re.findall(r"^\| `(\w+)/?` \|", Path(PAGE).read_text("utf-8"), re.MULTILINE)
    assert set(rows) == {name for name in packages() if name} | {"RegistrationNetLib"}
