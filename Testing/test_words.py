"""Code and documents use the words of the field: no metaphor that a newcomer must learn."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = {".py", ".md", ".toml", ".json", ".yml", ".html", ".ui", ".txt", ".svg", ".ipynb"}
FOLDERS = ("RegistrationNet", "RegistrationNetLib", "Resources", "Testing", "docs")
# Each with what it used to stand for: package, layer, conversion, pipeline, thread, process, objective, messages.
METAPHORS = re.compile(
    r"\b((?:this|that|each) room|rooms|floors?|doors?|roads?|courier|desk|lessons?|chatter)\b(?!\()", re.IGNORECASE
)
FILES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in ENDINGS),
    *(
        ROOT / name
        for name in (
            "README.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "Makefile",
            "pyproject.toml",
            "hatch_build.py",
        )
    ),
]


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="not in a checkout")
def test_no_metaphor_stands_where_a_word_of_the_field_would() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in FILES
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if METAPHORS.search(line)
    ]
    assert found == []


def test_a_function_of_that_name_is_no_metaphor() -> None:
    assert METAPHORS.search("position.floor()") is None
    assert METAPHORS.search("a floor above") is not None
