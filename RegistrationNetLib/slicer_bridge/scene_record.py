"""Which results a scene holds: a hidden node for each, which is saved with the scene and names the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .packed_mask import unpacked
from .scene_results import TITLES, ResultNodes, take_part_in_undo
from .scene_sampling import Node

_KIND = "vtkMRMLScriptedModuleNode"
_REPORT, _ROLES, _BODY = "RegistrationNet.Report", "RegistrationNet.Roles", "RegistrationNet.Body"
_PAIR = ("fixed", "moving")
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
    """

    node: Node
    title: str
    result: RegistrationResult
    lost: tuple[str, ...]
    corrects: str = ""


def remembered(scene: Node, result: RegistrationResult, *, corrects: Node | None = None) -> Record:
    """Note a result in the scene; it `corrects` the one whose transform node this is."""
    before = None if corrects is None else next((one for one in records(scene) if one.result.transformNode is corrects), None)
    nodes = {role: node for role, node in _nodes_of(result).items() if node is not None}
    # What tells results of one pair apart comes first.
    pair = f"{result.movingNode.GetName()} to {result.fixedNode.GetName()}"
    title = f"{len(records(scene)) + 1}. {result.report['model']}: {pair}"
    record = scene.AddNewNodeByClass(_KIND, scene.GenerateUniqueName(title))
    record.SetHideFromEditors(True)
    take_part_in_undo(record)
    record.SetAttribute(_REPORT, json.dumps(result.report))
    record.SetAttribute(_ROLES, json.dumps(list(nodes)))
    record.SetAttribute(_BODY, json.dumps(result.body))
    for role, node in nodes.items():
        record.SetNodeReferenceID(role, node.GetID())
    if before is not None:
        record.SetNodeReferenceID(_CORRECTS, before.node.GetID())
    return _read(record)


def records(scene: Node) -> list[Record]:
    """The results of the scene, oldest first. One of which nothing is left goes for good."""
    nodes = [scene.GetNthNodeByClass(index, _KIND) for index in range(scene.GetNumberOfNodesByClass(_KIND))]
    found = [_read(node) for node in nodes if node.GetAttribute(_REPORT)]
    for one in found:
        if not _is_of_use(one):
            scene.RemoveNode(one.node)
    return [one for one in found if _is_of_use(one)]


def record_of(scene: Node, node_id: str) -> Record | None:
    """The result whose node has this ID; None where there is none."""
    return next((one for one in records(scene) if one.node.GetID() == node_id), None)


def _is_of_use(record: Record) -> bool:
    """Whether any node is left that the registration has made."""
    return any(node is not None for role, node in _nodes_of(record.result).items() if role not in _PAIR)


def _nodes_of(result: RegistrationResult) -> dict[str, Node]:
    return {**vars(result.nodes), "fixed": result.fixedNode, "moving": result.movingNode}


def _read(record: Node) -> Record:
    roles: list[str] = json.loads(record.GetAttribute(_ROLES))
    found = {role: _reference(record, role) for role in roles}
    lost = tuple(TITLES.get(role, role.capitalize()) for role in roles if found[role] is None)
    nodes = ResultNodes(**{one.name: found.get(one.name) for one in fields(ResultNodes)})
    report: Mapping[str, Any] = json.loads(record.GetAttribute(_REPORT))
    body: Mapping[str, Any] | None = json.loads(record.GetAttribute(_BODY) or "null")
    result = RegistrationResult(nodes, found.get("fixed"), found.get("moving"), report, body)
    return Record(record, record.GetName(), result, lost, record.GetNodeReferenceID(_CORRECTS) or "")


def _reference(record: Node, role: str) -> Node | None:
    """The node of that role. What is gone is forgotten, as another node may get its ID."""
    node = record.GetNodeReference(role)
    if node is None:
        record.SetNodeReferenceID(role, None)
    return node
