"""Sequences of volumes in the scene: their frames, and what a registration makes of them, as sequences that are played together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from ..cohort.report_numbers import frame_numbers
from ..errors import InputError
from ..io.nrrd import Volume
from .client import Result
from .mrml import set_displacements, set_voxels
from .scene_display import set_words, show_as_error, show_as_jacobian, show_like
from .scene_results import ALIGNMENT, FIXED, REFERENCE, ROLE, TITLES, all_or_none, filed, mark, role_of
from .scene_sampling import Node, Steps

FEWEST_FRAMES = 2
_SEQUENCE, _BROWSER = "vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode"
# What a registration tells of each frame: the names of its volumes by the role of the sequence that holds them.
VOLUMES: Mapping[str, str] = {
    "transform": "moving_from_fixed",
    "warped": "warped",
    "jacobian": "jacobian",
    "error": "error_mm",
}
NAMES: Mapping[str, str] = {**TITLES, "transform": "Transforms"}
# What they are where the frame is the reference itself, which stays where it is.
_AT_REST: Mapping[str, float] = {"jacobian": 1.0, "error": 0.0}


@dataclass(frozen=True)
class SequenceNodes:
    """The nodes of a registered sequence, whose first four are sequences; `browser` plays them with the one that they were made of.

    `fixed` is the volume to which the frames were registered; where that was a frame or the mean, a copy of it.
    """

    transform: Node
    warped: Node
    jacobian: Node
    error: Node
    table: Node
    browser: Node
    fixed: Node


def frames_of(sequence: Node) -> list[Node]:
    """The volumes of a sequence, in its order.

    Raises:
        InputError: no sequence of at least two volumes, or what shows it lies under a transform.
    """
    if sequence is None or not sequence.IsA(_SEQUENCE):
        name = "Nothing" if sequence is None else f"{sequence.GetName()} ({sequence.GetClassName()})"
        raise InputError(
            f"{name} is no sequence; a {_SEQUENCE} of volumes is needed. Choose one, as the Sequences module lists them."
        )
    frames = [sequence.GetNthDataNode(number) for number in range(sequence.GetNumberOfDataNodes())]
    if len(frames) < FEWEST_FRAMES or any(one.GetClassName() != "vtkMRMLScalarVolumeNode" for one in frames):
        kinds = ", ".join(dict.fromkeys(one.GetClassName() for one in frames)) or "nothing"
        raise InputError(
            f"{sequence.GetName()} has {len(frames)} frames ({kinds}); at least {FEWEST_FRAMES} scalar volumes are needed. "
            "Choose another sequence."
        )
    shown = [browser.GetProxyNode(sequence) for browser in _browsers(slicer.mrmlScene)]
    moved = [
        one for one in shown if one is not None and one.IsA("vtkMRMLVolumeNode") and one.GetParentTransformNode() is not None
    ]
    if moved:
        raise InputError(
            f"{moved[0].GetName()}, which shows {sequence.GetName()}, lies under {moved[0].GetParentTransformNode().GetName()}; the "
            "frames are registered where they lie without one. Take it out of the transform."
        )
    return frames


def sequence_shown_by(volume: Node) -> Node | None:
    """The sequence of which a volume of the scene shows one of several frames; None for any other volume."""
    if volume is None:
        return None
    found = (browser.GetSequenceNode(volume) for browser in _browsers(slicer.mrmlScene))
    return next((one for one in found if one is not None and one.GetNumberOfDataNodes() >= FEWEST_FRAMES), None)


class FramesAside:
    """Sequences over the index of another one that grow frame by frame beside the scene, so that nothing is left to copy in the end.

    Args:
        sequence: what is registered.
        fixed: to what.
    """

    def __init__(self, sequence: Node, fixed: Volume) -> None:
        self._sequence, self._fixed = sequence, fixed
        self.nodes = {role: _like(sequence) for role in VOLUMES}
        # All values of the index first, in their order, which texts have from nowhere else.
        for number in range(sequence.GetNumberOfDataNodes()):
            for role, node in self.nodes.items():
                node.SetDataNodeAtValue(_empty(role), sequence.GetNthIndexValue(number))

    def add(self, number: int, frame: Result | None) -> Steps[None]:
        """Take over what came of a frame; None for the reference, which stays where it is."""
        value, original = self._sequence.GetNthIndexValue(number), self._sequence.GetNthDataNode(number)
        for role, node in self.nodes.items():
            node.SetDataNodeAtValue(_data_node(role, frame, original, self._fixed), value)
            yield


def placed_beside(
    sequence: Node,
    aside: FramesAside,
    reports: Sequence[Mapping[str, Any] | None],
    *,
    title: str,
    fixed: Volume,
    fixed_node: Node | None,
) -> SequenceNodes:
    """The frames in the scene, played by the browser of `sequence`, or by a new one where it has none.

    Args:
        reports: one for each frame; None for the reference.
        title: what the nodes are named after.
        fixed: to what the frames were registered; `fixed_node` is the volume that holds it, None where a new one shall.
    """
    scene = slicer.mrmlScene
    with all_or_none(scene):
        for role, node in aside.nodes.items():
            node.SetName(scene.GenerateUniqueName(f"{NAMES[role]}: {title}"))
            scene.AddNode(node)
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(f"Frames: {title}"))
        set_words(table, columns(), list(_rows(sequence, reports)))
        reference = _reference_node(fixed, title) if fixed_node is None else fixed_node
        filed(scene, title, [*aside.nodes.values(), table, *([reference] if fixed_node is None else [])])
        browser = _browser_of(sequence)
        for node in aside.nodes.values():
            browser.AddSynchronizedSequenceNode(node)
    _show_all(browser)
    original = browser.GetProxyNode(sequence)
    if fixed_node is None and original is not None:
        show_like(reference, original)
    return SequenceNodes(**aside.nodes, table=table, browser=browser, fixed=reference)


def shown_frame(browser: Node, sequence: Node) -> int:
    """The number of the frame of `sequence` that its browser shows."""
    value = browser.GetMasterSequenceNode().GetNthIndexValue(max(0, browser.GetSelectedItemNumber()))
    return max(0, int(sequence.GetItemNumberFromIndexValue(value, False)))


def proxies(browser: Node, sequences: Mapping[str, Node], alignments: Sequence[Any], *, fixed: Node | None) -> dict[str, Node]:
    """The nodes that show the selected frame of each sequence, by its role, looking and marked as those of a pair; None where there is none.

    What shows a frame takes over the attributes of the frame, which files of sequences do not keep: they are given again where they are
    gone.

    Args:
        alignments: the affine part of each frame, None for the reference.
    """
    shown = {role: browser.GetProxyNode(sequence) for role, sequence in sequences.items()}
    for role, node in shown.items():
        if node is None or role not in VOLUMES:
            continue
        if role_of(node) != role:
            for number, alignment in enumerate(alignments):
                _mark_frame(sequences[role].GetNthDataNode(number), role, alignment)
            _mark_frame(node, role, alignments[shown_frame(browser, sequences[role])])
        if fixed is not None and node.GetNodeReference(FIXED) is not fixed:
            mark(node, role, fixed)
            _dress(node, role, fixed, shown.get("moving"))
    return shown


def _dress(node: Node, role: str, fixed: Node, moving: Node | None) -> None:
    """What a new node that shows frames looks like, and to which volumes it belongs."""
    if role == "transform":
        node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed.GetID())
        if moving is not None:
            node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving.GetID())
    elif role == "jacobian":
        show_as_jacobian(node)
    elif role == "error":
        show_as_error(node, max(fixed.GetSpacing()))
    elif moving is not None:
        show_like(node, moving)


def _browsers(scene: Node) -> Iterator[Node]:
    for index in range(scene.GetNumberOfNodesByClass(_BROWSER)):
        yield scene.GetNthNodeByClass(index, _BROWSER)


def _browser_of(sequence: Node) -> Node:
    for browser in _browsers(slicer.mrmlScene):
        if browser.IsSynchronizedSequenceNode(sequence, True):
            return browser
    name = slicer.mrmlScene.GenerateUniqueName(f"{sequence.GetName()} browser")
    browser = slicer.mrmlScene.AddNewNodeByClass(_BROWSER, name)
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    return browser


def _show_all(browser: Node) -> None:
    """Make the nodes that show the selected frame; the application's Sequences module does it, at once or when events are handled."""
    module = getattr(slicer.modules, "sequences", None)
    if module is not None:
        module.logic().UpdateProxyNodesFromSequences(browser)


def _like(sequence: Node) -> Node:
    """A new sequence over the same index."""
    node = slicer.vtkMRMLSequenceNode()
    node.SetIndexName(sequence.GetIndexName())
    node.SetIndexUnit(sequence.GetIndexUnit())
    node.SetIndexType(sequence.GetIndexType())
    return node


def _empty(role: str) -> Node:
    return slicer.vtkMRMLGridTransformNode() if role == "transform" else slicer.vtkMRMLScalarVolumeNode()


def _data_node(role: str, frame: Result | None, original: Node, fixed: Volume) -> Node:
    """What the sequence of that role holds for a frame; sequences keep a copy of it."""
    node = _empty(role)
    if role == "transform":
        nowhere = Volume(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
        set_displacements(node, nowhere if frame is None else frame.volumes[VOLUMES[role]])
    elif frame is not None:
        set_voxels(node, frame.volumes[VOLUMES[role]])
    elif role in _AT_REST:
        set_voxels(node, Volume(np.full(fixed.values.shape, _AT_REST[role], np.float32), fixed.world_from_index))
    else:
        node.CopyContent(original)
    node.SetName(f"{TITLES[role]}: {original.GetName()}")
    _mark_frame(node, role, None if frame is None else frame.alignment)
    return node


def _mark_frame(node: Node, role: str, alignment: Any) -> None:
    node.SetAttribute(ROLE, role)
    if role == "transform":
        node.SetAttribute(ALIGNMENT, json.dumps(alignment))


def _reference_node(fixed: Volume, title: str) -> Node:
    """A copy of the reference, for views in which the frames are compared with it."""
    name = slicer.mrmlScene.GenerateUniqueName(f"{TITLES[REFERENCE]}: {title}")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    set_voxels(node, fixed)
    node.SetAttribute(ROLE, REFERENCE)
    return node


def columns() -> list[str]:
    """Of the table of frames."""
    return ["Frame", "Time", *(measure.title for measure in frame_numbers()), "Verdict", "Reason"]


def _rows(sequence: Node, reports: Sequence[Mapping[str, Any] | None]) -> Iterator[list[str]]:
    for number, one in enumerate(reports):
        time = f"{sequence.GetNthIndexValue(number)} {sequence.GetIndexUnit() or ''}".strip()
        report = at_rest() if one is None else one
        numbers = [measure.of(report) for measure in frame_numbers()]
        verdict = report["verdict"]
        shown = ("" if value is None else f"{value:.2f}" for value in numbers)
        yield [str(number), time, *shown, verdict["words"], "" if one is None else verdict["reason"]]


def at_rest(model: str = "") -> dict[str, Any]:
    """What is to be told of the reference itself."""
    reason = "All frames are registered to this one; it stays where it is."
    return {
        "model": model,
        "verdict": {"colour": "green", "words": "reference", "reason": reason},
        "marks": {},
        "displacement_mm": {"mean": 0.0, "max": 0.0},
    }
