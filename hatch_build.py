"""What hatchling asks while it builds: the readme as the package index shows it, away from the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link of Markdown to a file of the repository; the ! of a picture stands before it.
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)")


def with_full_links(text: str, repository: str) -> str:
    """The text with its links to files as addresses: of the page that shows a file or, of a picture, of its bytes."""
    bytes_of = repository.replace("https://github.com", "https://raw.githubusercontent.com") + "/main"
    return LINK.sub(lambda link: f"{link[1]}{link[2]}({bytes_of if link[1] else f'{repository}/blob/main'}/{link[3]})", text)


class ReadmeHook(MetadataHookInterface):
    """Sets the field `readme` of the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_full_links(text, metadata["urls"]["Repository"]),
        }
