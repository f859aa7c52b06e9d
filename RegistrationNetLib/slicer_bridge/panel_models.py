"""The part of the panel about the network: what it is for, and whether its weights are there, with the ways to get them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import Cancelled
from ..models.weights import megabytes
from .client import Job
from .panel_sight import bring_into_sight
from .panel_words import REFINEMENT_WORDS, STAGES, time_left


class ModelPanel:
    """Shows one model at a time.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        on_chosen: is given the name of the model that the user chose.
        on_weights: called when the weights of a model begin to come, and when they have come.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        on_chosen: Callable[[str], None],
        on_weights: Callable[[], None],
        may_work: Callable[[], bool],
    ) -> None:
        self._ui, self._logic, self._tell = ui, logic, tell
        self._on_chosen, self._on_weights, self._may_work = on_chosen, on_weights, may_work
        self._cards: dict[str, Mapping[str, Any]] = {}
        self._name = ""
        self._job: Job | None = None
        self.refresh()
        for name in self._names():
            ui.modelCombo.addItem(self._cards[name]["title"], name)
        ui.weightsProgressBar.setRange(0, 1000)
        ui.modelCombo.connect("activated(int)", self._choose)
        ui.downloadButton.connect("clicked(bool)", self._download_or_cancel)
        ui.importButton.connect("clicked(bool)", self._ask_for_file)
        ui.removeWeightsButton.connect("clicked(bool)", self._remove)
        ui.moreButton.connect("toggled(bool)", self._show_more)
        ui.modelLabel.setVisible(False)
        self.show(self.simplest)

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the model that is shown, with the state of its weights."""
        return self._cards[self._name]

    @property
    def simplest(self) -> str:
        """The name of a model that needs no weights."""
        return self._names()[0]

    @property
    def is_ready(self) -> bool:
        """Whether the chosen model can work: its weights are here, or it needs none."""
        return self.card["state"]["kind"] in ("none needed", "ready")

    @property
    def is_fetching(self) -> bool:
        """Whether its weights are on their way."""
        return self._job is not None

    def knows(self, name: str) -> bool:
        """Whether there is a model of that name."""
        return name in self._cards

    def refresh(self) -> None:
        """Look again which weights are there."""
        self._cards = {card["name"]: card for card in self._logic.models()}

    def show(self, name: str) -> None:
        """Choose a model in the list."""
        self._name = name
        card, ui = self.card, self._ui
        ui.modelCombo.setCurrentIndex(self._names().index(name))
        words = _("{summary}\n\nFor: {use}\n\nNot for: {notFor}").format(
            summary=card["summary"], use=card["intended_use"], notFor=card["not_for"]
        )
        paper = f"{card['paper']['title']} ({card['paper']['year']})"
        ui.modelCombo.setToolTip(f"{card['title']}: {card['summary']}\n{paper}")
        ui.modelLabel.setText("\n\n".join([words, _("Paper: {paper}").format(paper=paper), *self._licence()]))
        ui.refinementLabel.setText(self._usual_refinement())
        self._show_weights()

    def close(self) -> None:
        """Nobody looks any more; what is on its way is cancelled."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def use_file(self, path: str) -> None:
        """Take a file as the weights of the model that is shown."""
        self._begin(self._logic.startImport, self._name, path)

    def _names(self) -> list[str]:
        """Those that need nothing come first, in the order of the catalogue."""
        return sorted(self._cards, key=lambda name: self._cards[name]["weights"] is not None)

    def _choose(self, index: int) -> None:
        self._tell(None)
        self._on_chosen(self._names()[index])

    def _usual_refinement(self) -> str:
        refine = self.card["refine"]
        return _("{title} {refines} unless another choice is made here.").format(
            title=self.card["title"], refines=REFINEMENT_WORDS[refine["default"]]
        )

    def _licence(self) -> list[str]:
        weights = self.card["weights"]
        return [] if weights is None else [_("Licence of the weights: {licence}").format(licence=weights["licence"])]

    def _checksum(self) -> list[str]:
        """What is known of the file before it comes, and after."""
        weights, known = self.card["weights"], self.card["state"]["sha256"]
        if weights is None:
            return []
        if known is None:
            return [_("No checksum is published: the first file is taken on faith, and every later one must be the same.")]
        whose = _("as published") if weights["sha256"] else _("as the file had that came first")
        return [_("SHA-256 of the weights: {sum}, {whose}").format(sum=known, whose=whose)]

    def _show_more(self, is_shown: bool) -> None:
        self._ui.modelLabel.setVisible(is_shown)
        if is_shown:
            bring_into_sight(self._ui.modelLabel)

    def _show_weights(self) -> None:
        ui, kind, is_busy = self._ui, self.card["state"]["kind"], self._job is not None
        is_published = bool((self.card["weights"] or {}).get("url"))
        size = megabytes(self.card["state"]["bytes"])
        lines = [self._weights_text(kind, size, is_published=is_published)]
        # Before they are fetched, everybody sees under which licence they come.
        ui.weightsLabel.setText("\n".join(lines + (self._licence() if kind in ("missing", "damaged") else [])))
        ui.weightsLabel.setToolTip("\n".join([*self._licence(), *self._checksum()]))
        ui.weightsProgressBar.setVisible(is_busy)
        ui.modelCombo.setEnabled(not is_busy)
        ui.downloadButton.setVisible(is_busy or (is_published and kind in ("missing", "damaged")))
        ui.downloadButton.setText(_("Cancel") if is_busy else _("Download {size}").format(size=size))
        ui.importButton.setVisible(not is_busy and kind in ("missing", "damaged"))
        ui.removeWeightsButton.setVisible(not is_busy and kind in ("ready", "damaged"))
        ui.removeWeightsButton.setText(_("Remove weights ({size})").format(size=size))

    def _weights_text(self, kind: str, size: str, *, is_published: bool) -> str:
        if kind == "none needed":
            return _("Ready: needs no weights.")
        if kind == "ready":
            return _("Ready: its weights are here ({size}).").format(size=size)
        if kind == "damaged":
            return _("The file of its weights is damaged. Get it again.")
        if is_published:
            return _("Its weights are not on this computer yet ({size}).").format(size=size)
        return _("Its authors have published no weights. Use a file of your own.")

    def _remove(self) -> None:
        """Asked for by a click on a button that says what goes; the file can be fetched again."""
        self._tell(None)
        try:
            self._logic.removeWeights(self._name)
        except Exception as error:  # noqa: BLE001, told in the panel
            self._tell(error)
        self.refresh()
        self.show(self._name)
        self._on_weights()

    def _ask_for_file(self) -> None:
        title = _("Weights of {title}").format(title=self.card["title"])
        path = qt.QFileDialog.getOpenFileName(self._ui.importButton, title)
        path = path if isinstance(path, str) else path[0]
        if path:
            self.use_file(path)

    def _download_or_cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()
        else:
            self._begin(self._logic.startDownload, self._name)

    def _begin(self, start: Callable[..., Job], *arguments: str) -> None:
        self._tell(None)
        if not self._may_work():
            return
        self._ui.weightsProgressBar.setValue(0)
        self._ui.weightsProgressBar.setFormat(_("Starting"))
        self._job = start(*arguments, self._on_job)
        self._show_weights()
        self._on_weights()
        bring_into_sight(self._ui.downloadButton)

    def _on_job(self, job: Job) -> None:
        if job is not self._job:
            return
        if job.progress is not None:
            words = [STAGES.get(job.progress.stage, job.progress.stage), time_left(job.progress.seconds_left)]
            self._ui.weightsProgressBar.setValue(round(1000 * job.progress.fraction))
            self._ui.weightsProgressBar.setFormat(", ".join(word for word in words if word))
        if job.is_finished:
            self._job = None
            self.refresh()
            self._show_weights()
            if job.error is not None and not isinstance(job.error, Cancelled):
                self._tell(job.error)
            self._on_weights()
