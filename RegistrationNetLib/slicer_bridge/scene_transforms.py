"""Nodes of the scene placed under a transform of the world."""

from __future__ import annotations

from collections.abc import Iterable

import slicer
import vtk

from ..errors import InputError
from .scene_results import FIXED, all_or_none, role_of
from .scene_sampling import Node


def placed_under(transform: Node, nodes: Iterable[Node], *, harden: bool) -> None:
    """Place nodes (volumes, label maps, segmentations, models, markups) under a transform of the world.

    What a node lies under already stays between the two, as a copy, so that nothing else moves.

    Raises:
        InputError: a node cannot be transformed; none is then.
    """
    nodes = list(nodes)
    for node in nodes:
        _check_transformable(node, transform)
    with all_or_none(slicer.mrmlScene, changed=nodes):
        for node in nodes:
            between = _copy_of_parent(node, transform)
            node.SetAndObserveTransformNodeID((between or transform).GetID())
            if harden:
                node.HardenTransform()
                if between is not None:
                    slicer.mrmlScene.RemoveNode(between)


def _check_transformable(node: Node, transform: Node) -> None:
    if transform is None or not transform.IsA("vtkMRMLTransformNode"):
        raise InputError("There is no transform to apply; a transform node is needed. Choose one.")
    if node is None or not node.IsA("vtkMRMLTransformableNode") or not node.CanApplyNonLinearTransforms():
        name = "Nothing" if node is None else node.GetName()
        raise InputError(f"{name} cannot be deformed; volumes, segmentations, models and markups can. Choose one of these.")
    if node is transform or (node.IsA("vtkMRMLTransformNode") and transform.IsTransformNodeMyParent(node)):
        raise InputError(f"{node.GetName()} cannot be placed under itself. Choose another node.")
    if node.IsA("vtkMRMLTransformableNode") and (fixed := transform.GetNodeReference(transform.GetFixedNodeReferenceRole())):
        if node is fixed:
            raise InputError(
                f"{node.GetName()} is the fixed volume of this transform, which stays where it is; moving and what belongs to it follow. "
                "Choose another node."
            )
        if role_of(node) and node.GetNodeReference(FIXED) is fixed:
            raise InputError(
                f"{node.GetName()} is a result of this registration and lies on fixed already; it would be moved twice. Choose another node."
            )


def _copy_of_parent(node: Node, transform: Node) -> Node | None:
    """A transform node under transform that does what the node's parents do; None where it has none."""
    parent = node.GetParentTransformNode()
    if parent is None or parent is transform:
        return None
    to_world = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(to_world)
    name = slicer.mrmlScene.GenerateUniqueName(f"{parent.GetName()} (of {node.GetName()})")
    kind = "vtkMRMLLinearTransformNode" if parent.IsTransformToWorldLinear() else "vtkMRMLTransformNode"
    copy = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    if parent.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(matrix)
        copy.SetMatrixTransformToParent(matrix)
    else:
        copy.SetAndObserveTransformToParent(to_world)
    copy.SetAndObserveTransformNodeID(transform.GetID())
    return copy


def cannot_follow(scene: Node, transform: Node) -> list[str]:
    """The IDs of the nodes that it makes no sense to place under a transform: fixed, and what lies on it by a registration."""
    fixed = transform.GetNodeReference(transform.GetFixedNodeReferenceRole())
    found = [] if fixed is None else [fixed.GetID()]
    nodes = (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
    return found + [node.GetID() for node in nodes if role_of(node) and node.GetNodeReference(FIXED) is fixed]
