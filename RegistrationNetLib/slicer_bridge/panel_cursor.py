"""The line of the panel about the place under the mouse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from .panel_words import unbroken
from .scene_values import ValuesAt, values_at


class CursorPanel:
    """While it follows, the label tells what the result says of the place in a slice view at which the mouse points.

    Args:
        label: where it is told.
        result: gives the result that is shown, None for none.
    """

    def __init__(self, label: Any, result: Callable[[], Any]) -> None:
        self._label, self._result = label, result
        self._cursor: Any = None
        self._tag = 0
        self._tell(None)

    def follow(self) -> None:
        """Begin, or go on in a scene that has come since."""
        cursor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if cursor is self._cursor:
            return
        self.stop()
        self._cursor = cursor
        if cursor is not None:
            self._tag = cursor.AddObserver(cursor.CursorPositionModifiedEvent, self._on_moved)

    def stop(self) -> None:
        """Follow no more."""
        if self._cursor is not None:
            self._cursor.RemoveObserver(self._tag)
        self._cursor = None
        self._tell(None)

    def _on_moved(self, *_caller: Any) -> None:
        result, point = self._result(), [0.0, 0.0, 0.0]
        is_there = result is not None and self._cursor.GetCursorPositionRAS(point)
        self._tell(values_at(result, point) if is_there else None)

    def _tell(self, values: ValuesAt | None) -> None:
        self._label.setText(unbroken(words_of(values)))


def words_of(values: ValuesAt | None) -> str:
    """The line for these values; without any, how to get some."""
    if values is None:
        return _("Point into a slice view to read the numbers there.")
    told = []
    if values.displacement_mm is not None:
        told.append(_("moved {number:.1f} mm").format(number=values.displacement_mm))
    if values.volume_percent is not None:
        # A minus sign as wide as the plus.
        change = _("folded") if values.volume_percent <= -100 else f"{values.volume_percent:+.0f} %".replace("-", "−")
        told.append(_("volume {change}").format(change=change))
    if values.error_mm is not None:
        told.append(_("error {number:.1f} mm").format(number=values.error_mm))
    return _("Here: {words}").format(words=", ".join(told)) if told else ""
