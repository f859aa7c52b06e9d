"""The part of the panel about a run: the button, in its place the progress or a question, what went wrong in words, and the log."""

from __future__ import annotations

import html
import time
import traceback
from typing import Any

from slicer.i18n import tr as _

from ..errors import Cancelled, RegistrationNetError
from ..progress import Progress
from .panel_sight import bring_into_sight
from .panel_words import STAGES, time_left


class RunPanel:
    """Register or Cancel, progress, messages and log.

    Args:
        ui: the widgets of the panel by name.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._stage = ""
        self._start = 0.0
        ui.progressBar.setRange(0, 1000)
        ui.messageLabel.connect("linkActivated(QString)", self._toggle_details)
        self.show_idle("")
        self.tell(None)

    def begin(self, what: str) -> None:
        """A run of that description has started."""
        self._stage, self._start = "", time.monotonic()
        self._ui.progressBar.setValue(0)
        self._show(is_running=True, is_asking=False)
        self._say(_("Starting"))
        self.log(what)
        bring_into_sight(self._ui.progressLabel)
        bring_into_sight(self._ui.cancelButton)

    def show_progress(self, progress: Progress) -> None:
        """Show how far the run is."""
        stage = STAGES.get(progress.stage, progress.stage)
        if stage != self._stage:
            self._stage = stage
            self.log(stage)
        self._ui.progressBar.setValue(round(1000 * progress.fraction))
        self._say(", ".join(word for word in (stage, time_left(progress.seconds_left)) if word))

    def end(self, error: Exception | None) -> None:
        """Tell how the run ended."""
        seconds = time.monotonic() - self._start
        if error is None:
            self._say(_("Done in {number:.0f} s").format(number=seconds))
            self.log(_("Done in {number:.1f} s").format(number=seconds))
        else:
            self.tell(error)

    def show_idle(self, words: str, *, may_start: bool = False, is_asking: bool = False) -> None:
        """Nothing runs; `words` say what is missing before something can. While the panel asks, the question has the button's place."""
        self._show(is_running=False, is_asking=is_asking)
        self._ui.registerButton.setEnabled(may_start)
        self._say(words)

    def tell(self, error: Exception | None) -> None:
        """Show an error in words, its details behind a link; None clears it."""
        ui = self._ui
        ui.detailsText.setVisible(False)
        ui.messageLabel.setVisible(error is not None)
        if error is None:
            return
        words = str(error) if isinstance(error, RegistrationNetError) else _("It failed inside: {error}").format(error=error)
        self.log(words)
        bring_into_sight(ui.messageLabel)
        if isinstance(error, Cancelled):
            ui.messageLabel.setText(html.escape(words[:1].upper() + words[1:]) + ".")
            return
        ui.messageLabel.setText(f'<b>{html.escape(words)}</b> <a href="details">{_("Details")}</a>')
        ui.detailsText.setPlainText("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def log(self, words: str) -> None:
        """Add a line to the log."""
        self._ui.logText.appendPlainText(f"{time.strftime('%H:%M:%S')} {words}")

    def _show(self, *, is_running: bool, is_asking: bool) -> None:
        ui = self._ui
        ui.registerButton.setVisible(not is_running and not is_asking)
        ui.consentBox.setVisible(is_asking)
        ui.progressBar.setVisible(is_running)
        ui.cancelButton.setVisible(is_running)
        ui.cancelButton.setEnabled(is_running)
        if is_running:
            ui.registerButton.setEnabled(False)

    def _say(self, words: str) -> None:
        self._ui.progressLabel.setText(words)
        self._ui.progressLabel.setVisible(bool(words))

    def _toggle_details(self) -> None:
        self._ui.detailsText.setVisible(not self._ui.detailsText.isVisible())
        bring_into_sight(self._ui.detailsText)
