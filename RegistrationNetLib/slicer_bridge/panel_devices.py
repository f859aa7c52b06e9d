"""The part of the panel about what computes: automatic, the processor, and each graphics card with its free memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from .client import Job
from .panel_words import DEVICES, gigabytes


class DevicePanel:
    """The list of devices. What there is, is looked for when the section is opened, never before.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        tell: is given an error to show, or None to show none any more.
        on_chosen: is given the name of the device that the user chose.
        on_found: called when it is known what there is.
        is_installed: whether the worker can run.
        may_work: the same, but asks the user to install what is missing.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        tell: Callable[[Exception | None], None],
        on_chosen: Callable[[str], None],
        on_found: Callable[[], None],
        is_installed: Callable[[], bool],
        may_work: Callable[[], bool],
    ) -> None:
        self._ui, self._logic, self._tell = ui, logic, tell
        self._on_chosen, self._on_found, self._is_installed, self._may_work = on_chosen, on_found, is_installed, may_work
        self._found: Sequence[Mapping[str, Any]] = ()
        self._job: Job | None = None
        ui.deviceLabel.setText(_("Automatic takes the graphics card where there is one, else the processor."))
        ui.deviceCombo.connect("activated(int)", self._choose)
        ui.deviceButton.connect("clicked(bool)", self._look)
        ui.deviceCollapsibleButton.connect("contentsCollapsed(bool)", self._on_collapsed)
        self._names: list[str] = []
        self.show("auto")

    def show(self, name: str) -> None:
        """Offer what there is, and `name` even where it is not there: a scene may come from another computer."""
        words = {one["name"]: _words(one) for one in self._found} or {one: DEVICES[one] for one in DEVICES if one != "auto"}
        if name not in ("auto", *words):
            words[name] = _("{device} (not here)").format(device=_title(name))
        self._names = ["auto", *words]
        combo = self._ui.deviceCombo
        combo.clear()
        for one in self._names:
            combo.addItem(DEVICES["auto"] if one == "auto" else words[one])
        combo.setCurrentIndex(self._names.index(name))
        combo.setToolTip(combo.currentText)
        if self._found:
            self._describe(name)

    def _describe(self, name: str) -> None:
        """What follows from the choice, once it is known what there is."""
        found = [one["name"] for one in self._found]
        if name not in ("auto", *found):
            self._ui.deviceLabel.setText(_("This computer does not have it. Choose another, or Automatic."))
        elif any(one.startswith("cuda") for one in found):
            self._ui.deviceLabel.setText(_("Automatic takes the graphics card."))
        else:
            self._ui.deviceLabel.setText(_("No NVIDIA graphics card was found: Automatic takes the processor, which is slower."))

    def free_mb(self, name: str) -> float | None:
        """The free memory of device `name`, where that can be told without a worker."""
        name = self.meant(name)
        if name != "cpu":
            return {one["name"]: one["free_mb"] for one in self._found}.get(name)
        try:
            import psutil  # installed with what the worker needs
        except ImportError:
            return None
        return float(psutil.virtual_memory().available / 2**20)

    def words_for(self, name: str) -> str:
        """What device `name` is called within a sentence."""
        titles = {one["name"]: one["title"] for one in self._found}
        name = self.meant(name)
        return _("the processor") if name == "cpu" else titles.get(name, _title(name))

    def meant(self, name: str) -> str:
        """The device that "auto" takes, as far as is known."""
        graphics = (one["name"] for one in self._found if one["name"].startswith("cuda"))
        return next(graphics, "cpu") if name == "auto" else name

    def close(self) -> None:
        """Nobody looks any more."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def _choose(self, index: int) -> None:
        self._tell(None)
        self._on_chosen(self._names[index])

    def _on_collapsed(self, is_collapsed: bool) -> None:
        if not is_collapsed and not self._found and self._job is None and self._is_installed():
            self._begin()

    def _look(self) -> None:
        self._tell(None)
        if self._may_work():
            self._begin()

    def _begin(self) -> None:
        self._ui.deviceButton.setEnabled(False)
        self._ui.deviceLabel.setText(_("Looking…"))
        self._job = self._logic.startDevices(self._on_job)

    def _on_job(self, job: Job) -> None:
        if job is not self._job or not job.is_finished:
            return
        self._job = None
        self._ui.deviceButton.setEnabled(True)
        if job.error is not None:
            self._ui.deviceLabel.setText("")
            self._tell(job.error)
            return
        name = self._names[self._ui.deviceCombo.currentIndex]
        self._found = job.answer
        self.show(name)
        self._on_found()


def _words(device: Mapping[str, Any]) -> str:
    """“Processor, 12.3 GB free”."""
    name = DEVICES["cpu"] if device["name"] == "cpu" else device["title"]
    if device["free_mb"] is None:
        return str(name)
    return _("{device}, {free} free").format(device=name, free=gigabytes(device["free_mb"]))


def _title(name: str) -> str:
    """What a device is called; that of "cuda:1": the second NVIDIA graphics card."""
    kind, _colon, number = name.partition(":")
    return f"{DEVICES.get(kind, kind)} {int(number) + 1}" if number.isdigit() else DEVICES.get(kind, name)
