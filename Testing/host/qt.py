"""`qt` as PythonQt shows it, on top of PySide6 (stand-in for tests)."""

import ctypes
import enum
import functools
import inspect
import sys

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

if sys.version_info < (3, 12):
    # PySide6 6.12 gives back None, True and False without counting the reference, which is harmless only from Python 3.12 on,
    # where they are immortal; an older interpreter ends as soon as one of them is used up. So give them what will not be used up.
    for _singleton in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_singleton)).value += 1 << 40

_this = sys.modules[__name__]
_MODULES = (QtCore, QtGui, QtNetwork, QtWidgets)
# statics that share a name with a property, virtuals asked back by shiboken
_SKIP = {("QTimer", "singleShot")}
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


class _Property:
    """A Qt property: an attribute, not a call (PythonQt)."""

    def __init__(self, name, getter):
        self.name, self.getter = name, getter

    def __get__(self, obj, cls=None):
        if obj is None:
            return self.getter
        return self.getter(obj) if callable(self.getter) else obj.property(self.name)

    def __set__(self, obj, value):
        mo = obj.metaObject()
        if not mo.property(mo.indexOfProperty(self.name)).isWritable():
            raise AttributeError(f"property '{self.name}' of {mo.className()} is not writable")
        obj.setProperty(self.name, value)


def _patch(cls):
    mo = cls.staticMetaObject
    for i in range(mo.propertyOffset(), mo.propertyCount()):
        name = mo.property(i).name()
        if (cls.__name__, name) in _SKIP or name in _VIRTUAL:
            continue
        getter = cls.__dict__.get(name)
        if getter is None:
            getter = next((c.__dict__[name] for c in cls.__mro__ if name in c.__dict__), None)
            if isinstance(getter, _Property):
                getter = getter.getter
        setattr(cls, name, _Property(name, getter if inspect.isroutine(getter) else None))


_slots = {}


def _arity(fn):
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _signal(obj, signature):
    name = signature.split("(")[0]
    mo = obj.metaObject()
    known = {
        bytes(mo.method(i).methodSignature()).decode()
        for i in range(mo.methodCount())
        if mo.method(i).methodType() == QtCore.QMetaMethod.MethodType.Signal
    }
    python = getattr(type(obj), "pythonSignals", ())
    if QtCore.QMetaObject.normalizedSignature(signature).data().decode() not in known and signature not in python:
        raise ValueError(f"{mo.className()} has no signal {signature}; it has {sorted(k for k in known if k.startswith(name))}")
    return getattr(obj, name)


def _connect(self, signature, target, member=None):
    signal = _signal(self, signature)
    call = target if member is None else getattr(target, member.split("(")[0])
    count = _arity(call)
    slot = (lambda *a: call(*a)) if count is None else (lambda *a: call(*a[:count]))
    signal.connect(slot)
    _slots.setdefault((shiboken6.getCppPointer(self)[0], signature), []).append((call, slot))
    return True


def _disconnect(self, signature, target=None, member=None):
    entries = _slots.get((shiboken6.getCppPointer(self)[0], signature), [])
    call = target if member is None else getattr(target, member.split("(")[0])
    for entry in [e for e in entries if target is None or e[0] == call]:
        _signal(self, signature).disconnect(entry[1])
        entries.remove(entry)
    return True


for _module in _MODULES:
    for _name in dir(_module):  # not vars(): PySide6 makes its classes on first access
        if _name.startswith("Q") and not hasattr(_this, _name):
            setattr(_this, _name, getattr(_module, _name))

for _name, _value in list(vars(_this).items()):
    if isinstance(_value, type) and issubclass(_value, QtCore.QObject) and "staticMetaObject" in dir(_value):
        _patch(_value)

# PySide6 answers obj.connect itself, before looking at the class, so the look-up is what must change
_string = {"connect": _connect, "disconnect": _disconnect}


def _hook(cls):
    original = cls.__dict__["__getattribute__"]

    def __getattribute__(self, name):
        if name not in _string:
            try:
                return original(self, name)
            except AttributeError:  # PythonQt also shows enum values on the object: process.Running
                value = getattr(type(self), name, None) if name[:1].isupper() else None
                if isinstance(value, (enum.Enum, int)):
                    return value
                raise

        def call(*args):  # PySide6 itself also asks for connect (QTimer.singleShot), in its own form
            ours = args and isinstance(args[0], str) and not args[0].startswith("2")
            return _string[name](self, *args) if ours else original(self, name)(*args)

        return call

    cls.__getattribute__ = __getattribute__


for _value in list(vars(_this).values()):
    if isinstance(_value, type) and issubclass(_value, QtCore.QObject) and "__getattribute__" in _value.__dict__:
        _hook(_value)

QtCore.QObject.className = lambda self: self.metaObject().className()
QtCore.QObject.name = property(lambda self: self.objectName, lambda self, v: self.setObjectName(v))
QtCore.QObject.delete = lambda self: shiboken6.delete(self)

_customWidgets = {}


def registerCustomWidget(cls):
    _customWidgets[cls.__name__] = cls
    return cls


@functools.cache
def _properties(cls):
    """Looked up once: PySide forgets a class's description when the last of its widgets goes."""
    described = cls.staticMetaObject
    return frozenset(described.property(index).name() for index in range(described.propertyCount()))


def _checkProperties(tree):
    """A property that the class does not have is set all the same, and has no effect."""
    for widget in tree.iter("widget"):
        kind = widget.get("class")
        known = _customWidgets.get(kind) or getattr(_this, kind, QtWidgets.QFrame)
        for given in widget.findall("property"):
            if given.get("stdset") != "0" and given.get("name") not in _properties(known):
                raise RuntimeError(f"{kind} {widget.get('name')!r} has no property {given.get('name')!r}")


class QUiLoader(QtUiTools.QUiLoader):
    """Knows the stand-ins; makes the .ui file's scene connections itself, as their types are Python's."""

    def __init__(self, parent=None):
        super().__init__(parent)
        for cls in _customWidgets.values():
            self.registerCustomWidget(cls)

    def load(self, device, parent=None):
        import xml.etree.ElementTree as ET

        text = bytes(device.readAll())
        tree = ET.fromstring(text)
        used = {w.get("class") for w in tree.iter("widget")}
        unknown = sorted(c for c in used if not hasattr(_this, c) and c not in _customWidgets and c != "Line")
        if unknown:
            raise RuntimeError(f"the host has no stand-in for {unknown}")
        _checkProperties(tree)
        connections = []
        for parentElement in tree.iter("connections"):
            for c in list(parentElement):
                if "vtkMRML" in c.findtext("signal"):
                    connections.append([c.findtext(k) for k in ("sender", "signal", "receiver", "slot")])
                    parentElement.remove(c)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        root = super().load(buffer, parent)
        for sender, signal, receiver, slot in connections:
            find = lambda n: root if root.objectName == n else root.findChild(QtCore.QObject, n)
            _connect(find(sender), signal, find(receiver), slot)
        return root


_this.QUiLoader = QUiLoader
