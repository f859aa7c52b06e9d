"""What a user is told when something goes wrong, wherever it does, and what is left afterwards."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from RegistrationNetLib.errors import InputError, RegistrationNetError, ResourceError, WorkerError
from RegistrationNetLib.slicer_bridge.logic import REFINEMENTS

from ..module.nodes import pair_nodes, segmentation_node
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient

STAGES = {
    "prepare": "Preparing the volumes",
    "align": "Aligning the volumes",
    "network": "Finding the deformation",
    "refine": "Refining",
    "finish": "Measuring the result",
}


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.mark.parametrize(
    ("stage", "error"),
    [(stage, InputError("The values are wrong. Mend them.")) for stage in STAGES]
    + [("refine", WorkerError("It died. Try again."))],
)
def test_an_error_in_a_stage_is_told_in_words_with_details_behind_a_link(
    ready: Panel, fake: FakeClient, scene: Any, stage: str, error: RegistrationNetError
) -> None:
    before = scene.GetNumberOfNodes()
    ready.click("registerButton")
    fake.progress(fake.jobs[-1], stage, 0.5, 12)
    fake.poll()
    assert ready.ui.progressLabel.text == f"{STAGES[stage]}, about 12 s left"
    assert ready.ui.progressBar.value == 500
    fake.fail(fake.jobs[-1], error)
    fake.poll()
    assert str(error) in ready.message
    assert not ready.ui.detailsText.isVisibleTo(ready.top)
    ready.ui.messageLabel.linkActivated.emit("details")
    assert type(error).__name__ in ready.ui.detailsText.toPlainText()
    ready.ui.messageLabel.linkActivated.emit("details")
    assert not ready.ui.detailsText.isVisibleTo(ready.top)
    assert scene.GetNumberOfNodes() == before
    assert ready.ui.registerButton.isEnabled()
    assert STAGES[stage] in ready.ui.logText.toPlainText()


def test_a_run_that_does_not_fit_is_refused_with_what_would(ready: Panel, fake: FakeClient) -> None:
    ready.click("registerButton")
    words = "The registration needs about 9.8 GB on cuda; 3.1 GB are free. Crop the images."
    fake.fail(fake.jobs[-1], ResourceError(words))
    fake.poll()
    assert words in ready.message


def test_a_run_that_will_not_fit_is_told_before_it_begins(ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=100 * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    ready.choose("refinementCombo", "Nothing")
    assert re.match(r"This needs about 0\.6 GB of memory; the processor has 0\.1 GB free\.", ready.ui.progressLabel.text)
    assert ready.ui.registerButton.isEnabled()
    memory.available = 3000 * 2**20
    ready.choose("refinementCombo", "The field (to the finest detail)")
    assert ready.ui.progressLabel.text == ""


@pytest.mark.usefixtures("ready")
def test_a_full_ct_is_not_warned_of_as_it_is_worked_on_at_a_coarser_resolution() -> None:
    from RegistrationNetLib.slicer_bridge.panel_checks import memory_warning  # needs the stand-in

    image = SimpleNamespace(GetDimensions=lambda: (512, 512, 300), GetScalarSize=lambda: 2)
    volume = SimpleNamespace(GetImageData=lambda: image, GetSpacing=lambda: (0.8, 0.8, 1.0))
    node = SimpleNamespace(
        fixedVolume=volume, movingVolume=volume, device="cpu", refinement=next(iter(REFINEMENTS)), hasOwnSteps=False,
        resolution=0.0,
    )  # fmt: skip
    free = {"mb": 3000.0}
    devices = SimpleNamespace(meant=lambda _: "cpu", free_mb=lambda _: free["mb"], words_for=lambda _: "the processor")
    card = {"name": "direct", "method": "direct", "refine": {"default": "field"}}
    assert memory_warning(node, card, devices) == ""
    node.resolution = 0.8
    assert "Crop the volumes" in memory_warning(node, card, devices)
    node.resolution, free["mb"] = 0.0, 1000.0
    assert "Crop the volumes" in memory_warning(node, card, devices)


def test_the_memory_that_counts_is_that_of_the_device(ready: Panel, fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3000 * 2**20))
    ready.open("device")
    small = {"name": "cuda", "title": "Small card", "free_mb": 100.0}
    fake.answer(fake.jobs[-1], [{"name": "cpu", "title": "Processor", "free_mb": 3000.0}, small])
    fake.poll()
    assert "Small card has 0.1 GB free" in ready.ui.progressLabel.text, "Automatic takes the card that was found"
    ready.choose("deviceCombo", "Processor, 2.9 GB free")
    assert ready.ui.progressLabel.text == ""
    ready.choose("deviceCombo", "Small card, 0.1 GB free")
    assert "Small card has 0.1 GB free" in ready.ui.progressLabel.text


@pytest.mark.parametrize(
    ("model", "refine"),
    [("Direct optimization", "The network (slow)"), ("NePhi, fitted to the pair", "The field (to the finest detail)")],
)
def test_a_refinement_that_the_network_does_not_have_is_told_before_any_run(ready: Panel, model: str, refine: str) -> None:
    ready.choose("modelCombo", model)
    assert ready.ui.registerButton.isEnabled()
    ready.choose("refinementCombo", refine)
    assert ready.ui.progressLabel.text == f"{model} has nothing of that kind to refine. Choose another refinement."
    assert not ready.ui.registerButton.isEnabled()


def test_masks_that_the_network_needs_are_asked_for_before_any_run(
    ready: Panel, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ready.widget.modelPanel), "is_ready", property(lambda _: True))
    ready.choose("modelCombo", "GradICON for lung CT")
    assert "needs a mask of each volume" in ready.ui.progressLabel.text
    assert not ready.ui.registerButton.isEnabled()
    segmentation_node(scene, {}, "lungs")
    for side in ("fixed", "moving"):
        ready.choose(f"{side}MaskSelector", "lungs")
    assert ready.ui.registerButton.isEnabled()


def test_a_segment_that_is_gone_is_told_and_never_becomes_all_segments(ready: Panel, scene: Any) -> None:
    node = segmentation_node(scene, {"liver": ball((3, -4, 0), size=8), "spleen": ball((0, 0, 0), size=8)}, "organs")
    ready.choose("fixedMaskSelector", "organs")
    ready.choose("fixedSegmentCombo", "liver")
    assert ready.ui.registerButton.isEnabled()
    node.GetSegmentation().RemoveSegment(ready.parameters.fixedMaskSegment)
    ready.module.exit()
    ready.module.enter()
    assert ready.ui.fixedSegmentCombo.currentText == "Not there any more"
    assert "organs has lost the segment" in ready.ui.progressLabel.text
    assert not ready.ui.registerButton.isEnabled()
    ready.choose("fixedSegmentCombo", "spleen")
    assert ready.ui.registerButton.isEnabled()


def test_smoothness_cannot_be_chosen_where_nothing_is_refined(ready: Panel) -> None:
    assert ready.ui.smoothnessSlider.isEnabled()
    ready.choose("refinementCombo", "Nothing")
    assert not ready.ui.smoothnessSlider.isEnabled()


def test_the_message_goes_when_the_user_goes_on(ready: Panel, fake: FakeClient) -> None:
    ready.click("registerButton")
    fake.fail(fake.jobs[-1], InputError("The values are wrong. Mend them."))
    fake.poll()
    ready.click("registerButton")
    assert ready.message == ""


def test_a_result_that_cannot_be_placed_is_told_as_an_inner_failure(ready: Panel, fake: FakeClient, scene: Any) -> None:
    before = scene.GetNumberOfNodes()
    ready.click("registerButton")
    job = fake.jobs[-1]
    job.receive = lambda _: "no result at all"
    fake.answer(job, None)
    fake.poll()
    assert "It failed inside" in ready.message
    assert scene.GetNumberOfNodes() == before
    assert not ready.is_running


def test_a_volume_removed_while_running_ends_the_run(ready: Panel, scene: Any) -> None:
    ready.click("registerButton")
    scene.RemoveNode(ready.parameters.movingVolume)
    ready.until(lambda: not ready.is_running)
    assert "went from the scene during the registration" in ready.message
    assert ready.ui.progressLabel.text == "Choose a fixed and a moving volume."


def test_the_same_volume_twice_is_told_before_any_run(ready: Panel) -> None:
    ready.choose("movingSelector", "fixed")
    assert not ready.ui.registerButton.isEnabled()
    assert "are the same volume" in ready.ui.progressLabel.text


def test_a_module_reloaded_while_running_comes_back_usable(ready: Panel, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.click("registerButton")
    old, job = ready.logic, ready.logic.client.jobs[-1]
    host.slicer.util.reloadScriptedModule("RegistrationNet")
    assert job.is_finished
    assert old.client.is_closed
    monkeypatch.setattr(sys.modules["RegistrationNet"], "Client", FakeClient)
    host.slicer.util.reloadScriptedModule("RegistrationNet")
    host.slicer.app.processEvents()
    assert ready.logic is not old
    assert not ready.is_running
    assert ready.ui.fixedSelector.currentNode().GetName() == "fixed"
    ready.click("registerButton")
    assert ready.is_running


def test_a_scene_closed_while_running_leaves_an_empty_panel_that_works(ready: Panel, fake: FakeClient, scene: Any) -> None:
    ready.click("registerButton")
    scene.Clear(0)
    ready.until(lambda: not ready.is_running)
    assert "the scene was closed" in ready.message
    pair_nodes(scene)
    ready.choose("fixedSelector", "fixed")
    ready.choose("movingSelector", "moving")
    ready.click("registerButton")
    assert ready.is_running


class TestDevices:
    """What computes."""

    CPU = {"name": "cpu", "title": "x86_64", "free_mb": 2048.0}  # noqa: RUF012, a test's constant

    def test_nothing_is_looked_for_before_the_section_opens(self, ready: Panel, fake: FakeClient) -> None:
        assert fake.jobs == []
        ready.open("device")
        assert [job.request["do"] for job in fake.jobs] == ["devices"]

    def test_every_card_is_offered_with_its_free_memory(self, ready: Panel, fake: FakeClient) -> None:
        ready.open("device")
        cards = [{"name": f"cuda:{index}", "title": "Card", "free_mb": 1024.0 * (index + 1)} for index in range(2)]
        fake.answer(fake.jobs[-1], [self.CPU, *cards])
        fake.poll()
        combo = ready.ui.deviceCombo
        assert [combo.itemText(index) for index in range(combo.count)] == [
            "Automatic", "Processor, 2.0 GB free", "Card, 1.0 GB free", "Card, 2.0 GB free",
        ]  # fmt: skip
        ready.choose("deviceCombo", "Card, 2.0 GB free")
        ready.click("registerButton")
        assert fake.jobs[-1].request["options"]["device"] == "cuda:1"

    def test_a_chosen_card_that_is_not_there_is_told_and_kept(self, ready: Panel, fake: FakeClient) -> None:
        ready.parameters.device = "cuda:1"
        ready.open("device")
        fake.answer(fake.jobs[-1], [self.CPU])
        fake.poll()
        assert ready.ui.deviceCombo.currentText == "NVIDIA graphics card 2 (not here)"
        assert "This computer does not have it" in ready.ui.deviceLabel.text
        ready.choose("deviceCombo", "Automatic")
        assert ready.parameters.device == "auto"
        assert "Automatic takes the processor" in ready.ui.deviceLabel.text

    def test_looking_again_asks_again(self, ready: Panel, fake: FakeClient) -> None:
        ready.open("device")
        fake.answer(fake.jobs[-1], [self.CPU])
        fake.poll()
        ready.click("deviceButton")
        fake.answer(fake.jobs[-1], [{**self.CPU, "free_mb": 1024.0}])
        fake.poll()
        assert ready.ui.deviceCombo.itemText(1) == "Processor, 1.0 GB free"

    def test_a_worker_that_does_not_start_is_told(self, ready: Panel, fake: FakeClient) -> None:
        ready.open("device")
        fake.fail(fake.jobs[-1], WorkerError("It did not start. Try again."))
        fake.poll()
        assert "It did not start" in ready.message
        assert ready.ui.deviceButton.isEnabled()
