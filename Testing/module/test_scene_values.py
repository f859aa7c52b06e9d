"""What a result says of one place."""

from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.slicer_bridge.scene_record import RegistrationResult, records, remembered
from RegistrationNetLib.slicer_bridge.scene_results import placed
from RegistrationNetLib.slicer_bridge.scene_values import ValuesAt, values_at

from .nodes import linear_transform, pair_nodes
from .test_scene_results import REPORT, SHIFT_LPS
from .test_scene_results import result as came


@pytest.fixture
def result(scene: Any) -> RegistrationResult:
    fixed, moving = pair_nodes(scene)
    answer = came(with_error=True)
    nodes = placed(scene, answer, fixed=fixed, moving=moving)
    slicer.util.arrayFromVolume(nodes.jacobian)[:, :, 12:] = 1.5
    return RegistrationResult(nodes, fixed, moving, REPORT, answer.body)


def test_within_the_body_all_is_told(result: RegistrationResult) -> None:
    # Columns from 12 on lie left, where RAS is negative.
    for x, percent in ((-4.0, 50.0), (4.0, 0.0)):
        found = values_at(result, (x, 0.0, 0.0))
        assert found is not None
        assert found.displacement_mm == pytest.approx(np.linalg.norm(SHIFT_LPS))
        assert (found.volume_percent, found.error_mm) == (percent, 3.0)


def test_outside_the_body_only_the_displacement_is_told(result: RegistrationResult) -> None:
    assert values_at(result, (33.0, 33.0, 33.0)) == ValuesAt(pytest.approx(5.0), None, None)


def test_outside_fixed_nothing_is_told(result: RegistrationResult) -> None:
    assert values_at(result, (0.0, 0.0, 300.0)) is None


def test_what_was_deleted_is_not_told(scene: Any, result: RegistrationResult) -> None:
    for name in ("transform", "jacobian", "error"):
        scene.RemoveNode(getattr(result.nodes, name))
    left = RegistrationResult(
        type(result.nodes)(**{**vars(result.nodes), "transform": None, "jacobian": None, "error": None}),
        result.fixedNode,
        result.movingNode,
        REPORT,
        result.body,
    )
    assert values_at(left, (0.0, 0.0, 0.0)) == ValuesAt(None, None, None)
    nothing = RegistrationResult(left.nodes, None, None, REPORT, None)
    assert values_at(nothing, (0.0, 0.0, 0.0)) is None


def test_a_volume_that_was_moved_since_is_read_where_it_is_seen(scene: Any, result: RegistrationResult) -> None:
    shift = np.eye(4)
    shift[0, 3] = 9.0
    result.jacobianNode.SetAndObserveTransformNodeID(linear_transform(scene, shift).GetID())
    found = values_at(result, (4.0, 0.0, 0.0))
    assert found is not None
    assert found.volume_percent == 50.0


def test_a_scene_keeps_where_the_body_is(scene: Any, result: RegistrationResult) -> None:
    remembered(scene, result)
    (record,) = records(scene)
    assert record.result.errorNode is result.errorNode
    kept, first = record.result.bodyVolume, result.bodyVolume
    assert np.array_equal(kept.values, first.values)
    assert np.array_equal(kept.world_from_index, first.world_from_index)
    assert kept.values.sum() == 6**3
