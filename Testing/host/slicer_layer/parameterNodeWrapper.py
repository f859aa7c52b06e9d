"""A small parameterNodeWrapper: nodes, bool, int, float, str, Enum and Path, bound to widgets (stand-in for tests)."""

import dataclasses
import enum
import pathlib
import typing

import ctk
import qt
import slicer
import vtk

SlicerParameterNamePropertyName = "SlicerParameterName"


@dataclasses.dataclass
class WithinRange:
    minimum: float
    maximum: float


@dataclasses.dataclass
class Minimum:
    minimum: float


@dataclasses.dataclass
class Maximum:
    maximum: float


@dataclasses.dataclass
class Choice:
    choices: list


@dataclasses.dataclass
class Default:
    value: object


@dataclasses.dataclass
class Decimals:
    value: int


@dataclasses.dataclass
class SingleStep:
    value: float


class _Parameter:
    def __init__(self, name, annotated, default):
        self.name, hint = name, typing.get_args(typing.Annotated[annotated, None])
        self.type, self.notes = hint[0], hint[1:-1]
        members = [m for m in typing.get_args(self.type) if m is not type(None)] or [self.type]
        self.nodeTypes = tuple(m().GetClassName() for m in members if isinstance(m, type) and issubclass(m, slicer.vtkMRMLNode))
        if len(typing.get_args(self.type)) > 1 and type(None) not in typing.get_args(self.type):
            raise TypeError(f"Unable to write value 'None' of {name}: a union of nodes must have None in it")
        declared = self.note(Default)
        self.default = default if default is not dataclasses.MISSING else declared.value if declared else self._plain()

    def note(self, kind):
        return next((n for n in self.notes if isinstance(n, kind)), None)

    def _plain(self):
        if self.nodeTypes:
            return None
        if self.note(Choice):
            return self.note(Choice).choices[0]
        if issubclass(self.type, enum.Enum):
            return next(iter(self.type))
        if self.note(WithinRange):
            return self.type(max(self.note(WithinRange).minimum, min(0, self.note(WithinRange).maximum)))
        return self.type()

    def check(self, value):
        if self.nodeTypes:
            if value is not None and not any(value.IsA(t) for t in self.nodeTypes):
                raise TypeError(f"{self.name} takes {self.nodeTypes}, not {value.GetClassName()}")
            return value
        if self.type is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, self.type):
            raise TypeError(f"{self.name} takes {self.type.__name__}, not {value!r}")
        low, high, within, choice = self.note(Minimum), self.note(Maximum), self.note(WithinRange), self.note(Choice)
        if (
            (low and value < low.minimum)
            or (high and value > high.maximum)
            or (within and not within.minimum <= value <= within.maximum)
            or (choice and value not in choice.choices)
        ):
            raise ValueError(f"{self.name} cannot be {value!r}")
        return value

    def write(self, node, value):
        value = self.check(value)
        if self.nodeTypes:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(
                self.name, value.name if isinstance(value, enum.Enum) else repr(value) if self.type is float else str(value)
            )

    def read(self, node):
        if self.nodeTypes:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)

    def isIn(self, node):
        return bool(self.nodeTypes) or self.name in node.GetParameterNames()


class _Connector:
    """How one widget shows one parameter."""

    def __init__(self, widget, parameter):
        self.widget, self.parameter = widget, parameter
        kind = type(widget)
        numeric = (
            qt.QSpinBox,
            qt.QSlider,
            qt.QDoubleSpinBox,
            ctk.ctkSliderWidget,
            ctk.ctkDoubleSpinBox,
            slicer.qMRMLSliderWidget,
            slicer.qMRMLSpinBox,
        )
        if kind is slicer.qMRMLNodeComboBox and parameter.nodeTypes:
            widget.nodeTypes = parameter.nodeTypes
            self.signal, self.read, self.show = widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
        elif kind in (qt.QCheckBox, qt.QPushButton, ctk.ctkCheckBox) and parameter.type is bool:
            self.signal, self.read, self.show = widget.toggled, lambda: widget.checked, widget.setChecked
        elif kind in numeric and parameter.type in (int, float):
            bound = parameter.note(WithinRange)
            low = bound.minimum if bound else parameter.note(Minimum).minimum if parameter.note(Minimum) else -(2**31)
            high = bound.maximum if bound else parameter.note(Maximum).maximum if parameter.note(Maximum) else 2**31 - 1
            widget.minimum, widget.maximum = low, high
            if parameter.note(Decimals):
                widget.decimals = parameter.note(Decimals).value
            if parameter.note(SingleStep):
                widget.singleStep = parameter.note(SingleStep).value
            self.signal, self.read = widget.valueChanged, lambda: parameter.type(widget.value)
            self.show = widget.setValue
        elif kind in (qt.QComboBox, ctk.ctkComboBox) and (parameter.note(Choice) or issubclass(parameter.type, enum.Enum)):
            values = parameter.note(Choice).choices if parameter.note(Choice) else list(parameter.type)
            label = getattr(parameter.type, "label", lambda v: v.name if isinstance(v, enum.Enum) else str(v))
            widget.clear()
            widget.addItems([label(v) for v in values])
            self.signal, self.read = widget.currentIndexChanged, lambda: values[widget.currentIndex]
            self.show = lambda v: widget.setCurrentIndex(values.index(v))
        elif kind is qt.QLineEdit and parameter.type is str:
            self.signal, self.read, self.show = (
                widget.textChanged,
                lambda: widget.text,
                lambda v: widget.text == v or widget.setText(v),
            )
        elif kind is ctk.ctkPathLineEdit and issubclass(parameter.type, pathlib.PurePath):
            self.signal, self.read = widget.currentPathChanged, lambda: parameter.type(widget.currentPath)
            self.show = lambda v: widget.setCurrentPath(str(v))
        else:
            raise RuntimeError(f"no connection between {kind.__name__} '{widget.name}' and {parameter.name}: {parameter.type}")


def _property(parameter):
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )


def parameterNodeWrapper(cls):
    parameters = {
        n: _Parameter(n, t, getattr(cls, n, dataclasses.MISSING))
        for n, t in typing.get_type_hints(cls, include_extras=True).items()
    }
    for name, parameter in parameters.items():
        setattr(cls, name, _property(parameter))

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode, self._guis, self._showing = parameterNode, {}, False
        for parameter in parameters.values():
            if not parameter.isIn(parameterNode):
                parameter.write(parameterNode, parameter.default)

    def connectGui(self, ui):
        widgets = ui.findChildren(qt.QWidget) if hasattr(ui, "findChildren") else vars(ui).values()
        named = {w.property(SlicerParameterNamePropertyName): w for w in widgets}
        return self.connectParametersToGui({n: w for n, w in named.items() if n})

    def connectParametersToGui(self, mapping):
        unknown = set(mapping) - set(parameters)
        if unknown:
            raise ValueError(f"no parameter {sorted(unknown)}")
        connectors, slots = [_Connector(w, parameters[n]) for n, w in mapping.items()], []
        for c in connectors:
            c.show(c.parameter.read(self.parameterNode))

            def changed(*_, c=c):
                if not self._showing:
                    c.parameter.write(self.parameterNode, c.read())

            c.signal.connect(changed)
            slots.append((c.signal, changed))

        def show(*_):
            if not self._showing:
                self._showing = True
                try:
                    for c in connectors:
                        c.show(c.parameter.read(self.parameterNode))
                finally:
                    self._showing = False

        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, show)
        self._guis[tag] = slots
        return tag

    def disconnectGui(self, tag):
        for signal, slot in self._guis.pop(tag, []):
            signal.disconnect(slot)
        if tag is not None:
            self.parameterNode.RemoveObserver(tag)

    cls.__init__, cls.connectGui, cls.connectParametersToGui, cls.disconnectGui = (
        __init__,
        connectGui,
        connectParametersToGui,
        disconnectGui,
    )
    cls.default = lambda self, name: Default(parameters[name].default)
    cls.getValue = lambda self, name: getattr(self, name)
    cls.setValue = lambda self, name, value: setattr(self, name, value)
    cls.dataType = staticmethod(lambda name: parameters[name].type)
    for method in ("StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified"):
        setattr(cls, method, lambda self, *a, _m=method: getattr(self.parameterNode, _m)(*a))
    return cls
