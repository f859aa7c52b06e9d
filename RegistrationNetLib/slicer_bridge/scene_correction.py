"""Pairs of points by which a user corrects a result: ordinary markups, saved with the scene, and the two views in which they are put.

A point of moving lies under the transform of the result: so it is seen on the warped volume where it belongs, and holds its place in
the moving volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from .scene_results import ROLE, take_part_in_undo
from .scene_sampling import LPS_FROM_RAS, Node

POINTS = {"fixed": "points in fixed", "moving": "points in moving"}
_PAIR = {"fixed": "RegistrationNet.fixed", "moving": "RegistrationNet.moving"}
_KIND = "vtkMRMLMarkupsFiducialNode"
COLOURS = {"fixed": (0.2, 0.8, 1.0), "moving": (1.0, 0.75, 0.1)}
# By which views the two volumes are shown.
VIEWS = {"fixed": "Red", "moving": "Yellow"}


@dataclass(frozen=True)
class PointPair:
    """One pair as a user sees it.

    Attributes:
        label: of both points.
        is_on: it counts.
        distance_mm: on the screen, between the point on fixed and its partner on warped; None while the partner is missing.
        place_mm: of the point of fixed, LPS.
    """

    label: str
    is_on: bool
    distance_mm: float | None
    place_mm: tuple[float, float, float]


class PointLists:
    """The two lists of points of one pair of volumes, made when they are first wanted."""

    def __init__(self, result: Any) -> None:
        self.fixed, self.moving = (_list_of(result, side) for side in ("fixed", "moving"))
        self.follow(result)

    @property
    def is_there(self) -> bool:
        """Whether both are still in the scene."""
        return all(slicer.mrmlScene.IsNodePresent(node) for node in (self.fixed, self.moving))

    def follow(self, result: Any) -> None:
        """Show the points of moving where this result brings them."""
        if result.transformNode is not None:
            self.moving.SetAndObserveTransformNodeID(result.transformNode.GetID())

    def pairs(self) -> list[PointPair]:
        """The points of fixed in their order, with their partners."""
        partners = {self.moving.GetNthControlPointLabel(index): index for index in _placed(self.moving)}
        found = []
        for index in _placed(self.fixed):
            label, place = self.fixed.GetNthControlPointLabel(index), np.array(self.fixed.GetNthControlPointPositionWorld(index))
            distance = None
            if (other := partners.get(label)) is not None:
                distance = float(np.linalg.norm(np.array(self.moving.GetNthControlPointPositionWorld(other)) - place))
            lps = (LPS_FROM_RAS[:3, :3] @ place).tolist()
            found.append(PointPair(label, bool(self.fixed.GetNthControlPointSelected(index)), distance, (lps[0], lps[1], lps[2])))
        return found

    def name_partner(self) -> None:
        """Give the point of moving that was placed last the label of the point of fixed that waits for it."""
        labels = {self.moving.GetNthControlPointLabel(index) for index in _placed(self.moving)[:-1]}
        waiting = [label for index in _placed(self.fixed) if (label := self.fixed.GetNthControlPointLabel(index)) not in labels]
        if waiting and _placed(self.moving):
            self.moving.SetNthControlPointLabel(_placed(self.moving)[-1], waiting[-1])

    def switch(self, label: str, *, is_on: bool) -> None:
        """Let a pair count, or not."""
        for node in (self.fixed, self.moving):
            for index in _with_label(node, label):
                node.SetNthControlPointSelected(index, is_on)

    def remove(self, label: str) -> None:
        """Remove both points of a pair."""
        for node in (self.fixed, self.moving):
            for index in reversed(_with_label(node, label)):
                node.RemoveNthControlPoint(index)

    def counting(self) -> int:
        """How many pairs are whole and count."""
        return sum(one.is_on and one.distance_mm is not None for one in self.pairs())


def _placed(node: Node) -> list[int]:
    return [
        index
        for index in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined
    ]


def _with_label(node: Node, label: str) -> list[int]:
    return [index for index in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointLabel(index) == label]


def _list_of(result: Any, side: str) -> Node:
    """The list of one side that was made for this pair of volumes, or a new one."""
    scene, pair = slicer.mrmlScene, {"fixed": result.fixedNode, "moving": result.movingNode}
    for index in range(scene.GetNumberOfNodesByClass(_KIND)):
        node = scene.GetNthNodeByClass(index, _KIND)
        if node.GetAttribute(ROLE) == POINTS[side] and all(node.GetNodeReference(_PAIR[one]) is pair[one] for one in pair):
            return node
    node = scene.AddNewNodeByClass(_KIND, scene.GenerateUniqueName(f"{POINTS[side].capitalize()}: {pair[side].GetName()}"))
    node.SetAttribute(ROLE, POINTS[side])
    for one, volume in pair.items():
        node.SetNodeReferenceID(_PAIR[one], volume.GetID())
    node.SetControlPointLabelFormat("%d")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSelectedColor(*COLOURS[side])
    display.SetGlyphScale(2.0)
    view = _view("vtkMRMLSliceNode", VIEWS[side])
    if view is not None:
        display.AddViewNodeID(view.GetID())
    take_part_in_undo(node)
    return node


def place_into(node: Node | None) -> None:
    """Let the next click into a view put a point into this list; None: let clicks mean what they do otherwise."""
    selection, interaction = (_single(kind) for kind in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"))
    if node is None:
        if interaction.GetCurrentInteractionMode() == interaction.Place:
            interaction.SwitchToViewTransformMode()
        return
    selection.SetReferenceActivePlaceNodeClassName(_KIND)
    selection.SetActivePlaceNodeID(node.GetID())
    interaction.SwitchToSinglePlaceMode()


def _single(kind: str) -> Node:
    """The one node of a kind that every scene of the application has."""
    return slicer.mrmlScene.GetFirstNodeByClass(kind) or slicer.mrmlScene.AddNode(getattr(slicer, kind)())


def _view(kind: str, name: str) -> Node | None:
    scene = slicer.mrmlScene
    nodes = (scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind)))
    return next((node for node in nodes if node.GetLayoutName() == name), None)


class CorrectionViews:
    """Fixed and warped side by side, the same slice in both; and the way back to the views as they were."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None

    @property
    def is_showing(self) -> bool:
        """Whether the two are shown."""
        return self._before is not None

    def show(self, result: Any) -> None:
        """Show the two volumes of a result."""
        slices, layers = (
            [_view(kind, name) for name in VIEWS.values()] for kind in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode")
        )
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if self._before is None:
            self._before = {
                "arrangement": None if layout is None else layout.GetViewArrangement(),
                "orientation": None if slices[1] is None else slices[1].GetOrientation(),
                "layers": [
                    None if one is None else (one.GetBackgroundVolumeID(), one.GetForegroundVolumeID(), one.GetLinkedControl())
                    for one in layers
                ],
            }
        if layout is not None:
            layout.SetViewArrangement(layout.SlicerLayoutSideBySideView)
        if None not in slices:
            slices[1].SetOrientation(slices[0].GetOrientation())  # type: ignore[union-attr]
            slices[1].SetSliceOffset(slices[0].GetSliceOffset())  # type: ignore[union-attr]
        for view, volume in zip(layers, (result.fixedNode, result.warpedNode), strict=True):
            if view is not None:
                view.SetBackgroundVolumeID(None if volume is None else volume.GetID())
                view.SetForegroundVolumeID(None)
                view.SetLinkedControl(1)

    def leave(self) -> None:
        """Give the views back as they were."""
        before, self._before = self._before, None
        if before is None:
            return
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if layout is not None and before["arrangement"] is not None:
            layout.SetViewArrangement(before["arrangement"])
        second = _view("vtkMRMLSliceNode", VIEWS["moving"])
        if second is not None and before["orientation"]:
            second.SetOrientation(before["orientation"])
        for name, layers in zip(VIEWS.values(), before["layers"], strict=True):
            view = _view("vtkMRMLSliceCompositeNode", name)
            if view is not None and layers is not None:
                there = [one if one and slicer.mrmlScene.GetNodeByID(one) else None for one in layers[:2]]
                view.SetBackgroundVolumeID(there[0])
                view.SetForegroundVolumeID(there[1])
                view.SetLinkedControl(layers[2])
