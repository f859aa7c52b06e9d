"""The part of the panel about the results of the scene: the verdict, the views, the numbers, and what can be done with a result."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import InputError, OutputError
from .panel_cursor import CursorPanel
from .panel_frames import FrameFollower
from .panel_inputs import hide, made_by_registration
from .panel_sight import bring_into_sight, fit_to_width
from .panel_words import VIEW_LEGENDS, VIEW_NAMES, translated, unbroken, verdict_of
from .scene_record import Record, records
from .scene_transforms import cannot_follow
from .scene_views import missing_for

FLICKER = "flicker"
VIEWS = ("fixed", "moving", "warped", FLICKER, "checkerboard", "difference", "jacobian", "error", "grid")
# Colours over fixed, whose opacity can be chosen.
OVERLAYS = ("jacobian", "error")
FLICKER_MSEC = 700
# Shape and colour both tell, and the colours can be read on light and on dark.
MARKS = {"green": ("✔", "#2e9e4f"), "amber": ("▲", "#d08700"), "red": ("✖", "#dd3b3b")}
VERDICT = "#verdictFrame {{ border: 1px solid {colour}; border-left: 6px solid {colour}; border-radius: 3px; }}"
# On dark a pressed button is hardly darker than its neighbours.
PRESSED = (
    "QPushButton:checked { background-color: palette(highlight); color: palette(highlighted-text); "
    "border: 1px solid palette(mid); border-radius: 3px; padding: 3px; }"
)


class ResultPanel:
    """Shows one result at a time, of those that the scene has.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        log: is given a line for the log.
        on_shown: is given the ID of the node that holds the result that is shown now, "" for none.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        log: Callable[[str], None],
        on_shown: Callable[[str], None],
    ) -> None:
        self._ui, self._logic, self._tell, self._log, self._on_shown = ui, logic, tell, log, on_shown
        self._records: list[Record] = []
        self._shown = self._compared = self._view = ""
        self._is_first_shown = False
        self._timer = qt.QTimer()
        self._timer.setInterval(FLICKER_MSEC)
        self._timer.connect("timeout()", self._on_timer)
        for view in VIEWS:
            self._button(view).setStyleSheet(PRESSED)
            self._button(view).connect("clicked(bool)", lambda _=False, view=view: self._attempt(self._pressed, view))
        ui.leaveViewsButton.connect("clicked(bool)", lambda _=False: self._attempt(self.leave))
        ui.opacitySlider.connect("valueChanged(double)", self._set_opacity)
        ui.applyButton.connect("clicked(bool)", lambda _=False: self._attempt(self._apply))
        ui.saveReportButton.connect("clicked(bool)", lambda _=False: self._attempt(self._ask_where_to_save))
        ui.resultCombo.connect("activated(int)", self._choose)
        ui.compareCombo.connect("activated(int)", self._choose_other)
        self._cursor = CursorPanel(ui.cursorLabel, lambda: self.result)
        self._frames = FrameFollower(lambda: self._attempt(self._on_frame))
        self._set_up_table()
        self.refresh()

    @property
    def result(self) -> Any:
        """The result that is shown; None where there is none."""
        return None if self._record is None else self._record.result

    def show(self, node_id: str) -> None:
        """Show the result that the node of this ID holds, "" for none."""
        self.leave()
        self._shown, self._compared = node_id, ""
        self.refresh()
        self._on_shown(self._shown)

    def refresh(self) -> None:
        """Look again what the scene has, and what is left of the result that is shown."""
        scene = slicer.mrmlScene
        self._records = [] if scene.IsClosing() else records(scene)
        if self._shown and self._record is None:
            self._log(_("Nothing is left of the result that was shown."))
            self.leave()
            self._shown = ""
        if self._other is None:
            self._compared = ""
        self._list_results()
        self._hide_targets()
        is_there = self._record is not None
        self._frames.follow(self._record.browser if self._record is not None else None)
        for widget in (self._ui.verdictFrame, self._ui.resultBox):
            widget.setVisible(is_there)
        if is_there:
            self._cursor.follow()
            self._fill()
        else:
            self._cursor.stop()

    def exit(self) -> None:
        """The module is left: nothing of it is shown or followed any more."""
        self.leave()
        self._cursor.stop()
        self._frames.follow(None)

    @property
    def before(self) -> str:
        """The ID of the node that holds the result which the one that is shown corrects; "" for none."""
        return "" if self._record is None or (before := self._found(self._record.corrects)) is None else before.node.GetID()

    def flicker_with_before(self) -> None:
        """Show the warped volumes of the result and of the one that it corrects in turn."""
        self._compared = self.before
        self.refresh()
        self._pressed(FLICKER)

    def show_view(self, view: str) -> None:
        """Show the result in the slice views."""
        self._timer.stop()
        self._press(view)
        if view == FLICKER:
            self._flick()
            self._timer.start()
            return
        self._logic.showResult(self.result, view)
        if view in OVERLAYS:
            self._set_opacity()
            bring_into_sight(self._ui.opacitySlider)
        elif view in VIEW_LEGENDS:
            bring_into_sight(self._ui.legendLabel)
        self._hide_targets()

    def leave(self) -> None:
        """Stop the flicker, and give the views back as they were before a result was shown."""
        self._timer.stop()
        self._press("")
        self._logic.leaveViews()

    def save_report(self, path: str) -> None:
        """Write every number of the result as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.result.report, indent=2), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The report cannot be written to {path} ({error.strerror}). Choose another place.") from error
        self._log(_("Report saved as {path}").format(path=path))

    @property
    def _record(self) -> Record | None:
        return self._found(self._shown)

    @property
    def _other(self) -> Record | None:
        return self._found(self._compared)

    def _found(self, node_id: str) -> Record | None:
        return next((one for one in self._records if one.node.GetID() == node_id), None)

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        self._tell(None)
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001, whatever fails is told in the panel
            self._tell(error)

    def _button(self, view: str) -> Any:
        return getattr(self._ui, f"{view}ViewButton")

    def _pressed(self, view: str) -> None:
        """A view that is shown already goes when its button is pressed again."""
        if view == self._view:
            self.leave()
        else:
            self.show_view(view)

    def _press(self, view: str) -> None:
        self._view = view
        for one in VIEWS:
            self._button(one).setChecked(one == view)
        for widget in (self._ui.opacitySlider, self._ui.opacitySliderLabel):
            widget.setVisible(view in OVERLAYS)
        self._ui.legendLabel.setText(VIEW_LEGENDS.get(view, ""))
        self._ui.legendLabel.setVisible(view in VIEW_LEGENDS)

    def _on_frame(self) -> None:
        """Of a sequence another frame is shown: its verdict and numbers, and what views make of it."""
        self.refresh()
        if self._view and self._view != FLICKER:
            self._logic.showResult(self.result, self._view)

    def _on_timer(self) -> None:
        try:
            self._flick()
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to
            self._timer.stop()
            self._tell(error)

    def _flick(self) -> None:
        self._is_first_shown = not self._is_first_shown
        other = self._other
        if other is not None:
            self._logic.showResult(self.result, "warped" if self._is_first_shown else "other", other.result)
        else:
            self._logic.showResult(self.result, "fixed" if self._is_first_shown else "warped")

    def _set_opacity(self) -> None:
        if self.result is not None and self._view in OVERLAYS:
            slicer.util.setSliceViewerLayers(foregroundOpacity=self._ui.opacitySlider.value)

    def _apply(self) -> None:
        nodes, harden = list(self._ui.applyToSelector.checkedNodes()), bool(self._ui.hardenCheckBox.checked)
        if not nodes:
            raise InputError("Nothing is checked under “Let these follow moving”. Check what shall follow the moving volume.")
        if self.result.transformNode is None:
            raise InputError("The transform of this result is gone; without it nothing can follow. Register again.")
        self._logic.applyTransform(nodes, self.result.transformNode, harden=harden)
        self._log(_("Applied to {names}").format(names=", ".join(node.GetName() for node in nodes)))

    def _hide_targets(self) -> None:
        """Lists offer what makes sense, also when a view has just made a volume."""
        for side in ("fixed", "moving"):
            hide(getattr(self._ui, f"{side}Selector"), made_by_registration(slicer.mrmlScene))
        transform = None if self.result is None else self.result.transformNode
        hide(self._ui.applyToSelector, [] if transform is None else cannot_follow(slicer.mrmlScene, transform))

    def _ask_where_to_save(self) -> None:
        path = qt.QFileDialog.getSaveFileName(self._ui.saveReportButton, _("Save report"), "report.json", "JSON (*.json)")
        path = path if isinstance(path, str) else path[0]
        if path:
            self.save_report(path)

    def _choose(self, index: int) -> None:
        self._tell(None)
        self.show(self._records[index].node.GetID())
        bring_into_sight(self._ui.verdictFrame)

    def _choose_other(self, index: int) -> None:
        self._tell(None)
        self._compared = self._comparable[index - 1].node.GetID() if index > 0 else ""
        self.refresh()

    @property
    def _comparable(self) -> list[Record]:
        return [one for one in self._records if one.node.GetID() != self._shown]

    def _list_results(self) -> None:
        ui = self._ui
        _offer(ui.resultCombo, [one.title for one in self._records], self._records.index(self._record) if self._record else -1)
        others = self._comparable
        _offer(
            ui.compareCombo,
            [_("with nothing"), *(one.title for one in others)],
            others.index(self._other) + 1 if self._other else 0,
        )
        for widget in (ui.resultComboLabel, ui.resultCombo, ui.compareComboLabel, ui.compareCombo):
            widget.setVisible(len(self._records) > 1)

    def _fill(self) -> None:
        record = self._record
        assert record is not None
        colour, words, reason = verdict_of(record.result.report)
        symbol, shade = MARKS[colour]
        self._ui.verdictFrame.setStyleSheet(VERDICT.format(colour=shade))
        frame = "" if record.browser is None else _("Frame {number}: ").format(number=record.frame)
        told = f'{frame}<span style="color:{shade}">{symbol}</span> <b>{html.escape(words)}</b>'
        self._ui.verdictLabel.setText(f"{told}<br>{html.escape(unbroken(reason))}" if reason else told)
        self._ui.lostLabel.setText(_("Deleted from this result: {names}.").format(names=", ".join(record.lost)))
        self._ui.lostLabel.setVisible(bool(record.lost))
        for view in VIEWS:
            needed = ("fixed", "warped") if view == FLICKER else (view,)
            lacking = [_(name) for one in needed for name in missing_for(record.result, one)]
            self._button(view).setEnabled(not lacking)
            gone = _("Its {names} was deleted.").format(names=", ".join(lacking))
            self._button(view).setToolTip(gone if lacking else VIEW_NAMES[view])
        self._ui.applyButton.setEnabled(record.result.transformNode is not None)
        self._fill_table(record.result.report["marks"])

    def _set_up_table(self) -> None:
        table = self._ui.marksTable
        table.connect("currentCellChanged(int,int,int,int)", self._show_rule)
        table.horizontalHeader().setVisible(False)
        table.verticalHeader().setVisible(False)
        table.setWordWrap(True)
        table.horizontalHeader().setStretchLastSection(True)
        fit_to_width(table, self._fit_table)

    def _fill_table(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        table = self._ui.marksTable
        others = self._other.result.report["marks"] if self._other is not None else {}
        table.setRowCount(len(marks))
        table.setColumnCount(2)
        for row, (measure, mark) in enumerate(marks.items()):
            symbol, colour = MARKS[mark["colour"]]
            sign = qt.QTableWidgetItem(symbol)
            sign.setForeground(qt.QBrush(qt.QColor(colour)))
            lines = [translated(measure), translated(mark["value"])]
            if (other := others.get(measure)) is not None:
                lines.append(
                    _("compared: {symbol} {value}").format(symbol=MARKS[other["colour"]][0], value=translated(other["value"]))
                )
            words = qt.QTableWidgetItem("\n".join(lines))
            for column, item in enumerate((sign, words)):
                item.setToolTip(translated(mark["rule"]))
                table.setItem(row, column, item)
        self._ui.ruleLabel.setText(_("Click a measure to read its rule and to see where it is worst."))
        table.resizeColumnToContents(0)
        self._fit_table()

    def _fit_table(self) -> None:
        """As high as its rows: a list within the panel that scrolls would hide the worst of it."""
        table = self._ui.marksTable
        table.resizeRowsToContents()
        table.setFixedHeight(sum(table.rowHeight(row) for row in range(table.rowCount)) + 2 * table.frameWidth)

    def _show_rule(self, row: int) -> None:
        """The rule of a measure, and the slices at the place where it is worst."""
        if self.result is None or row < 0:
            return
        mark = list(self.result.report["marks"].values())[row]
        words = translated(mark["rule"])
        if place := mark.get("worst_at_mm"):
            self._logic.showPlace(place)
            words = _("{rule} The slices show where it is worst.").format(rule=words)
        self._ui.ruleLabel.setText(words)
        bring_into_sight(self._ui.ruleLabel)


def _offer(combo: Any, titles: list[str], index: int) -> None:
    if [combo.itemText(one) for one in range(combo.count)] != titles:
        combo.clear()
        for title in titles:
            combo.addItem(title)
    combo.setCurrentIndex(index)
