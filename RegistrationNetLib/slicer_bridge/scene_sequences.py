"""Sequences of volumes in the scene: their frames, and what a registration makes of them, as sequences that are played together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from ..errors import InputError
from ..io.nrrd import Volume
from .mrml import set_displacements, set_voxels
from .scene_display import set_words, show_like
from .scene_results import all_or_none, filed
from .scene_sampling import Node

FEWEST_FRAMES = 2
COLUMNS = ("Frame", "Time", "Mean displacement (mm)", "Largest displacement (mm)", "Verdict", "Reason")
_SEQUENCE, _BROWSER = "vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode"


@dataclass(frozen=True)
class FrameResult:
    """What a frame came out as: displacements (along `mrml.DISPLACEMENT_AXES`), the frame on the lattice of the reference, its report."""

    displacements: Volume
    warped: Volume
    report: Mapping[str, Any]


@dataclass(frozen=True)
class SequenceNodes:
    """The nodes of a registered sequence; `browser` plays them with the sequence that they were made of."""

    transforms: Node
    warped: Node
    table: Node
    browser: Node


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


def placed_beside(sequence: Node, frames: Sequence[FrameResult | None], *, title: str) -> SequenceNodes:
    """The results as sequences of the same index values, played by the browser of `sequence`, or by a new one where it has none.

    Args:
        frames: one for each frame; None for the reference, which stays where it is.
        title: what the nodes are named after.
    """
    scene = slicer.mrmlScene
    with all_or_none(scene):
        transforms, warped = (_like(sequence, scene.GenerateUniqueName(f"{what}: {title}")) for what in ("Transforms", "Warped"))
        for number, frame in enumerate(frames):
            value, original = sequence.GetNthIndexValue(number), sequence.GetNthDataNode(number)
            transforms.SetDataNodeAtValue(_transform_node(frame, original), value)
            warped.SetDataNodeAtValue(original if frame is None else _volume_node(frame), value)
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(f"Frames: {title}"))
        set_words(table, COLUMNS, list(_rows(sequence, frames)))
        filed(scene, title, [transforms, warped, table])
        browser = _browser_of(sequence)
        for one in (transforms, warped):
            browser.AddSynchronizedSequenceNode(one)
    _show_all(browser)
    shown, original = browser.GetProxyNode(warped), browser.GetProxyNode(sequence)
    if None not in (shown, original):
        show_like(shown, original)
    return SequenceNodes(transforms, warped, table, browser)


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


def _like(sequence: Node, name: str) -> Node:
    """A new sequence over the same index."""
    node = slicer.mrmlScene.AddNewNodeByClass(_SEQUENCE, name)
    node.SetIndexName(sequence.GetIndexName())
    node.SetIndexUnit(sequence.GetIndexUnit())
    node.SetIndexType(sequence.GetIndexType())
    return node


def _transform_node(frame: FrameResult | None, original: Node) -> Node:
    node = slicer.vtkMRMLGridTransformNode()
    node.SetName(f"Transform: {original.GetName()}")
    nowhere = Volume(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    set_displacements(node, nowhere if frame is None else frame.displacements)
    return node


def _volume_node(frame: FrameResult) -> Node:
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName("Warped")
    set_voxels(node, frame.warped)
    return node


def _rows(sequence: Node, frames: Sequence[FrameResult | None]) -> Iterator[tuple[str, ...]]:
    for number, frame in enumerate(frames):
        time = f"{sequence.GetNthIndexValue(number)} {sequence.GetIndexUnit() or ''}".strip()
        if frame is None:
            yield str(number), time, "0.00", "0.00", "reference", ""
            continue
        moved, verdict = frame.report["displacement_mm"], frame.report["verdict"]
        yield str(number), time, f"{moved['mean']:.2f}", f"{moved['max']:.2f}", verdict["words"], verdict["reason"]
