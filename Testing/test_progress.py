"""Stages: their share of the whole, their time, and how work is cancelled."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from RegistrationNetLib import progress
from RegistrationNetLib.errors import Cancelled
from RegistrationNetLib.progress import Progress, Stages, silent


class Clock:
    """A clock that goes on only where a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_fractions_grow_from_0_to_1_across_stages() -> None:
    seen: list[Progress] = []
    stages = Stages(seen.append, {"prepare": 1, "network": 3, "finish": 0.1})
    for stage in stages.weights:
        report = stages.begin(stage)
        for step in range(11):
            report(step / 10)
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert list(dict.fromkeys(one.stage for one in seen)) == ["prepare", "network", "finish"]


def test_stage_takes_its_share_of_the_whole() -> None:
    seen: list[Progress] = []
    stages = Stages(seen.append, {"first": 1.0, "second": 3.0})
    stages.begin("second")(0.5)
    assert [one.fraction for one in seen] == [0.25, 0.625]


def test_fraction_beyond_the_stage_is_cut() -> None:
    seen: list[Progress] = []
    report = Stages(seen.append, {"first": 1.0, "second": 1.0}).begin("first")
    report(1.7)
    report(-0.3)
    assert [one.fraction for one in seen] == [0.0, 0.5, 0.0]


def test_report_of_an_earlier_stage_keeps_its_name_and_place() -> None:
    seen: list[Progress] = []
    stages = Stages(seen.append, {"first": 1.0, "second": 1.0})
    late = stages.begin("first")
    stages.begin("second")
    late(1.0)
    assert (seen[-1].stage, seen[-1].fraction) == ("first", 0.5)
    stages.finish()
    late(1.0)
    assert (seen[-1].stage, seen[-1].fraction) == ("first", 0.5)


def test_time_left_is_unknown_early_and_proportional_later(clock: Clock) -> None:
    seen: list[Progress] = []
    report = Stages(seen.append, {"only": 2.0}).begin("only")
    clock.now += 0.4
    report(0.5)
    clock.now += 9.6
    report(0.02)
    report(0.04)
    report(0.25)
    report(1.0)
    assert [one.seconds_left for one in seen] == [None, None, None, pytest.approx(240.0), pytest.approx(30.0), 0.0]


def test_seconds_of_each_stage_are_noted_and_add_up_when_repeated(clock: Clock) -> None:
    stages = Stages(silent, {"first": 1.0, "second": 1.0})
    for stage, took in (("first", 2.0), ("second", 5.0), ("first", 0.5)):
        stages.begin(stage)
        clock.now += took
    stages.finish()
    clock.now += 1.0
    stages.finish()
    assert stages.seconds == {"first": pytest.approx(2.5), "second": pytest.approx(5.0)}
    assert stages.total_seconds == pytest.approx(8.5)


def test_unknown_stage_is_an_error_that_lists_the_stages() -> None:
    with pytest.raises(KeyError, match="unknown stage 'refine'; the stages are prepare, network"):
        Stages(silent, {"prepare": 1.0, "network": 1.0}).begin("refine")


def test_callback_stops_the_work_by_raising_cancelled() -> None:
    def stop_at_half(now: Progress) -> None:
        if now.fraction >= 0.5:
            raise Cancelled("stopped by the user")

    report = Stages(stop_at_half, {"only": 1.0}).begin("only")
    report(0.4)
    with pytest.raises(Cancelled, match="stopped by the user"):
        report(0.5)
