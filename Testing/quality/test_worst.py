"""The places at which a registration is worst: where a fault was put."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from RegistrationNetLib.geometry.space import Grid, grid_of, image_on
from RegistrationNetLib.quality.evidence import Evidence
from RegistrationNetLib.quality.worst import Place, worst_places

from . import made_evidence

FAULT = (4, 5, 6)
NOTHING = sitk.Transform(3, sitk.sitkIdentity)


def image(values: NDArray[np.generic]) -> sitk.Image:
    """On the lattice of the evidence."""
    return image_on(made_evidence.evidence().grid, values)


def at(index: tuple[int, ...], grid: Grid | None = None) -> Place:
    grid = made_evidence.evidence().grid if grid is None else grid
    return tuple((grid.world_from_voxel @ [*index, 1.0])[:-1])


def with_fault(value: float, rest: float = 0.0, *, index: tuple[int, ...] = FAULT) -> NDArray[np.float64]:
    values = np.full(made_evidence.SHAPE, rest)
    values[index] = value
    return values


def places(evidence: Evidence | None = None, **given: object) -> dict[str, Place]:
    flat = image(np.ones(made_evidence.SHAPE, np.float32))
    arguments: dict[str, object] = {
        "moving": flat, "jacobian": flat, "moving_from_fixed": NOTHING, "fixed_from_moving": NOTHING, **given,
    }  # fmt: skip
    return worst_places(evidence or made_evidence.evidence(), **arguments)  # type: ignore[arg-type]


def test_the_smallest_and_the_largest_determinant_are_found() -> None:
    determinants = with_fault(-2.0, 1.0).astype(np.float32)
    determinants[1, 2, 3] = 7.0
    found = places(jacobian=image(determinants))
    assert found["shrinking"] == pytest.approx(at(FAULT))
    assert found["growing"] == pytest.approx(at((1, 2, 3)))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("likeness", {"agreement": 0.9 - with_fault(0.6)}),
        ("repeats", {"spread_vox": with_fault(9.0, 0.1)}),
        ("expected", {"ambiguity": with_fault(5000.0, 50.0)}),
    ],
)
def test_the_evidence_is_worst_where_it_was_spoiled_within_the_body(name: str, changed: dict[str, NDArray[np.float64]]) -> None:
    assert places(made_evidence.evidence(**changed))[name] == pytest.approx(at(FAULT))
    elsewhere = {key: np.roll(values, (2, 2, 2), (0, 1, 2)) for key, values in changed.items()}
    both = {key: np.maximum(values, elsewhere[key] * 2) if name != "likeness" else np.minimum(values, elsewhere[key] - 0.2)
            for key, values in changed.items()}  # fmt: skip
    body = np.ones(made_evidence.SHAPE, bool)
    body[6:, 7:, 8:] = False
    assert places(made_evidence.evidence(body=body, **both))[name] != pytest.approx(at((6, 7, 8)))


def test_without_repeats_there_is_no_place_for_them() -> None:
    assert "repeats" not in places(made_evidence.evidence(spread_vox=None))


def test_an_inverse_of_nothing_has_no_place() -> None:
    assert "inverse" not in places(moving_from_fixed=sitk.TranslationTransform(3, (0.0, 0.0, 5000.0)))


def test_the_inverse_is_worst_where_it_was_spoiled() -> None:
    field = np.zeros((*made_evidence.SHAPE, 3))
    field[FAULT] = (0.0, 5.0, 0.0)
    spoiled = sitk.DisplacementFieldTransform(image_on(made_evidence.evidence().grid, field, is_vector=True))
    assert places(fixed_from_moving=spoiled)["inverse"] == pytest.approx(at(FAULT))


def test_labels_are_worst_in_the_middle_of_where_they_disagree_most_broadly() -> None:
    fixed = np.zeros((30, 32, 34), np.uint8)
    fixed[4:26, 4:28, 4:30] = 1
    other = fixed.copy()
    other[8:15, 9:18, 10:19] = 0
    other[20, 20, 20] = 0
    labels = tuple(map(sitk.GetImageFromArray, (fixed, other)))
    assert np.abs(np.subtract(places(labels=labels)["labels"], (14, 13, 11))).max() <= 1
    assert "labels" not in places(labels=(labels[0], labels[0]))


def test_the_worst_landmark_is_found_in_fixed() -> None:
    fixed = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    moving = fixed + np.array([[0.5, 0, 0], [0, 3, 0], [0, 0, 1]])
    assert places(landmarks=(fixed, moving))["landmarks"] == (4.0, 5.0, 6.0)
    shifted = sitk.TranslationTransform(3, (0.0, 3.0, 0.0))
    assert places(landmarks=(fixed, moving), moving_from_fixed=shifted)["landmarks"] == (7.0, 8.0, 9.0)


def test_it_works_in_the_plane() -> None:
    evidence = made_evidence.evidence(dim=2)
    flat = image_on(evidence.grid, np.ones(evidence.grid.shape, np.float32))
    nothing = sitk.Transform(2, sitk.sitkIdentity)
    found = worst_places(evidence, moving=flat, jacobian=flat, moving_from_fixed=nothing, fixed_from_moving=nothing)
    assert {len(place) for place in found.values()} == {2}
    assert grid_of(flat).dim == 2
