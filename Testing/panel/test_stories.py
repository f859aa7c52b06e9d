"""What a user does in the panel, from the first look to a result."""

import html
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.slicer_bridge import dependencies, installation
from RegistrationNetLib.slicer_bridge.client import Client

from ..module.nodes import segmentation_node
from ..worker_input import ball
from .conftest import Panel, quick


def test_an_empty_scene_says_what_to_do(panel: Panel) -> None:
    assert not panel.ui.registerButton.isEnabled()
    assert panel.ui.progressLabel.text == "Choose a fixed and a moving volume."
    assert not panel.logic.client.unfinished


@pytest.mark.slow
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


def installing(monkeypatch: pytest.MonkeyPatch, script: str, *, steps: int = 1) -> None:
    """Slicer's Python runs this in the place of an installer; nothing that is looked for is there before."""
    monkeypatch.setattr(dependencies, "missing", lambda _: ["torch>=2.2"])
    monkeypatch.setattr(installation, "commands", lambda *_: [("-c", script)] * steps)


def test_what_is_not_installed_is_asked_for_in_the_panel(ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, and nothing is installed before its answer; meanwhile the panel goes on and tells what happens."""
    installing(monkeypatch, "import time; print('Downloading torch (203 MB)', flush=True); time.sleep(0.3)", steps=2)
    ready.click("registerButton")
    assert not ready.is_running
    assert "needs PyTorch in Slicer's own Python" in ready.ui.consentLabel.text
    ready.click("laterButton")
    assert not ready.ui.consentBox.isVisibleTo(ready.top)
    ready.click("registerButton")
    ready.click("installButton")
    told = set()

    def is_done() -> bool:
        told.add(ready.ui.consentLabel.text)
        if "step 2" in ready.ui.consentLabel.text:
            monkeypatch.setattr(dependencies, "missing", lambda _: [])
        return not ready.ui.consentBox.isVisibleTo(ready.top)

    assert ready.sees("installProgressBar")
    assert not ready.ui.installButton.isEnabled()
    ready.until(is_done)
    assert ready.message == ""
    steps = [f"Installing, step {step} of 2; this may take some minutes.\nDownloading torch (203 MB)" for step in (1, 2)]
    assert set(steps) <= told
    assert "Everything that registration needs is installed." in ready.ui.logText.toPlainText()
    assert not ready.ui.installProgressBar.isVisibleTo(ready.top)


def test_an_installation_can_be_cancelled(ready: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With all that it has started, and the question can be asked again."""
    note = tmp_path / "alive"
    child = f"import time\nfor _ in range(600):\n    open({str(note)!r}, 'w').write(str(time.time())); time.sleep(0.05)"
    installing(monkeypatch, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    ready.click("registerButton")
    ready.click("installButton")
    ready.until(note.exists)
    assert ready.ui.laterButton.text == "Cancel"
    ready.click("laterButton")
    assert ready.message == "Cancelled; what was installed until then stays."
    assert not ready.ui.consentBox.isVisibleTo(ready.top)
    ready.settle()
    before = note.read_text()
    ready.settle()
    assert note.read_text() == before
    ready.click("registerButton")
    assert ready.ui.installButton.isEnabled()
    assert ready.ui.laterButton.text == "Not now"


@pytest.mark.parametrize("button", ["registerButton", "downloadButton", "deviceButton"])
def test_an_installation_that_fails_is_told_and_asked_for_again(
    ready: Panel, monkeypatch: pytest.MonkeyPatch, button: str
) -> None:
    """Whatever needed it."""
    installing(monkeypatch, "print('ERROR: No matching distribution found for torch'); raise SystemExit(1)")
    if button == "downloadButton":
        ready.choose("modelCombo", "uniGradICON")
    for _ in range(2):
        ready.click(button)
        assert ready.ui.consentBox.isVisibleTo(ready.top)
        ready.click("installButton")
        ready.until(lambda: ready.message)
        told = html.unescape(ready.message)
        assert "torch>=2.2 was not installed: the package index cannot be reached" in told
        assert "No matching distribution found for torch" in told
        assert "use another Python" in ready.message
        assert "It failed inside" not in ready.message
        assert ready.sees("messageLabel")
    assert not ready.logic.client.unfinished


def test_an_installer_that_says_yes_and_does_no_is_told(ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    installing(monkeypatch, "")
    ready.click("registerButton")
    ready.click("installButton")
    ready.until(lambda: ready.message)
    told = html.unescape(ready.message)
    assert "torch>=2.2 could not be installed; registration needs it. Look at Slicer's log" in told


def test_closing_the_panel_ends_an_installation(ready: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "alive"
    installing(monkeypatch, f"import time; open({str(note)!r}, 'w'); time.sleep(600)")
    ready.click("registerButton")
    ready.click("installButton")
    ready.until(note.exists)
    process = ready.widget.installationPanel._installation._process
    ready.widget.installationPanel.close()
    assert process.wait(10) != 0


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
    assert layers["foreground"] is result.jacobianNode.GetNodeReference("RegistrationNet.jacobian overlay")
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
    assert re.search(r"The registration needs about 0\.6 GB on cpu; 0\.1 GB are free\. Crop the images", ready.message)


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
    for name in ("moreInputs", "refinement", "device", "outputs", "several", "log"):
        panel.open(name)
    for widget in (panel.ui.resultBox, panel.ui.verdictFrame, panel.ui.consentBox, panel.ui.progressBar, panel.ui.cancelButton):
        widget.setVisible(True)
    assert panel.top.minimumSizeHint().width() <= width
