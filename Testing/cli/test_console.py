"""What a terminal shows, and that other streams stay clean."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from RegistrationNetLib.cli.console import painted, progress_bar, table
from RegistrationNetLib.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_stage_fraction_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar() as callback:
        callback(Progress("align", 0.25, None))
        callback(Progress("refine", 0.5, 83.4))
    assert "align" in stream.getvalue()
    assert "25%" in stream.getvalue()
    last = stream.getvalue().split("refine")[-1]
    assert "50%" in last
    assert "1:23 left" in last


SHOW = """
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.cli.console import progress_bar
with progress_bar() as callback:
    callback(Progress("refine", 0.5, 83.4))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a POSIX notion")
def test_the_bar_shows_on_a_real_terminal_that_does_not_tell_its_size() -> None:
    ours, theirs = os.openpty()
    subprocess.run([sys.executable, "-c", SHOW], stderr=theirs, check=True, cwd=Path(__file__).resolve().parents[2])
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert "refine" in shown
    assert "50%" in shown
    assert "1:23 left" in shown


def test_the_bar_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar() as callback:
        callback(Progress("align", 0.25, None))
    assert stream.getvalue().split("\r")[-1].strip() == ""


@pytest.mark.parametrize(("stream", "is_wanted"), [(io.StringIO(), True), (Terminal(), False)])
def test_no_bar_without_a_terminal_or_when_not_wanted(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, is_wanted: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(is_wanted=is_wanted) as callback:
        callback(Progress("align", 0.25, None))
    assert stream.getvalue() == ""


def test_a_table_aligns_its_columns() -> None:
    assert table([("a", "bb", "ccc"), ("aaaa", "b", "")]) == "  a     bb  ccc\n  aaaa  b"


def test_paint_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert painted("green", "green") == "\033[32mgreen\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("green", "green") == "green"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert painted("green", "green") == "green"
