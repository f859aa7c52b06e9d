"""Which results a scene holds: a hidden node for each, which is saved with the scene and names the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .client import Result
from .packed_mask import unpacked
from .scene_results import TITLES, ResultNodes, take_part_in_undo
from .scene_sampling import Node
from .scene_sequences import SequenceNodes, at_rest, proxies, shown_frame

_KIND = "vtkMRMLScriptedModuleNode"
_REPORT, _ROLES, _BODY = "RegistrationNet.Report", "RegistrationNet.Roles", "RegistrationNet.Body"
# Of a sequence the report is a list, one for each frame, and so are the affine parts.
_ALIGNMENTS = "RegistrationNet.Alignments"
# These are no work of the registration.
_GIVEN = ("fixed", "moving", "browser")
_CORRECTS = "RegistrationNet.Corrects"


class RegistrationResult:
    """The nodes of a registered pair; names as in `ResultNodes` with "Node" behind them, and the two volumes.

    In a result that a scene has kept, a node that was deleted is None.

    Args:
        body: where fixed shows a body, as `packed_mask.packed` has it.
    """

    def __init__(
        self, nodes: ResultNodes, fixed: Any, moving: Any, report: Mapping[str, Any], body: Mapping[str, Any] | None = None
    ) -> None:
        self.nodes = nodes
        self.fixedNode, self.movingNode, self.report, self.body = fixed, moving, report, body
        self.transformNode, self.inverseTransformNode = nodes.transform, nodes.inverse
        self.warpedNode, self.jacobianNode = nodes.warped, nodes.jacobian
        self.tableNode, self.histogramNode = nodes.table, nodes.histogram
        self.seriesNode, self.chartNode = nodes.series, nodes.chart
        self.affineNode, self.deformableNode = nodes.affine, nodes.deformable
        self.errorNode = nodes.error
        # 1 where fixed shows a body, on a coarse lattice; None in a result that was made without.
        self.bodyVolume = None if body is None else unpacked(body)


@dataclass(frozen=True)
class Record:
    """One result of the scene.

    Attributes:
        node: the node that holds it.
        title: what lists call it.
        result: what is left of it.
        lost: the titles of what was deleted.
        corrects: the ID of the node that holds the result that this one corrects; "" for none.
        browser: of a sequence, whose `result` is that of the frame that the browser shows; None for a pair.
        frame: the number of that frame.
    """

    node: Node
    title: str
    result: RegistrationResult
    lost: tuple[str, ...]
    corrects: str = ""
    browser: Node | None = None
    frame: int = 0


def remembered(scene: Node, result: RegistrationResult, *, corrects: Node | None = None) -> Record:
    """Note a result in the scene; it `corrects` the one whose transform node this is."""
    before = None if corrects is None else next((one for one in records(scene) if one.result.transformNode is corrects), None)
    nodes = {role: node for role, node in _nodes_of(result).items() if node is not None}
    pair = f"{result.movingNode.GetName()} to {result.fixedNode.GetName()}"
    record = _added(scene, f"{result.report['model']}: {pair}", nodes, result.report, result.body)
    if before is not None:
        record.SetNodeReferenceID(_CORRECTS, before.node.GetID())
    return _read(record)


def remembered_sequence(
    scene: Node, nodes: SequenceNodes, sequence: Node, frames: Sequence[Result | None], *, title: str
) -> Record:
    """Note a registered sequence in the scene.

    Args:
        frames: what came of each frame, None for the reference.
    """
    first = next(one for one in frames if one is not None)
    reports = [at_rest(first.report["model"]) if one is None else one.report for one in frames]
    record = _added(
        scene, f"{first.report['model']}: {title}, {len(frames)} frames", {**vars(nodes), "moving": sequence}, reports, first.body
    )
    record.SetAttribute(_ALIGNMENTS, json.dumps([None if one is None else one.alignment for one in frames]))
    return _read(record)


def records(scene: Node) -> list[Record]:
    """The results of the scene, oldest first. One of which nothing is left goes for good."""
    nodes = [scene.GetNthNodeByClass(index, _KIND) for index in range(scene.GetNumberOfNodesByClass(_KIND))]
    found = []
    for node in nodes:
        if not node.GetAttribute(_REPORT):
            continue
        if _is_of_use(node):
            found.append(_read(node))
        else:
            scene.RemoveNode(node)
    return found


def record_of(scene: Node, node_id: str) -> Record | None:
    """The result whose node has this ID; None where there is none."""
    return next((one for one in records(scene) if one.node.GetID() == node_id), None)


def _added(scene: Node, title: str, nodes: Mapping[str, Node], report: Any, body: Mapping[str, Any] | None) -> Node:
    # What tells results of one pair apart comes first.
    record = scene.AddNewNodeByClass(_KIND, scene.GenerateUniqueName(f"{len(records(scene)) + 1}. {title}"))
    record.SetHideFromEditors(True)
    take_part_in_undo(record)
    record.SetAttribute(_REPORT, json.dumps(report))
    record.SetAttribute(_ROLES, json.dumps(list(nodes)))
    record.SetAttribute(_BODY, json.dumps(body))
    for role, node in nodes.items():
        record.SetNodeReferenceID(role, node.GetID())
    return record


def _is_of_use(record: Node) -> bool:
    """Whether any node is left that the registration has made."""
    return any(_reference(record, role) is not None for role in json.loads(record.GetAttribute(_ROLES)) if role not in _GIVEN)


def _nodes_of(result: RegistrationResult) -> dict[str, Node]:
    return {**vars(result.nodes), "fixed": result.fixedNode, "moving": result.movingNode}


def _read(record: Node) -> Record:
    found = {role: _reference(record, role) for role in json.loads(record.GetAttribute(_ROLES))}
    lost = tuple(TITLES.get(role, role.capitalize()) for role, node in found.items() if node is None)
    report, body = json.loads(record.GetAttribute(_REPORT)), json.loads(record.GetAttribute(_BODY) or "null")
    browser, frame = found.pop("browser", None), 0
    if isinstance(report, list):
        found, frame = _of_shown_frame(found, browser, json.loads(record.GetAttribute(_ALIGNMENTS)))
        report = report[frame]
    nodes = ResultNodes(**{one.name: found.get(one.name) for one in fields(ResultNodes)})
    result = RegistrationResult(nodes, found.get("fixed"), found.get("moving"), report, body)
    return Record(record, record.GetName(), result, lost, record.GetNodeReferenceID(_CORRECTS) or "", browser, frame)


def _of_shown_frame(
    found: Mapping[str, Node | None], browser: Node | None, alignments: Sequence[Any]
) -> tuple[dict[str, Node | None], int]:
    """In place of the sequences the nodes that show the selected frame, and its number; nothing shows one without a browser."""
    sequences = {role: node for role, node in found.items() if node is not None and node.IsA("vtkMRMLSequenceNode")}
    others = {role: node for role, node in found.items() if role not in sequences}
    if not sequences or browser is None or browser.GetMasterSequenceNode() is None:
        return others, 0
    shown = proxies(browser, sequences, alignments, fixed=found.get("fixed"))
    return {**others, **shown}, shown_frame(browser, next(iter(sequences.values())))


def _reference(record: Node, role: str) -> Node | None:
    """The node of that role. What is gone is forgotten, as another node may get its ID."""
    node = record.GetNodeReference(role)
    if node is None:
        record.SetNodeReferenceID(role, None)
    return node
