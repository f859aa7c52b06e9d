"""The part of the panel that offers to register all frames, where the moving volume shows one frame of a sequence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .panel_sight import bring_into_sight
from .scene_sequences import sequence_shown_by
from .sequence import SequenceRegistration, SequenceResult


class SequencePanel:
    """Shown where there is a sequence to register; else it takes no place.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        log: is given a line for the log.
        chosen: gives the fixed and the moving volume, None for what is not chosen.
        missing: says what must be done before anything can start, "" where nothing is missing.
        may_work: whether what is needed is installed; else the user is asked.
        on_changed: called when a run has begun, and when it has ended.
        show: is given the ID of the node that holds the result.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        log: Callable[[str], None],
        chosen: Callable[[], tuple[Any, Any]],
        missing: Callable[[], str],
        may_work: Callable[[], bool],
        on_changed: Callable[[], None],
        show: Callable[[str], None],
    ) -> None:
        self._ui, self._logic, self._tell, self._log, self._show = ui, logic, tell, log, show
        self._chosen, self._missing, self._may_work, self._on_changed = chosen, missing, may_work, on_changed
        self._running: SequenceRegistration | None = None
        self._said, self._start = "", 0.0
        ui.sequenceButton.connect("clicked(bool)", lambda _=False: self._attempt(self._begin))
        ui.sequenceCancelButton.connect("clicked(bool)", lambda _=False: self._cancel())
        ui.sequenceProgressBar.setRange(0, 1000)
        self.refresh()

    @property
    def is_running(self) -> bool:
        """Whether frames are being registered."""
        return self._running is not None

    def refresh(self) -> None:
        """Offer what there is to register, or say what is missing."""
        ui, (fixed, moving) = self._ui, self._chosen()
        sequence = sequence_shown_by(moving)
        is_there = self.is_running or sequence is not None
        for widget in (ui.sequenceProgressBar, ui.sequenceCancelButton):
            widget.setVisible(self.is_running)
        ui.sequenceLabel.setVisible(is_there)
        ui.sequenceButton.setVisible(is_there and not self.is_running)
        ui.sequenceProgressLabel.setText(self._said)
        ui.sequenceProgressLabel.setVisible(is_there and bool(self._said))
        if sequence is None or self.is_running:
            return
        missing, count = self._missing(), sequence.GetNumberOfDataNodes()
        ui.sequenceButton.setText(_("Register all {count} frames").format(count=count))
        ui.sequenceButton.setEnabled(not missing)
        reference = _("the middle frame") if fixed is None else fixed.GetName()
        words = _("All {count} frames of the sequence “{sequence}”, which {moving} shows, to {reference}.").format(
            count=count, sequence=sequence.GetName(), moving=moving.GetName(), reference=reference
        )
        ui.sequenceLabel.setText(" ".join(part for part in (words, missing) if part))

    def forget(self) -> None:
        """The scene goes, and what was made with it."""
        if self.is_running:
            self._log(_("Cancelled; the scene was closed."))
        self._running, self._said = None, ""
        self.refresh()

    def _begin(self) -> None:
        if not self._may_work():
            return
        fixed, moving = self._chosen()
        sequence = sequence_shown_by(moving)
        assert sequence is not None, "the button is shown where there is a sequence"
        self._start = time.monotonic()
        self._running = self._logic.startSequenceFromParameters(
            sequence, "middle" if fixed is None else fixed, onChanged=self._hear
        )
        self._log(_("All frames of {sequence}").format(sequence=sequence.GetName()))
        self._said = _("Starting")
        self._ui.sequenceProgressBar.setValue(0)
        self._ui.sequenceCancelButton.setEnabled(True)
        self._on_changed()
        bring_into_sight(self._ui.sequenceCancelButton)

    def _cancel(self) -> None:
        if self._running is not None:
            self._ui.sequenceCancelButton.setEnabled(False)
            self._running.cancel()

    def _hear(self, running: SequenceRegistration) -> None:
        if running is not self._running:
            return
        if not running.isFinished:
            assert running.progress is not None
            self._ui.sequenceProgressBar.setValue(round(1000 * running.progress.fraction))
            self._said = _stage_words(running.progress.stage)
            self._ui.sequenceProgressLabel.setText(self._said)
            return
        self._running = None
        self._said = "" if running.result is None else self._outcome(running.result)
        if self._said:
            self._log(self._said)
        self._on_changed()
        self._tell(running.error)
        if running.recordNode is not None:
            self._attempt(lambda: self._show(running.recordNode.GetID()))

    def _outcome(self, result: SequenceResult) -> str:
        drift_mm = max(one["mean"] for one in result.drift)
        return _(
            "Done in {number:.0f} s: “{warped}” is played by the Sequences toolbar, “{table}” has a row for each frame. Back at the "
            "reference, the chain of frames is off by {drift:.1f} mm in the mean."
        ).format(
            number=time.monotonic() - self._start,
            warped=result.warpedSequenceNode.GetName(),
            table=result.tableNode.GetName(),
            drift=drift_mm,
        )

    def _attempt(self, work: Callable[[], None]) -> None:
        self._tell(None)
        try:
            work()
        except Exception as error:  # noqa: BLE001, whatever fails is told in the panel
            self._tell(error)


def _stage_words(stage: str) -> str:
    if stage == "loop":
        return _("Closing the loop, to see how far the frames drift")
    return _("Registering {frame}").format(frame=stage)
