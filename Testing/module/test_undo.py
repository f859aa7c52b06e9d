"""Undo, where the scene has them switched on: a result comes and goes as one step, and what was there is as it was."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import vtk

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge.scene_record import RegistrationResult, records, remembered
from RegistrationNetLib.slicer_bridge.scene_results import placed
from RegistrationNetLib.slicer_bridge.scene_transforms import placed_under

from ..worker_input import ball
from .conftest import ROOT
from .nodes import linear_transform, pair_nodes, points_node, volume_node
from .test_scene_results import REPORT
from .test_scene_results import result as came


@pytest.fixture(scope="module")
def logic(host: Any) -> Iterator[Any]:
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    one = sys.modules["RegistrationNet"].RegistrationNetLogic()
    yield one
    one.close()


@pytest.fixture
def undoing(scene: Any, logic: Any) -> Iterator[Any]:
    scene.SetUndoOn()
    yield scene
    scene.ClearUndoStack()
    scene.SetUndoOff()


# Shared by all results, or kept by the application; they tell nobody that there was a result.
STAYING = ("vtkMRMLColorNode", "vtkMRMLStorageNode", "vtkMRMLSubjectHierarchyNode")


def content(scene: Any) -> set[str]:
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return {node.GetID() for node in nodes if not any(node.IsA(kind) for kind in STAYING)}


def folders(scene: Any) -> list[str]:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), children, False)
    items = [children.GetId(index) for index in range(children.GetNumberOfIds())]
    return [hierarchy.GetItemName(item) for item in items if hierarchy.GetItemDataNode(item) is None]


def registered(scene: Any, **given: Any) -> RegistrationResult:
    fixed, moving = (scene.GetFirstNodeByName(name) for name in ("fixed", "moving"))
    answer = came(with_parts=True, with_error=True)
    nodes = placed(scene, answer, fixed=fixed, moving=moving, **given)
    result = RegistrationResult(nodes, fixed, moving, REPORT, answer.body)
    remembered(scene, result)
    return result


def test_a_result_is_one_step(undoing: Any) -> None:
    pair_nodes(undoing)
    before, levels = content(undoing), undoing.GetNumberOfUndoLevels()
    registered(undoing)
    assert undoing.GetNumberOfUndoLevels() == levels + 1
    whole = content(undoing)
    undoing.Undo()
    assert content(undoing) == before
    assert records(undoing) == []
    assert folders(undoing) == []
    undoing.Redo()
    # MRML forgets which nodes the record of the result has named: the nodes are there again, as if they had no result.
    assert content(undoing) == whole


def test_views_of_a_result_go_with_it_and_are_no_steps(undoing: Any, logic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **_: None)
    pair_nodes(undoing)
    before, levels = content(undoing), undoing.GetNumberOfUndoLevels()
    result = registered(undoing)
    for view in ("difference", "jacobian", "error", "grid"):
        logic.showResult(result, view)
    logic.leaveViews()
    assert undoing.GetNumberOfUndoLevels() == levels + 1
    undoing.Undo()
    assert content(undoing) == before


def test_a_node_that_was_written_into_gets_its_content_back(undoing: Any) -> None:
    pair_nodes(undoing)
    own = volume_node(undoing, Volume(np.full((3, 4, 5), 7, np.int16), np.eye(4)), "own")
    registered(undoing, outputs={"warped": own})
    assert own.GetImageData().GetDimensions() == (24, 24, 24)
    undoing.Undo()
    own = undoing.GetFirstNodeByName("own")
    assert (slicer.util.arrayFromVolume(own) == np.full((3, 4, 5), 7)).all()


@pytest.mark.parametrize("harden", [False, True])
def test_what_follows_moving_goes_back(undoing: Any, harden: bool) -> None:
    pair_nodes(undoing)
    result = registered(undoing)
    parent = linear_transform(undoing, np.eye(4), "own")
    points, volume = points_node(undoing, [(1, 2, 3)]), volume_node(undoing, ball((0, 0, 0), size=8), "one")
    points.SetAndObserveTransformNodeID(parent.GetID())
    before, geometry = content(undoing), volume.GetOrigin()
    placed_under(result.transformNode, [points, volume], harden=harden)
    undoing.Undo()
    assert content(undoing) == before
    points, volume = undoing.GetFirstNodeByName("points"), undoing.GetFirstNodeByName("one")
    assert points.GetParentTransformNode() is parent
    assert points.GetNthControlPointPositionWorld(0) == pytest.approx((1, 2, 3))
    assert volume.GetParentTransformNode() is None
    assert volume.GetOrigin() == geometry
    assert volume.GetImageData().GetDimensions() == (8, 8, 8)


def test_where_undo_is_off_nothing_takes_part(scene: Any) -> None:
    pair_nodes(scene)
    levels = scene.GetNumberOfUndoLevels()
    result = registered(scene)
    assert scene.GetNumberOfUndoLevels() == levels
    assert not any(node.GetUndoEnabled() for node in vars(result.nodes).values())
