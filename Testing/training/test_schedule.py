"""The learning rate by the step."""

import itertools
import math

import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.training.schedule import ScheduleOptions


def shares(steps: int, **options: object) -> list[float]:
    schedule = ScheduleOptions(**options)  # type: ignore[arg-type]
    return [schedule.share(number, steps) for number in range(steps)]


def test_unless_told_the_rate_stays() -> None:
    assert shares(5) == [1.0] * 5


def test_a_cosine_falls_from_the_whole_to_its_last_share() -> None:
    found = shares(101, kind="cosine", last=0.2)
    assert found[0] == 1
    assert found[50] == pytest.approx(0.6)
    assert found[100] == 0.2
    assert all(one > other for one, other in itertools.pairwise(found))
    assert found[25] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 25 / 100)))
    assert shares(9, kind="cosine", last=0.2, warm_up=4)[4:] == pytest.approx(
        [0.2 + 0.4 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    )
    assert shares(4, kind="cosine", warm_up=3)[3] == shares(1, kind="cosine")[0] == 1, "a single step has no way to fall"


def test_steps_fall_by_their_factor() -> None:
    assert shares(7, kind="step", every=3, factor=0.1) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("kind", ["constant", "cosine", "step"])
def test_every_kind_may_warm_up(kind: str) -> None:
    found = shares(10, kind=kind, warm_up=4, every=100)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4] == 1


def test_a_warm_up_longer_than_the_training_only_climbs() -> None:
    assert shares(3, kind="cosine", warm_up=6) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_only_a_cosine_depends_on_how_many_steps_there_are() -> None:
    for kind in ("constant", "cosine", "step"):
        options = {"kind": kind, "every": 2, "warm_up": 1}
        differs = shares(8, **options)[:4] != shares(4, **options)
        assert differs == ScheduleOptions(kind=kind, every=2).depends_on_steps == (kind == "cosine")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "linear"}, "no schedule 'linear'; the schedules are constant, cosine, step"),
        ({"warm_up": -1}, "schedule: warm_up must be a whole number from 0 up; got -1"),
        ({"warm_up": 0.5}, "schedule: warm_up must be a whole number"),
        ({"kind": "step"}, "schedule: every must be a whole number from 1 up; got 0"),
        ({"last": 1.5}, "schedule: last must be from 0 to 1; got 1.5"),
        ({"factor": math.nan}, "schedule: factor must be from 0 to 1; got nan"),
    ],
)
def test_what_is_no_schedule_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        ScheduleOptions(**options)  # type: ignore[arg-type]
