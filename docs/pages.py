"""What the site adds to the pages of this folder: the commands, and links to files that are no pages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from RegistrationNetLib.cli.main import parser

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# Where a page shows every command of the command line.
COMMANDS_HERE = "<!-- every command stands here in the built site, made from its parser -->"
# A link of Markdown to a file, with the part of the page that it leads to; a picture is none.
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
WIDTH = 90


def with_links_to_the_repository(text: str, page: Path, repository: str) -> str:
    """The text of `page` with links to what is no page of the site, files and folders, as addresses in the repository."""

    def changed(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        if DOCS in target.parents and target.is_file():
            return link[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"{link[1]}({repository}/{kind}/main/{target.relative_to(ROOT).as_posix()}{link[3] or ''})"

    return LINK.sub(changed, text)


def command_parsers(one: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser of each command under `one`, a command within a command after the one that holds it."""
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from command_parsers(command)


def commands_page() -> str:
    """Every command with all it takes, as Markdown."""
    return "\n".join(_command(one) for one in command_parsers(parser()))


def _command(one: argparse.ArgumentParser) -> str:
    one.formatter_class = partial(argparse.HelpFormatter, width=WIDTH)  # type: ignore[assignment]
    usage = one.format_usage().removeprefix("usage: ").strip()
    tables = [_table(group.title or "", group._group_actions) for group in one._action_groups]
    return "\n".join([f"## {one.prog}\n", f"{one.description}\n", f"```text\n{usage}\n```\n", *filter(None, tables)])


def _table(title: str, actions: list[argparse.Action]) -> str:
    shown = [action for action in actions if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))]
    if not shown:
        return ""
    rows = [f"| {_cell(_spelling(action))} | {_cell(_explained(action))} |" for action in shown]
    return "\n".join([f"| {title} | |", "|---|---|", *rows, ""])


def _spelling(action: argparse.Action) -> str:
    """How it is written on the command line, as code."""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar if isinstance(action.metavar, str) else (action.dest if not action.choices else "")
    name = name or "{" + ",".join(map(str, action.choices or ())) + "}"
    return f"[{name}]" if action.nargs == "?" else f"{name} …" if action.nargs == "+" else name


def _explained(action: argparse.Action) -> str:
    return (action.help or "").replace("`", "") % {**vars(action), "prog": "registrationnet"}


def _cell(text: str) -> str:
    """Text within a table, in which a bar would begin another cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")
