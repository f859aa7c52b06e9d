"""How the widgets of the panel are bound to its parameter node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def connected_gui(node: Any, ui: Any) -> Callable[[], None]:
    """Bind the widgets to the node; what is returned undoes it.

    Slicer 5.10 forgets one observer when it unbinds, which then calls what Python has collected already.
    """
    tags: list[int] = []

    def add_observer(*given: Any) -> int:
        tags.append(type(node).AddObserver(node, *given))
        return tags[-1]

    node.AddObserver = add_observer
    try:
        gui_tag = node.connectGui(ui)
    finally:
        del node.AddObserver

    def disconnect() -> None:
        node.disconnectGui(gui_tag)
        for tag in tags:
            node.RemoveObserver(tag)

    return disconnect
