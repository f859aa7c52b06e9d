"""How Sphinx builds the site of these pages: `make docs`, which fails at the first warning.

The pages are plain Markdown that also reads on the repository's own pages. Sphinx makes a site of them, adds the commands from the parser
of the command line and the Python reference from the docstrings; nothing that is made is kept in the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.pages import COMMANDS_HERE, commands_page, with_links_to_the_repository  # noqa: E402
from RegistrationNetLib.version import __version__  # noqa: E402
from Testing.addresses import set_in_project  # noqa: E402

REPOSITORY, AUTHORS = set_in_project()

project = "RegistrationNet"
author = AUTHORS
version = release = __version__
language = "en"
# myst_nb is myst_parser, and runs notebooks besides.
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# A name in single quotes of this kind is code in our docstrings, as in Markdown.
default_role = "code"

html_theme = "furo"
html_title = f"RegistrationNet {__version__}"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
html_copy_source = False
html_show_copyright = False

# As many levels of headings can be linked to as the pages have.
myst_heading_anchors = 4

# Notebooks are kept without outputs, and run whenever the site is built; a cell that fails is a warning, which ends `make docs`.
nb_execution_mode = "force"
nb_execution_show_tb = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Names that say more than what they stand for.
autodoc_type_aliases = {name: name for name in ("ArrayLike", "ImageLike", "Points", "ProgressCallback")}
# Slicer's console is documented from its docstrings; Slicer itself need not be there.
autodoc_mock_imports = ["qt", "ctk", "slicer", "vtk"]
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
# Two arguments explained in one line, `fixed, moving: …`, stay one entry.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_numpy_docstring = False


def on_source_read(app: Any, page: str, content: list[str]) -> None:
    """Bring a page into the form that the site needs, before it is parsed."""
    text = with_links_to_the_repository(content[0], Path(app.srcdir) / page, REPOSITORY)
    if COMMANDS_HERE in text:
        text = text.replace(COMMANDS_HERE, commands_page())
    content[0] = text


def on_signature(*given: Any) -> tuple[str | None, ...]:
    """Write a name of `autodoc_type_aliases` as it is, in the signature and in what is returned, the last two that are given.

    Within a union Sphinx shows how it holds such a name.
    """
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in given[-2:])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", on_source_read)
    app.connect("autodoc-process-signature", on_signature)
