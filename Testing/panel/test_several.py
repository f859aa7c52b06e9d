"""Every volume of a folder is registered to the fixed one, by one click."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import slicer

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.slicer_bridge import dependencies
from RegistrationNetLib.slicer_bridge.client import Result
from RegistrationNetLib.slicer_bridge.scene_record import records

from ..module.nodes import points_node, volume_node
from ..module.test_scene_results import result as came
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient

NAMES = ("baseline", "week 3", "week 6")


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


def folder(name: str, nodes: Any = (), parent: int | None = None) -> int:
    """A folder of the subject hierarchy, with these nodes in it."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    made = int(hierarchy.CreateFolderItem(hierarchy.GetSceneItemID() if parent is None else parent, name))
    for node in nodes:
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.SetItemParent(item, made)
        else:
            hierarchy.CreateItem(made, node)
    return made


@pytest.fixture
def follow_ups(scene: Any, panel: Panel) -> Panel:
    """The panel with a fixed volume chosen, and a folder that holds it and three others."""
    nodes = [volume_node(scene, ball((0, 0, 0)), name) for name in ("MRHead", *NAMES)]
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    folder("Follow-ups", [*nodes, labels])
    panel.choose("fixedSelector", "MRHead")
    panel.choose("folderSelector", "Follow-ups")
    panel.settle()
    return panel


def registrations(fake: FakeClient) -> list[Any]:
    return [job for job in fake.jobs if job.request["do"] == "register"]


def working_on(panel: Panel, fake: FakeClient, number: int) -> Any:
    """The worker's job for that volume, once its turn has come."""
    panel.until(lambda: len(registrations(fake)) > number)
    return registrations(fake)[number]


def verdict(colour: str, words: str, reason: str) -> Result:
    answer = came(with_error=True)
    return replace(answer, report={**answer.report, "verdict": {"colour": colour, "words": words, "reason": reason}})


def rows(panel: Panel) -> list[list[str]]:
    table = panel.ui.severalTable
    return [[table.item(row, 0).text(), *table.item(row, 1).text().split("\n")] for row in range(table.rowCount)]


def test_a_folder_is_registered_by_one_click_and_each_row_shows_its_result(
    scene: Any, follow_ups: Panel, fake: FakeClient, layers: dict[str, Any], errors: list[Any]
) -> None:
    panel = follow_ups
    assert panel.ui.severalButton.text == "Register 3 volumes"
    assert panel.ui.severalLabel.text == (
        "Each volume of “Follow-ups” is registered to MRHead, with the options above: baseline, week 3, week 6."
    )
    panel.choose("alignmentCombo", "None")
    panel.click("severalButton")
    first = working_on(panel, fake, 0)
    assert not panel.ui.registerButton.isEnabled()
    assert panel.ui.progressLabel.text == "Several volumes are being registered: see Apply to several."
    assert first.request["options"]["align"] == ()
    fake.progress(first, "refine", 0.5, 20)
    fake.poll()
    assert panel.ui.severalProgressLabel.text == "1 of 3: baseline, Refining, about 20 s left"
    assert panel.ui.severalProgressBar.value == 167
    assert rows(panel) == [
        ["▸", "baseline", "is being registered"],
        ["·", "week 3", "waits"],
        ["·", "week 6", "waits"],
    ]
    fake.answer(first, verdict("green", "fits", "The expected error is 0.8 mm in the median over the body"))
    second = working_on(panel, fake, 1)
    assert len(registrations(fake)) == 2, "one volume at a time"
    fake.fail(second, InputError("moving has one value everywhere (0); registration needs contrast. Check the file."))
    third = working_on(panel, fake, 2)
    assert panel.ui.severalProgressLabel.text == "3 of 3: week 6"
    fake.answer(third, verdict("red", "does not fit", "The map folds at 3 % of the voxels"))
    panel.until(lambda: not panel.widget.severalPanel.is_running)
    assert rows(panel) == [
        ["✔", "baseline", "fits: The expected error is 0.8 mm in the median over the body"],
        ["!", "week 3", "moving has one value everywhere (0); registration needs contrast. Check the file."],
        ["✖", "week 6", "does not fit: The map folds at 3 % of the voxels"],
    ]
    colours = [panel.ui.severalTable.item(row, 0).foreground().color().name() for row in range(3)]
    assert colours == ["#2e9e4f", "#dd3b3b", "#dd3b3b"]
    for part in ("✔</span> 1", "✖</span> 1", "!</span> 1", "Click a volume to see its result"):
        assert part in panel.ui.severalProgressLabel.text
    assert [one.result.movingNode.GetName() for one in records(scene)] == ["baseline", "week 6"]
    assert panel.widget.resultPanel.result is None, "what the user looks at stays"
    panel.ui.severalTable.cellClicked.emit(2, 1)
    result = panel.widget.resultPanel.result
    assert result.movingNode.GetName() == "week 6"
    assert "does not fit" in panel.ui.verdictLabel.text
    assert layers["background"] is result.warpedNode
    panel.ui.severalTable.cellClicked.emit(1, 1)
    assert panel.widget.resultPanel.result is result, "what failed has nothing to show"
    assert not errors


def test_the_results_are_as_those_of_single_runs(scene: Any, follow_ups: Panel, fake: FakeClient) -> None:
    """In a folder for each pair; and what was made is not registered in its turn."""
    panel = follow_ups
    panel.click("severalButton")
    for number in range(3):
        fake.answer(working_on(panel, fake, number), came(with_error=True))
    panel.until(lambda: not panel.widget.severalPanel.is_running)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    made = [one.result.warpedNode for one in records(scene)]
    folders = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in made]
    assert [hierarchy.GetItemName(one) for one in folders] == [f"{name} to MRHead" for name in NAMES]
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(made[0]), panel.ui.folderSelector.currentItem())
    panel.settle()
    assert panel.ui.severalButton.text == "Register 3 volumes"
    panel.area.ensureWidgetVisible(panel.ui.severalTable)

    def top() -> int:
        panel.settle()
        return int(panel.ui.severalTable.mapTo(panel.area.viewport(), panel.qt.QPoint(0, 0)).y())

    before = top()
    assert not panel.ui.verdictFrame.isVisible()
    panel.ui.severalTable.cellClicked.emit(0, 1)
    assert abs(top() - before) <= 2, "the row that is clicked stays where it is, though the panel grows above it"
    assert panel.ui.verdictFrame.isVisible()
    assert panel.area.widget().minimumSizeHint().width() <= panel.area.viewport().width


def test_cancel_ends_the_volume_that_is_worked_on_and_begins_no_other(scene: Any, follow_ups: Panel, fake: FakeClient) -> None:
    panel = follow_ups
    panel.click("severalButton")
    fake.answer(working_on(panel, fake, 0), came(with_error=True))
    working_on(panel, fake, 1)
    panel.click("severalCancelButton")
    panel.until(lambda: not panel.widget.severalPanel.is_running)
    assert [row[0] for row in rows(panel)] == ["✔", "–", "–"]
    assert rows(panel)[2][2] == "cancelled"
    assert len(registrations(fake)) == 2
    assert len(records(scene)) == 1
    assert panel.ui.severalButton.isVisibleTo(panel.top)
    assert not panel.ui.severalCancelButton.isVisibleTo(panel.top)
    assert panel.message == ""
    result = records(scene)[0].result
    for node in [one for one in vars(result.nodes).values() if one is not None]:
        scene.RemoveNode(node)
    panel.ui.severalTable.cellClicked.emit(0, 1)
    assert "Nothing is left of the result of baseline; it was deleted" in panel.message


def test_nothing_else_starts_at_the_same_time(scene: Any, follow_ups: Panel, fake: FakeClient) -> None:
    panel = follow_ups
    panel.choose("movingSelector", "week 3")
    panel.click("registerButton")
    assert not panel.ui.severalButton.isEnabled()
    assert panel.ui.severalLabel.text == "A registration is under way; this can begin after it."
    fake.answer(working_on(panel, fake, 0), came(with_error=True))
    panel.until(lambda: not panel.is_running)
    assert panel.ui.correctButton.isEnabled()
    panel.click("severalButton")
    working_on(panel, fake, 1)
    assert not panel.ui.registerButton.isEnabled()
    assert not panel.ui.correctButton.isEnabled()
    assert not panel.ui.folderSelector.isEnabled()
    assert not panel.is_running, "the place of a single run stays as it is"
    panel.click("severalCancelButton")
    panel.until(lambda: not panel.widget.severalPanel.is_running)
    assert panel.ui.registerButton.isEnabled()
    assert panel.ui.correctButton.isEnabled()


def test_what_belongs_to_one_volume_is_left_out_and_what_belongs_to_fixed_counts_for_all(
    scene: Any, follow_ups: Panel, fake: FakeClient
) -> None:
    panel = follow_ups
    mask = volume_node(scene, ball((0, 0, 0)), "brain", "vtkMRMLLabelMapVolumeNode")
    for side in ("fixed", "moving"):
        panel.choose(f"{side}MaskSelector", "brain")
        points_node(scene, [[0, 0, 0]], f"{side} points")
        panel.choose(f"{side}LandmarksSelector", f"{side} points")
    panel.choose("landmarksCombo", "Bring the volumes together")
    assert "Without: mask of moving, landmarks, as these belong to one volume." in panel.ui.severalLabel.text
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    scan = hierarchy.GetItemByDataNode(scene.GetFirstNodeByName("week 3"))
    hierarchy.SetItemAttribute(scan, "DICOM.Modality", "CT")
    panel.choose("movingModalityCombo", "MR")
    panel.click("severalButton")
    request = working_on(panel, fake, 0).request
    assert set(request["volumes"]) == {"fixed", "moving", "fixed_mask"}
    assert "landmarks" not in request["options"]
    assert mask is panel.parameters.movingMask, "the choices stay"
    fake.answer(registrations(fake)[0], came(with_error=True))
    working_on(panel, fake, 1)
    told = [job.request["options"]["moving_modality"] for job in registrations(fake)]
    assert told == ["mr", "ct"], "each is read as what it says that it is, else as the panel says"


def test_what_is_missing_is_told(scene: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    panel.open("several")
    ui = panel.ui

    def told() -> str:
        panel.settle()
        assert not ui.severalButton.isEnabled()
        assert ui.severalButton.text == "Register a whole folder"
        return str(ui.severalLabel.text)

    assert told() == "Choose a fixed volume above; the volumes of the folder are registered to it."
    fixed = volume_node(scene, ball((0, 0, 0)), "MRHead")
    panel.choose("fixedSelector", "MRHead")
    assert told() == "Choose a folder of the Data module, with the volumes to register."
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    item = folder("Labels", [labels, fixed])
    panel.choose("folderSelector", "Labels")
    assert told().startswith("“Labels” holds no volume to register: label maps, the fixed volume")
    panel.choose("folderSelector", "Labels / MRHead")
    assert told() == "“MRHead” is a volume. Choose the folder in which it lies."
    panel.choose("folderSelector", "Labels")
    folder("within", [volume_node(scene, ball((0, 0, 0)), "late")], item)
    panel.settle()
    assert ui.severalButton.text == "Register 1 volume"
    assert ui.severalButton.isEnabled()
    with monkeypatch.context() as changed:
        changed.setitem(panel.widget.modelPanel.card["prepare"], "mask", "required")
        panel.widget.severalPanel.refresh()
        assert "needs a mask of each volume, which folders and sequences do not bring. Choose another network." in told()
    panel.choose("modelCombo", "uniGradICON")
    assert "The weights of uniGradICON are not here" in told()


def test_a_scene_that_closes_ends_the_run(scene: Any, follow_ups: Panel, fake: FakeClient) -> None:
    panel = follow_ups
    panel.click("severalButton")
    job = working_on(panel, fake, 0)
    scene.Clear(0)
    panel.until(lambda: job.is_finished)
    panel.settle()
    assert not panel.widget.severalPanel.is_running
    assert panel.ui.severalTable.rowCount == 0
    assert len(registrations(fake)) == 1
    assert panel.ui.progressLabel.text == "Choose a fixed and a moving volume."
    assert panel.ui.severalLabel.text.startswith("Choose a fixed volume above")


def test_what_is_not_installed_is_asked_for_first(follow_ups: Panel, fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = follow_ups
    monkeypatch.setattr(dependencies, "missing", lambda wanted: list(wanted))
    panel.click("severalButton")
    assert panel.ui.consentBox.isVisibleTo(panel.top)
    assert not panel.widget.severalPanel.is_running
    assert not registrations(fake)


def test_a_long_list_scrolls_within_itself(scene: Any, panel: Panel, fake: FakeClient) -> None:
    fixed, *others = (volume_node(scene, ball((0, 0, 0), 8), f"volume {number}") for number in range(30))
    folder("Cohort", [fixed, *others])
    panel.choose("fixedSelector", "volume 0")
    panel.choose("folderSelector", "Cohort")
    assert panel.ui.severalLabel.text.endswith("volume 1, volume 2 and 27 more.")
    panel.click("severalButton")
    assert len(rows(panel)) == 29
    assert panel.ui.severalTable.height <= 320
    panel.click("severalCancelButton")
    panel.until(lambda: not panel.widget.severalPanel.is_running)


def test_every_row_is_as_high_as_its_words_at_every_width(follow_ups: Panel, fake: FakeClient) -> None:
    panel, table = follow_ups, follow_ups.ui.severalTable
    panel.click("severalButton")
    reason = "5 landmarks lie 8.2 mm from the true place in the mean, 10 mm at most, and the two images overlap by 12 %"
    for number in range(len(NAMES)):
        fake.answer(working_on(panel, fake, number), verdict("amber", "look closely", reason))
        fake.poll()
    for width in (320, 500, 410, 320):
        panel.area.resize(width, 900)
        panel.settle()
        assert [table.rowHeight(row) for row in range(3)] == [table.sizeHintForRow(row) for row in range(3)]
