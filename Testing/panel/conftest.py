"""The panel in the stand-in for Slicer, over the real MRML, with a real worker; touched by clicks and keys only."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..module.conftest import ROOT, collect_ignore_glob, host, scene  # noqa: F401, the stage is the same


class Panel:
    """The open module, and a user in front of it."""

    def __init__(self, module: Any) -> None:
        import qt

        self.qt = qt
        self.module = module
        self.top = module.widgetRepresentation()
        self.top.resize(350, 2400)
        self.top.show()
        module.enter()
        self.widget = module.widget
        self.ui, self.logic = self.widget.ui, self.widget.logic
        for name in ("moreInputs", "refinement", "device", "outputs"):
            getattr(self.ui, f"{name}CollapsibleButton").setCollapsed(False)

    @property
    def parameters(self) -> Any:
        return self.logic.getParameterNode()

    def click(self, name: str) -> None:
        from PySide6.QtTest import QTest

        button = getattr(self.ui, name)
        assert button.isEnabled(), f"{name} is disabled"
        centre = button.rect.center()
        if isinstance(button, self.qt.QCheckBox):
            centre.setX(8)
        QTest.mouseClick(button, self.qt.Qt.LeftButton, self.qt.Qt.NoModifier, centre)

    def choose(self, name: str, words: str) -> None:
        """By the arrow keys, from the top."""
        from PySide6.QtTest import QTest

        widget = getattr(self.ui, name)
        combo = widget if isinstance(widget, self.qt.QComboBox) else widget.findChild(self.qt.QComboBox)
        assert combo.isEnabled(), f"{name} is disabled"
        QTest.keyClick(combo, self.qt.Qt.Key_Home)
        for _ in range(combo.count):
            if combo.currentText == words:
                return
            QTest.keyClick(combo, self.qt.Qt.Key_Down)
        assert combo.currentText == words, f"{name} offers no {words!r}"

    def type(self, name: str, text: str) -> None:
        from PySide6.QtTest import QTest

        field = getattr(self.ui, name)
        spin = field if isinstance(field, self.qt.QSpinBox) else field.findChild(self.qt.QDoubleSpinBox)
        line = spin.findChild(self.qt.QLineEdit)
        line.selectAll()
        QTest.keyClicks(line, text)
        QTest.keyClick(line, self.qt.Qt.Key_Return)

    def until(self, is_true: Callable[[], Any], seconds: float = 60) -> None:
        import slicer

        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"never so; the panel says {self.ui.progressLabel.text!r} {self.message!r}"
            slicer.app.processEvents()
            time.sleep(0.005)

    @property
    def message(self) -> str:
        """The error that is shown, "" where none is."""
        return str(self.ui.messageLabel.text) if self.ui.messageLabel.isVisibleTo(self.top) else ""

    @property
    def is_running(self) -> bool:
        return bool(self.ui.cancelButton.isEnabled())

    def close(self) -> None:
        self.widget.cleanup()
        self.top.close()


@pytest.fixture
def errors() -> Iterator[list[Any]]:
    """Exceptions in slots, which Qt swallows; there must be none."""
    before, found = sys.excepthook, []
    sys.excepthook = lambda kind, error, trace: found.append((error, before(kind, error, trace)))
    yield found
    sys.excepthook = before
    assert not found


@pytest.fixture
def layers(host: Any, scene: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:  # noqa: F811
    """What the slice views were last asked to show."""
    shown: dict[str, Any] = {}
    monkeypatch.setattr(host.slicer.util, "setSliceViewerLayers", lambda **given: shown.update(given))
    return shown


@pytest.fixture
def panel(host: Any, scene: Any, errors: Any, layers: Any) -> Iterator[Panel]:  # noqa: F811
    one = Panel(host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py"))
    yield one
    one.close()
