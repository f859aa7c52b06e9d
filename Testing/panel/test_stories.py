"""What a user does in the panel, from the first look to a result."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.errors import ResourceError
from RegistrationNetLib.slicer_bridge import dependencies
from RegistrationNetLib.slicer_bridge.client import Client

from ..module.nodes import segmentation_node
from ..worker_input import ball
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


def test_without_a_scene_nothing_can_be_registered(scene: Any, ready: Panel) -> None:
    """Closed while another module is open, which leaves this one without choices until it is entered again."""
    ready.module.exit()
    scene.Clear(0)
    assert not ready.ui.registerButton.isEnabled()
    ready.module.enter()
    assert ready.ui.progressLabel.text == "Choose a fixed and a moving volume."


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
    """A graphics card that is not there, from a scene of another computer."""
    ready.parameters.device = "cuda:99"
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    assert "Choose auto or cpu" in ready.message
    assert not ready.ui.detailsText.isVisibleTo(ready.top)
    ready.ui.messageLabel.linkActivated.emit("details")
    assert "InputError" in ready.ui.detailsText.toPlainText()
    assert ready.ui.detailsText.isVisibleTo(ready.top)


def test_what_is_not_installed_is_asked_for_in_the_panel(ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, and nothing is installed before its answer."""
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


@pytest.mark.parametrize("button", ["registerButton", "downloadButton", "deviceButton"])
def test_an_installation_that_fails_is_told_and_asked_for_again(
    ready: Panel, monkeypatch: pytest.MonkeyPatch, button: str
) -> None:
    """Whatever needed it."""

    def fail(*_given: Any, ask: bool = True) -> None:
        raise ResourceError("PyTorch was not installed. Try again.")

    monkeypatch.setattr(dependencies, "missing", lambda _: ["torch>=2.2"])
    monkeypatch.setattr(dependencies, "ensure", fail)
    if button == "downloadButton":
        ready.choose("modelCombo", "uniGradICON")
    for _ in range(2):
        ready.click(button)
        assert ready.ui.consentBox.isVisibleTo(ready.top)
        ready.click("installButton")
        assert "PyTorch was not installed" in ready.message
    assert not ready.logic.client.unfinished


def test_from_two_volumes_to_a_saved_scene_and_back(scene: Any, ready: Panel, layers: dict[str, Any], tmp_path: Path) -> None:
    """Register, look, let a segmentation follow, save, load again: choices and result are there, and work."""
    organs = segmentation_node(scene, {"organ": ball((3, -4, 0))}, "organs")
    quick(ready)
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    ready.click("jacobianViewButton")
    ready.check("applyToSelector", "organs")
    ready.click("applyButton")
    assert ready.message == ""
    result = ready.widget.resultPanel.result
    assert layers["foreground"] is result.jacobianNode
    assert organs.GetParentTransformNode() is result.transformNode
    report = result.report
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    assert ready.widget.resultPanel.result is None
    scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    assert ready.ui.stepsSpinBox.value == 3
    assert ready.ui.alignmentCombo.currentText == "None"
    assert ready.ui.fixedSelector.currentNode().GetName() == "fixed"
    result = ready.widget.resultPanel.result
    assert result.report == report
    assert result.warpedNode.GetName() == "Warped: moving to fixed"
    assert scene.GetFirstNodeByName("organs").GetParentTransformNode() is result.transformNode
    ready.click("warpedViewButton")
    assert layers["background"] is result.warpedNode


def test_too_little_memory_is_told_before_the_run(ready: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker that sees a machine with 64 MB left."""
    (tmp_path / "sitecustomize.py").write_text(
        "import psutil, types\npsutil.virtual_memory = lambda: types.SimpleNamespace(available=64 * 2**20, total=2**30)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    ready.logic.client = Client()
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    assert "The registration needs about 0.5 GB on cpu; 0.1 GB are free. Crop the images" in ready.message


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_the_next_run_has_another(ready: Panel) -> None:
    ready.logic.client = Client()
    ready.click("hasOwnStepsCheckBox")
    ready.type("stepsSpinBox", "1000")
    ready.click("registerButton")
    ready.until(lambda: ready.ui.progressLabel.text.startswith("Refining"))
    os.kill(ready.logic.client._worker._process.pid, signal.SIGKILL)
    ready.until(lambda: not ready.is_running)
    assert "The worker ended before it answered" in ready.message
    ready.type("stepsSpinBox", "1")
    ready.click("registerButton")
    ready.until(lambda: not ready.is_running)
    assert ready.message == ""


@pytest.mark.parametrize("width", [320, 500])
def test_nothing_is_cut_off_at_the_width_of_a_narrow_panel(panel: Panel, width: int) -> None:
    for name in ("moreInputs", "refinement", "device", "outputs", "log"):
        panel.open(name)
    for widget in (panel.ui.resultBox, panel.ui.verdictFrame, panel.ui.consentBox, panel.ui.progressBar, panel.ui.cancelButton):
        widget.setVisible(True)
    assert panel.top.minimumSizeHint().width() <= width
