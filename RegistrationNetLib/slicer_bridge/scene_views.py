"""A result in the slice views: the volumes one over the other, fixed and warped compared, the deformed grid; and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from ..errors import InputError
from ..io.nrrd import Volume
from . import mrml, scene_display
from .scene_results import alignment_of, all_or_none, file_beside, mark, role_of
from .scene_sampling import LPS_FROM_RAS, Node, at_once, vtk_matrix

OPACITY = 0.5
_GRID = "RegistrationNet.Grid"
# The state of what a volume or a grid was made of.
_MADE_OF = "RegistrationNet.MadeOf"


class Views:
    """What the slice views show of results. They belong to one result at a time, and can be given back as they were."""

    def __init__(self) -> None:
        # By the ID of each view's node: the layers that the user had, and those that were shown here last.
        self._before: dict[str, tuple[Any, ...]] = {}
        self._ours: dict[str, tuple[Any, ...]] = {}

    def show(self, result: Any, view: str, other: Any = None) -> None:
        """Show a result (a `RegistrationResult`) as one of `VIEWS`; nothing of another result stays.

        Args:
            other: a second result, for "other": its warped volume.

        Raises:
            InputError: there is no such view, or a node that it needs is gone.
        """
        if view not in VIEWS:
            raise InputError(f"There is no view {view!r}; the views are {', '.join(VIEWS)}. Choose one of them.")
        lacking = missing_for(result if view != "other" else other, view)
        if lacking:
            raise InputError(
                f"The {' and '.join(lacking)} of this result is gone; the view {view} needs it. Choose another view, or register again."
            )
        background, foreground = VIEWS[view](other if view == "other" else result)
        grid = _grid(result) if view == "grid" else None
        self._note(self._before)
        switch_off()
        slicer.util.setSliceViewerLayers(background=background, foreground=foreground, foregroundOpacity=OPACITY)
        with all_or_none(slicer.mrmlScene, is_step=False):
            # Last, because a legend looks at the layers when it is itself modified, not when they are.
            for node in (background, foreground):
                if node is not None and scene_display.legend_kind(role_of(node)):
                    _switch(scene_display.legend_of(node, role_of(node)), is_on=True)
            if grid is not None:
                _switch(_drawing(grid), is_on=True)
                _switch(scene_display.legend_of(grid, "grid"), is_on=True)
        self._ours.clear()
        self._note(self._ours)

    def leave(self) -> None:
        """Give the views back as they were before the first call of `show`; a view that was changed since stays as it is."""
        switch_off()
        for one, layers in self._before.items():
            node = slicer.mrmlScene.GetNodeByID(one)
            if node is not None and _layers(node) == self._ours.get(one):
                _set_layers(node, layers)
        self._before.clear()
        self._ours.clear()

    @property
    def is_showing(self) -> bool:
        """Whether something of a result is shown."""
        return bool(self._ours)

    def _note(self, kept: dict[str, tuple[Any, ...]]) -> None:
        for node in _of_class("vtkMRMLSliceCompositeNode"):
            kept.setdefault(node.GetID(), _layers(node))


def go_to(place_mm: Sequence[float]) -> None:
    """Move all slices to a point (LPS mm), which is then in the middle of each view."""
    ras = (LPS_FROM_RAS[:3, :3] @ np.asarray(place_mm, dtype=np.float64)).tolist()
    slice_node = slicer.vtkMRMLSliceNode
    slice_node.JumpAllSlices(slicer.mrmlScene, *ras, slice_node.CenteredJumpSlice)


def switch_off() -> None:
    """Draw no grid and no legend of any result."""
    for kind in ("vtkMRMLTransformNode", "vtkMRMLScalarVolumeNode"):
        for node in _of_class(kind):
            if not role_of(node):
                continue
            displays = [_drawing(node)] if kind == "vtkMRMLTransformNode" else []
            for display in (*displays, slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)):
                if display is not None and display.GetVisibility():
                    _switch(display, is_on=False)


def missing_for(result: Any, view: str) -> list[str]:
    """What of a result is gone that `view` needs, in words."""
    return [name for name in NEEDS[view] if getattr(result, f"{name}Node") is None]


def _switch(display: Node, *, is_on: bool) -> None:
    display.SetVisibility(is_on)
    display.SetVisibility2D(is_on)
    display.Modified()


def _drawing(transform: Node) -> Node | None:
    """What draws a transform; a legend is a display node of it, too."""
    displays = (transform.GetNthDisplayNode(index) for index in range(transform.GetNumberOfDisplayNodes()))
    return next((one for one in displays if one is not None and one.IsA("vtkMRMLTransformDisplayNode")), None)


def _of_class(kind: str) -> list[Node]:
    scene = slicer.mrmlScene
    return [scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))]


def _layers(view: Node) -> tuple[Any, ...]:
    return view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity()


def _set_layers(view: Node, layers: tuple[Any, ...]) -> None:
    background, foreground, opacity = layers
    there = [one if one and slicer.mrmlScene.GetNodeByID(one) else None for one in (background, foreground)]
    view.SetBackgroundVolumeID(there[0])
    view.SetForegroundVolumeID(there[1])
    view.SetForegroundOpacity(opacity)


def _grid(result: Any) -> Node:
    """A transform that is drawn as a grid: the deformable part alone, in the frame of fixed. Made when it is first wanted, and again where
    the transform has changed since.

    It uses the field of the transform, keeps no copy of it, is not saved, and shows in no list.
    """
    transform = result.transformNode
    node, state = transform.GetNodeReference(_GRID), str(transform.GetTransformFromParent().GetMTime())
    if node is not None and role_of(node) == "grid" and _drawing(node) is not None:
        if node.GetAttribute(_MADE_OF) == state:
            return node
        slicer.mrmlScene.RemoveNode(node)
    with all_or_none(slicer.mrmlScene, is_step=False):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLTransformNode")
        node.UnRegister(None)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(f"Grid: {transform.GetName()}"))
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        slicer.mrmlScene.AddNode(node)
        node.SetAndObserveTransformFromParent(_deformable_part(transform))
        lattice = at_once(mrml.volume_of(result.fixedNode, "fixed"))
        scene_display.show_as_grid(node, lattice)
        mark(node, "grid", result.fixedNode)
    node.SetAttribute(_MADE_OF, state)
    transform.SetNodeReferenceID(_GRID, node.GetID())
    return node


def _deformable_part(transform: Node) -> Any:
    """What a transform does after its affine part is undone: points of fixed to points of fixed, RAS."""
    alignment = np.array(alignment_of(transform) or np.eye(4).tolist())
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(transform.GetTransformFromParent())
    whole.Concatenate(vtk_matrix(LPS_FROM_RAS @ np.linalg.inv(alignment) @ LPS_FROM_RAS))
    return whole


def _comparison(result: Any, name: str, fill: Callable[..., None]) -> Node:
    """The volume that compares fixed and warped, made when it is first wanted."""

    def filled(node: Node) -> None:
        for one in (result.fixedNode, result.warpedNode):
            one.CreateDefaultDisplayNodes()
        fill(node, *(_seen(one) for one in (result.fixedNode, result.warpedNode)))

    return _made_of((result.warpedNode, result.fixedNode), name, filled, result.fixedNode)


def _overlay(result: Any, name: str, neutral: float) -> Node:
    """A volume of numbers within the body, made when it is first wanted: in the air they are noise. All of it where no body is known."""
    original, body = getattr(result, f"{name}Node"), result.bodyVolume
    if body is None:
        return original

    def filled(node: Node) -> None:
        original.CreateDefaultDisplayNodes()
        scene_display.set_within(node, (_seen(original)[0], original), body, neutral)

    return _made_of((original,), f"{name}{scene_display.OVERLAY}", filled, result.fixedNode)


def _seen(node: Node) -> tuple[Volume, Node]:
    """Voxels and display of a volume."""
    return at_once(mrml.volume_of(node, "the volume")), node.GetDisplayNode()


def _made_of(originals: Sequence[Node], role: str, fill: Callable[[Node], None], fixed: Node) -> Node:
    """The volume of that role to which the first original refers: made where there is none, filled again where an original has changed
    since, as where another frame of a sequence is shown."""
    original, reference = originals[0], f"RegistrationNet.{role}"
    node, state = original.GetNodeReference(reference), " ".join(str(one.GetImageData().GetMTime()) for one in originals)
    if node is not None and role_of(node) == role:
        if node.GetAttribute(_MADE_OF) != state:
            fill(node)
    else:
        with all_or_none(slicer.mrmlScene, is_step=False):
            title = slicer.mrmlScene.GenerateUniqueName(f"{role.capitalize()}: {original.GetName()}")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", title)
            fill(node)
            file_beside(node, original)
            mark(node, role, fixed)
        original.SetNodeReferenceID(reference, node.GetID())
    node.SetAttribute(_MADE_OF, state)
    return node


# What each view needs of a result: the names of `RegistrationResult` without their "Node".
NEEDS: Mapping[str, tuple[str, ...]] = {
    "fixed": ("fixed",),
    "moving": ("moving",),
    "warped": ("warped",),
    "difference": ("fixed", "warped"),
    "checkerboard": ("fixed", "warped"),
    "jacobian": ("fixed", "jacobian"),
    "error": ("fixed", "error"),
    "grid": ("fixed", "warped", "transform"),
    "other": ("warped",),
}
VIEWS: Mapping[str, Callable[[Any], tuple[Node, Node | None]]] = {
    "fixed": lambda result: (result.fixedNode, None),
    "moving": lambda result: (result.movingNode, None),
    "warped": lambda result: (result.warpedNode, None),
    "difference": lambda result: (_comparison(result, "difference", scene_display.set_difference), None),
    "checkerboard": lambda result: (_comparison(result, "checkerboard", scene_display.set_checkerboard), None),
    "jacobian": lambda result: (result.fixedNode, _overlay(result, "jacobian", 1.0)),
    "error": lambda result: (result.fixedNode, _overlay(result, "error", 0.0)),
    "grid": lambda result: (result.warpedNode, None),
    "other": lambda result: (result.warpedNode, None),
}
