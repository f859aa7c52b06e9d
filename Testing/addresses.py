"""The owner's address and the authors' name, set in pyproject.toml, written into every other file that holds them.

python -m Testing.addresses
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "pyproject.toml"
# The files that hold an address; the first of them are those that the Extensions Index reads.
FILES = (
    "RegistrationNet.json",
    "CMakeLists.txt",
    SOURCE,
    "CITATION.cff",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    ".github/ISSUE_TEMPLATE/config.yml",
    "RegistrationNet/RegistrationNet.py",
)
ADDRESS = re.compile(r"(https://(?:github\.com|raw\.githubusercontent\.com)/)[\w.-]+/[\w.-]*RegistrationNet\b")
# How each file writes the authors' name.
NAME = re.compile(
    r'(set\(EXTENSION_CONTRIBUTORS "|parent\.contributors = \["|^  - name: "|^authors = \[\{ name = ")[^"]+(")', re.M
)


def set_in_project() -> tuple[str, str]:
    """The address of the repository, as in https://github.com/OWNER/NAME, and the authors' name."""
    project = tomllib.loads((ROOT / SOURCE).read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"], project["authors"][0]["name"]


def with_addresses(text: str, repository: str, authors: str) -> str:
    """The text with this repository in each address of the project, and with this name of its authors."""
    path = repository.removeprefix("https://github.com/")
    text = ADDRESS.sub(lambda found: found[1] + path, text)
    return NAME.sub(lambda found: found[1] + authors + found[2], text)


def main() -> None:
    """Bring all files in line with pyproject.toml."""
    for name in FILES:
        file = ROOT / name
        file.write_text(with_addresses(file.read_text(encoding="utf-8"), *set_in_project()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
