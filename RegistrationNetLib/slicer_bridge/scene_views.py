"""A result in the slice views: the volumes one over the other, and fixed and warped compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer

from ..errors import InputError
from . import mrml, scene_display
from .scene_results import all_or_none, file_beside
from .scene_sampling import Node, at_once


def _comparison(result: Any, name: str, fill: Callable[..., None]) -> Any:
    """The volume that compares fixed and warped, made when it is first wanted."""
    role = f"RegistrationNet.{name}"
    node = result.warpedNode.GetNodeReference(role)
    if node is None:
        with all_or_none(slicer.mrmlScene):
            title = slicer.mrmlScene.GenerateUniqueName(f"{result.warpedNode.GetName()}, {name}")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", title)
            for one in (result.fixedNode, result.warpedNode):
                one.CreateDefaultDisplayNodes()
            both = [
                (at_once(mrml.volume_of(one, "the volume")), one.GetDisplayNode())
                for one in (result.fixedNode, result.warpedNode)
            ]
            fill(node, *both)
            file_beside(node, result.warpedNode)
        result.warpedNode.SetNodeReferenceID(role, node.GetID())
    return node


VIEWS: Mapping[str, Callable[[Any], tuple[Node, Node | None]]] = {
    "fixed": lambda result: (result.fixedNode, None),
    "moving": lambda result: (result.movingNode, None),
    "warped": lambda result: (result.warpedNode, None),
    "difference": lambda result: (_comparison(result, "difference", scene_display.set_difference), None),
    "checkerboard": lambda result: (_comparison(result, "checkerboard", scene_display.set_checkerboard), None),
    "jacobian": lambda result: (result.fixedNode, result.jacobianNode),
    "grid": lambda result: (result.warpedNode, None),
}


def shown(result: Any, view: str) -> None:
    """Show a result (a `RegistrationResult`) in the slice views, as one of `VIEWS`.

    Raises:
        InputError: there is no such view.
    """
    if view not in VIEWS:
        raise InputError(f"There is no view {view!r}; the views are {', '.join(VIEWS)}. Choose one of them.")
    background, foreground = VIEWS[view](result)
    slicer.util.setSliceViewerLayers(background=background, foreground=foreground, foregroundOpacity=0.5)
    # Last, because a legend looks at the layers when it is itself modified, not when they are.
    legend = scene_display.legend_of(result.jacobianNode)
    legend.SetVisibility(view == "jacobian")
    legend.Modified()
    if result.transformNode.GetDisplayNode() is None:
        # Whoever deletes it has deleted how it looks, too.
        fixed = at_once(mrml.volume_of(result.fixedNode, "fixed"))
        scene_display.show_as_grid(result.transformNode, fixed)
    grid = result.transformNode.GetDisplayNode()
    grid.SetVisibility(view == "grid")
    grid.SetVisibility2D(view == "grid")
