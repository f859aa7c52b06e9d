"""What a registration takes from the scene."""

from typing import Any

import numpy as np
import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import mrml
from RegistrationNetLib.slicer_bridge.scene_inputs import Inputs
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once

from .nodes import bent_transform, linear_transform, pair_nodes, points_node, volume_node


def test_fixed_and_moving_must_be_two(scene: Any) -> None:
    fixed, _ = pair_nodes(scene)
    with pytest.raises(InputError, match=r"the same volume \(fixed\)"):
        Inputs(fixed, fixed)


@pytest.mark.parametrize("what", ["labels", "landmarks"])
@pytest.mark.parametrize(("given", "missing"), [("fixed", "moving"), ("moving", "fixed")])
def test_pairs_come_in_pairs(scene: Any, what: str, given: str, missing: str) -> None:
    fixed, moving = pair_nodes(scene)
    with pytest.raises(InputError, match=f"The {what} of {missing} are missing"):
        Inputs(fixed, moving, **{f"{given}_{what}": fixed})


def test_moving_must_not_lie_under_the_initial_transform(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    outer, inner = linear_transform(scene, np.eye(4), "outer"), linear_transform(scene, np.eye(4), "inner")
    inner.SetAndObserveTransformNodeID(outer.GetID())
    moving.SetAndObserveTransformNodeID(inner.GetID())
    with pytest.raises(InputError, match="Moving lies under outer already"):
        Inputs(fixed, moving, initial=outer)


def test_everything_that_was_given_travels(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    inside = volume_node(
        scene, Volume(np.ones((24, 24, 24), np.uint8), fixed_lattice(scene)), "inside", "vtkMRMLLabelMapVolumeNode"
    )
    points = points_node(scene, [(0, 0, 0)]), points_node(scene, [(-3, 4, 0)])
    inputs = Inputs(fixed, moving, inside, inside, None, None, inside, inside, *points)
    assert [name for name, _ in inputs.nodes()] == [
        "fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks",
    ]  # fmt: skip
    volumes = at_once(inputs.volumes())
    assert set(volumes) == {"fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"}
    assert inputs.landmarks() == {
        "fixed_landmarks": [[0, 0, 0]], "moving_landmarks": [[3, -4, 0]], "landmark_labels": ["points-1"],
    }  # fmt: skip
    assert at_once(inputs.initial_on(volumes["fixed"])) is None


def fixed_lattice(scene: Any) -> Any:
    return at_once(mrml.volume_of(scene.GetFirstNodeByName("fixed"), "fixed")).world_from_index


def test_the_initial_transform_is_a_matrix_or_a_field(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    lattice = at_once(Inputs(fixed, moving).volumes())["fixed"]
    matrix, field = (
        at_once(Inputs(fixed, moving, initial=node).initial_on(lattice))
        for node in (linear_transform(scene, np.eye(4)), bent_transform(scene))
    )
    assert np.array_equal(matrix, np.eye(4))
    assert field.values.shape == (24, 24, 24, 3)


def test_landmarks_are_matched_by_labels_else_by_order_and_missing_ones_do_not_count(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    one, other = (
        points_node(scene, [(0, 0, 0), (1, 0, 0), (2, 0, 0)], "F"),
        points_node(scene, [(5, 0, 0), (6, 0, 0), (7, 0, 0)], "M"),
    )
    one.UnsetNthControlPointPosition(1)
    asked = Inputs(fixed, moving, fixed_landmarks=one, moving_landmarks=other)
    assert asked.landmarks() == {
        "fixed_landmarks": [[0, 0, 0], [-2, 0, 0]], "moving_landmarks": [[-5, 0, 0], [-7, 0, 0]], "landmark_labels": ["F-1", "F-3"],
    }  # fmt: skip
    for number, label in enumerate(("tip", "horn", "base")):
        one.SetNthControlPointLabel(number, label)
        other.SetNthControlPointLabel(2 - number, label)
    assert asked.landmarks() == {
        "fixed_landmarks": [[0, 0, 0], [-2, 0, 0]], "moving_landmarks": [[-7, 0, 0], [-5, 0, 0]], "landmark_labels": ["tip", "base"],
    }  # fmt: skip
    other.SetNthControlPointLabel(2, "other")
    assert asked.landmarks()["landmark_labels"] == ["base"]


def test_more_landmarks_on_one_side_without_common_labels_are_refused(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    one, other = points_node(scene, [(0, 0, 0), (1, 0, 0)], "F"), points_node(scene, [(5, 0, 0)], "M")
    with pytest.raises(InputError, match="2 landmarks of fixed and 1 of moving, without labels in common"):
        Inputs(fixed, moving, fixed_landmarks=one, moving_landmarks=other).landmarks()


def test_a_result_to_go_on_from_is_its_field_else_sampled_at_fixed(scene: Any) -> None:
    fixed, moving = pair_nodes(scene)
    lattice = at_once(Inputs(fixed, moving).volumes())["fixed"]
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    mrml.set_displacements(node, Volume(np.ones((4, 5, 6, 3), np.float32), np.eye(4)))
    found = at_once(Inputs(fixed, moving, previous=node, previous_inverse=node).previous_on(lattice))
    assert {name: one.values.shape for name, one in found.items()} == dict.fromkeys(
        ("previous", "previous_inverse"), (4, 5, 6, 3)
    )
    bent = bent_transform(scene)
    found = at_once(Inputs(fixed, moving, previous=bent, previous_inverse=bent).previous_on(lattice))
    assert {name: one.values.shape for name, one in found.items()} == {"previous": (24, 24, 24, 3)}
    assert at_once(Inputs(fixed, moving).previous_on(lattice)) == {}
