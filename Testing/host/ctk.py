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
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A button over its contents. A child that was hidden by itself stays hidden when the button opens."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *args):
        super().__init__(next((a for a in args if isinstance(a, QtWidgets.QWidget)), None))
        self._hidden, self._collapsing = set(), False
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setText(next((a for a in args if isinstance(a, str)), ""))
        self.setContentsMargins(0, self._head().height(), 0, 0)
        self.toggled.connect(self._onToggled)

    def _head(self):
        """The size of the button alone: its text counts, so that a long one makes the whole panel wide."""
        size = self.fontMetrics().size(QtCore.Qt.TextFlag.TextShowMnemonic, self.text or "Mg")
        return QtCore.QSize(size.width() + 30, max(size.height(), 16) + 6)

    def changeEvent(self, event):
        super().changeEvent(event)
        if event.type() == QtCore.QEvent.Type.FontChange and hasattr(self, "_hidden"):
            self.setContentsMargins(0, self._head().height(), 0, 0)
            self.setMaximumHeight(16777215 if self.checked else self._head().height())

    def _onToggled(self, isOpen):
        self._collapsing = True
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and child not in self._hidden:
                child.setVisible(isOpen)
        self._collapsing = False
        self.setMaximumHeight(16777215 if isOpen else self._head().height())
        self.updateGeometry()
        self.contentsCollapsed.emit(not isOpen)

    def childEvent(self, event):
        super().childEvent(event)
        if event.added() and isinstance(event.child(), QtWidgets.QWidget):
            event.child().installEventFilter(self)

    def eventFilter(self, child, event):
        kind = event.type()
        if not self._collapsing and kind == QtCore.QEvent.Type.HideToParent:
            self._hidden.add(child)
        elif not self._collapsing and kind == QtCore.QEvent.Type.ShowToParent:
            self._hidden.discard(child)
            if not self.checked:
                self._collapsing = True
                child.setVisible(False)
                self._collapsing = False
        return False

    def hitButton(self, place):
        return place.y() < self._head().height()

    def sizeHint(self):
        if not self.checked or self.layout() is None:
            return self._head()
        return self.layout().totalSizeHint().expandedTo(self._head())

    def minimumSizeHint(self):
        if not self.checked or self.layout() is None:
            return self._head()
        return self.layout().totalMinimumSize().expandedTo(self._head())

    def paintEvent(self, event):
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self._head().height())
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (option.rect.height() - 9) // 2, 9, 9)
        element = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(element.PE_IndicatorArrowDown if self.checked else element.PE_IndicatorArrowRight, arrow)
        painter.drawText(option.rect.adjusted(22, 0, -4, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text)
        painter.end()

    collapsed = Property(bool, lambda self: not self.checked, lambda self, v: self.setChecked(not v))

    def setCollapsed(self, value):
        self.setChecked(not value)


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
