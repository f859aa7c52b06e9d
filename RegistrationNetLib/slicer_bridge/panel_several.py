"""The part of the panel in which every volume of a folder is registered to the fixed one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import Cancelled, InputError, RegistrationNetError
from .many import ManyRegistrations, volumesOfFolder
from .panel_inputs import modality_of
from .panel_results import MARKS
from .panel_sight import bring_into_sight, fit_to_width, keep_in_place
from .panel_words import STAGES, time_left, verdict_of

EVENTS = ("ItemAdded", "ItemRemoved", "ItemModified", "ItemReparented")
# Beside the marks of verdicts: what failed, is worked on, waits, or was cancelled.
FAILED, WORKING, WAITING, CANCELLED = ("!", "#dd3b3b"), ("▸", "#808080"), ("·", "#808080"), ("–", "#808080")
# A longer list scrolls.
LONGEST_PX = 320


class SeveralPanel:
    """One volume after the other, a row for each with its verdict.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        log: is given a line for the log.
        fixed: gives the fixed volume that is chosen, None for none.
        missing: says what must be done before anything can start, "" where nothing is missing.
        left_out: says what of the choices counts for one moving volume only, "" for nothing.
        may_work: whether what is needed is installed; else the user is asked.
        on_changed: called when a run has begun, when a volume is done, and when the run has ended.
        show: is given the ID of the node that holds the result to show.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        log: Callable[[str], None],
        fixed: Callable[[], Any],
        missing: Callable[[], str],
        left_out: Callable[[], str],
        may_work: Callable[[], bool],
        on_changed: Callable[[], None],
        show: Callable[[str], None],
    ) -> None:
        self._ui, self._logic, self._tell, self._log = ui, logic, tell, log
        self._fixed, self._missing, self._left_out = fixed, missing, left_out
        self._may_work, self._on_changed, self._show = may_work, on_changed, show
        self._many: ManyRegistrations | None = None
        self._names: list[str] = []
        self._start = 0.0
        self._hierarchy: Any = None
        self._tags: list[int] = []
        self._is_due = self._is_closed = False
        ui.folderSelector.setNodeTypes(["vtkMRMLScalarVolumeNode"])
        ui.folderSelector.setHideChildNodeTypes(["vtkMRMLLabelMapVolumeNode"])
        ui.folderSelector.connect("currentItemChanged(vtkIdType)", lambda _item: self.refresh())
        ui.severalButton.connect("clicked(bool)", lambda _=False: self._attempt(self._begin))
        ui.severalCancelButton.connect("clicked(bool)", lambda _=False: self._cancel())
        ui.severalProgressBar.setRange(0, 1000)
        self._set_up_table()
        self._show_run()

    @property
    def is_running(self) -> bool:
        """Whether volumes are being registered."""
        return self._many is not None and not self._many.isFinished

    def refresh(self) -> None:
        """Say what the button would do, or what is missing."""
        self._is_due = False
        if self._is_closed or slicer.mrmlScene.IsClosing():
            return
        self._follow()
        ui, names = self._ui, [node.GetName() for node in self._volumes()]
        missing = self._missing() or self._about_folder(names)
        ui.severalButton.setText(_button_words(0 if missing else len(names)))
        ui.severalButton.setEnabled(not missing and not self.is_running)
        ui.folderSelector.setEnabled(not self.is_running)
        if not self.is_running:
            ui.severalLabel.setText(missing or self._intention(names))

    def forget(self) -> None:
        """The scene goes, and what was made with it."""
        if self.is_running:
            self._log(_("Cancelled; the scene was closed."))
        self._many = None
        self._show_run()
        self._fill()

    def close(self) -> None:
        """Follow the scene no more."""
        self._is_closed = True
        self._ignore()

    def _volumes(self) -> list[Any]:
        item, fixed = self._ui.folderSelector.currentItem(), self._fixed()
        return [node for node in volumesOfFolder(item) if node is not fixed] if item else []

    def _folder_name(self) -> str:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        return str(hierarchy.GetItemName(self._ui.folderSelector.currentItem()))

    def _about_folder(self, names: list[str]) -> str:
        """What is missing of the folder."""
        item = self._ui.folderSelector.currentItem()
        if not item:
            return _("Choose a folder of the Data module, with the volumes to register.")
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        if hierarchy.GetItemDataNode(item) is not None and not names:
            return _("“{name}” is a volume. Choose the folder in which it lies.").format(name=self._folder_name())
        if not names:
            return _(
                "“{folder}” holds no volume to register: label maps, the fixed volume and what registrations have made do not count."
            ).format(folder=self._folder_name())
        return ""

    def _intention(self, names: list[str]) -> str:
        words = _("Each volume of “{folder}” is registered to {fixed}, with the options above: {names}.").format(
            folder=self._folder_name(), fixed=self._fixed().GetName(), names=_some_of(names)
        )
        return " ".join(part for part in (words, self._left_out()) if part)

    def _begin(self) -> None:
        if not self._may_work():
            return
        self._start = time.monotonic()
        self._many = self._logic.startFolderFromParameters(
            self._ui.folderSelector.currentItem(),
            onChanged=self._on_pair,
            onProgress=self._on_progress,
            keywordsOf=_modality_keywords,
        )
        self._names = [moving.GetName() for _fixed, moving in self._many.pairs]
        self._log(
            _("{count} volumes of {folder} to {fixed}").format(
                count=len(self._names), folder=self._folder_name(), fixed=self._fixed().GetName()
            )
        )
        self._ui.severalProgressBar.setValue(0)
        self._fill()
        self._on_progress(self._many)
        self._show_run()
        self._on_changed()
        bring_into_sight(self._ui.severalCancelButton)

    def _cancel(self) -> None:
        if self._many is not None:
            self._ui.severalCancelButton.setEnabled(False)
            self._many.cancel()

    def _on_progress(self, many: ManyRegistrations) -> None:
        if many is not self._many or many.isFinished:
            return
        words, fraction = [self._names[many.done]], 0.0
        if (progress := many.progress) is not None:
            words += [STAGES.get(progress.stage, progress.stage), time_left(progress.seconds_left)]
            fraction = progress.fraction
        self._ui.severalProgressBar.setValue(round(1000 * (many.done + fraction) / len(many.pairs)))
        said = ", ".join(word for word in words if word)
        self._ui.severalProgressLabel.setText(
            _("{number} of {count}: {what}").format(number=many.done + 1, count=len(many.pairs), what=said)
        )

    def _on_pair(self, many: ManyRegistrations) -> None:
        """A volume is done, or the last of them."""
        if many is not self._many:
            return
        keep_in_place(self._ui.severalProgressLabel)
        self._log(f"{self._names[many.done - 1]}: {self._words_for(many.done - 1)}")
        self._fill()
        self._on_progress(many)
        if many.isFinished:
            self._show_run()
        self._on_changed()

    def _show_run(self) -> None:
        """The button, or in its place how far the run is; and how it ended."""
        ui = self._ui
        ui.severalButton.setVisible(not self.is_running)
        for widget in (ui.severalProgressBar, ui.severalCancelButton):
            widget.setVisible(self.is_running)
        ui.severalCancelButton.setEnabled(self.is_running)
        ui.severalProgressLabel.setVisible(self._many is not None)
        if self._many is not None and not self.is_running:
            ui.severalProgressLabel.setText(self._outcome(self._many))

    def _outcome(self, many: ManyRegistrations) -> str:
        """How many came out how."""
        marks = [self._mark(number) for number in range(len(many.pairs))]
        counts = [
            f'<span style="color:{colour}">{symbol}</span> {marks.count((symbol, colour))}'
            for symbol, colour in dict.fromkeys((*MARKS.values(), FAILED, CANCELLED))
            if (symbol, colour) in marks
        ]
        return _("Ended after {number:.0f} s: {counts}. Click a volume to see its result.").format(
            number=time.monotonic() - self._start, counts=" ".join(counts)
        )

    def _mark(self, number: int) -> tuple[str, str]:
        """The sign of a row and its colour."""
        assert self._many is not None
        result, error = self._many.results[number], self._many.errors[number]
        if result is not None:
            return MARKS[verdict_of(result.report)[0]]
        if error is not None:
            return CANCELLED if isinstance(error, Cancelled) else FAILED
        return WORKING if number == self._many.done else WAITING

    def _words_for(self, number: int) -> str:
        """What a row says of its volume."""
        assert self._many is not None
        result, error = self._many.results[number], self._many.errors[number]
        if result is not None:
            _colour, words, reason = verdict_of(result.report)
            return ": ".join(part for part in (words, reason) if part)
        if isinstance(error, Cancelled):
            return _("cancelled")
        if error is not None:
            line = " ".join(str(error).split())
            return line if isinstance(error, RegistrationNetError) else _("It failed inside: {error}").format(error=line)
        return _("is being registered") if number == self._many.done else _("waits")

    def _set_up_table(self) -> None:
        table = self._ui.severalTable
        table.horizontalHeader().setVisible(False)
        table.horizontalHeader().setStretchLastSection(True)
        table.verticalHeader().setVisible(False)
        table.setWordWrap(True)
        table.connect("cellClicked(int,int)", lambda row, _column: self._attempt(self._open, row))
        fit_to_width(table, self._fit_table)
        self._fill()

    def _fill(self) -> None:
        table, count = self._ui.severalTable, 0 if self._many is None else len(self._many.pairs)
        table.setVisible(count > 0)
        table.setRowCount(count)
        for row in range(count):
            symbol, colour = self._mark(row)
            sign = qt.QTableWidgetItem(symbol)
            sign.setForeground(qt.QBrush(qt.QColor(colour)))
            for column, item in enumerate((sign, qt.QTableWidgetItem(f"{self._names[row]}\n{self._words_for(row)}"))):
                table.setItem(row, column, item)
        table.resizeColumnToContents(0)
        self._fit_table()
        if self.is_running:
            table.scrollToItem(table.item(min(self._many.done, count - 1), 0))  # type: ignore[union-attr]

    def _fit_table(self) -> None:
        """As high as its rows, as far as that leaves room for anything else."""
        table = self._ui.severalTable
        table.resizeRowsToContents()
        height = sum(table.rowHeight(row) for row in range(table.rowCount)) + 2 * table.frameWidth
        table.setFixedHeight(min(height, LONGEST_PX))

    def _open(self, row: int) -> None:
        """Show the result of a row; the row stays where it was clicked."""
        assert self._many is not None
        node = self._many.recordNodes[row]
        if node is None:
            return
        if not slicer.mrmlScene.IsNodePresent(node):
            raise InputError(
                f"Nothing is left of the result of {self._names[row]}; it was deleted from the scene. Register the volume again."
            )
        keep_in_place(self._ui.severalTable)
        self._show(node.GetID())

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        self._tell(None)
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001, whatever fails is told in the panel
            self._tell(error)

    def _follow(self) -> None:
        """Hear of what comes into folders and goes from them."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        if hierarchy is self._hierarchy:
            return
        self._ignore()
        self._hierarchy = hierarchy
        events = [getattr(hierarchy, f"SubjectHierarchy{name}Event") for name in EVENTS]
        self._tags = [hierarchy.AddObserver(event, self._look_soon) for event in events]

    def _ignore(self) -> None:
        for tag in self._tags:
            self._hierarchy.RemoveObserver(tag)
        self._hierarchy, self._tags = None, []

    def _look_soon(self, *_caller: Any) -> None:
        """Many items may change at once."""
        if not self._is_due:
            self._is_due = True
            qt.QTimer.singleShot(0, self.refresh)


def _button_words(count: int) -> str:
    if count == 0:
        return _("Register a whole folder")
    return _("Register 1 volume") if count == 1 else _("Register {count} volumes").format(count=count)


def _some_of(names: list[str], most: int = 3) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return _("{names} and {count} more").format(names=", ".join(names[: most - 1]), count=len(names) - most + 1)


def _modality_keywords(many: ManyRegistrations, number: int) -> dict[str, str]:
    """What DICOM or the values of a volume say of its modality; where they say nothing, what is chosen in the panel counts."""
    said = modality_of(many.pairs[number][1])
    return {} if said == "other" else {"movingModality": said}
