"""The results of a registration as nodes of the scene: all of them, or the scene as it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import slicer
import vtk

from ..errors import InputError
from .client import Result
from .mrml import set_displacements, set_matrix, set_voxels
from .scene_display import largest_edge_mm, set_chart, set_histogram, set_quality, show_as_error, show_as_jacobian, show_like
from .scene_sampling import Node

# What a node is of a result (an attribute), on whose lattice it lies (a reference), and the affine part (an attribute, LPS).
ROLE = "RegistrationNet.Role"
FOLDER, REFERENCE = "folder", "reference"
FIXED = "RegistrationNet.fixed"
ALIGNMENT = "RegistrationNet.Alignment"
# Volumes that show no anatomy.
NO_IMAGES = ("jacobian", "error", "difference", "checkerboard", "jacobian overlay", "error overlay")
# What comes first in the names tells the nodes apart, also where a list cuts them off.
TITLES: Mapping[str, str] = {
    "transform": "Transform",
    "inverse": "Inverse transform",
    "warped": "Warped",
    "jacobian": "Jacobian",
    "error": "Expected error",
    "table": "Quality",
    "histogram": "Histogram",
    "series": "Plot series",
    "chart": "Chart",
    "affine": "Affine part",
    "deformable": "Deformable part",
    REFERENCE: "Reference",
}
# What views have made of a node, which refers to it: role of the made one, by the name of the reference.
MADE: Mapping[str, str] = {
    "RegistrationNet.Grid": "grid",
    **{f"RegistrationNet.{role}": role for role in ("difference", "checkerboard", "jacobian overlay", "error overlay")},
}
# What may be written into a node that is there already, and the kinds of node that can take it.
REPLACEABLE: Mapping[str, tuple[str, ...]] = {
    "transform": ("vtkMRMLGridTransformNode",),
    "inverse": ("vtkMRMLGridTransformNode",),
    "warped": ("vtkMRMLScalarVolumeNode",),
    "jacobian": ("vtkMRMLScalarVolumeNode",),
    "table": ("vtkMRMLTableNode",),
}


@dataclass(frozen=True)
class ResultNodes:
    """The nodes of one registered pair; None for what is not there (any more).

    Moving placed under `transform` lies on fixed; `inverse` takes fixed onto moving. `warped`, `jacobian` and `error` (the expected
    error, in mm) lie on the lattice of fixed. Where the parts were asked for, moving under `affine`, which lies under `deformable`, lies where it does under `transform`.
    """

    transform: Node
    inverse: Node
    warped: Node
    jacobian: Node
    table: Node
    histogram: Node
    series: Node
    chart: Node
    affine: Node | None = None
    deformable: Node | None = None
    error: Node | None = None


@contextmanager
def all_or_none(scene: Node, *, changed: Iterable[Node] = (), is_step: bool = True) -> Iterator[None]:
    """One step of undo, where the scene has that. When the block fails, every node that came with it is removed again.

    Args:
        changed: nodes that were there before, which the block changes: undo brings them back as they were.
        is_step: False for what goes and comes with nodes of an earlier step, as views do that were made of a result.
    """
    undoes = bool(scene.GetUndoFlag())
    if undoes:
        for node in changed:
            node.SetUndoEnabled(True)
        if is_step:
            scene.SaveStateForUndo()
    before = set(_ids(scene))
    try:
        yield
    except BaseException:
        for one in [one for one in _ids(scene) if one not in before][::-1]:
            if (node := scene.GetNodeByID(one)) is not None:
                scene.RemoveNode(node)
        raise
    if undoes:
        for one in _ids(scene):
            if one not in before:
                take_part_in_undo(scene.GetNodeByID(one))


def take_part_in_undo(node: Node) -> None:
    """Undo removes the node with the step in which it came, and redo brings it back; where the scene has that.

    Colours are shared by the results of a scene, and stay, as does the list of all nodes.
    """
    is_shared = any(node.IsA(kind) for kind in ("vtkMRMLColorNode", "vtkMRMLStorageNode", "vtkMRMLSubjectHierarchyNode"))
    node.SetUndoEnabled(bool(node.GetScene().GetUndoFlag()) and not is_shared)


def remove_empty_folders(scene: Node) -> None:
    """The folders of results that undo has taken away."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for item in _items_in(hierarchy, hierarchy.GetSceneItemID(), is_deep=True):
        held = (hierarchy.GetItemDataNode(one) for one in _items_in(hierarchy, item, is_deep=False))
        is_empty = not any(node is not None and scene.IsNodePresent(node) for node in held)
        if hierarchy.GetItemAttribute(item, ROLE) == FOLDER and is_empty:
            hierarchy.RemoveItem(item)


def _items_in(hierarchy: Node, parent: int, *, is_deep: bool) -> list[int]:
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(parent, items, is_deep)
    return [items.GetId(index) for index in range(items.GetNumberOfIds())]


def check_outputs(outputs: Mapping[str, Node], inputs: Mapping[str, Node]) -> None:
    """Refuse nodes that cannot take a result.

    Args:
        outputs: the nodes to write into, by the names of `REPLACEABLE`.
        inputs: what the registration reads, which must stay as it is.

    Raises:
        InputError: a node is of another kind, is read by the registration, or is named twice.
    """
    for name, node in outputs.items():
        if node.GetClassName() not in REPLACEABLE[name]:
            kinds = " or ".join(REPLACEABLE[name])
            raise InputError(
                f"{node.GetName()} ({node.GetClassName()}) cannot take the {TITLES[name].lower()}; it must be a {kinds}. "
                "Choose another node, or none for a new one."
            )
        for other, given in inputs.items():
            if node is given:
                raise InputError(
                    f"{node.GetName()} is {other.replace('_', ' ')}, which must stay as it is; the {TITLES[name].lower()} would "
                    "be written over it. Choose another node, or none for a new one."
                )
        twice = [one for one, given in outputs.items() if given is node and one != name]
        if twice:
            raise InputError(
                f"{node.GetName()} is chosen for two outputs, {name} and {twice[0]}; each needs its own. Choose another."
            )


def placed(scene: Node, result: Result, *, fixed: Node, moving: Node, outputs: Mapping[str, Node] | None = None) -> ResultNodes:
    """The results (displacements along `mrml.DISPLACEMENT_AXES`) as nodes, in one folder of the subject hierarchy named after the pair.

    `outputs` are nodes to write into instead of new ones, by the names of `REPLACEABLE`.
    """
    pair = f"{moving.GetName()} to {fixed.GetName()}"
    with all_or_none(scene, changed=(outputs or {}).values()):
        table = _added(scene, "vtkMRMLTableNode", "table", pair)
        set_quality(table, result.report)
        histogram, series, chart = _chart(scene, result, pair)
        has_parts = "deformable" in result.volumes
        affine, deformable = _parts(scene, result, pair, (moving, fixed)) if has_parts else (None, None)
        nodes = ResultNodes(
            _grid_transform(scene, result, "moving_from_fixed", ("transform", pair), (moving, fixed)),
            _grid_transform(scene, result, "fixed_from_moving", ("inverse", pair), (fixed, moving)),
            _warped(scene, result, pair, moving),
            _jacobian(scene, result, pair),
            table,
            histogram,
            series,
            chart,
            affine,
            deformable,
            _error(scene, result, pair) if "error_mm" in result.volumes else None,
        )
        filed(scene, pair, [node for node in vars(nodes).values() if node is not None])
    nodes = ResultNodes(**{**vars(nodes), **{name: _moved(vars(nodes)[name], node) for name, node in (outputs or {}).items()}})
    for one in fields(nodes):
        if (node := getattr(nodes, one.name)) is not None:
            mark(node, one.name, fixed)
    nodes.transform.SetAttribute(ALIGNMENT, json.dumps([list(map(float, row)) for row in result.alignment]))
    return nodes


def mark(node: Node, role: str, fixed: Node) -> None:
    """Note what a node is of a result, and on whose lattice it lies."""
    node.SetAttribute(ROLE, role)
    node.SetNodeReferenceID(FIXED, fixed.GetID())


def alignment_of(transform: Node) -> list[list[float]] | None:
    """The affine part of a result's transform (LPS), as a matrix; None where it is not known."""
    found: list[list[float]] | None = json.loads(transform.GetAttribute(ALIGNMENT) or "null")
    return found


def role_of(node: Node) -> str:
    """What a node is of a result: a name of `ResultNodes`, of a comparison, or "grid"; "" where it is none."""
    return str(node.GetAttribute(ROLE) or "")


def _moved(new: Node, existing: Node) -> Node:
    """`existing` with what `new` holds, which goes, as does what views have made of the old content. Nothing here can fail half-way."""
    for reference, role in MADE.items():
        made = existing.GetNodeReference(reference)
        if made is not None and role_of(made) == role:
            existing.GetScene().RemoveNode(made)
    if new.IsA("vtkMRMLTransformNode"):
        existing.SetAndObserveTransformFromParent(new.GetTransformFromParent())
        _refer(
            existing,
            (new.GetNodeReference(new.GetMovingNodeReferenceRole()), new.GetNodeReference(new.GetFixedNodeReferenceRole())),
        )
    elif new.IsA("vtkMRMLTableNode"):
        existing.SetAndObserveTable(new.GetTable())
    else:
        matrix = vtk.vtkMatrix4x4()
        new.GetIJKToRASMatrix(matrix)
        existing.SetAndObserveTransformNodeID(None)
        existing.SetIJKToRASMatrix(matrix)
        existing.SetAndObserveImageData(new.GetImageData())
        show_like(existing, new)
    new.GetScene().RemoveNode(new)
    return existing


def _ids(scene: Node) -> list[str]:
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


def _added(scene: Node, kind: str, role: str, pair: str) -> Node:
    return scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(f"{TITLES[role]}: {pair}"))


def _grid_transform(scene: Node, result: Result, field: str, title: tuple[str, str], pair: tuple[Node, Node]) -> Node:
    node = _added(scene, "vtkMRMLGridTransformNode", *title)
    set_displacements(node, result.volumes[field])
    _refer(node, pair)
    return node


def _parts(scene: Node, result: Result, pair: str, nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    deformable = _grid_transform(scene, result, "deformable", ("deformable", pair), nodes)
    affine = _added(scene, "vtkMRMLLinearTransformNode", "affine", pair)
    set_matrix(affine, result.alignment)
    affine.SetAndObserveTransformNodeID(deformable.GetID())
    _refer(affine, nodes)
    return affine, deformable


def _refer(node: Node, pair: tuple[Node, Node]) -> None:
    """Note which pair a transform belongs to, in the references that Slicer has for it."""
    moving, fixed = pair
    node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving.GetID())
    node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed.GetID())


def _warped(scene: Node, result: Result, pair: str, moving: Node) -> Node:
    node = _added(scene, "vtkMRMLScalarVolumeNode", "warped", pair)
    show_like(node, moving)
    set_voxels(node, result.volumes["warped"])
    return node


def _jacobian(scene: Node, result: Result, pair: str) -> Node:
    node = _added(scene, "vtkMRMLScalarVolumeNode", "jacobian", pair)
    show_as_jacobian(node)
    set_voxels(node, result.volumes["jacobian"])
    return node


def _error(scene: Node, result: Result, pair: str) -> Node:
    node, volume = _added(scene, "vtkMRMLScalarVolumeNode", "error", pair), result.volumes["error_mm"]
    show_as_error(node, largest_edge_mm(volume))
    set_voxels(node, volume)
    return node


def _chart(scene: Node, result: Result, pair: str) -> tuple[Node, Node, Node]:
    histogram = _added(scene, "vtkMRMLTableNode", "histogram", pair)
    set_histogram(histogram, result.histogram)
    series = _added(scene, "vtkMRMLPlotSeriesNode", "series", pair)
    chart = _added(scene, "vtkMRMLPlotChartNode", "chart", pair)
    set_chart(chart, series, histogram)
    return histogram, series, chart


def filed(scene: Node, name: str, nodes: Sequence[Node]) -> None:
    """Put the nodes into one folder, which goes with them when undo takes them away."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), scene.GenerateUniqueName(name))
    hierarchy.SetItemAttribute(folder, ROLE, FOLDER)
    try:
        for node in nodes:
            _put(hierarchy, node, folder)
    except BaseException:
        hierarchy.RemoveItem(folder)
        raise


def file_beside(node: Node, other: Node) -> None:
    """Put `node` into the folder in which `other` lies; what shows a frame of a sequence may lie in none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(other.GetScene())
    item = hierarchy.GetItemByDataNode(other)
    is_in_none = item == hierarchy.GetInvalidItemID()
    _put(hierarchy, node, hierarchy.GetSceneItemID() if is_in_none else hierarchy.GetItemParent(item))


def _put(hierarchy: Node, node: Node, folder: int) -> None:
    item = hierarchy.GetItemByDataNode(node)
    if item == hierarchy.GetInvalidItemID():
        hierarchy.CreateItem(folder, node)
    else:
        hierarchy.SetItemParent(item, folder)
