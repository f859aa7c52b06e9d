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
    assert inputs.landmarks() == {"fixed_landmarks": [[0, 0, 0]], "moving_landmarks": [[3, -4, 0]]}
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
