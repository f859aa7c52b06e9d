"""Where the moving volume shows a frame of a sequence: what is registered is said, and all frames are by one click."""

from __future__ import annotations

from typing import Any

import pytest
import slicer

from RegistrationNetLib.errors import WorkerError

from ..module.nodes import volume_node
from ..module.test_scene_results import result as came
from ..module.test_sequence import TIMES, breathing, sequences, told
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient

__all__ = ["sequences"]


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.fixture
def shown(scene: Any, sequences: Any, panel: Panel) -> Panel:
    """The panel with a frame of a sequence as moving."""
    sequence = breathing(scene)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequences.UpdateProxyNodesFromSequences(browser)
    panel.choose("movingSelector", browser.GetProxyNode(sequence).GetName())
    return panel


def registrations(fake: FakeClient) -> list[Any]:
    return [job for job in fake.jobs if job.request["do"] == "register"]


def test_what_is_taken_of_a_sequence_is_said_and_all_frames_are_registered_by_one_click(
    scene: Any, shown: Panel, fake: FakeClient, errors: list[Any]
) -> None:
    panel, ui = shown, shown.ui
    frame = panel.parameters.movingVolume.GetName()
    panel.open("several")
    assert ui.sequenceLabel.text == f"All 4 frames of the sequence “breathing”, which {frame} shows, to the middle frame."
    volume_node(scene, ball((9, 0, 0), 12), "planning CT")
    panel.choose("fixedSelector", "planning CT")
    assert ui.sequenceLabel.text.endswith("shows, to planning CT.")
    assert ui.progressLabel.text == (
        f"{frame} shows one frame of “breathing”; Register takes this frame alone. All frames: Apply to several."
    )
    assert ui.sequenceButton.text == "Register all 4 frames"
    panel.click("sequenceButton")
    panel.until(lambda: registrations(fake))
    assert not ui.registerButton.isEnabled()
    assert not ui.severalButton.isEnabled()
    fake.progress(registrations(fake)[0], "refine", 0.5)
    fake.poll()
    assert ui.sequenceProgressLabel.text == "Registering frame 0"
    assert ui.sequenceProgressBar.value == 100
    for number in range(5):
        panel.until(lambda number=number: len(registrations(fake)) > number)
        fake.answer(registrations(fake)[number], told(2.0, 9.0))
    panel.until(lambda: not panel.widget.sequencePanel.is_running)
    assert panel.message == ""
    assert "“Warped: breathing to planning CT” is played by the Sequences toolbar" in ui.sequenceProgressLabel.text
    assert "off by 2.0 mm in the mean" in ui.sequenceProgressLabel.text
    made = [node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode") if node.GetName().startswith("Warped")]
    assert [node.GetNumberOfDataNodes() for node in made] == [len(TIMES)]
    assert ui.registerButton.isEnabled()
    assert panel.area.widget().minimumSizeHint().width() <= panel.area.viewport().width
    panel.choose("movingSelector", "Choose a volume")
    assert not ui.sequenceButton.isVisibleTo(panel.top)
    assert not ui.sequenceLabel.isVisibleTo(panel.top)


@pytest.fixture
def registered(scene: Any, shown: Panel, fake: FakeClient) -> Panel:
    """The panel after the four frames were registered to the third, each with displacements of its own."""
    shown.click("sequenceButton")
    for number in range(5):
        shown.until(lambda number=number: len(registrations(fake)) > number)
        fake.answer(registrations(fake)[number], told(number + 1.0, 9.0))
    shown.until(lambda: not shown.widget.sequencePanel.is_running)
    assert shown.message == ""
    return shown


def test_the_result_of_a_sequence_shows_the_frame_that_the_toolbar_chooses(
    scene: Any, registered: Panel, layers: dict[str, Any]
) -> None:
    panel, ui = registered, registered.ui
    (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    assert "Frame 0: " in ui.verdictLabel.text
    assert "Two repeats end within 4\xa0mm" in ui.verdictLabel.text, "the second chain ends at frame 0"
    result = panel.widget.resultPanel.result
    assert layers["background"] is result.warpedNode
    panel.click("jacobianViewButton")
    overlay = layers["foreground"]
    assert slicer.util.arrayFromVolume(overlay).max() == 4.0
    layers.clear()
    browser.SetSelectedItemNumber(3)
    panel.until(lambda: "Frame 3: " in ui.verdictLabel.text)
    assert "Two repeats end within 1\xa0mm" in ui.verdictLabel.text
    assert layers["foreground"] is overlay
    assert slicer.util.arrayFromVolume(overlay).max() == 1.0
    browser.SetSelectedItemNumber(2)
    panel.until(lambda: "Frame 2: " in ui.verdictLabel.text)
    assert "reference" in ui.verdictLabel.text
    assert ui.marksTable.rowCount == 0
    for view in ("fixed", "moving", "warped", "checkerboard", "difference", "jacobian", "error", "grid"):
        panel.click(f"{view}ViewButton")
        assert panel.message == "", view


def test_the_list_of_results_leads_back_to_a_sequence(
    scene: Any, registered: Panel, fake: FakeClient, layers: dict[str, Any]
) -> None:
    panel, ui = registered, registered.ui
    sequence = panel.widget.resultPanel.result
    volume_node(scene, ball((9, 0, 0), 12), "planning CT")
    panel.choose("fixedSelector", "planning CT")
    panel.click("registerButton")
    panel.until(lambda: len(registrations(fake)) > 5)
    fake.answer(registrations(fake)[5], came(with_error=True))
    panel.until(lambda: not panel.is_running)
    assert "Frame" not in ui.verdictLabel.text
    assert [ui.resultCombo.itemText(one) for one in range(ui.resultCombo.count)] == [
        "1. direct: breathing to frame 2, 4 frames",
        "2. direct: breathing to planning CT",
    ]
    panel.pick("resultCombo", "1. direct: breathing to frame 2, 4 frames")
    assert "Frame 0: " in ui.verdictLabel.text
    layers.clear()
    panel.click("warpedViewButton")
    assert layers["background"] is sequence.warpedNode
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    panel.pick("resultCombo", "2. direct: breathing to planning CT")
    browsers[0].SetSelectedItemNumber(1)
    panel.settle()
    assert "Frame" not in ui.verdictLabel.text, "another frame changes nothing of another result"


def test_a_sequence_whose_frames_are_played_after_its_result_was_deleted_troubles_nobody(
    scene: Any, registered: Panel, errors: list[Any]
) -> None:
    panel = registered
    (browser,) = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    panel.click("jacobianViewButton")
    panel.logic.leaveViews()
    for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode"):
        if node.GetName().startswith("Jacobian"):
            scene.RemoveNode(node)
    assert not panel.ui.jacobianViewButton.isEnabled()
    browser.SetSelectedItemNumber(1)
    panel.settle()
    for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode"):
        if node.GetName() != "breathing":
            scene.RemoveNode(node)
    for node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        scene.RemoveNode(node)
    assert panel.widget.resultPanel.result is None
    browser.SetSelectedItemNumber(0)
    panel.settle()
    assert errors == []


def test_it_can_be_cancelled_fails_in_words_and_ends_with_its_scene(scene: Any, shown: Panel, fake: FakeClient) -> None:
    panel = shown
    panel.click("sequenceButton")
    panel.until(lambda: registrations(fake))
    panel.click("sequenceCancelButton")
    panel.until(lambda: not panel.widget.sequencePanel.is_running)
    assert panel.message == "Cancelled; nothing was changed."
    panel.click("sequenceButton")
    panel.until(lambda: len(registrations(fake)) > 1)
    fake.fail(registrations(fake)[1], WorkerError("The worker died. Try again."))
    panel.until(lambda: not panel.widget.sequencePanel.is_running)
    assert "frame 3 of breathing: The worker died" in panel.message
    panel.click("sequenceButton")
    panel.until(lambda: len(registrations(fake)) > 2)
    job = registrations(fake)[2]
    scene.Clear(0)
    panel.until(lambda: job.is_finished)
    assert not panel.widget.sequencePanel.is_running
    assert not panel.ui.sequenceButton.isVisibleTo(panel.top)


def test_a_pair_of_which_one_is_a_frame_is_registered_as_it_is_shown(scene: Any, shown: Panel, fake: FakeClient) -> None:
    panel = shown
    volume_node(scene, ball((9, 0, 0), 12), "planning CT")
    panel.choose("fixedSelector", "planning CT")
    panel.click("registerButton")
    panel.until(lambda: registrations(fake))
    assert not panel.ui.sequenceButton.isEnabled()
    assert "A registration is under way" in panel.ui.sequenceLabel.text
    fake.answer(registrations(fake)[0], came(with_error=True))
    panel.until(lambda: not panel.is_running)
    assert panel.widget.resultPanel.result.movingNode is panel.parameters.movingVolume
