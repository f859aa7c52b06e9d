"""What is known of each method before it works; and that a new one is a class and a line in the table."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.geometry.deformation import DisplacementField
from RegistrationNetLib.geometry.field_pair import FieldPair
from RegistrationNetLib.models.catalogue import Card, card_named, cards
from RegistrationNetLib.registration.method import Asked, Method, Settings, Solution, Task, field_mb
from RegistrationNetLib.registration.methods import METHODS, method_of
from RegistrationNetLib.registration.size import Size, delivered_shape, inverse_shape

from ..small_network import install
from ..volumes import noise

SMALL, LARGE = (100, 100, 100), (512, 512, 512)


def size(model: str = "direct", shape: tuple[int, ...] = SMALL, inverse: tuple[int, ...] | None = None, **more: Any) -> Size:
    return Size(shape, shape if inverse is None else inverse, card_named(model), **more)


def needed(model: str, shape: tuple[int, ...] = SMALL, **more: Any) -> float:
    return METHODS[card_named(model).method].memory_mb(size(model, shape, **more))


# facts


def test_every_card_names_a_method_and_a_refinement_that_it_has() -> None:
    for card in cards().values():
        method = method_of(card)
        assert card.refine["default"] in method.refinements
        assert method.has_network or card.weights is None
        assert ("network" in card.refine) == method.has_network


def test_a_card_with_another_method_is_refused() -> None:
    with pytest.raises(InputError, match="direct names the method 'magic'; the methods are direct, .*nephi"):
        method_of(replace(card_named("direct"), method="magic"))


def test_a_field_takes_what_the_larger_of_its_two_lattices_takes() -> None:
    assert needed("direct") < needed("direct", (200,) * 3, inverse=SMALL) < needed("direct", (200,) * 3, inverse=(600,) * 3)
    assert needed("direct", (128,) * 3) < 1500


@pytest.mark.parametrize(
    ("model", "refine", "held"),
    [
        ("direct", "field", (101,) * 3),
        ("unigradicon", "field", (101,) * 3),
        ("unigradicon", "none", (175,) * 3),
        ("nephi", "network", (101,) * 3),
    ],
)
def test_the_deformation_is_held_on_half_the_lattice_of_large_images_or_on_that_of_the_network(
    model: str, refine: str, held: tuple[int, ...]
) -> None:
    card = card_named(model)
    assert METHODS[card.method].held_shape(card, refine, (200,) * 3) == held


def test_fields_of_many_points_are_delivered_on_coarser_lattices() -> None:
    assert delivered_shape((79, 79, 79)) == (79, 79, 79)
    assert delivered_shape((100, 100, 100)) == (81, 81, 81)
    for shape in ((175,) * 3, (20, 600, 600), (4, 2000, 2000)):
        found = delivered_shape(shape)
        assert 0.9 * 2.4e6 < math.prod(found) <= 2.4e6
        assert min(found) >= min(*shape, 8)


def test_nephi_takes_a_fraction_of_what_whole_large_images_take() -> None:
    whole = needed("direct", LARGE, inverse=SMALL, is_whole=True)
    assert needed("nephi", LARGE, inverse=SMALL) < 0.7 * whole


def test_images_that_are_compared_block_by_block_take_less() -> None:
    whole, graphics = ({"is_whole": True}, {"on_graphics": True})
    assert needed("direct", LARGE, inverse=SMALL) < 0.6 * needed("direct", LARGE, inverse=SMALL, **whole)
    assert needed("direct", LARGE, inverse=SMALL, **graphics) == needed("direct", LARGE, inverse=SMALL, **whole)


@pytest.mark.parametrize("more", [{"measure": "mind"}, {"labels": 1}])
def test_a_measure_of_many_channels_and_labels_take_more(more: dict[str, Any]) -> None:
    assert needed("direct", LARGE, inverse=SMALL, **more) > 1.2 * needed("direct", LARGE, inverse=SMALL)


def test_results_count_at_the_resolution_of_the_image() -> None:
    least = 300 * 512 * 512 * (2 + 8) / 2**20
    assert needed("direct", image_voxels=300 * 512 * 512, pixel_bytes=2) > least


def test_a_network_and_its_refinement_take_more_than_a_small_field() -> None:
    prediction, refinement = needed("unigradicon", refine="none"), needed("unigradicon", refine="network")
    assert needed("direct") == field_mb(size()) < prediction < refinement


def test_a_network_takes_what_the_field_of_a_large_image_takes() -> None:
    assert needed("unigradicon", LARGE, refine="field") == field_mb(size(shape=LARGE))


def test_nephi_fits_large_images_on_a_small_graphics_card() -> None:
    assert needed("nephi", LARGE, on_graphics=True) < 4096


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


# a fifth method


class Shifted(Method):
    """Moves fixed by as many tenths of its first axis as there are steps: enough to see where a method is asked."""

    name = "shifted"
    refinements = ("field",)
    has_network = False

    def memory_mb(self, size: Size) -> float:
        return 10.0**12 if size.fixed[0] > 20 else 1.0

    def seconds(self, size: Size, settings: Settings) -> dict[str, float]:
        return {"refine": 0.1 * size.fixed[0] * settings.steps}

    def settings(self, asked: Asked) -> Settings:
        return Steps(asked.measure, 1 if asked.steps is None else asked.steps)

    def solve(self, task: Task) -> Solution:
        task.stages.begin("refine")(1.0)
        grid = task.fixed.grid
        displacement = torch.zeros(1, grid.dim, *grid.shape)
        displacement[:, 0] = 0.1 * task.settings.steps
        return Solution(task.alignment, FieldPair(grid, *(DisplacementField(sign * displacement) for sign in (1, -1))))


class Steps:
    def __init__(self, measure: Any, steps: int) -> None:
        self.measure, self.steps = measure, steps


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Card:
    """The method is known by one line."""
    monkeypatch.setitem(METHODS, Shifted.name, Shifted())
    card = replace(card_named("direct"), name="shifted", method="shifted", prepare={**card_named("direct").prepare, "align": []})
    install(monkeypatch, card)
    return card


def image(size: int = 16) -> sitk.Image:
    return noise((size, 18, 20))


def shifts(found: Any, fixed: sitk.Image) -> float:
    """Of the middle of fixed along its first array axis, as a share of its extent."""
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(count - 1) / 2 for count in fixed.GetSize()])
    moved = fixed.TransformPhysicalPointToContinuousIndex(found.moving_from_fixed.TransformPoint(middle))
    return (moved[2] - (fixed.GetSize()[2] - 1) / 2) / (fixed.GetSize()[2] - 1)


@pytest.mark.usefixtures("shifted")
@pytest.mark.parametrize(("asked", "share"), [({}, 0.1), ({"steps": 2}, 0.2)])
def test_a_new_method_is_a_class_and_a_line(asked: dict[str, Any], share: float) -> None:
    fixed = image()
    found = register(fixed, image(), model="shifted", **asked)
    assert shifts(found, fixed) == pytest.approx(share, abs=1e-5)
    assert (found.report()["model"], found.report()["refine"]) == ("shifted", "field")


@pytest.mark.usefixtures("shifted")
def test_what_a_new_method_says_of_itself_is_asked() -> None:
    with pytest.raises(ResourceError, match="needs about"):
        register(image(24), image(24), model="shifted")
    with pytest.raises(InputError, match="shifted has no network to refine; its refinements are none, field"):
        register(image(), image(), model="shifted", refine="network")
    with pytest.raises(InputError, match="shifted has no weights, but a weights file was given"):
        register(image(), image(), model="shifted", weights="some.trch")
    told: dict[str, float] = {}
    register(image(), image(), model="shifted", progress=lambda progress: told.update({progress.stage: progress.fraction}))
    before, after = told["align"], told["refine"]
    assert after - before > 0.6  # of 1.6 seconds that the refinement takes, and half a second of the other stages
