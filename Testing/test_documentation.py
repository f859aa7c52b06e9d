"""README.md and docs/: every block of code works, every link leads somewhere, every public name and command is there.

Blocks of Python run on small phantoms, with registrations cut short; so do notebooks, which `make docs` runs whole. Those for Slicer's console and those that need weights from elsewhere
are checked for their names and arguments only; commands are read by the parser of the command line, and not run. What is TOML is read in
`Testing/training/test_configuration.py`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import RegistrationNetLib
from RegistrationNetLib.cli.main import parser
from RegistrationNetLib.cohort import series
from RegistrationNetLib.cohort.plan import COLUMNS
from RegistrationNetLib.quality import phantom
from RegistrationNetLib.registration.options import checked_options

from . import documentation
from .documentation import DOCS, PAGES, README, ROOT, Block, anchors, blocks, commands, links, name_of

EVERY_PAGE = [README, *PAGES]
EVERY_BLOCK = [block for page in EVERY_PAGE for block in blocks(page)]
LANGUAGES = {"bash", "python", "text", "toml", "{eval-rst}", "{toctree}"}
# What a block registers on, and as little of the work as one can ask for: whatever the block asks, this is done.
SIDE_VOX = 12
QUICK = {"align": ("centre",), "steps": 1, "repeats": 0}
# How a block shows that it is for Slicer's console, for weights from elsewhere, or a part of a file that is to be written.
IN_SLICER = re.compile(r"\bslicer\.util\b|\blogic\.")
NEEDS_WEIGHTS = re.compile(r'model="(?!direct|nephi)')
RELATIVE = re.compile(r"^from \.|^METHODS = ", re.MULTILINE)


def of_language(*names: str) -> list[Block]:
    return [block for block in EVERY_BLOCK if block.language in names]


def is_run(block: Block) -> bool:
    return not any(pattern.search(block.text) for pattern in (IN_SLICER, NEEDS_WEIGHTS, RELATIVE))


PYTHON = of_language("python")
RUN = [block for block in PYTHON if is_run(block)]
SHELL = [(str(block), line) for block in of_language("bash") for line in commands(block)]


def blob(shift: float = 0.0) -> sitk.Image:
    """A round blob on a slope, spacing 3 mm, int16."""
    points = np.stack(np.meshgrid(*[np.arange(SIDE_VOX)] * 3, indexing="ij"))
    distance = np.linalg.norm(points - np.reshape([SIDE_VOX / 2, SIDE_VOX / 2, SIDE_VOX / 2 + shift], (3, 1, 1, 1)), axis=0)
    image = sitk.GetImageFromArray((1000 * np.exp(-((distance / 4) ** 2)) + points[0]).astype(np.int16))
    image.SetSpacing([3.0] * 3)
    return image


def make(name: str) -> None:
    """A file that a block of code reads: an image; labels and a series by what they are called."""
    image = blob(0.5 * (sum(map(ord, name)) % 2))
    if re.search("label|lesion|lungs", name):
        image = sitk.Cast(image > 300, sitk.sitkUInt8)
    if "breathing" in name:
        image = sitk.JoinSeries([blob(0.0), blob(0.5)])
    sitk.WriteImage(image, name)


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a block take the fewest steps, a pair that it makes is coarse; that its options can be had is asked before."""

    def shortened(function: Callable[..., Any]) -> Callable[..., Any]:
        def short(*given: Any, **options: Any) -> Any:
            modalities = (options.get("fixed_modality", "other"), options.get("moving_modality", "other"))
            checked_options("direct", modalities=modalities, align=options.get("align"), refine=options.get("refine"))
            # A result to go on from holds its alignment.
            return function(*given, **{**options, **QUICK, **({"align": None} if "previous" in options else {})})

        return wraps(function)(short)

    monkeypatch.setattr(RegistrationNetLib, "register", shortened(RegistrationNetLib.register), raising=False)
    monkeypatch.setattr(series, "register", shortened(series.register))
    pair_of = phantom.demo_pair
    monkeypatch.setattr(phantom, "demo_pair", lambda **_: pair_of(shape=(16, 18, 16), spacing_mm=12.0))


# what is shown as code


def test_every_block_names_its_language() -> None:
    assert [str(block) for block in EVERY_BLOCK if block.language not in LANGUAGES] == []


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("block", RUN, ids=str)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in set(re.findall(r'"([\w/]+\.nii\.gz)"', block.text)):
        make(name)
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


def test_notebooks_are_kept_without_what_a_run_leaves() -> None:
    cells = [cell for page in PAGES if page.suffix == ".ipynb" for cell in documentation.cells_of(page, "code")]
    assert [cell["source"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []
    assert len(cells) > 5


def test_python_names_what_there_is() -> None:
    missing = {str(block): names for block in PYTHON if (names := sorted(missing_names(ast.parse(block.text))))}
    assert missing == {}


def missing_names(tree: ast.Module) -> Iterator[str]:
    """What is imported from the library, called of Slicer's logic, or given by name to a registration, and is not there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("RegistrationNetLib"):
            module = importlib.import_module(node.module or "")
            yield from (alias.name for alias in node.names if not hasattr(module, alias.name))
        if isinstance(node, ast.Call):
            yield from missing_in_call(node)


def missing_in_call(node: ast.Call) -> set[str]:
    function = ast.unparse(node.func)
    named = {keyword.arg for keyword in node.keywords if keyword.arg}
    if function in ("register", "register_series"):
        both = (RegistrationNetLib.register, RegistrationNetLib.register_series)
        return named - {name for one in both for name in inspect.signature(one).parameters}
    if not function.startswith("logic."):
        return set()
    arguments = logic_methods().get(function.removeprefix("logic."))
    return {function} if arguments is None else set() if "keywords" in arguments else named - arguments


def test_a_name_that_is_gone_is_seen() -> None:
    text = "from RegistrationNetLib import gone\nregister(a, b, spacing=2)\nlogic.fly()\nlogic.register(a, b, model='direct')"
    assert sorted(missing_names(ast.parse(text))) == ["gone", "logic.fly", "spacing"]


def logic_methods() -> dict[str, set[str]]:
    """The methods of Slicer's logic with the names of their arguments, read without Slicer."""
    text = (ROOT / "RegistrationNetLib" / "slicer_bridge" / "logic.py").read_text("utf-8")
    (logic,) = (one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == "RegistrationLogic")
    methods = [one for one in logic.body if isinstance(one, ast.FunctionDef)]
    return {one.name: {a.arg for a in [*one.args.args, *one.args.kwonlyargs, *filter(None, [one.args.kwarg])]} for one in methods}


def test_python_that_is_not_run_is_for_slicer_for_weights_or_part_of_a_file() -> None:
    held = {block.page for block in PYTHON if not is_run(block)}
    assert held == {
        "README.md",
        "docs/a-method-of-your-own.md",
        "docs/methods/unigradicon.md",
        "docs/start/slicer.md",
        "docs/tasks/cohort.md",
        "docs/tutorial.md",
    }
    assert len(RUN) >= 10


def test_commands_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [one for one in SHELL if one[1].startswith("registrationnet ")]
    assert [(place, line) for place, line in lines if not is_understood(line)] == [], capsys.readouterr().err
    assert len(lines) > 60


def is_understood(line: str) -> bool:
    try:
        return bool(parser().parse_args(shlex.split(line)[1:]).command)
    except SystemExit:
        return False


def test_a_command_that_is_not_understood_is_seen() -> None:
    assert is_understood("registrationnet register a b c --model nephi")
    assert not is_understood("registrationnet register a b c --modle nephi")


def test_every_other_line_for_the_shell_is_of_a_program_that_there_is() -> None:
    lines = [line for _, line in SHELL if not line.startswith("registrationnet ")]
    unknown = [line for line in lines if not is_known(line)]
    assert unknown == []
    assert len(lines) > 20


def is_known(line: str) -> bool:
    """A target of the Makefile, a program of the repository, or an installation of what the project names."""
    words = shlex.split(line)
    if words[0] == "make":
        return re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE) is not None
    if words[:2] == ["pip", "install"]:
        return words[2] in (".", "torch", "pre-commit") or re.fullmatch(r"registrationnet\[[a-z]+\]", words[2]) is not None
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[0] == "python" and words[1] == "-m":
        module = ROOT.joinpath(*words[2].split("."))
        return words[2] == "pytest" or module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    return words[0] == "python" and (ROOT / words[1]).is_file()


def test_a_plan_that_is_shown_has_columns_that_there_are() -> None:
    plans = [block for block in of_language("text") if "fixed,moving" in block.text]
    assert plans
    for block in plans:
        header, *rows = (line.split(",") for line in block.text.splitlines())
        assert set(header) <= set(COLUMNS)
        assert {len(row) for row in rows} == {len(header)}


# what leads elsewhere


def leads_somewhere(link: documentation.Link, page: Path) -> bool:
    target = (page.parent / link.target).resolve() if link.target else page
    return target.exists() and (not link.part or link.part in anchors(target))


def test_no_link_is_broken() -> None:
    every = [(page, link) for page in EVERY_PAGE for link in links(page)]
    assert [(name_of(page), *link) for page, link in every if not leads_somewhere(link, page)] == []
    assert len(every) > 100


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two: `three`\n[a](gone.md) ![b](gone.png) [c](#one-two-three) [d](https://x.org)\n```text\n[e](f)\n```\n"
    )
    assert [(link.target, leads_somewhere(link, page)) for link in links(page)] == [
        ("gone.md", False),
        ("gone.png", False),
        ("", True),
    ]
    assert anchors(page) == {"#one-two-three"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    assert {name_of(page) for page in documentation.pages_in_the_navigation()} == {name_of(page) for page in PAGES}


def test_links_out_of_the_site_become_addresses_of_the_repository() -> None:
    pages = importlib.import_module("docs.pages")
    text = "[a](../README.md) [b](trust.md#x) [c](https://x.org) ![d](../Resources/RegistrationNet.png) [e](#f) [g](../Testing)"
    assert pages.with_links_to_the_repository(text, DOCS / "index.md", "https://r") == (
        "[a](https://r/blob/main/README.md) [b](trust.md#x) [c](https://x.org) ![d](../Resources/RegistrationNet.png) [e](#f) "
        "[g](https://r/tree/main/Testing)"
    )


# what is public


def documented() -> Iterator[tuple[str, str, set[str]]]:
    """Directive, full name, and the members that it names, of everything that the reference shows."""
    for block in (block for block in EVERY_BLOCK if block.language == "{eval-rst}"):
        for part in re.split(r"^(?=\.\. )", block.text, flags=re.MULTILINE):
            if found := re.match(r"\.\. (\S+):: (RegistrationNetLib\S*)", part):
                members = re.search(r":members: (.+)", part)
                yield found[1], found[2], set(members[1].split(", ")) if members else set()


def test_every_name_of_the_package_is_in_the_reference() -> None:
    shown = {name.rpartition(".")[2] for _, name, _ in documented()} | {"is_out_of_memory_text"}
    in_errors = {name for name, one in vars(importlib.import_module("RegistrationNetLib.errors")).items() if inspect.isclass(one)}
    assert set(RegistrationNetLib.__all__) <= shown | in_errors
    assert ("automodule", "RegistrationNetLib.errors", set()) in documented()


def undocumented(module: str, members: set[str]) -> Iterator[str]:
    """Of the names that the reference shows of a module, those that are not there, or say nothing of themselves."""
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))
    named = {one.name: one for one in tree.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))}
    for name in members or {name for name in named if not name.startswith("_")}:
        if name not in named or not ast.get_docstring(named[name]):
            yield f"{module}.{name}"


def test_every_name_that_the_reference_shows_has_a_docstring() -> None:
    modules = [(name, members) for kind, name, members in documented() if kind == "automodule"]
    assert [one for module, members in modules for one in undocumented(module, members)] == []
    assert len(modules) > 15
    assert list(undocumented("RegistrationNetLib.progress", {"Gone"})) == ["RegistrationNetLib.progress.Gone"]


def test_the_reference_of_commands_has_every_command_and_option() -> None:
    pages = importlib.import_module("docs.pages")
    page = pages.commands_page()
    for one in pages.command_parsers(parser()):
        assert f"## {one.prog}\n" in page
        for action in one._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"`{option}" in page
    assert pages.COMMANDS_HERE in (DOCS / "reference" / "command-line.md").read_text("utf-8")
    assert "%(default)s" not in page


def test_every_model_is_named_on_the_page_of_a_method() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "methods").glob("*.md"))
    cards = [path.stem for path in (ROOT / "Resources" / "Models").glob("*.json")]
    assert [name for name in cards if f"`{name}`" not in text] == []
