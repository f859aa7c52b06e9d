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
