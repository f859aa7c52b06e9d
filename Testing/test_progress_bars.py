"""The progress bar of a caller from Python."""

import sys
from types import ModuleType

import pytest
import tqdm.auto

import RegistrationNetLib
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.progress_bars import Drawing, progress_bar, time_left


class Bar:
    """Notes what is drawn on it."""

    def __init__(self, **given: object) -> None:
        self.given, self.n, self.stage, self.unit, self.drawn, self.is_closed = given, 0.0, "", "", [], False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def set_description_str(self, stage: str, *, refresh: bool) -> None:
        assert not refresh
        self.stage = stage

    def refresh(self) -> None:
        self.drawn.append((self.stage, self.n, self.unit))


def test_the_bar_is_that_of_the_place_where_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm.auto knows whether this is a notebook; nothing else is asked."""
    made: list[Bar] = []
    elsewhere = ModuleType("tqdm.auto")
    elsewhere.tqdm = lambda **given: made.append(Bar(**given)) or made[0]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm.auto", elsewhere)
    with RegistrationNetLib.progress_bar() as progress:
        progress(Progress("align", 0.25, None))
        assert not made[0].is_closed
    assert made[0].drawn == [("align", 0.25, "")]
    assert made[0].is_closed


def test_the_bar_draws_in_plain_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "notebook" not in tqdm.auto.tqdm.__module__
    with progress_bar() as progress:
        progress(Progress("refine", 0.5, 83.4))
    drawn = capsys.readouterr().err
    assert all(part in drawn for part in ("refine", "50%", "1:23 left"))


def test_a_stage_begins_and_the_end_is_drawn_at_once_and_little_between() -> None:
    bar = Bar()
    draw = Drawing(bar)  # type: ignore[arg-type]
    for one in (
        Progress("align", 0.1, None),
        Progress("align", 0.1001, None),
        Progress("finish", 0.9, 1.0),
        Progress("finish", 1.0, 0.0),
    ):
        draw(one)
    assert [(stage, fraction) for stage, fraction, _ in bar.drawn] == [("align", 0.1), ("finish", 0.9), ("finish", 1.0)]


def test_time_left_is_said_in_minutes_and_seconds() -> None:
    assert [time_left(seconds) for seconds in (None, 0.2, 59.6, 61)] == ["", "0:00 left", "1:00 left", "1:01 left"]
