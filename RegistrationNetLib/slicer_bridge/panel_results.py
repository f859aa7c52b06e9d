"""The part of the panel about the result: the marks, the views, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import InputError, OutputError
from .panel_words import VERDICTS
from .scene_results import ResultNodes

FLICKER = "flicker"
VIEWS = ("fixed", "moving", "warped", FLICKER, "checkerboard", "difference", "jacobian", "grid")
FLICKER_MSEC = 700
# Shape and colour both tell, and the colours can be read on light and on dark.
MARKS = {"green": ("✔", "#2e9e4f"), "amber": ("▲", "#d08700"), "red": ("✖", "#dd3b3b")}
# On dark a pressed button is hardly darker than its neighbours.
PRESSED = (
    "QPushButton:checked { background-color: palette(highlight); color: palette(highlighted-text); "
    "border: 1px solid palette(mid); border-radius: 3px; }"
)
ROLE = "result."
REPORT = "result.report"


def remembered(node: Any, result: Any) -> None:
    """Note a result in the parameter node, so that it is saved with the scene."""
    nodes = {one.name: getattr(result, _attribute(one.name)) for one in fields(ResultNodes)}
    for name, one in {**nodes, "fixed": result.fixedNode, "moving": result.movingNode}.items():
        node.SetNodeReferenceID(ROLE + name, None if one is None else one.GetID())
    node.SetAttribute(REPORT, json.dumps(result.report))


def recalled(node: Any) -> tuple[ResultNodes, Any, Any, Mapping[str, Any]] | None:
    """Nodes, fixed, moving and report of the result noted last; None where there is none, or a node of it is gone."""
    found = {one.name: node.GetNodeReference(ROLE + one.name) for one in fields(ResultNodes)}
    fixed, moving, report = (
        node.GetNodeReference(ROLE + "fixed"),
        node.GetNodeReference(ROLE + "moving"),
        node.GetAttribute(REPORT),
    )
    needed = [one for name, one in found.items() if name not in ("affine", "deformable")]
    if not report or any(one is None for one in (fixed, moving, *needed)):
        return None
    return ResultNodes(**found), fixed, moving, json.loads(report)


def _attribute(name: str) -> str:
    return {"inverse": "inverseTransformNode"}.get(name, f"{name}Node")


class ResultPanel:
    """Shows one result at a time.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        log: is given a line for the log.
    """

    def __init__(self, ui: Any, logic: Any, *, tell: Callable[[Exception | None], None], log: Callable[[str], None]) -> None:
        self._ui, self._logic, self._tell, self._log = ui, logic, tell, log
        self._result: Any = None
        self._is_fixed_shown = False
        self._timer = qt.QTimer()
        self._timer.setInterval(FLICKER_MSEC)
        self._timer.connect("timeout()", self._on_timer)
        for view in VIEWS:
            self._button(view).setStyleSheet(PRESSED)
            self._button(view).connect("clicked(bool)", lambda _=False, view=view: self._attempt(self.show_view, view))
        ui.opacitySlider.connect("valueChanged(double)", self._set_opacity)
        ui.applyButton.connect("clicked(bool)", lambda _=False: self._attempt(self._apply))
        ui.saveReportButton.connect("clicked(bool)", lambda _=False: self._attempt(self._ask_where_to_save))
        ui.marksTable.connect("currentCellChanged(int,int,int,int)", self._show_rule)
        ui.marksTable.horizontalHeader().setVisible(False)
        ui.marksTable.verticalHeader().setVisible(False)
        ui.marksTable.setWordWrap(True)
        ui.marksTable.horizontalHeader().setStretchLastSection(True)
        ui.marksTable.horizontalHeader().connect("sectionResized(int,int,int)", self._fit_table)
        self.show(None)

    @property
    def result(self) -> Any:
        return self._result

    def show(self, result: Any) -> None:
        """Show a result, or None."""
        self._result = result
        self.pause()
        self._ui.resultCollapsibleButton.setVisible(result is not None)
        for view in VIEWS:
            self._button(view).setChecked(False)
        if result is not None:
            self._fill(result.report["marks"])

    def show_view(self, view: str) -> None:
        """Show the result in the slice views."""
        self.pause()
        for one in VIEWS:
            self._button(one).setChecked(one == view)
        self._ui.opacitySlider.setEnabled(view == "jacobian")
        if view == FLICKER:
            self._flick()
            self._timer.start()
            return
        self._logic.showResult(self._result, view)
        if view == "jacobian":
            self._set_opacity()

    def pause(self) -> None:
        """Stop the flicker."""
        self._timer.stop()

    def save_report(self, path: str) -> None:
        """Write every number of the result as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self._result.report, indent=2), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The report cannot be written to {path} ({error.strerror}). Choose another place.") from error
        self._log(_("Report saved as {path}").format(path=path))

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        self._tell(None)
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001, whatever fails is told in the panel
            self._tell(error)

    def _button(self, view: str) -> Any:
        return getattr(self._ui, f"{view}ViewButton")

    def _on_timer(self) -> None:
        try:
            self._flick()
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to
            self.pause()
            self._tell(error)

    def _flick(self) -> None:
        self._is_fixed_shown = not self._is_fixed_shown
        self._logic.showResult(self._result, "fixed" if self._is_fixed_shown else "warped")

    def _set_opacity(self) -> None:
        if self._result is not None and self._button("jacobian").checked:
            slicer.util.setSliceViewerLayers(foregroundOpacity=self._ui.opacitySlider.value)

    def _apply(self) -> None:
        nodes, harden = list(self._ui.applyToSelector.checkedNodes()), bool(self._ui.hardenCheckBox.checked)
        if not nodes:
            raise InputError("Nothing is checked under “Apply to”. Check what shall follow the moving volume.")
        self._logic.applyTransform(nodes, self._result.transformNode, harden=harden)
        self._log(_("Applied to {names}").format(names=", ".join(node.GetName() for node in nodes)))

    def _ask_where_to_save(self) -> None:
        path = qt.QFileDialog.getSaveFileName(self._ui.saveReportButton, _("Save report"), "report.json", "JSON (*.json)")
        path = path if isinstance(path, str) else path[0]
        if path:
            self.save_report(path)

    def _fill(self, marks: Mapping[str, Mapping[str, str]]) -> None:
        table = self._ui.marksTable
        table.setRowCount(len(marks))
        table.setColumnCount(2)
        for row, (measure, mark) in enumerate(marks.items()):
            symbol, colour = MARKS[mark["colour"]]
            sign = qt.QTableWidgetItem(symbol)
            sign.setForeground(qt.QBrush(qt.QColor(colour)))
            words = qt.QTableWidgetItem(f"{measure}\n{mark['value']}")
            for column, item in enumerate((sign, words)):
                item.setToolTip(mark["rule"])
                table.setItem(row, column, item)
        colours = [mark["colour"] for mark in marks.values()]
        worst = max(colours, key=list(MARKS).index)
        self._ui.verdictLabel.setText(f"<b>{MARKS[worst][0]} {VERDICTS[worst]}</b>")
        self._ui.ruleLabel.setText(_("Click a measure to read its rule."))
        table.resizeColumnToContents(0)
        self._fit_table()

    def _fit_table(self) -> None:
        """As high as its rows: a list within the panel that scrolls would hide the worst of it."""
        table = self._ui.marksTable
        table.resizeRowsToContents()
        table.setFixedHeight(sum(table.rowHeight(row) for row in range(table.rowCount)) + 2 * table.frameWidth)

    def _show_rule(self, row: int) -> None:
        if self._result is not None and row >= 0:
            self._ui.ruleLabel.setText(list(self._result.report["marks"].values())[row]["rule"])
