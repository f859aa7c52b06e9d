"""The panel in the stand-in for Slicer, over the real MRML, with a real worker; touched by clicks and keys only."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from RegistrationNetLib.slicer_bridge.client import Client

from ..module.conftest import ROOT, collect_ignore_glob, host, scene, small_heap  # noqa: F401, the stage is the same
from .fake_client import FakeClient

if not collect_ignore_glob:
    from ..module.nodes import pair_nodes


# What a screen shows of the panel: Slicer's module panel at its usual width, on a small window.
SIZE = (320, 600)


class Panel:
    """The open module, and a user in front of it."""

    def __init__(self, module: Any) -> None:
        import qt

        self.qt = qt
        self.module = module
        import slicer_host

        self.top = module.widgetRepresentation()
        self.area = slicer_host.ModulePanel(self.top)
        self.area.resize(*SIZE)
        self.area.show()
        module.enter()

    @property
    def widget(self) -> Any:
        return self.module.widget

    @property
    def ui(self) -> Any:
        return self.widget.ui

    @property
    def logic(self) -> Any:
        return self.widget.logic

    @property
    def parameters(self) -> Any:
        return self.logic.getParameterNode()

    def click(self, name: str) -> None:
        from PySide6.QtTest import QTest

        button = getattr(self.ui, name)
        self._reveal(button)
        self.area.ensureWidgetVisible(button)
        assert button.isEnabled(), f"{name} is disabled"
        assert button.isVisibleTo(self.top), f"{name} is hidden"
        centre = button.rect.center()
        if isinstance(button, self.qt.QCheckBox):
            centre.setX(8)
        QTest.mouseClick(button, self.qt.Qt.LeftButton, self.qt.Qt.NoModifier, centre)

    def open(self, name: str) -> None:
        """Click the head of a section that is closed."""
        from PySide6.QtTest import QTest

        section = getattr(self.ui, f"{name}CollapsibleButton")
        if section.collapsed:
            QTest.mouseClick(section, self.qt.Qt.LeftButton, self.qt.Qt.NoModifier, self.qt.QPoint(20, 8))
        assert not section.collapsed

    def check(self, name: str, words: str) -> None:
        """Check or uncheck an entry of a list of boxes, by the space bar."""
        from PySide6.QtTest import QTest

        widget = getattr(self.ui, name)
        self._reveal(widget)
        combo = widget.findChild(self.qt.QComboBox)
        combo.showPopup()
        view = combo.view()
        view.setCurrentIndex(combo.model().index(combo.findText(words), 0))
        QTest.keyClick(view, self.qt.Qt.Key_Space)
        combo.hidePopup()
        self.qt.QApplication.processEvents()

    def _reveal(self, widget: Any) -> None:
        """Open the sections around a widget, as a user must."""
        around = []
        while (widget := widget.parent()) is not None:
            if widget.objectName.endswith("CollapsibleButton"):
                around.append(widget.objectName.removesuffix("CollapsibleButton"))
        for name in reversed(around):
            self.open(name)

    def choose(self, name: str, words: str) -> None:
        """By the arrow keys, from the top."""
        from PySide6.QtTest import QTest

        widget = getattr(self.ui, name)
        self._reveal(widget)
        combo = widget if isinstance(widget, self.qt.QComboBox) else widget.findChild(self.qt.QComboBox)
        assert combo.isEnabled(), f"{name} is disabled"
        QTest.keyClick(combo, self.qt.Qt.Key_Home)
        for _ in range(combo.count):
            if combo.currentText == words:
                return
            QTest.keyClick(combo, self.qt.Qt.Key_Down)
        assert combo.currentText == words, f"{name} offers no {words!r}"

    def pick(self, name: str, words: str) -> None:
        """One entry of a list, as by the mouse: without those before it."""
        combo = getattr(self.ui, name)
        self._reveal(combo)
        index = combo.findText(words)
        assert index >= 0, f"{name} offers no {words!r}"
        combo.setCurrentIndex(index)
        combo.activated.emit(index)

    def type(self, name: str, text: str) -> None:
        from PySide6.QtTest import QTest

        field = getattr(self.ui, name)
        self._reveal(field)
        is_spin = isinstance(field, self.qt.QSpinBox | self.qt.QDoubleSpinBox)
        spin = field if is_spin else field.findChild(self.qt.QDoubleSpinBox)
        line = spin.findChild(self.qt.QLineEdit)
        line.selectAll()
        QTest.keyClicks(line, text)
        QTest.keyClick(line, self.qt.Qt.Key_Return)

    def until(self, is_true: Callable[[], Any], seconds: float = 60) -> None:
        import slicer

        deadline = time.monotonic() + seconds
        while not is_true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"never so; the panel says {self.ui.progressLabel.text!r} {self.message!r}")
            slicer.app.processEvents()
            time.sleep(0.005)

    @property
    def message(self) -> str:
        """The error that is shown, "" where none is."""
        return str(self.ui.messageLabel.text) if self.ui.messageLabel.isVisibleTo(self.top) else ""

    @property
    def is_running(self) -> bool:
        return bool(self.ui.cancelButton.isVisibleTo(self.top))

    def sees(self, name: str) -> bool:
        """Whether the user sees all of a widget without scrolling, once everything has settled."""
        self.settle()
        return bool(self.area.isInSight(getattr(self.ui, name)))

    def settle(self) -> None:
        deadline = time.monotonic() + 0.15
        while time.monotonic() < deadline:
            self.qt.QApplication.processEvents()
            time.sleep(0.01)

    def close(self) -> None:
        self.widget.cleanup()
        self.area.close()
        # Python keeps the widgets a while, and selectors that nobody sees would follow the scene of the next tests.
        for one in self.top.findChildren(self.qt.QWidget):
            if hasattr(one, "setMRMLScene"):
                one.setMRMLScene(None)


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


class SharedClient(Client):
    """One worker for all tests: it is torch that takes long to start. What is under way is ended as a real client does."""

    def close(self) -> None:
        for job in self.unfinished:
            job.cancel()
        while self.unfinished:
            self.poll()
            time.sleep(0.005)


@pytest.fixture(scope="session")
def shared_client() -> Iterator[Client]:
    one = SharedClient()
    yield one
    Client.close(one)


@pytest.fixture
def client(shared_client: Client) -> Any:
    """What the panel's logic talks to."""
    return shared_client


@pytest.fixture
def panel(host: Any, scene: Any, errors: Any, layers: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:  # noqa: F811
    loaded = host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    monkeypatch.setattr(sys.modules["RegistrationNet"], "Client", lambda: client)
    one = Panel(loaded)
    yield one
    one.close()


@pytest.fixture
def ready(scene: Any, panel: Panel) -> Panel:  # noqa: F811
    """The panel with two volumes chosen."""
    pair_nodes(scene)
    panel.choose("fixedSelector", "fixed")
    panel.choose("movingSelector", "moving")
    return panel


def quick(panel: Panel) -> None:
    """Choose few steps."""
    panel.choose("alignmentCombo", "None")
    panel.click("hasOwnStepsCheckBox")
    panel.type("stepsSpinBox", "3")


@pytest.fixture
def fake() -> FakeClient:
    """A worker that does what the test says; in force where a test file makes it its `client`."""
    return FakeClient()
