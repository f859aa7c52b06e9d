"""What is told of memory before the start, beside what the grids of the road say."""

import numpy as np
import pytest

from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration.needs import (
    bounded_shape,
    field_mb,
    graphics_implicit_mb,
    implicit_mb,
    inverse_shape,
    needed_mb,
)

SMALL, LARGE = (100, 100, 100), (512, 512, 512)


def test_a_field_takes_what_the_larger_of_its_two_lattices_takes() -> None:
    assert field_mb(SMALL, SMALL) < field_mb((200,) * 3, SMALL) < field_mb((200,) * 3, (600,) * 3)
    assert field_mb((128,) * 3, (128,) * 3) < 1500


def test_nephi_takes_a_fraction_of_it_on_large_images() -> None:
    assert implicit_mb(LARGE, LARGE) < field_mb(LARGE, LARGE) / 4
    assert bounded_shape((512, 40)) == (256, 40)


def needed(model: str, refine: str, shape: tuple[int, ...] = SMALL) -> float:
    card = card_named(model)
    return needed_mb(shape, shape, method=card.method, input_shape=card.input_shape, refine=refine)


def test_a_network_and_its_refinement_take_more_than_a_small_field() -> None:
    assert needed("direct", "field") == field_mb(SMALL, SMALL) < needed("unigradicon", "none") < needed("unigradicon", "network")


def test_a_network_takes_what_the_field_of_a_large_image_takes() -> None:
    assert needed("unigradicon", "field", LARGE) == field_mb(LARGE, LARGE)


def test_nephi_is_told_as_nephi_with_an_encoder_or_without() -> None:
    assert needed("nephi", "network", LARGE) == implicit_mb(LARGE, LARGE)
    assert needed_mb(LARGE, LARGE, method="nephi", input_shape=(175,) * 3, refine="network") == implicit_mb(LARGE, LARGE)


def test_nephi_fits_large_images_on_a_small_graphics_card() -> None:
    shown = {"method": "nephi", "input_shape": None, "refine": "network", "on_graphics": True}
    assert needed_mb(LARGE, LARGE, **shown) == graphics_implicit_mb(LARGE) < 4096  # type: ignore[arg-type]


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
