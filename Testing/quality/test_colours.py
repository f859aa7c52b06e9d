from pathlib import Path

import numpy as np
import pytest

from RegistrationNetLib.quality.colours import FOLDED, TABLE_WINDOW, colour_table, difference_colour, jacobian_colour

TABLE = Path(__file__).parents[2] / "Resources" / "Colors" / "JacobianDeterminant.ctbl"


def warmth(determinant: float) -> int:
    """Red minus blue."""
    red, _, blue = jacobian_colour(determinant).astype(int)
    return int(red - blue)


def test_the_colour_table_in_resources_is_the_generated_one():
    assert TABLE.read_text(encoding="utf-8") == colour_table()


def test_the_colour_table_lists_256_entries_with_name_and_four_bytes():
    entries = [line.split() for line in colour_table().splitlines() if not line.startswith("#")]
    assert [int(entry[0]) for entry in entries] == list(range(256))
    assert all(len(entry) == 6 and all(0 <= int(byte) <= 255 for byte in entry[2:]) for entry in entries)


@pytest.mark.parametrize("determinant", [-5.0, -0.01, 0.1, 0.5, 1.0, 1.5, 3.9])
def test_the_table_shown_over_its_window_gives_each_determinant_its_colour(determinant):
    lower, upper = TABLE_WINDOW
    index = int(np.clip((determinant - lower) / (upper - lower) * 255, 0, 255))
    entry = [line.split() for line in colour_table().splitlines() if not line.startswith("#")][index]
    # An entry is 1/64 wide, in which a colour changes by a few steps.
    np.testing.assert_allclose([int(byte) for byte in entry[2:5]], jacobian_colour(determinant), atol=6)


def test_an_unchanged_volume_is_neutral():
    assert len(set(jacobian_colour(1.0).tolist())) == 1


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0, 4.0, 100.0])
def test_growing_is_red_and_shrinking_blue(factor):
    assert warmth(factor) > 0 > warmth(1 / factor)


def test_stronger_change_is_darker_alike_on_both_sides():
    for side in (1, -1):
        brightness = [int(jacobian_colour(2.0 ** (side * power)).sum()) for power in (0, 0.5, 1, 1.5, 2)]
        assert brightness == sorted(brightness, reverse=True)


@pytest.mark.parametrize("determinant", [0.0, -1e-9, -3.0])
def test_a_fold_has_a_colour_of_its_own(determinant):
    assert tuple(jacobian_colour(determinant)) == FOLDED
    everything_else = jacobian_colour(np.geomspace(0.01, 100, 1000)).astype(int)
    assert np.abs(everything_else - FOLDED).sum(axis=-1).min() > 150


def test_equal_images_differ_by_black_and_signs_by_hue():
    equal, brighter, darker = difference_colour([0.0, 0.5, -0.5]).astype(int)
    assert equal.sum() == 0
    assert brighter[0] > brighter[2]
    assert darker[2] > darker[0]
