"""Hears when another frame of a sequence is shown: by the Sequences toolbar, while it plays, or from the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import vtk


class FrameFollower:
    """While it follows a sequence browser, `on_frame` is called after the browser has shown another frame.

    It is called when all that belongs to that has happened; of several frames at once the last is told.
    """

    def __init__(self, on_frame: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._browser: Any = None
        self._tag = 0
        self._shown = -1
        self._is_due = False

    def follow(self, browser: Any) -> None:
        """Begin, or go on, with this browser; None for none."""
        if browser is self._browser:
            return
        if self._browser is not None:
            self._browser.RemoveObserver(self._tag)
        self._browser = browser
        if browser is not None:
            self._shown = browser.GetSelectedItemNumber()
            self._tag = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)

    def _on_modified(self, *_caller: Any) -> None:
        if not self._is_due and self._browser.GetSelectedItemNumber() != self._shown:
            self._is_due = True
            qt.QTimer.singleShot(0, self._tell)

    def _tell(self) -> None:
        self._is_due = False
        if self._browser is not None:
            self._shown = self._browser.GetSelectedItemNumber()
            self._on_frame()
