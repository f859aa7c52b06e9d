"""What is told of memory before the start, beside what the grids of the road say."""

import numpy as np
import pytest

from RegistrationNetLib.catalogue import card_named
from RegistrationNetLib.needs import bounded_shape, field_mb, implicit_mb, inverse_shape, needed_mb

SMALL, LARGE = (100, 100, 100), (512, 512, 512)


def test_a_field_takes_what_the_larger_of_its_two_lattices_takes() -> None:
    assert field_mb(SMALL, SMALL) < field_mb((200,) * 3, SMALL) < field_mb((200,) * 3, (600,) * 3)
    assert field_mb((128,) * 3, (128,) * 3) < 1500


def test_nephi_takes_a_fraction_of_it_on_large_images() -> None:
    assert implicit_mb(LARGE, LARGE) < field_mb(LARGE, LARGE) / 4
    assert bounded_shape((512, 40)) == (256, 40)


def test_a_network_and_its_refinement_take_more_than_a_small_field() -> None:
    network = card_named("unigradicon")
    direct, predicted, refined = (
        needed_mb(card_named("direct"), None, SMALL, SMALL),
        needed_mb(network, "none", SMALL, SMALL),
        needed_mb(network, "network", SMALL, SMALL),
    )
    assert direct == field_mb(SMALL, SMALL) < predicted < refined


def test_unless_told_otherwise_the_refinement_is_that_of_the_card() -> None:
    network = card_named("unigradicon")
    assert needed_mb(network, None, SMALL, SMALL) == needed_mb(network, network.refine["default"], SMALL, SMALL)


def test_a_model_named_nephi_is_told_as_nephi() -> None:
    assert needed_mb(card_named("nephi"), None, LARGE, LARGE) == implicit_mb(LARGE, LARGE)


@pytest.mark.parametrize(
    ("spacing_mm", "fixed_spacing_mm", "shape"),
    [((1, 1, 1), (1, 2, 3), (9, 9, 9)), ((0.5, 1, 2), (1, 1, 1), (5, 9, 9)), ((0.1, 0.1, 5), (2, 2, 2), (2, 2, 9))],
)
def test_the_inverse_lies_on_moving_but_no_finer_than_fixed(
    spacing_mm: tuple[float, ...], fixed_spacing_mm: tuple[float, ...], shape: tuple[int, ...]
) -> None:
    assert inverse_shape((9, 9, 9), spacing_mm, fixed_spacing_mm) == shape
    steps = np.array(spacing_mm) * 8 / (np.array(shape) - 1)
    assert (steps <= np.maximum(spacing_mm, min(fixed_spacing_mm)) + 1e-9).all()
