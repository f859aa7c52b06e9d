"""The results of a registration as nodes of the scene: all of them, or the scene as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import slicer

from .client import Result
from .mrml import set_displacements, set_matrix, set_voxels
from .scene_display import set_chart, set_histogram, set_quality, show_as_grid, show_as_jacobian, show_like
from .scene_sampling import Node


@dataclass(frozen=True)
class ResultNodes:
    """The nodes of one registered pair.

    Moving placed under `transform` lies on fixed; `inverse` takes fixed onto moving. `warped` and `jacobian` lie on the lattice of
    fixed. Where the parts were asked for, moving under `affine`, which lies under `deformable`, lies where it does under `transform`.
    """

    transform: Node
    inverse: Node
    warped: Node
    jacobian: Node
    table: Node
    histogram: Node
    chart: Node
    affine: Node | None = None
    deformable: Node | None = None


@contextmanager
def all_or_none(scene: Node) -> Iterator[None]:
    """One step of undo. When the block fails, every node that came with it is removed again."""
    if scene.GetUndoFlag():
        scene.SaveStateForUndo()
    before = set(_ids(scene))
    try:
        yield
    except BaseException:
        for one in [one for one in _ids(scene) if one not in before][::-1]:
            if (node := scene.GetNodeByID(one)) is not None:
                scene.RemoveNode(node)
        raise


def placed(scene: Node, result: Result, *, fixed: Node, moving: Node) -> ResultNodes:
    """The results (displacements along `mrml.DISPLACEMENT_AXES`) as nodes, in one folder of the subject hierarchy named after the pair."""
    pair = f"{moving.GetName()} to {fixed.GetName()}"
    with all_or_none(scene):
        transform = _grid_transform(scene, result, "moving_from_fixed", f"{pair}: transform", (moving, fixed))
        inverse = _grid_transform(scene, result, "fixed_from_moving", f"{pair}: inverse transform", (fixed, moving))
        table = _added(scene, "vtkMRMLTableNode", f"{pair}: quality")
        set_quality(table, result.report)
        histogram, chart = _chart(scene, result, pair)
        nodes = ResultNodes(
            transform,
            inverse,
            _warped(scene, result, pair, moving),
            _jacobian(scene, result, pair),
            table,
            histogram,
            chart,
            *(_parts(scene, result, pair, (moving, fixed)) if "deformable" in result.volumes else ()),
        )
        _filed(scene, pair, [node for node in vars(nodes).values() if node is not None])
    return nodes


def _ids(scene: Node) -> list[str]:
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


def _added(scene: Node, kind: str, name: str) -> Node:
    return scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))


def _grid_transform(scene: Node, result: Result, field: str, name: str, pair: tuple[Node, Node]) -> Node:
    node = _added(scene, "vtkMRMLGridTransformNode", name)
    show_as_grid(node, result.volumes[field])
    set_displacements(node, result.volumes[field])
    _refer(node, pair)
    return node


def _parts(scene: Node, result: Result, pair: str, nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    deformable = _grid_transform(scene, result, "deformable", f"{pair}: deformable part", nodes)
    affine = _added(scene, "vtkMRMLLinearTransformNode", f"{pair}: affine part")
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
    node = _added(scene, "vtkMRMLScalarVolumeNode", f"{pair}: warped")
    show_like(node, moving)
    set_voxels(node, result.volumes["warped"])
    return node


def _jacobian(scene: Node, result: Result, pair: str) -> Node:
    node = _added(scene, "vtkMRMLScalarVolumeNode", f"{pair}: Jacobian")
    show_as_jacobian(node)
    set_voxels(node, result.volumes["jacobian"])
    return node


def _chart(scene: Node, result: Result, pair: str) -> tuple[Node, Node]:
    histogram = _added(scene, "vtkMRMLTableNode", f"{pair}: Jacobian histogram")
    set_histogram(histogram, result.histogram)
    series = _added(scene, "vtkMRMLPlotSeriesNode", f"{pair}: determinants")
    chart = _added(scene, "vtkMRMLPlotChartNode", f"{pair}: Jacobian chart")
    set_chart(chart, series, histogram)
    return histogram, chart


def _filed(scene: Node, name: str, nodes: list[Node]) -> None:
    """Put the nodes into one folder."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), scene.GenerateUniqueName(name))
    try:
        for node in nodes:
            _put(hierarchy, node, folder)
    except BaseException:
        hierarchy.RemoveItem(folder)
        raise


def file_beside(node: Node, other: Node) -> None:
    """Put `node` into the folder in which `other` lies."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(other.GetScene())
    _put(hierarchy, node, hierarchy.GetItemParent(hierarchy.GetItemByDataNode(other)))


def _put(hierarchy: Node, node: Node, folder: int) -> None:
    item = hierarchy.GetItemByDataNode(node)
    if item == hierarchy.GetInvalidItemID():
        hierarchy.CreateItem(folder, node)
    else:
        hierarchy.SetItemParent(item, folder)
