"""A sequence of volumes becomes a sequence of transforms and one of warped volumes, on the real MRML of sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.errors import Cancelled, InputError, WorkerError
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.slicer_bridge.client import Result
from RegistrationNetLib.slicer_bridge.mrml import DISPLACEMENT_AXES
from RegistrationNetLib.slicer_bridge.scene_record import records
from RegistrationNetLib.slicer_bridge.scene_results import alignment_of, role_of
from RegistrationNetLib.slicer_bridge.scene_sequences import sequence_shown_by
from RegistrationNetLib.slicer_bridge.scene_views import VIEWS

from ..panel.fake_client import FakeClient
from ..worker_input import ball
from .nodes import from_world, linear_transform, volume_node
from .test_logic import module
from .test_scene_results import SHIFT_LPS
from .test_scene_results import result as came

__all__ = ["module"]

TIMES = ("0", "0.4", "0.8", "1.2")


@pytest.fixture
def sequences(scene: Any) -> Iterator[Any]:
    """What the application's Sequences module does: it knows browsers, and makes the nodes that show the selected frame."""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    yield logic
    logic.SetMRMLScene(None)


@pytest.fixture
def fake() -> FakeClient:
    return FakeClient()


@pytest.fixture
def logic(module: Any, fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(module, "Client", lambda: fake)
    one = module.RegistrationNetLogic()
    yield one
    one.close()


def breathing(scene: Any, *, kind: str = "vtkMRMLScalarVolumeNode", size: int = 12) -> Any:
    """Four volumes over time, whose brightness tells them apart."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "breathing")
    sequence.SetIndexName("phase")
    sequence.SetIndexUnit("s")
    for number, time in enumerate(TIMES):
        volume = ball((number, 0, 0), size)
        node = volume_node(scene, volume, f"phase {number}", kind)
        sequence.SetDataNodeAtValue(node, time)
        scene.RemoveNode(node)
    return sequence


def frame_of(request: Any, side: str = "moving") -> int:
    """Which frame the worker was given."""
    values = request["volumes"][side].values
    return next(number for number in range(4) if np.array_equal(values, ball((number, 0, 0), 12).values))


def told(mean_mm: float, largest_mm: float) -> Result:
    """What the worker would bring; the frames are told apart by their displacement, which the determinant and the error repeat."""
    one = came(with_error=True)
    verdict = {"colour": "green", "words": "fits", "reason": f"Two repeats end within {mean_mm:g} mm"}
    report = {
        **one.report,
        "verdict": verdict,
        "displacement_mm": {"mean": mean_mm, "max": largest_mm},
        "jacobian": {"min": 0.5, "max": 1.5, "folded_percent": 0.25},
        "error_mm": {"median": mean_mm / 10, "p95": mean_mm},
        "similarity": {"before": 0.125, "after": 0.875},
    }
    filled = {
        name: replace(one.volumes[name], values=np.full_like(one.volumes[name].values, mean_mm))
        for name in ("jacobian", "error_mm")
    }
    return replace(one, report=report, volumes={**one.volumes, **filled})


def work(logic: Any, fake: FakeClient, running: Any) -> list[dict[str, Any]]:
    """Answer whatever comes; the requests in their order."""
    seen = 0
    while not running.isFinished:
        logic.poll()
        if len(fake.jobs) > seen:
            fake.answer(fake.jobs[seen], told(seen + 1.0, 9.0))
            seen += 1
    return [job.request for job in fake.jobs]


def test_every_frame_is_registered_from_where_its_neighbour_ended(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    sequence = breathing(scene)
    running = logic.startSequence(sequence, "middle", fixedModality="ct", repeats=1)
    requests = work(logic, fake, running)
    assert running.error is None, running.error
    assert [frame_of(one, "fixed") for one in requests] == [2] * 5
    assert [frame_of(one) for one in requests] == [3, 2, 1, 0, 2], "each way from the reference, and both loops closed"
    starts = [one["initial"] for one in requests]
    assert [start is None for start in starts] == [True, False, True, False, False]
    assert np.allclose(starts[1].values[0, 0, 0], SHIFT_LPS), "displacements along LPS"
    assert [one["options"]["repeats"] for one in requests] == [1, 0, 1, 1, 0]
    assert all(
        one["options"]["fixed_modality"] == "ct" and one["displacement_axes"] == list(DISPLACEMENT_AXES) for one in requests
    )
    result = running.result
    assert result.referenceNumber == 2
    assert [one is None for one in result.reports] == [False, False, True, False]
    assert [one["mean"] for one in result.drift] == [2.0, 5.0]


def test_the_results_are_sequences_over_the_same_index_and_are_played_together(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    sequence = breathing(scene)
    running = logic.startSequence(sequence, "first")
    work(logic, fake, running)
    result = running.result
    for node, kind in (
        (result.transformSequenceNode, "vtkMRMLGridTransformNode"),
        (result.warpedSequenceNode, "vtkMRMLScalarVolumeNode"),
    ):
        assert node.GetDataNodeClassName() == kind
        assert [node.GetNthIndexValue(number) for number in range(node.GetNumberOfDataNodes())] == list(TIMES)
        assert (node.GetIndexName(), node.GetIndexUnit(), node.GetIndexType()) == ("phase", "s", sequence.GetIndexType())
    browser = result.browserNode
    assert browser.GetMasterSequenceNode() is sequence
    sequences.UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(result.transformSequenceNode)
    assert np.allclose(from_world(shown, (1, 2, 3)), (1, 2, 3)), "the reference stays where it is"
    browser.SetSelectedItemNumber(2)
    sequences.UpdateProxyNodesFromSequences(browser)
    assert np.allclose(from_world(shown, (1, 2, 3)) - (1, 2, 3), SHIFT_LPS * (-1, -1, 1), atol=1e-4)
    warped = slicer.util.arrayFromVolume(browser.GetProxyNode(result.warpedSequenceNode))
    assert np.array_equal(warped, came().volumes["warped"].values)
    assert sequence_shown_by(browser.GetProxyNode(sequence)) is sequence
    table = result.tableNode.GetTable()
    rows = {
        table.GetColumnName(column): [table.GetValue(row, column).ToString() for row in range(4)]
        for column in range(table.GetNumberOfColumns())
    }
    assert rows["Time"] == ["0 s", "0.4 s", "0.8 s", "1.2 s"]
    assert rows["Verdict"] == ["reference", "fits", "fits", "fits"]
    assert rows["Displacement, mean mm"] == ["0.00", "1.00", "2.00", "3.00"]
    assert rows["Expected error, 95 % mm"] == ["", "1.00", "2.00", "3.00"]
    assert rows["Folded %"] == ["", "0.25", "0.25", "0.25"]
    assert rows["Largest Jacobian"] == ["", "1.50", "1.50", "1.50"]
    assert rows["Similarity after"] == ["", "0.88", "0.88", "0.88"]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result.warpedSequenceNode))
    assert hierarchy.GetItemName(folder) == "breathing to frame 0"


def test_determinant_and_expected_error_of_each_frame_are_sequences_too(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    running = logic.startSequence(breathing(scene), 1)
    work(logic, fake, running)
    result = running.result
    for node, at_rest in ((result.jacobianSequenceNode, 1.0), (result.errorSequenceNode, 0.0)):
        frames = [slicer.util.arrayFromVolume(node.GetNthDataNode(number)) for number in range(len(TIMES))]
        # The chain that goes on comes first: frames 2 and 3, the loop, then frame 0.
        assert [(frame.min(), frame.max()) for frame in frames] == [(one, one) for one in (4.0, at_rest, 1.0, 2.0)]
    assert np.array_equal(slicer.util.arrayFromVolume(result.fixedNode), ball((1, 0, 0), 12).values)
    assert result.fixedNode.GetName() == "Reference: breathing to frame 1"


def test_frames_keep_the_order_of_an_index_of_texts(scene: Any, sequences: Any, logic: Any, fake: FakeClient) -> None:
    sequence = breathing(scene)
    texts = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "breathing")
    texts.SetIndexType(texts.TextIndex)
    for number, name in enumerate(("out", "half", "in", "back")):
        texts.SetDataNodeAtValue(sequence.GetNthDataNode(number), name)
    running = logic.startSequence(texts, 2)
    work(logic, fake, running)
    assert running.error is None, running.error
    made = running.result.jacobianSequenceNode
    assert [made.GetNthIndexValue(number) for number in range(4)] == ["out", "half", "in", "back"]
    # Frame 3, the loop, frames 1 and 0.
    assert [slicer.util.arrayFromVolume(made.GetNthDataNode(number)).max() for number in range(4)] == [4.0, 3.0, 1.0, 1.0]
    running.result.browserNode.SetSelectedItemNumber(1)
    (record,) = records(scene)
    assert (record.frame, record.result.report["displacement_mm"]["mean"]) == (1, 3.0)


def registered(scene: Any, logic: Any, fake: FakeClient) -> Any:
    """A sequence that has been registered to its first frame."""
    running = logic.startSequence(breathing(scene), "first")
    work(logic, fake, running)
    assert running.error is None, running.error
    return running


def test_the_scene_remembers_a_sequence_as_the_result_of_the_frame_that_is_shown(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    running = registered(scene, logic, fake)
    browser = running.result.browserNode
    (record,) = records(scene)
    assert record.node is running.recordNode
    assert (record.title, record.browser, record.frame) == ("1. direct: breathing to frame 0, 4 frames", browser, 0)
    assert record.result.report["verdict"]["words"] == "reference"
    browser.SetSelectedItemNumber(2)
    (record,) = records(scene)
    result = record.result
    assert record.frame == 2
    assert result.report["displacement_mm"]["mean"] == 2.0
    assert result.fixedNode is running.result.fixedNode
    assert result.movingNode is browser.GetProxyNode(browser.GetMasterSequenceNode())
    assert slicer.util.arrayFromVolume(result.jacobianNode).max() == 2.0
    assert np.allclose(from_world(result.transformNode, (0, 0, 0)), SHIFT_LPS * (-1, -1, 1), atol=1e-4)
    assert alignment_of(result.transformNode) == came().alignment
    assert [role_of(one) for one in (result.transformNode, result.warpedNode, result.jacobianNode, result.errorNode)] == [
        "transform", "warped", "jacobian", "error",
    ]  # fmt: skip
    assert result.errorNode.GetDisplayNode().GetColorNode().GetName().startswith("Expected error")
    assert result.transformNode.GetNodeReference("RegistrationNet.fixed") is result.fixedNode


def test_views_made_of_a_frame_are_made_again_of_the_next(scene: Any, sequences: Any, logic: Any, fake: FakeClient) -> None:
    running = registered(scene, logic, fake)
    browser = running.result.browserNode
    seen = []
    for number in (1, 2, 1):
        browser.SetSelectedItemNumber(number)
        (record,) = records(scene)
        overlay = VIEWS["jacobian"](record.result)[1]
        seen.append((overlay.GetID(), float(slicer.util.arrayFromVolume(overlay).max())))
    assert [value for _, value in seen] == [1.0, 2.0, 1.0]
    assert len({one for one, _ in seen}) == 1, "the same volume, filled again"


def test_a_sequence_that_a_scene_has_kept_is_shown_again(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient, tmp_path: Path
) -> None:
    registered(scene, logic, fake).result.browserNode.SetSelectedItemNumber(3)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    assert records(scene) == []
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    (record,) = records(scene)
    assert (record.frame, record.lost) == (3, ())
    assert record.result.report["displacement_mm"]["mean"] == 3.0
    assert slicer.util.arrayFromVolume(record.result.jacobianNode).max() == 3.0
    assert alignment_of(record.result.transformNode) == came().alignment
    record.browser.SetSelectedItemNumber(1)
    (record,) = records(scene)
    assert (record.frame, role_of(record.result.warpedNode)) == (1, "warped")
    assert record.result.report["displacement_mm"]["mean"] == 1.0


def test_of_a_sequence_what_was_deleted_is_told_and_with_all_of_it_the_result_goes(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    running = registered(scene, logic, fake)
    result = running.result
    scene.RemoveNode(result.errorSequenceNode)
    (record,) = records(scene)
    assert record.lost == ("Expected error",)
    assert record.result.errorNode is None
    assert record.result.warpedNode is not None
    scene.RemoveNode(result.browserNode)
    (record,) = records(scene)
    assert (record.result.warpedNode, record.result.tableNode) == (None, result.tableNode)
    for node in (result.transformSequenceNode, result.warpedSequenceNode, result.jacobianSequenceNode, result.tableNode):
        assert len(records(scene)) == 1
        scene.RemoveNode(node)
    assert records(scene) == []
    assert not scene.IsNodePresent(running.recordNode)


def test_the_browser_that_plays_the_sequence_already_plays_the_results_too(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    sequence = breathing(scene)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "mine")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequences.UpdateProxyNodesFromSequences(browser)
    fixed = volume_node(scene, ball((9, 0, 0), 12), "planning CT")
    assert sequence_shown_by(fixed) is None
    running = logic.startSequence(sequence, fixed)
    requests = work(logic, fake, running)
    assert [frame_of(one) for one in requests[:4]] == [0, 1, 2, 3]
    assert running.result.browserNode is browser
    assert running.result.referenceNumber is None
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") == 1
    assert running.result.warpedSequenceNode.GetName() == "Warped: breathing to planning CT"


def test_the_mean_of_the_frames_can_be_the_reference(scene: Any, sequences: Any, logic: Any, fake: FakeClient) -> None:
    running = logic.startSequence(breathing(scene), "mean")
    requests = work(logic, fake, running)
    mean = np.mean([ball((number, 0, 0), 12).values for number in range(4)], axis=0)
    assert np.allclose(requests[0]["volumes"]["fixed"].values, mean, atol=1e-2)
    assert len(requests) == 5
    other = breathing(scene)
    other.SetDataNodeAtValue(volume_node(scene, ball((0, 0, 0), 14), "larger"), "2")
    with pytest.raises(InputError, match="The frames of the sequence lie on different grids; their mean needs one grid"):
        logic.registerSequence(other, "mean")


def content(scene: Any) -> set[str]:
    return {scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())}


def test_progress_is_told_and_what_is_cancelled_or_fails_changes_nothing(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    sequence = breathing(scene)
    before = content(scene)
    heard: list[Progress] = []
    running = logic.startSequence(sequence, 0, lambda one: heard.append(one.progress))
    while not fake.jobs:
        logic.poll()
    fake.progress(fake.jobs[0], "refine", 0.5)
    logic.poll()
    assert (heard[-1].stage, heard[-1].fraction) == ("frame 1", 0.125)
    running.cancel()
    while not running.isFinished:
        logic.poll()
    assert isinstance(running.error, Cancelled)
    failing = logic.startSequence(sequence, 0)
    while len(fake.jobs) < 2:
        logic.poll()
    fake.fail(fake.jobs[1], WorkerError("The worker died. Try again."))
    with pytest.raises(WorkerError, match="frame 1 of breathing: The worker died"):
        failing.wait()
    assert content(scene) == before


def test_a_sequence_that_changes_meanwhile_or_a_scene_that_closes_ends_it(
    scene: Any, sequences: Any, logic: Any, fake: FakeClient
) -> None:
    sequence = breathing(scene)
    running = logic.startSequence(sequence)
    while not fake.jobs:
        logic.poll()
    sequence.RemoveDataNodeAtValue(TIMES[0])
    while not running.isFinished:
        logic.poll()
    with pytest.raises(InputError, match="The sequence was changed, or went from the scene, during the registration"):
        running.wait()
    logic.poll()
    assert not fake.unfinished
    closing = logic.startSequence(sequence)
    while len(fake.jobs) < 2:
        logic.poll()
    scene.Clear(0)
    while not closing.isFinished:
        logic.poll()
    assert closing.error is not None


@pytest.mark.slow
def test_a_worker_finds_how_the_frames_move(scene: Any, sequences: Any, module: Any) -> None:
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "moving ball")
    for number in range(3):
        node = volume_node(scene, ball((3.0 * number, 0, 0)), f"phase {number}")
        sequence.SetDataNodeAtValue(node, str(number))
    logic = module.RegistrationNetLogic()
    try:
        result = logic.registerSequence(sequence, "first", align=["centre"], steps=5, repeats=0)
    finally:
        logic.close()
    assert [None if one is None else round(one["displacement_mm"]["mean"]) for one in result.reports] == [None, 3, 6]
    assert result.drift[0]["mean"] < 1.0
    moved = result.transformSequenceNode.GetNthDataNode(2)
    assert np.allclose(from_world(moved, (0, 0, 0)), (-6, 0, 0), atol=1.0)


def test_what_is_no_sequence_of_volumes_is_refused(scene: Any, sequences: Any, logic: Any) -> None:
    volume = volume_node(scene, ball((0, 0, 0), 12), "scan")
    with pytest.raises(InputError, match=r"scan \(vtkMRMLScalarVolumeNode\) is no sequence"):
        logic.registerSequence(volume)
    with pytest.raises(InputError, match="Nothing is no sequence"):
        logic.registerSequence(None)
    with pytest.raises(InputError, match=r"empty has 0 frames \(nothing\); at least 2 scalar volumes"):
        logic.registerSequence(scene.AddNewNodeByClass("vtkMRMLSequenceNode", "empty"))
    with pytest.raises(InputError, match="4 frames .vtkMRMLLabelMapVolumeNode.; at least 2 scalar volumes"):
        logic.registerSequence(breathing(scene, kind="vtkMRMLLabelMapVolumeNode"))
    sequence = breathing(scene)
    with pytest.raises(InputError, match="There is no reference 'best'; it is one of first, middle, last, mean"):
        logic.registerSequence(sequence, "best")
    with pytest.raises(InputError, match="There is no reference None;"):
        logic.registerSequence(sequence, None)
    with pytest.raises(InputError, match="There is no reference 4; .* a frame from 0 to 3"):
        logic.registerSequence(sequence, 4)
    with pytest.raises(InputError, match="A sequence is registered without fixed_mask; it takes model"):
        logic.registerSequence(sequence, fixedMask=volume)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequences.UpdateProxyNodesFromSequences(browser)
    browser.GetProxyNode(sequence).SetAndObserveTransformNodeID(linear_transform(scene, np.eye(4), "bed").GetID())
    with pytest.raises(InputError, match="lies under bed; the frames are registered where they lie without one"):
        logic.registerSequence(sequence)
