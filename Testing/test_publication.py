"""What the Extensions Index and the package index ask for, and that the address of the project is the same everywhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.version import __version__

from . import addresses

yaml = pytest.importorskip("yaml")

ROOT = addresses.ROOT
ENTRY = ROOT / "RegistrationNet.json"
# Of the index's schema, version 1.0.1: each key with the type of its value.
KEYS = {
    "$schema": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "category": str,
    "enabled": bool,
    "scm_revision": str,
    "scm_type": str,
    "scm_url": str,
    "tier": int,
}
NEEDED = {"$schema", "category", "scm_url"}
SCHEMA = "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json#"
ELEMENTS = {"checkboxes", "dropdown", "input", "markdown", "textarea"}
FORMS = sorted(path.name for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
# Where a sentence of the repository may stand; what tools leave behind is not looked at.
FOLDERS = (".github", "RegistrationNet", "RegistrationNetLib", "Resources", "Testing", "docs")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entry() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ENTRY.read_text(encoding="utf-8"))
    return found


def of_cmake(variable: str) -> str:
    """What CMakeLists.txt sets it to, read as the check of the index does: a literal text, without variables."""
    found = re.search(rf'set\({variable}\s*"([^"]+)"\)', text_of("CMakeLists.txt"))
    assert found is not None, f"{variable} is not set to a text"
    assert "${" not in found[1]
    return found[1]


def section(heading: str) -> str:
    """The text of one section of the README."""
    return text_of("README.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def cards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "Resources" / "Models").glob("*.json"))]


def test_the_entry_of_the_index_keeps_the_schema() -> None:
    held = entry()
    assert set(held) >= NEEDED
    assert {key: type(value) for key, value in held.items()} == {key: KEYS[key] for key in held}
    assert held["$schema"] == SCHEMA
    assert held["tier"] in (1, 3, 5)
    assert b"\r" not in ENTRY.read_bytes()


def test_the_entry_says_what_cmake_says() -> None:
    held = entry()
    project = re.search(r"project\(\s*(\w+)", text_of("CMakeLists.txt"))
    assert project is not None
    assert project[1] == ENTRY.stem
    assert held["build_dependencies"] == of_cmake("EXTENSION_DEPENDS").split()
    assert held["scm_url"] == of_cmake("EXTENSION_HOMEPAGE")
    assert f'"qSlicerAbstractCoreModule", "{held["category"]}"' in text_of("RegistrationNet/RegistrationNet.py")


def test_the_repository_is_called_slicer_and_the_extension_is_not() -> None:
    assert not ENTRY.stem.lower().startswith("slicer")
    assert entry()["scm_url"].startswith("https://")
    assert entry()["scm_url"].endswith(f"/Slicer{ENTRY.stem}")


def test_the_description_is_one_or_two_sentences() -> None:
    assert 1 <= len(re.findall(r"\.(?: |$)", of_cmake("EXTENSION_DESCRIPTION"))) <= 2


@pytest.mark.parametrize("variable", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_each_picture_of_the_extension_is_in_the_repository(variable: str) -> None:
    held = entry()
    raw = held["scm_url"].replace("https://github.com", "https://raw.githubusercontent.com") + f"/{held['scm_revision']}/"
    pictures = of_cmake(variable).split()
    assert pictures
    for one in pictures:
        assert one.startswith(raw)
        assert (ROOT / one.removeprefix(raw)).read_bytes().startswith(b"\x89PNG")


def test_the_readme_goes_in_the_order_of_the_check_list() -> None:
    """Name, what it is for, a picture, the module, the tutorial, the publications, the licence."""
    readme = text_of("README.md")
    parts = (
        f"# {ENTRY.stem}\n",
        "Medical image registration",
        "![",
        "The extension has one module",
        "\n## In 3D Slicer\n",
        "*Sample Data*",
        "\n## Publications to cite\n",
        "\n## Licence\n",
        "Apache License 2.0",
    )
    places = [readme.find(part) for part in parts]
    assert places[0] == 0
    assert places == sorted(places)
    assert text_of("LICENSE.txt").lstrip().startswith("Apache License")


def test_the_readme_names_the_paper_of_every_model() -> None:
    assert set(re.findall(r"arxiv\.org/abs/([\d.]+)", section("Publications to cite"))) == {
        card["paper"]["arxiv"] for card in cards()
    }


def test_the_readme_gives_the_licence_of_every_models_weights() -> None:
    rows = {name: row for row in section("Licence").splitlines() for name in re.findall(r"`([\w-]+)`", row)}
    weights = {card["name"]: card["weights"]["licence"] for card in cards() if card["weights"]}
    assert set(rows) == set(weights)
    for name, licence in weights.items():
        assert rows[name].endswith(f"| {licence} |")


def test_the_citation_file_has_what_its_format_needs() -> None:
    held = yaml.safe_load(text_of("CITATION.cff"))
    assert held["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(held)
    assert held["version"] == __version__
    for one in held["references"]:
        assert {"type", "title", "authors", "year"} <= set(one)
        assert all(set(author) == {"family-names", "given-names"} for author in one["authors"])


def test_the_citation_file_cites_the_paper_of_every_model() -> None:
    cited = {one["url"].rpartition("/")[2]: one["title"] for one in yaml.safe_load(text_of("CITATION.cff"))["references"]}
    told = {card["paper"]["arxiv"]: card["paper"]["title"].partition(" (")[0] for card in cards()}
    assert cited == told


@pytest.mark.parametrize("name", addresses.FILES)
def test_every_file_has_the_address_and_the_name_that_pyproject_sets(name: str) -> None:
    text = text_of(name)
    assert addresses.with_addresses(text, *addresses.set_in_project()) == text, "run python -m Testing.addresses"


@pytest.mark.parametrize("name", addresses.FILES)
def test_one_edit_changes_every_address_and_name(name: str) -> None:
    old_address, old_name = addresses.set_in_project()
    text = text_of(name)
    changed = addresses.with_addresses(text, "https://github.com/someone/SlicerRegistrationNet", "Jane Roe")
    path = old_address.removeprefix("https://github.com/")
    assert path in text or old_name in text
    assert path not in changed
    assert old_name not in changed
    assert addresses.with_addresses(changed, old_address, old_name) == text


def text_files() -> Iterator[Path]:
    candidates = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    endings = {".cff", ".html", ".ipynb", ".json", ".md", ".py", ".toml", ".txt", ".ui", ".yaml", ".yml"}
    return (path for path in candidates if path.is_file() and path.suffix in endings)


def test_no_other_file_holds_an_address_of_the_project() -> None:
    holding = {path.relative_to(ROOT).as_posix() for path in text_files() if addresses.ADDRESS.search(path.read_text("utf-8"))}
    assert holding - {Path(__file__).relative_to(ROOT).as_posix()} <= set(addresses.FILES)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_for_issues_can_be_shown(name: str) -> None:
    form = yaml.safe_load(text_of(f".github/ISSUE_TEMPLATE/{name}"))
    assert {"name", "description", "body"} <= set(form)
    assert {one["type"] for one in form["body"]} <= ELEMENTS
    asked = [one for one in form["body"] if one["type"] != "markdown"]
    assert len({one["id"] for one in asked}) == len(asked) > 0
    assert all(one["attributes"]["label"] for one in asked)


def test_forms_that_ask_for_images_or_messages_say_that_no_patient_may_be_in_them() -> None:
    assert len(FORMS) == 3
    for name in FORMS[:2]:
        assert "no image of a patient" in text_of(f".github/ISSUE_TEMPLATE/{name}")


def test_the_hooks_before_a_commit_are_the_parts_of_make_check() -> None:
    (local,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    parts = re.search(r"^check: (.+)$", text_of("Makefile"), re.MULTILINE)
    assert parts is not None
    assert [hook["entry"] for hook in local["hooks"]] == [f"make {part}" for part in parts[1].split()]
    for part in parts[1].split():
        assert re.search(rf"^{part}: .*\n\t\S", text_of("Makefile"), re.MULTILINE)
