"""The part of the panel in which a user corrects a result: pairs of points, put by two clicks each, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import InputError
from .panel_sight import bring_into_sight
from .scene_correction import CorrectionViews, PointLists, place_into

COLUMNS = ("on", "label", "distance")
PLACED = "PointPositionDefinedEvent"
EVENTS = (PLACED, "PointRemovedEvent", "PointModifiedEvent")


class CorrectPanel:
    """While it is open the result that is shown stands beside fixed, and clicks put points.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        result: gives the result that is shown, None for none.
        on_refine: is given the two lists of points from which to go on.
        on_undo: called to go back to the result before.
        on_flicker: called to show the result and the one before in turn.
        can_undo: whether there is a result before.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        result: Callable[[], Any],
        on_refine: Callable[[Any, Any], None],
        on_undo: Callable[[], None],
        on_flicker: Callable[[], None],
        can_undo: Callable[[], bool],
    ) -> None:
        self._ui, self._logic, self._tell, self._result = ui, logic, tell, result
        self._on_refine, self._on_undo, self._on_flicker, self._can_undo = on_refine, on_undo, on_flicker, can_undo
        self._lists: PointLists | None = None
        self._views = CorrectionViews()
        self._tags: list[tuple[Any, int]] = []
        # The side whose point the next click puts, "" for none.
        self._next = ""
        self._is_filling = self._is_busy = False
        table = ui.pairsTable
        table.setColumnCount(len(COLUMNS))
        table.horizontalHeader().setVisible(False)
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.connect("cellClicked(int,int)", self._jump)
        table.connect("itemChanged(QTableWidgetItem*)", self._switch)
        ui.correctButton.connect("clicked(bool)", lambda _=False: self._attempt(self._toggle))
        ui.addPairButton.connect("clicked(bool)", lambda _=False: self._attempt(self._add))
        ui.removePairButton.connect("clicked(bool)", lambda _=False: self._attempt(self._remove))
        ui.refineFromButton.connect("clicked(bool)", lambda _=False: self._attempt(self._refine))
        ui.undoCorrectionButton.connect("clicked(bool)", lambda _=False: self._attempt(self._on_undo))
        ui.beforeAfterButton.connect("clicked(bool)", lambda _=False: self._attempt(self._on_flicker))
        ui.correctBox.setVisible(False)

    @property
    def is_open(self) -> bool:
        """Whether points can be put."""
        return self._lists is not None

    def open(self) -> None:
        """Show fixed and warped side by side; the next click puts a point on fixed.

        Raises:
            InputError: a node of the result is gone.
        """
        result = self._result()
        lacking = [name for name in ("fixed", "moving", "warped", "transform") if getattr(result, f"{name}Node") is None]
        if lacking:
            raise InputError(
                f"The {' and '.join(lacking)} of this result is gone; correcting it takes the volumes and the transform. Register again."
            )
        self._lists = PointLists(result)
        for node in (self._lists.fixed, self._lists.moving):
            for name in EVENTS:
                heard = partial(self._on_points, node, is_placed=name == PLACED)
                self._tags.append((node, node.AddObserver(getattr(node, name), lambda *_given, heard=heard: heard())))
        self._ui.correctBox.setVisible(True)
        self._ui.correctButton.setChecked(True)
        self._views.show(result)
        self.refresh()
        if not self._lists.pairs():
            self._await("fixed")
        bring_into_sight(self._ui.refineFromButton)

    def close(self) -> None:
        """Put no points any more, and give the views back as they were; the points stay in the scene."""
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        self._tags = []
        if self._lists is not None:
            self._await("")
        self._lists = None
        self._views.leave()
        self._ui.correctBox.setVisible(False)
        self._ui.correctButton.setChecked(False)

    def follow(self) -> None:
        """Another result is shown: the points of moving go with it, as do the views. One of another pair ends the correction."""
        result = self._result()
        if self._lists is None:
            return
        if result is None or not self._lists.is_there or None in (result.fixedNode, result.movingNode, result.warpedNode):
            self.close()
            return
        self._lists.follow(result)
        self._views.show(result)
        self.refresh()

    def set_busy(self, *, is_busy: bool) -> None:
        """While a run is under way nothing is refined or undone."""
        self._is_busy = is_busy
        self.refresh()

    def refresh(self) -> None:
        """Show the pairs, and what can be done."""
        ui = self._ui
        ui.correctButton.setEnabled(self._result() is not None and not self._is_busy)
        if self._lists is None:
            return
        self._fill()
        ui.refineFromButton.setEnabled(not self._is_busy and self._lists.counting() > 0)
        ui.removePairButton.setEnabled(bool(self._lists.pairs()))
        for button in (ui.undoCorrectionButton, ui.beforeAfterButton):
            button.setEnabled(not self._is_busy and self._can_undo())
        ui.correctLabel.setText(self._words())

    def _words(self) -> str:
        assert self._lists is not None
        if self._next == "fixed":
            return _("1. Click a structure that is wrong, on fixed (left).")
        if self._next == "moving":
            return _("2. Click the same structure on warped (right).")
        if self._lists.counting():
            return _("3. Refine from here, or add another pair. Drag a point to move it.")
        return _("Add a pair of points: a structure on fixed, and the same on warped.")

    def _toggle(self) -> None:
        if self.is_open:
            self.close()
        else:
            self.open()

    def _add(self) -> None:
        self._await("fixed")

    def _await(self, side: str) -> None:
        """Let the next click put a point on that side, "" on none."""
        self._next = side
        assert self._lists is not None
        place_into(getattr(self._lists, side) if side else None)
        if self.is_open:
            self.refresh()

    def _refine(self) -> None:
        assert self._lists is not None
        self._await("")
        self._on_refine(self._lists.fixed, self._lists.moving)

    def _remove(self) -> None:
        assert self._lists is not None
        pairs, row = self._lists.pairs(), self._ui.pairsTable.currentRow()
        if pairs:
            self._lists.remove(pairs[row if 0 <= row < len(pairs) else -1].label)

    def _on_points(self, node: Any, *, is_placed: bool) -> None:
        if self._lists is None:
            return
        if is_placed:
            self._placed(node)
        self.refresh()

    def _placed(self, node: Any) -> None:
        """A point was put by a click; the next one belongs to the other side."""
        assert self._lists is not None
        if node is self._lists.fixed and self._next == "fixed":
            # When this click is over: Slicer ends the placing of a single point only then.
            qt.QTimer.singleShot(0, self._await_partner)
        elif node is self._lists.moving and self._next == "moving":
            self._lists.name_partner()
            self._await("")

    def _await_partner(self) -> None:
        if self.is_open:
            self._await("moving")

    def _fill(self) -> None:
        table, pairs = self._ui.pairsTable, [] if self._lists is None else self._lists.pairs()
        self._is_filling = True
        table.setRowCount(len(pairs))
        for row, pair in enumerate(pairs):
            away = (
                _("waits for its partner") if pair.distance_mm is None else _("{number:.1f} mm").format(number=pair.distance_mm)
            )
            for column, words in enumerate(("", pair.label, away)):
                item = qt.QTableWidgetItem(words)
                if column == 0:
                    item.setCheckState(qt.Qt.Checked if pair.is_on else qt.Qt.Unchecked)
                    item.setToolTip(_("Whether this pair counts."))
                table.setItem(row, column, item)
        table.resizeColumnToContents(0)
        table.resizeColumnToContents(1)
        table.resizeRowsToContents()
        table.setFixedHeight(sum(table.rowHeight(row) for row in range(table.rowCount)) + 2 * table.frameWidth + 4)
        table.setVisible(bool(pairs))
        self._is_filling = False

    def _jump(self, row: int, column: int) -> None:
        """The slices go to the pair that was clicked."""
        if self._lists is not None and column > 0:
            self._logic.showPlace(self._lists.pairs()[row].place_mm)

    def _switch(self, item: Any) -> None:
        if self._is_filling or self._lists is None or item.column() != 0:
            return
        self._lists.switch(self._lists.pairs()[item.row()].label, is_on=item.checkState() == qt.Qt.Checked)
        self.refresh()

    def _attempt(self, work: Callable[[], None]) -> None:
        self._tell(None)
        try:
            work()
        except Exception as error:  # noqa: BLE001, whatever fails is told in the panel
            self._ui.correctButton.setChecked(self.is_open)
            self._tell(error)
