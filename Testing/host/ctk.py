"""The ctk widgets that .ui files commonly use (stand-in for tests)."""

import qt
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal, Slot


def _attribute(name, type_, default, changed=None):
    """A stored Qt property with its setter."""
    private = "_" + name

    def get(self):
        return getattr(self, private, default)

    def set_(self, value):
        old = get(self)
        setattr(self, private, value)
        if changed and old != value:
            changed(self, value)

    return Property(type_, get, set_), set_


@qt.registerCustomWidget
class ctkCollapsibleButton(QtWidgets.QWidget):
    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    clicked = Signal(bool)

    def __init__(self, *args):
        parent = next((a for a in args if isinstance(a, QtWidgets.QWidget)), None)
        super().__init__(parent)
        self._collapsed = False
        self._button = QtWidgets.QToolButton(self)
        self._button.setObjectName("")
        self._button.setToolButtonStyle(QtCore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._button.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._button.clicked.connect(lambda: self.setCollapsed(not self._collapsed))
        self._text = next((a for a in args if isinstance(a, str)), "")
        self.setContentsMargins(0, 24, 0, 0)
        self._update()

    def _update(self):
        self._button.setText(self._text)
        self._button.setArrowType(QtCore.Qt.ArrowType.RightArrow if self._collapsed else QtCore.Qt.ArrowType.DownArrow)
        self.setMaximumHeight(24 if self._collapsed else 16777215)
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and child is not self._button:
                child.setVisible(not self._collapsed)

    def childEvent(self, event):
        super().childEvent(event)
        if self._collapsed and event.added() and isinstance(event.child(), QtWidgets.QWidget):
            QtCore.QTimer.singleShot(0, self._update)

    def resizeEvent(self, event):
        super().resizeEvent(event)
        self._button.setGeometry(0, 0, self.width, 22)

    def setCollapsed(self, value):
        if value != self._collapsed:
            self._collapsed = value
            self._update()
            self.contentsCollapsed.emit(value)
            self.toggled.emit(not value)

    def setText(self, text):
        self._text = text
        self._update()

    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, v: self.setCollapsed(not v))
    text = Property(str, lambda self: self._text, setText)


@qt.registerCustomWidget
class ctkComboBox(QtWidgets.QComboBox):
    defaultText, setDefaultText = _attribute("defaultText", str, "")


@qt.registerCustomWidget
class ctkCheckBox(QtWidgets.QCheckBox):
    pass


@qt.registerCustomWidget
class ctkCheckablePushButton(QtWidgets.QPushButton):
    checkBoxControlsButtonToggleState, setCheckBoxControlsButtonToggleState = _attribute("cbcb", bool, True)


@qt.registerCustomWidget
class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    _spinType = QtWidgets.QDoubleSpinBox

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spin = QtWidgets.QDoubleSpinBox()
        self._spin.setRange(0, 99)
        self._slider.setRange(0, 1000)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._fromSpin)
        self._slider.valueChanged.connect(self._fromSlider)
        self._busy = False

    def _span(self):
        return (self._spin.maximum - self._spin.minimum) or 1.0

    def _fromSpin(self, value):
        if not self._busy:
            self._busy = True
            self._slider.setValue(round((value - self._spin.minimum) / self._span() * 1000))
            self._busy = False
        self.valueChanged.emit(value)

    def _fromSlider(self, position):
        if not self._busy:
            self._busy = True
            self._spin.setValue(self._spin.minimum + position / 1000 * self._span())
            self._busy = False

    def setRange(self, low, high):
        self._spin.setRange(low, high)

    def setValue(self, value):
        self._spin.setValue(value)

    def setMinimum(self, value):
        self._spin.setMinimum(value)

    def setMaximum(self, value):
        self._spin.setMaximum(value)

    value = Property(float, lambda s: s._spin.value, setValue)
    minimum = Property(float, lambda s: s._spin.minimum, setMinimum)
    maximum = Property(float, lambda s: s._spin.maximum, setMaximum)
    singleStep = Property(float, lambda s: s._spin.singleStep, lambda s, v: s._spin.setSingleStep(v))
    pageStep, setPageStep = _attribute("pageStep", float, 10.0)
    decimals = Property(int, lambda s: s._spin.decimals, lambda s, v: s._spin.setDecimals(v))
    suffix = Property(str, lambda s: s._spin.suffix, lambda s, v: s._spin.setSuffix(v))
    prefix = Property(str, lambda s: s._spin.prefix, lambda s, v: s._spin.setPrefix(v))
    tracking, setTracking = _attribute("tracking", bool, True)


@qt.registerCustomWidget
class ctkDoubleSlider(ctkSliderWidget):
    pass


@qt.registerCustomWidget
class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    pass


@qt.registerCustomWidget
class ctkRangeWidget(QtWidgets.QWidget):
    valuesChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        for spin in (self._low, self._high):
            layout.addWidget(spin)
            spin.valueChanged.connect(lambda *_: self.valuesChanged.emit(self._low.value, self._high.value))

    def setRange(self, low, high):
        self._low.setRange(low, high)
        self._high.setRange(low, high)

    def setValues(self, low, high):
        self._low.setValue(low)
        self._high.setValue(high)

    minimumValue = Property(float, lambda s: s._low.value, lambda s, v: s._low.setValue(v))
    maximumValue = Property(float, lambda s: s._high.value, lambda s, v: s._high.setValue(v))
    minimum = Property(float, lambda s: s._low.minimum, lambda s, v: s.setRange(v, s._high.maximum))
    maximum = Property(float, lambda s: s._high.maximum, lambda s, v: s.setRange(s._low.minimum, v))
    singleStep, setSingleStep = _attribute("singleStep", float, 1.0)
    decimals, setDecimals = _attribute("decimals", int, 2)


@qt.registerCustomWidget
class ctkDoubleRangeSlider(ctkRangeWidget):
    pass


@qt.registerCustomWidget
class ctkPathLineEdit(QtWidgets.QWidget):
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    Files, Writable, Dirs, Executable = 0x002, 0x020, 0x001, 0x040

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit()
        self._browse = QtWidgets.QToolButton()
        self._browse.setText("...")
        layout.addWidget(self._edit)
        layout.addWidget(self._browse)
        self._edit.textChanged.connect(self.currentPathChanged)

    def setCurrentPath(self, path):
        self._edit.setText(path)

    def addCurrentPathToHistory(self):
        pass

    currentPath = Property(str, lambda s: s._edit.text, setCurrentPath)
    filters, setFilters = _attribute("filters", int, 0)
    nameFilters, setNameFilters = _attribute("nameFilters", "QStringList", [])
    settingKey, setSettingKey = _attribute("settingKey", str, "")
    label, setLabel = _attribute("label", str, "")
    showHistoryButton, setShowHistoryButton = _attribute("showHistoryButton", bool, True)


@qt.registerCustomWidget
class ctkDirectoryButton(QtWidgets.QPushButton):
    directoryChanged = Signal(str)

    def setDirectory(self, path):
        if path != self.text:
            self.setText(path)
            self.directoryChanged.emit(path)

    directory = Property(str, lambda s: s.text, setDirectory)


@qt.registerCustomWidget
class ctkColorPickerButton(QtWidgets.QPushButton):
    colorChanged = Signal("QColor")
    color, setColor = _attribute("color", "QColor", None, lambda s, v: s.colorChanged.emit(v))


@qt.registerCustomWidget
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    collapsed, setCollapsed = _attribute("collapsed", bool, False)


@qt.registerCustomWidget
class ctkMenuButton(QtWidgets.QPushButton):
    pass


@qt.registerCustomWidget
class ctkSearchBox(QtWidgets.QLineEdit):
    pass


@qt.registerCustomWidget
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    pass


class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgainVisible, setDontShowAgainVisible = _attribute("dontShowAgainVisible", bool, False)
    dontShowAgainSettingsKey, setDontShowAgainSettingsKey = _attribute("dontShowAgainSettingsKey", str, "")


class ctkWidgetsUtils:
    @staticmethod
    def grabWidget(widget):
        return widget.grab().toImage()
