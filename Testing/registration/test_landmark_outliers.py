"""Which pairs are followed: all that agree, alone or together; not one that everything else contradicts."""

from __future__ import annotations

import numpy as np
import pytest

from RegistrationNetLib.registration.landmark_outliers import FEWEST, followed


def places(count: int = 21) -> np.ndarray:
    return 160 * np.random.default_rng(5).random((count, 3))


def asked(count: int = 21, far_mm: float = 1.0) -> np.ndarray:
    return far_mm * np.random.default_rng(6).standard_normal((count, 3))


def judged(where, what, now: float = 0.9, there: float = 0.3) -> list[bool]:
    return followed(where, what, lambda _: (now, there)).tolist()


@pytest.mark.parametrize("wrong", range(0, 21, 4))
def test_one_misplaced_pair_among_twenty_right_ones_is_left_out(wrong: int) -> None:
    displacements = asked()
    displacements[wrong] += [12.0, -12.0, 10.0]
    taken = judged(places(), displacements)
    assert [place for place, is_taken in enumerate(taken) if not is_taken] == [wrong]


def test_a_pair_that_the_images_do_not_contradict_is_followed() -> None:
    """Where they show nothing the user is to be believed."""
    displacements = asked()
    displacements[4] += 15.0
    assert not judged(places(), displacements, now=0.6, there=0.3)[4]
    assert judged(places(), displacements, now=0.3, there=0.3)[4]
    assert judged(places(), displacements, now=0.4, there=0.8)[4]


def test_three_pairs_that_confirm_each_other_are_followed() -> None:
    """Where the registration went wrong, among many that say that it is right elsewhere."""
    where, displacements = places(), asked()
    where[:3] = 80.0 + np.array([[10.0, 0, 0], [-6.0, 7.0, 0], [0, -8.0, 6.0]])
    displacements[:3] += [25.0, 0.0, 0.0]
    assert all(judged(where, displacements))


@pytest.mark.parametrize("count", [1, 3, FEWEST - 1])
def test_few_pairs_are_followed_whatever_they_ask(count: int) -> None:
    displacements = asked(count)
    displacements[0] += 30.0
    assert all(judged(places(count), displacements))


def test_pairs_that_all_ask_for_much_are_followed() -> None:
    displacements = asked(far_mm=2.0) + np.array([12.0, 3.0, 0.0]) + 0.05 * places()
    assert all(judged(places(), displacements))
