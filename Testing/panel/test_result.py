"""The result in the panel: seen in every way, applied, reported, and gone when its nodes are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import slicer

from RegistrationNetLib.slicer_bridge.scene_values import ValuesAt

from ..module.nodes import points_node, segmentation_node
from ..module.test_scene_results import REPORT
from ..module.test_scene_results import result as shift_result
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient

VIEWS = ("fixed", "moving", "warped", "flicker", "checkerboard", "difference", "jacobian", "error", "grid")
OVERLAYS = ("jacobian", "error")


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.fixture
def done(ready: Panel, fake: FakeClient) -> Panel:
    """The panel with a result: moving shifted onto fixed."""
    ready.click("registerButton")
    fake.answer(fake.jobs[-1], shift_result(with_error=True))
    fake.poll()
    assert ready.message == ""
    return ready


def test_before_a_registration_there_is_no_result(ready: Panel) -> None:
    assert not ready.ui.verdictFrame.isVisibleTo(ready.top)
    assert not ready.ui.resultBox.isVisibleTo(ready.top)


def test_a_result_opens_on_the_warped_volume_with_its_verdict(done: Panel, layers: dict[str, Any]) -> None:
    assert layers["background"] is done.widget.resultPanel.result.warpedNode
    assert "Every measure is in its green range" in done.ui.verdictLabel.text
    assert done.ui.marksTable.item(0, 1).text() == "Folded voxels\n0 %"


def test_a_measure_that_is_clicked_tells_its_rule(done: Panel) -> None:
    from PySide6.QtTest import QTest

    done.open("numbers")
    done.settle()
    table = done.ui.marksTable
    QTest.mouseClick(
        table.viewport(), done.qt.Qt.LeftButton, done.qt.Qt.NoModifier, table.visualItemRect(table.item(0, 1)).center()
    )
    assert done.ui.ruleLabel.text == "Tissue cannot fold."


def test_the_marks_need_no_scrolling(done: Panel) -> None:
    done.open("numbers")
    table = done.ui.marksTable
    assert table.height >= sum(table.rowHeight(row) for row in range(table.rowCount))


@pytest.mark.parametrize("view", [one for one in VIEWS if one != "flicker"])
def test_a_view_button_shows_its_view_and_stays_down(done: Panel, layers: dict[str, Any], view: str) -> None:
    result = done.widget.resultPanel.result
    done.click("movingViewButton" if view != "moving" else "fixedViewButton")
    layers.clear()
    done.click(f"{view}ViewButton")
    assert done.message == ""
    expected = {
        "fixed": result.fixedNode, "moving": result.movingNode, "warped": result.warpedNode, "grid": result.warpedNode,
        "jacobian": result.fixedNode, "error": result.fixedNode,
    }  # fmt: skip
    if view in expected:
        assert layers["background"] is expected[view]
    else:
        assert layers["background"].GetName().startswith(view.capitalize())
    overlay = getattr(result, f"{view}Node").GetNodeReference(f"RegistrationNet.{view} overlay") if view in OVERLAYS else None
    assert layers["foreground"] is overlay
    assert (overlay is not None) == (view in OVERLAYS)
    assert [one for one in VIEWS if getattr(done.ui, f"{one}ViewButton").checked] == [view]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_works_after_its_display_was_deleted(scene: Any, done: Panel, layers: dict[str, Any], view: str) -> None:
    """As the modules Colors and Transforms let one do."""
    result = done.widget.resultPanel.result
    done.click("jacobianViewButton")
    overlay = result.jacobianNode.GetNodeReference("RegistrationNet.jacobian overlay")
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(overlay)
    done.click("gridViewButton")
    grid = result.transformNode.GetNodeReference("RegistrationNet.Grid")
    displays = [node.GetDisplayNode() for node in (grid, result.fixedNode)]
    for node in (legend, *displays):
        if node is not None:
            scene.RemoveNode(node)
    done.widget.resultPanel.leave()
    layers.clear()
    done.click(f"{view}ViewButton")
    assert done.message == ""
    assert layers["background"] is not None
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(overlay)
    assert bool(legend is not None and legend.GetVisibility()) == (view == "jacobian")
    if view == "grid":
        drawn = result.transformNode.GetNodeReference("RegistrationNet.Grid").GetDisplayNode()
        assert drawn.GetVisibility2D()
        assert drawn.GetVisualizationMode() == drawn.VIS_MODE_GRID


def test_flicker_that_fails_stops_and_is_told_once(done: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    done.widget.resultPanel._timer.setInterval(20)
    done.click("flickerViewButton")
    monkeypatch.setattr(done.logic, "showResult", lambda *_: 1 / 0)
    done.until(lambda: not done.widget.resultPanel._timer.active, seconds=5)
    assert "division by zero" in done.message


def test_flicker_shows_fixed_and_warped_in_turn_until_another_view(done: Panel, layers: dict[str, Any]) -> None:
    result, shown = done.widget.resultPanel.result, []
    done.widget.resultPanel._timer.setInterval(20)
    done.click("flickerViewButton")

    def seen_both() -> bool:
        shown.append(layers["background"])
        return {result.fixedNode, result.warpedNode} <= set(shown)

    done.until(seen_both, seconds=5)
    done.click("movingViewButton")
    assert not done.widget.resultPanel._timer.active
    assert layers["background"] is result.movingNode


def test_flicker_stops_when_the_module_is_left(done: Panel) -> None:
    done.click("flickerViewButton")
    done.module.exit()
    assert not done.widget.resultPanel._timer.active


@pytest.mark.parametrize("view", OVERLAYS)
def test_the_opacity_is_that_of_the_colours_over_fixed(done: Panel, layers: dict[str, Any], view: str) -> None:
    assert not done.ui.opacitySlider.isVisibleTo(done.top)
    done.click(f"{view}ViewButton")
    done.type("opacitySlider", "0.25")
    assert layers["foregroundOpacity"] == 0.25
    done.click("warpedViewButton")
    assert not done.ui.opacitySlider.isVisibleTo(done.top)
    done.click(f"{view}ViewButton")
    assert layers["foregroundOpacity"] == 0.25


def test_a_measure_that_is_clicked_moves_the_slices_to_where_it_is_worst(
    ready: Panel, fake: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PySide6.QtTest import QTest

    marks = {
        "Folded voxels": {"colour": "red", "value": "2 %", "rule": "Tissue cannot fold.", "worst_at_mm": [4.0, -7.0, 11.0]},
        "Overlap of the bodies": {"colour": "green", "value": "99 %", "rule": "They overlap."},
    }
    places: list[Any] = []
    monkeypatch.setattr(ready.logic, "showPlace", places.append)
    ready.click("registerButton")
    answer = shift_result(with_error=True)
    fake.answer(fake.jobs[-1], replace(answer, report={**REPORT, "marks": marks}))
    fake.poll()
    ready.open("numbers")
    ready.settle()
    table, told = ready.ui.marksTable, []
    for row in range(2):
        place = table.visualItemRect(table.item(row, 1)).center()
        QTest.mouseClick(table.viewport(), ready.qt.Qt.LeftButton, ready.qt.Qt.NoModifier, place)
        told.append(ready.ui.ruleLabel.text)
    assert places == [[4.0, -7.0, 11.0]]
    assert told == ["Tissue cannot fold. The slices show where it is worst.", "They overlap."]


HINT = "Point into a slice view to read the numbers there."


def point_at(scene: Any, place: tuple[float, float, float] | None) -> None:
    """As a slice view does when the mouse moves over it, or leaves it."""
    cursor = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if place is None:
        cursor.SetCursorPositionInvalid()
    else:
        cursor.SetCursorPositionRAS(place)


def test_the_panel_tells_the_numbers_under_the_mouse(scene: Any, done: Panel) -> None:
    label = done.ui.cursorLabel
    assert label.isVisibleTo(done.top)
    assert label.text == HINT
    point_at(scene, (0.0, 0.0, 0.0))
    assert label.text == "Here: moved 5.0\N{NO-BREAK SPACE}mm, volume +0\N{NO-BREAK SPACE}%, error 3.0\N{NO-BREAK SPACE}mm"
    point_at(scene, (33.0, 33.0, 33.0))
    assert label.text == "Here: moved 5.0\N{NO-BREAK SPACE}mm"
    point_at(scene, (0.0, 0.0, 500.0))
    assert label.text == HINT
    point_at(scene, (0.0, 0.0, 0.0))
    point_at(scene, None)
    assert label.text == HINT


def test_nothing_is_told_once_the_module_is_left_and_again_after_it_is_entered(scene: Any, done: Panel) -> None:
    point_at(scene, (0.0, 0.0, 0.0))
    done.module.exit()
    assert done.ui.cursorLabel.text == HINT
    point_at(scene, (1.0, 0.0, 0.0))
    assert done.ui.cursorLabel.text == HINT
    done.module.enter()
    point_at(scene, (0.0, 0.0, 0.0))
    assert done.ui.cursorLabel.text.startswith("Here: moved 5.0\N{NO-BREAK SPACE}mm")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (ValuesAt(1.24, -12.4, 0.26), "Here: moved 1.2 mm, volume −12 %, error 0.3 mm"),
        (ValuesAt(1.0, -130.0, 2.0), "Here: moved 1.0 mm, volume folded, error 2.0 mm"),
        (ValuesAt(None, None, 2.0), "Here: error 2.0 mm"),
        (ValuesAt(None, None, None), ""),
    ],
)
def test_the_numbers_are_told_in_words(host: Any, values: ValuesAt, words: str) -> None:
    from RegistrationNetLib.slicer_bridge.panel_cursor import words_of

    assert words_of(values) == words


@pytest.mark.parametrize("harden", [False, True])
def test_a_segmentation_follows_moving(scene: Any, done: Panel, harden: bool) -> None:
    node = segmentation_node(scene, {"organ": ball((3, -4, 0))}, "organs")
    done.check("applyToSelector", "organs")
    if harden:
        done.click("hardenCheckBox")
    done.click("applyButton")
    assert done.message == ""
    transform = done.widget.resultPanel.result.transformNode
    assert node.GetParentTransformNode() is (None if harden else transform)
    assert "Applied to organs" in done.ui.logText.toPlainText()


def test_what_is_unchecked_again_stays_where_it_is(scene: Any, done: Panel) -> None:
    node, other = points_node(scene, [[0, 0, 0]], "one"), points_node(scene, [[0, 0, 0]], "other")
    for name in ("one", "other", "one"):
        done.check("applyToSelector", name)
    done.click("applyButton")
    assert node.GetParentTransformNode() is None
    assert other.GetParentTransformNode() is done.widget.resultPanel.result.transformNode


def test_apply_with_nothing_checked_says_so(done: Panel) -> None:
    done.click("applyButton")
    assert "Nothing is checked under “Let these follow moving”" in done.message


def test_the_report_is_saved(done: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    monkeypatch.setattr(done.qt.QFileDialog, "getSaveFileName", lambda *_: str(file))
    done.click("saveReportButton")
    assert json.loads(file.read_text()) == REPORT
    assert str(file) in done.ui.logText.toPlainText()


def test_a_report_that_cannot_be_saved_is_told(done: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(done.qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "nowhere" / "report.json"))
    done.click("saveReportButton")
    assert "cannot be written" in done.message
    assert "Choose another place" in done.message


def test_a_dialogue_that_is_closed_changes_nothing(done: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(done.qt.QFileDialog, "getSaveFileName", lambda *_: "")
    done.click("saveReportButton")
    assert done.message == ""


def test_a_result_of_which_nothing_is_left_goes(scene: Any, done: Panel) -> None:
    done.click("flickerViewButton")
    for node in vars(done.widget.resultPanel.result.nodes).values():
        if node is not None:
            scene.RemoveNode(node)
    assert done.widget.resultPanel.result is None
    assert not done.ui.verdictFrame.isVisibleTo(done.top)
    assert not done.widget.resultPanel._timer.active
    assert "Nothing is left of the result" in done.ui.logText.toPlainText()


def test_the_next_registration_has_names_of_its_own(done: Panel, fake: FakeClient) -> None:
    first = done.widget.resultPanel.result
    done.click("registerButton")
    fake.answer(fake.jobs[-1], shift_result())
    fake.poll()
    second = done.widget.resultPanel.result
    assert second.warpedNode is not first.warpedNode
    assert second.warpedNode.GetName() != first.warpedNode.GetName()
