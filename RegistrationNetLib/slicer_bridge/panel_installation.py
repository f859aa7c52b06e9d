"""The part of the panel about what must be installed: the question, the installation, and another Python that has it already."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import ResourceError
from . import dependencies
from .installation import Installation, in_one_line
from .interpreter import examination, named_python, startup_environment, worker_environment
from .panel_sight import bring_into_sight
from .settings import keep, kept

PYTHON = "Python"
POLL_MSEC = 50


class InstallationPanel:
    """Asks before anything is installed, where the Register button was; nothing is looked for or installed on opening.

    Args:
        ui: the widgets of the panel by name.
        logic: the module's logic.
        requirements: the file that lists what must be installed beside PyTorch.
        tell: is given an error to show, or None to show none any more.
        on_changed: called when the question came or went, or when something was installed.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        *,
        requirements: Path,
        tell: Callable[[Exception | None], None],
        log: Callable[[str], None],
        on_changed: Callable[[], None],
    ) -> None:
        self._ui, self._logic, self._requirements = ui, logic, requirements
        self._tell, self._log, self._on_changed = tell, log, on_changed
        self._process: subprocess.Popen[bytes] | None = None
        self._named = ""
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MSEC)
        self._timer.connect("timeout()", self._look_at_process)
        self._installation: Installation | None = None
        self._told = ""
        self._installation_timer = qt.QTimer()
        self._installation_timer.setInterval(POLL_MSEC)
        self._installation_timer.connect("timeout()", self._look_at_installation)
        self.is_asking = False
        ui.installProgressBar.setRange(0, 0)
        ui.installProgressBar.setVisible(False)
        ui.installButton.connect("clicked(bool)", self._install)
        ui.laterButton.connect("clicked(bool)", lambda: self._later_or_cancel())
        ui.ownPythonButton.connect("clicked(bool)", lambda: self._use(""))
        for button in (ui.otherPythonButton, ui.pythonButton):
            menu = qt.QMenu(button)
            for title, choose in ((_("A Python program…"), self._choose_file), (_("A folder…"), self._choose_folder)):
                menu.addAction(title).connect("triggered(bool)", lambda _=False, choose=choose: choose())
            button.setMenu(menu)
        self._restore()
        self._describe()

    @property
    def is_installed(self) -> bool:
        """Whether the worker can run."""
        return bool(self._logic.python) or not dependencies.lacking(self._requirements)

    def may_work(self) -> bool:
        """Whether the worker can run; if not, the panel asks."""
        if self._installation is not None:
            bring_into_sight(self._ui.consentBox)
            return False
        self._ask(is_asking=not self.is_installed)
        return not self.is_asking

    def use(self, path: str) -> None:
        """Examine another Python by its own `doctor`, and use it if that is content."""
        self._tell(None)
        self._stop()
        try:
            environment = worker_environment(None, startup_environment())
            self._process, self._named = examination(*named_python(Path(path)), environment), path
        except Exception as error:  # noqa: BLE001, told in the panel
            self._tell(error)
            return
        self._ui.pythonLabel.setText(_("Looking at {path}…").format(path=path))
        self._enable(is_enabled=False)
        self._timer.start()

    def close(self) -> None:
        """End what is under way."""
        self._stop()
        self._installation_timer.stop()
        if self._installation is not None:
            self._installation.cancel()

    def _ask(self, *, is_asking: bool) -> None:
        self.is_asking = is_asking
        if is_asking:
            lacking = ", ".join(map(_package_name, dependencies.lacking(self._requirements)))
            self._ui.consentLabel.setText(
                _(
                    "Once, before the first registration: it needs {packages} in Slicer's own Python. PyTorch takes 0.2 GB (processor) to 5 GB (graphics card)"
                    " on the disk and needs the network. Looking around works without."
                ).format(packages=lacking)
            )
        self._on_changed()
        if is_asking:
            bring_into_sight(self._ui.consentBox)

    def _install(self) -> None:
        """The user has agreed. It is done by a process of its own; the panel goes on, and can cancel it."""
        self._tell(None)
        try:
            self._installation = Installation(self._requirements, slicer, startup_environment())
        except Exception as error:  # noqa: BLE001, told in the panel
            self._tell(error)
            self._ask(is_asking=False)
            return
        self._show_installing(is_installing=True)
        self._installation_timer.start()
        self._look_at_installation()

    def _later_or_cancel(self) -> None:
        if self._installation is None:
            self._ask(is_asking=False)
        else:
            self._installation.cancel()
            self._look_at_installation()

    def _look_at_installation(self) -> None:
        installation = self._installation
        if installation is None:
            return
        try:
            installation.poll()
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to
            installation.cancel()
            installation.error = error
        if not installation.is_finished:
            self._describe_installation(installation)
            return
        self._installation = None
        self._installation_timer.stop()
        self._show_installing(is_installing=False)
        if installation.error is None:
            self._log(_("Everything that registration needs is installed."))
        self._ask(is_asking=False)
        if installation.error is not None:
            self._tell(installation.error)

    def _describe_installation(self, installation: Installation) -> None:
        said = in_one_line(installation.line)
        words = _("Installing, step {step} of {steps}; this may take some minutes.").format(
            step=installation.step, steps=installation.steps
        )
        self._ui.consentLabel.setText(f"{words}\n{said}" if said else words)
        if said and said != self._told:
            self._told = said
            self._log(installation.line)

    def _show_installing(self, *, is_installing: bool) -> None:
        ui = self._ui
        self._enable(is_enabled=not is_installing)
        ui.installProgressBar.setVisible(is_installing)
        ui.laterButton.setEnabled(True)
        ui.laterButton.setText(_("Cancel") if is_installing else _("Not now"))
        ui.laterButton.setToolTip(_("What was installed until then stays.") if is_installing else "")

    def _choose_file(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._ui.pythonButton, _("A Python program that has PyTorch"))
        self._chosen(path if isinstance(path, str) else path[0])

    def _choose_folder(self) -> None:
        title = _("An environment (venv, conda) or a folder of packages that has PyTorch")
        self._chosen(qt.QFileDialog.getExistingDirectory(self._ui.pythonButton, title))

    def _chosen(self, path: str) -> None:
        if path:
            self.use(path)

    def _look_at_process(self) -> None:
        process = self._process
        if process is None or process.poll() is None:
            return
        self._timer.stop()
        assert process.stdout is not None
        with process.stdout as stdout:
            said = stdout.read().decode("utf-8", "replace")
        self._process = None
        self._enable(is_enabled=True)
        if trouble := _trouble(said):
            self._describe()
            self._tell(
                ResourceError(
                    f"{self._named} cannot be used: {trouble} It needs PyTorch 2.2 or later, SimpleITK, numpy and what the file "
                    "requirements.txt of this module lists. Install them there, or choose another."
                )
            )
            return
        self._use(self._named)

    def _use(self, path: str) -> None:
        self._tell(None)
        try:
            self._logic.usePython(path)
        except Exception as error:  # noqa: BLE001, told in the panel
            self._tell(error)
            return
        keep(PYTHON, path)
        self._log(_("Python: {path}").format(path=path or _("Slicer's own")))
        self._describe()
        self._ask(is_asking=False)

    def _restore(self) -> None:
        """What the user has named once is used again, where it is still there."""
        path = kept(PYTHON, "")
        try:
            self._logic.usePython(path)
        except Exception:  # noqa: BLE001, the question comes again when something is to be run
            self._log(_("{path} is not there any more; Slicer's own Python is used.").format(path=path))

    def _describe(self) -> None:
        ui, path = self._ui, self._logic.python
        ui.pythonLabel.setText(_("Runs by {path}.").format(path=path) if path else _("Runs by Slicer's own Python."))
        ui.ownPythonButton.setVisible(bool(path))

    def _enable(self, *, is_enabled: bool) -> None:
        for name in ("installButton", "laterButton", "otherPythonButton", "pythonButton", "ownPythonButton"):
            getattr(self._ui, name).setEnabled(is_enabled)

    def _stop(self) -> None:
        self._timer.stop()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._enable(is_enabled=True)


def _trouble(said: str) -> str:
    """Why a Python whose `doctor` says this cannot run the worker; "" where it can."""
    start = said.find("[")
    try:
        findings = json.loads(said[start:]) if start >= 0 else None
    except ValueError:
        findings = None
    if not isinstance(findings, list):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return (lines[-1] if lines else _("it says nothing")).removeprefix("registrationnet: ").rstrip(".") + "."
    bad = [one["advice"] for one in findings if one["advice"] and one["what"] in ("torch", "numpy", "SimpleITK", "models")]
    return "; ".join(bad) + "." if bad else ""


def _package_name(requirement: str) -> str:
    """PyTorch of torch>=2.2."""
    name = re.split("[<>=! ]", requirement)[0]
    return "PyTorch" if name == "torch" else name
