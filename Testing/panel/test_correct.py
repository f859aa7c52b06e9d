"""A wrong place is corrected by three clicks: a structure, its place, and Refine from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.slicer_bridge.mrml import points_of
from RegistrationNetLib.slicer_bridge.scene_correction import PointLists
from RegistrationNetLib.slicer_bridge.scene_record import records

from ..module.test_scene_results import result as came
from .conftest import Panel
from .fake_client import FakeClient


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.fixture
def registered(ready: Panel, fake: FakeClient) -> Panel:
    """The panel with a first result."""
    ready.click("registerButton")
    answer(ready, fake)
    return ready


def answer(panel: Panel, fake: FakeClient) -> None:
    """The worker's result comes."""
    panel.until(lambda: fake.jobs)
    fake.answer(fake.jobs[-1], came(with_parts=False, with_error=True))
    panel.until(lambda: not panel.is_running)
    assert panel.message == ""


def put_point(panel: Panel, ras: tuple[float, float, float]) -> Any:
    """What Slicer makes of a click into a view: a point in the list that is to have it, and the end of placing single points."""
    scene = slicer.mrmlScene
    selection, interaction = (scene.GetFirstNodeByClass(kind) for kind in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"))
    assert interaction.GetCurrentInteractionMode() == interaction.Place, "a click would put no point"
    node = scene.GetNodeByID(selection.GetActivePlaceNodeID())
    node.AddControlPointWorld(*ras)
    interaction.SwitchToViewTransformMode()
    panel.settle()
    return node


def rows(panel: Panel) -> list[list[str]]:
    table = panel.ui.pairsTable
    return [[table.item(row, column).text() for column in (1, 2)] for row in range(table.rowCount)]


def lists(panel: Panel) -> PointLists:
    return PointLists(panel.widget.resultPanel.result)


def test_three_clicks_from_a_wrong_place_to_a_new_result(registered: Panel, fake: FakeClient, errors: list[Any]) -> None:
    panel = registered
    before = panel.widget.resultPanel.result
    panel.click("correctButton")
    assert panel.ui.correctLabel.text.startswith("1. Click a structure that is wrong, on fixed (left)")
    assert not panel.ui.refineFromButton.isEnabled()
    fixed = put_point(panel, (0, 0, 0))
    assert panel.ui.correctLabel.text.startswith("2. Click the same structure on warped (right)")
    assert rows(panel) == [["1", "waits for its partner"]]
    moving = put_point(panel, (3, 4, 0))
    assert fixed is not moving
    assert rows(panel) == [["1", "5.0 mm"]]
    panel.click("refineFromButton")
    panel.until(lambda: len(fake.jobs) > 1)
    request = fake.jobs[-1].request
    assert request["options"]["landmarks"] == "pull"
    assert request["options"]["model"] == before.report["model"]
    assert set(request["previous"]) == {"previous", "previous_inverse"}
    assert request["options"]["fixed_landmarks"] == [[0, 0, 0]]
    assert np.allclose(
        request["options"]["moving_landmarks"], points_of(moving, "points", without=before.transformNode).points_mm
    )
    assert not panel.ui.undoCorrectionButton.isEnabled()
    answer(panel, fake)
    after = panel.widget.resultPanel.result
    assert after.transformNode is not before.transformNode
    assert moving.GetParentTransformNode() is after.transformNode
    assert panel.ui.undoCorrectionButton.isEnabled()
    assert not errors


def test_undo_goes_back_to_the_result_before_and_both_can_be_seen_in_turn(
    registered: Panel, fake: FakeClient, layers: dict[str, Any]
) -> None:
    panel, before = registered, registered.widget.resultPanel.result
    panel.click("correctButton")
    put_point(panel, (0, 0, 0))
    moving = put_point(panel, (3, 4, 0))
    panel.click("refineFromButton")
    panel.until(lambda: len(fake.jobs) > 1)
    answer(panel, fake)
    after = panel.widget.resultPanel.result
    panel.click("beforeAfterButton")
    shown = {layers["background"]}
    panel.until(lambda: shown.add(layers["background"]) or len(shown) == 2)
    assert shown == {before.warpedNode, after.warpedNode}
    panel.click("undoCorrectionButton")
    assert panel.widget.resultPanel.result.transformNode is before.transformNode
    assert moving.GetParentTransformNode() is before.transformNode
    assert not panel.ui.undoCorrectionButton.isEnabled()
    assert panel.ui.refineFromButton.isEnabled()


def test_a_pair_can_be_gone_to_moved_switched_off_and_removed(registered: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = registered
    gone: list[Any] = []
    monkeypatch.setattr(panel.logic, "showPlace", gone.append)
    panel.click("correctButton")
    fixed = put_point(panel, (1, 2, 3))
    put_point(panel, (1, 2, 3))
    panel.click("addPairButton")
    put_point(panel, (10, 0, 0))
    put_point(panel, (10, 0, 2))
    assert [row[0] for row in rows(panel)] == ["1", "2"]
    panel.ui.pairsTable.cellClicked.emit(0, 1)
    assert np.allclose(gone, [[-1, -2, 3]])
    fixed.SetNthControlPointPositionWorld(0, 1, 2, 10)
    assert rows(panel)[0] == ["1", "7.0 mm"]
    panel.ui.pairsTable.item(0, 0).setCheckState(panel.qt.Qt.Unchecked)
    assert [one.is_on for one in lists(panel).pairs()] == [False, True]
    assert lists(panel).counting() == 1
    panel.ui.pairsTable.setCurrentCell(0, 1)
    panel.click("removePairButton")
    assert rows(panel) == [["2", "2.0 mm"]]
    panel.ui.pairsTable.item(0, 0).setCheckState(panel.qt.Qt.Unchecked)
    assert not panel.ui.refineFromButton.isEnabled()


def test_the_points_are_saved_with_the_scene_and_go_on(scene: Any, registered: Panel, fake: FakeClient, tmp_path: Path) -> None:
    panel = registered
    scene.RegisterNodeClass(slicer.vtkMRMLMarkupsJsonStorageNode())  # the application's Markups module does this
    panel.click("correctButton")
    put_point(panel, (0, 0, 0))
    put_point(panel, (3, 4, 0))
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    assert not panel.ui.correctBox.isVisibleTo(panel.top)
    scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    panel.click("correctButton")
    assert rows(panel) == [["1", "5.0 mm"]]
    panel.click("refineFromButton")
    panel.until(lambda: len(fake.jobs) > 1)
    assert set(fake.jobs[-1].request["previous"]) == {"previous", "previous_inverse"}
    answer(panel, fake)
    assert len(records(scene)) == 2


def test_closing_gives_back_the_clicks(registered: Panel) -> None:
    panel = registered
    panel.click("correctButton")
    interaction = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    panel.click("correctButton")
    assert interaction.GetCurrentInteractionMode() != interaction.Place
    assert not panel.ui.correctBox.isVisibleTo(panel.top)


def test_a_result_without_its_transform_cannot_be_corrected(scene: Any, registered: Panel) -> None:
    panel = registered
    scene.RemoveNode(panel.widget.resultPanel.result.transformNode)
    panel.click("correctButton")
    assert "The transform of this result is gone" in panel.message
    assert not panel.ui.correctBox.isVisibleTo(panel.top)


def test_a_refinement_that_fails_is_told_and_leaves_everything(registered: Panel, fake: FakeClient) -> None:
    panel, before = registered, registered.widget.resultPanel.result
    panel.click("correctButton")
    put_point(panel, (0, 0, 0))
    put_point(panel, (3, 4, 0))
    panel.click("refineFromButton")
    panel.until(lambda: len(fake.jobs) > 1)
    fake.fail(fake.jobs[-1], InputError("The landmarks 1 and 2 contradict each other"))
    panel.until(lambda: not panel.is_running)
    assert "contradict each other" in panel.message
    assert panel.widget.resultPanel.result.transformNode is before.transformNode
    assert panel.ui.refineFromButton.isEnabled()


def composite_of(scene: Any, view: str) -> Any:
    """What the slice view shows: that of the layout where one is open, else a new one."""
    kind = "vtkMRMLSliceCompositeNode"
    for number in range(scene.GetNumberOfNodesByClass(kind)):
        if scene.GetNthNodeByClass(number, kind).GetLayoutName() == view:
            return scene.GetNthNodeByClass(number, kind)
    composite = scene.AddNewNodeByClass(kind)
    composite.SetLayoutName(view)
    return composite


def test_fixed_and_warped_stand_side_by_side_and_the_views_come_back(scene: Any, registered: Panel) -> None:
    panel = registered
    layout = scene.AddNode(slicer.vtkMRMLLayoutNode())
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    made = {name: composite_of(scene, name) for name in ("Red", "Yellow")}
    for one in made.values():
        one.SetLinkedControl(0)
    panel.click("correctButton")
    result = panel.widget.resultPanel.result
    assert layout.GetViewArrangement() == layout.SlicerLayoutSideBySideView
    assert made["Red"].GetBackgroundVolumeID() == result.fixedNode.GetID()
    assert made["Yellow"].GetBackgroundVolumeID() == result.warpedNode.GetID()
    assert all(one.GetLinkedControl() for one in made.values())
    panel.click("correctButton")
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView
    assert not any(one.GetLinkedControl() for one in made.values())
