"""What a user does in the panel, from the first look to a result."""

import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Panel, quick


def test_an_empty_scene_says_what_to_do(panel: Panel) -> None:
    assert not panel.ui.registerButton.isEnabled()
    assert panel.ui.progressLabel.text == "Choose a fixed and a moving volume."
    assert not panel.logic.client.unfinished


def test_two_volumes_are_registered_by_one_click(ready: Panel, layers: dict[str, Any]) -> None:
    panel = ready
    quick(panel)
    panel.click("registerButton")
    assert panel.is_running
    panel.until(lambda: not panel.is_running)
    assert panel.message == ""
    assert panel.ui.marksTable.rowCount >= 5
    for view in ("fixed", "moving", "warped"):
        panel.click(f"{view}ViewButton")
        assert layers["background"] is getattr(panel.widget.resultPanel.result, f"{view}Node")


def test_cancel_stops_a_run_and_leaves_the_scene_as_it_was(scene: Any, ready: Panel) -> None:
    ready.click("hasOwnStepsCheckBox")
    ready.type("stepsSpinBox", "1000")
    before = scene.GetNumberOfNodes()
    ready.click("registerButton")
    ready.click("cancelButton")
    ready.until(lambda: not ready.is_running)
    assert ready.message == "Cancelled; nothing was changed."
    assert scene.GetNumberOfNodes() == before
    assert ready.ui.registerButton.isEnabled()
    assert not ready.ui.progressBar.isVisibleTo(ready.top)


def test_a_scene_closed_while_running_ends_the_run(scene: Any, ready: Panel) -> None:
    ready.click("hasOwnStepsCheckBox")
    ready.type("stepsSpinBox", "1000")
    ready.click("registerButton")
    scene.Clear(0)
    ready.until(lambda: not ready.is_running)
    assert "the scene was closed" in ready.message
    assert ready.ui.progressLabel.text == "Choose a fixed and a moving volume."


def test_a_module_closed_while_running_ends_the_run(ready: Panel) -> None:
    ready.click("hasOwnStepsCheckBox")
    ready.type("stepsSpinBox", "1000")
    ready.click("registerButton")
    ready.widget.cleanup()
    assert not ready.logic.client.unfinished


def test_an_error_is_told_in_words_with_its_details_behind_a_link(ready: Panel) -> None:
    """A device that is not there."""
    ready.choose("deviceCombo", "Apple graphics (MPS)")
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    assert "Choose auto or cpu" in ready.message
    assert not ready.ui.detailsText.isVisibleTo(ready.top)
    ready.ui.messageLabel.linkActivated.emit("details")
    assert "InputError" in ready.ui.detailsText.toPlainText()
    assert ready.ui.detailsText.isVisibleTo(ready.top)


def test_what_is_not_installed_is_asked_for_in_the_panel(ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, and nothing is installed before its answer."""
    dependencies = sys.modules["RegistrationNet"].dependencies
    installed: list[bool] = []
    monkeypatch.setattr(dependencies, "missing", lambda _: [] if installed else ["torch>=2.2"])
    monkeypatch.setattr(dependencies, "ensure", lambda *_, ask=True: installed.append(ask))
    ready.click("registerButton")
    assert not ready.is_running
    assert not installed
    assert "needs PyTorch in Slicer's own Python" in ready.ui.consentLabel.text
    ready.click("laterButton")
    assert not ready.ui.consentBox.isVisibleTo(ready.top)
    ready.click("registerButton")
    ready.click("installButton")
    assert installed == [False]
    assert not ready.ui.consentBox.isVisibleTo(ready.top)


def test_choices_and_result_come_back_with_the_scene(scene: Any, ready: Panel, tmp_path: Path) -> None:
    quick(ready)
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    report = ready.widget.resultPanel.result.report
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    assert ready.widget.resultPanel.result is None
    scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    ready.module.enter()
    assert ready.ui.stepsSpinBox.value == 3
    assert ready.ui.fixedSelector.currentNode().GetName() == "fixed"
    assert ready.widget.resultPanel.result.report == report
    assert ready.widget.resultPanel.result.warpedNode.GetName() == "moving to fixed: warped"


@pytest.mark.parametrize("width", [350, 500])
def test_nothing_is_cut_off_at_the_width_of_a_narrow_panel(panel: Panel, width: int) -> None:
    assert panel.top.minimumSizeHint().width() <= width
