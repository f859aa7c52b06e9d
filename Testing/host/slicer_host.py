"""Makes `import slicer` (slicer-core's real MRML) look like the application's, for tests."""

import atexit
import importlib
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import ctk
import qt
import shiboken6
import slicer
import vtk
from ctk import _attribute
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

# --- qMRML widgets ---------------------------------------------------------------------------


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)
    pythonSignals = ("mrmlSceneChanged(vtkMRMLScene*)",)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(qMRMLWidget):
    pass


class _SortFilterProxyModel(QtCore.QObject):
    """As much of qMRMLSortFilterProxyModel as hides single nodes."""

    def _setHiddenNodeIDs(self, value):
        self._hiddenNodeIDs = tuple(value)
        self.parent()._refresh()

    hiddenNodeIDs = Property("QStringList", lambda s: getattr(s, "_hiddenNodeIDs", ()), _setHiddenNodeIDs)


class _SceneCombo(QtWidgets.QWidget):
    """What the node selectors share: the nodes of a scene that pass the filters, by ID, live."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._tags, self._attributes = None, [], []
        self._proxy = _SortFilterProxyModel(self)
        self.setEnabled(False)

    def sortFilterProxyModel(self):
        return self._proxy

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        self.setEnabled(scene is not None)
        if scene is not None:
            for event in (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndCloseEvent,
                scene.EndImportEvent,
                scene.EndBatchProcessEvent,
            ):
                self._tags.append(scene.AddObserver(event, self._onScene))
        self._refresh()

    def _onScene(self, caller, event):
        if shiboken6.isValid(self):
            self._refresh()
        else:  # the C++ widget is gone, this Python half is not
            for tag in self._tags:
                caller.RemoveObserver(tag)
            self._tags = []

    def addAttribute(self, nodeType, name, value=None):
        self._attributes.append((nodeType, name, value))
        self._refresh()

    def removeAttribute(self, nodeType, name):
        self._attributes = [a for a in self._attributes if a[:2] != (nodeType, name)]
        self._refresh()

    def _accepts(self, node):
        if (node.GetHideFromEditors() and not self.showHidden) or node.GetID() in self._proxy.hiddenNodeIDs:
            return False
        for nodeType in self.nodeTypes:
            if node.IsA(nodeType) if self.showChildNodeTypes else node.GetClassName() == nodeType:
                break
        else:
            return False
        if any(node.IsA(t) for t in self.hideChildNodeTypes):
            return False
        for nodeType, name, value in self._attributes:
            if node.IsA(nodeType) and (
                node.GetAttribute(name) is None or (value is not None and node.GetAttribute(name) != value)
            ):
                return False
        return True

    def nodes(self):
        if self._scene is None or self._scene.IsClosing():
            return []
        return [n for i in range(self._scene.GetNumberOfNodes()) for n in [self._scene.GetNthNode(i)] if self._accepts(n)]

    def nodeCount(self):
        return len(self.nodes())

    def nodeFromIndex(self, index):
        nodes = self.nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def _setNodeTypes(self, value):
        self._nodeTypes = tuple(value)
        self._refresh()

    nodeTypes = Property("QStringList", lambda s: getattr(s, "_nodeTypes", ()), _setNodeTypes)  # PythonQt: a tuple
    setNodeTypes = _setNodeTypes
    _refreshing = lambda self, value: self._refresh()
    showHidden, setShowHidden = _attribute("showHidden", bool, False, _refreshing)
    showChildNodeTypes, setShowChildNodeTypes = _attribute("showChildNodeTypes", bool, True, _refreshing)
    hideChildNodeTypes, setHideChildNodeTypes = _attribute("hideChildNodeTypes", "QStringList", [], _refreshing)


class qMRMLNodeComboBox(_SceneCombo):
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    pythonSignals = (
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeChanged(bool)",
        "currentNodeIDChanged(QString)",
        "nodeActivated(vtkMRMLNode*)",
        "nodeAdded(vtkMRMLNode*)",
        "nodeAddedByUser(vtkMRMLNode*)",
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox()
        layout.addWidget(self._combo)
        self._currentID, self._filling = "", False
        self._combo.activated.connect(self._onActivated)

    def _refresh(self):
        if not hasattr(self, "_combo"):
            return
        self._filling = True
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        nodes = self.nodes()
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        typeName = self.nodeTypes[0].replace("vtkMRML", "").replace("Node", "") if self.nodeTypes else ""
        if self.addEnabled and self._scene is not None:
            self._combo.addItem(f"Create new {typeName}", "<add>")
        if self.renameEnabled and self._currentID:
            self._combo.addItem(f"Rename current {typeName}", "<rename>")
        if self.removeEnabled and self._currentID:
            self._combo.addItem(f"Delete current {typeName}", "<remove>")
        self._filling = False
        ids = [n.GetID() for n in nodes]
        if self._currentID not in ids:
            # Nodes that are added are not selected by themselves, but where one that was chosen goes and there is no entry for
            # "none", the list stands on another node, as every list of Qt does.
            isGone = bool(self._currentID) and not self.noneEnabled and ids
            self._select(ids[0] if isGone else "")
        else:
            self._combo.setCurrentIndex(self._combo.findData(self._currentID))

    def _select(self, nodeID):
        index = self._combo.findData(nodeID)
        self._combo.setCurrentIndex(index if nodeID or self.noneEnabled else -1)
        if nodeID != self._currentID:
            self._currentID = nodeID
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(nodeID)

    def _onActivated(self, index):
        data = self._combo.itemData(index)
        if data == "<add>":
            node = self.addNode()
            self.nodeAddedByUser.emit(node)
        elif data == "<remove>":
            self.removeCurrentNode()
        elif data == "<rename>":
            self._refresh()
        else:
            self._select(data or "")
            self.nodeActivated.emit(self.currentNode())

    def currentNode(self):
        return self._scene.GetNodeByID(self._currentID) if self._scene is not None and self._currentID else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, nodeID):
        self._refresh()
        self._select(nodeID if nodeID in [n.GetID() for n in self.nodes()] else "")

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    def addNode(self, nodeType=None):
        nodeType = nodeType or self.nodeTypes[0]
        node = self._scene.CreateNodeByClass(nodeType)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self.baseName or node.GetNodeTagName()))
        for type_, name, value in self._attributes:
            if node.IsA(type_):
                node.SetAttribute(name, value)
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        return node

    def setNodeTypeLabel(self, label, nodeType):
        pass

    def removeCurrentNode(self):
        self._scene.RemoveNode(self.currentNode())

    _refreshing = lambda self, value: self._refresh()
    currentNodeID = Property(str, lambda s: s._currentID, setCurrentNodeID)
    noneEnabled, setNoneEnabled = _attribute("noneEnabled", bool, False, _refreshing)
    addEnabled, setAddEnabled = _attribute("addEnabled", bool, True, _refreshing)
    removeEnabled, setRemoveEnabled = _attribute("removeEnabled", bool, True, _refreshing)
    editEnabled, setEditEnabled = _attribute("editEnabled", bool, False)
    renameEnabled, setRenameEnabled = _attribute("renameEnabled", bool, False, _refreshing)
    selectNodeUponCreation, setSelectNodeUponCreation = _attribute("selectNodeUponCreation", bool, True)
    noneDisplay, setNoneDisplay = _attribute("noneDisplay", str, "None", _refreshing)
    baseName, setBaseName = _attribute("baseName", str, "")


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Shows the names of what is checked; the boxes are in its list."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._checked = []
        self._combo.setPlaceholderText("Select nodes")
        self._combo.activated.disconnect()
        self._combo.model().itemChanged.connect(self._onItem)

    def _refresh(self):
        super()._refresh()
        if not hasattr(self, "_checked"):
            return
        self._filling = True
        nodes = {node.GetID(): node for node in self.nodes()}
        self._checked = [one for one in self._checked if one in nodes]
        for row in range(self._combo.count):
            item = self._combo.model().item(row)
            if item.data(QtCore.Qt.ItemDataRole.UserRole) in nodes:
                isChecked = item.data(QtCore.Qt.ItemDataRole.UserRole) in self._checked
                item.setCheckable(True)
                item.setCheckState(QtCore.Qt.CheckState.Checked if isChecked else QtCore.Qt.CheckState.Unchecked)
        self._combo.setCurrentIndex(-1)
        self._combo.setPlaceholderText(", ".join(nodes[one].GetName() for one in self._checked) or "None")
        self._filling = False

    def _onItem(self, item):
        if self._filling:
            return
        one = item.data(QtCore.Qt.ItemDataRole.UserRole)
        self._checked = [other for other in self._checked if other != one]
        if item.checkState() == QtCore.Qt.CheckState.Checked:
            self._checked.append(one)
        QtCore.QTimer.singleShot(0, lambda: shiboken6.isValid(self) and self._refresh())
        self.checkedNodesChanged.emit()

    def checkedNodes(self):
        return tuple(node for node in map(self._scene.GetNodeByID, self._checked) if node) if self._scene else ()

    def setCheckState(self, node, state):
        for row in range(self._combo.count):
            if self._combo.itemData(row) == node.GetID():
                self._combo.model().item(row).setCheckState(state)


class qMRMLSubjectHierarchyComboBox(ctk.ctkComboBox):
    """A list in the place of the application's tree: the items of the subject hierarchy, each after the names of those it lies in."""

    currentItemChanged = Signal(object)
    currentItemModified = Signal(object)
    pythonSignals = ("currentItemChanged(vtkIdType)", "currentItemModified(vtkIdType)")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._tags, self._item, self._types, self._hidden = None, [], 0, (), ()
        self.activated.connect(lambda index: self._select(self.itemData(index) or 0))

    def mrmlScene(self):
        return self._scene

    def subjectHierarchyNode(self):
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene) if self._scene else None

    def setMRMLScene(self, scene):
        self._ignore()
        self._scene = scene
        if scene is not None:
            self._follow()
        self._refresh()

    def setNodeTypes(self, types):
        self._types = tuple(types)
        self._refresh()

    def setHideChildNodeTypes(self, types):
        self._hidden = tuple(types)
        self._refresh()

    def currentItem(self):
        return self._item

    def setCurrentItem(self, item):
        self._refresh()
        self._select(item if self.findData(item) >= 0 else 0)

    def clearSelection(self):
        self._select(0)

    def _follow(self):
        node = self.subjectHierarchyNode()
        events = ("ItemAdded", "ItemRemoved", "ItemModified", "ItemReparented")
        for event in events:
            event = getattr(node, f"SubjectHierarchy{event}Event")
            self._tags.append((node, node.AddObserver(event, self._onHierarchy)))
        self._tags.append((self._scene, self._scene.AddObserver(self._scene.EndCloseEvent, self._onSceneClosed)))

    def _ignore(self):
        for node, tag in self._tags:
            node.RemoveObserver(tag)
        self._tags = []

    def _onHierarchy(self, *_):
        if shiboken6.isValid(self):
            self._refresh()
        else:
            self._ignore()

    def _onSceneClosed(self, *_):
        """The next scene has a hierarchy of its own."""
        if shiboken6.isValid(self):
            self.setMRMLScene(self._scene)
        else:
            self._ignore()

    def _accepts(self, node):
        if node is None:
            return True
        isHidden = node.GetHideFromEditors() or any(node.IsA(one) for one in self._hidden)
        return not isHidden and (not self._types or any(node.IsA(one) for one in self._types))

    def _offered(self):
        hierarchy = None if self._scene is None or self._scene.IsClosing() else self.subjectHierarchyNode()
        if hierarchy is None:
            return []
        items = vtk.vtkIdList()
        hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
        found = [items.GetId(place) for place in range(items.GetNumberOfIds())]
        return [(self._title(hierarchy, one), one) for one in found if self._accepts(hierarchy.GetItemDataNode(one))]

    def _title(self, hierarchy, item):
        names = []
        while item and item != hierarchy.GetSceneItemID():
            names.insert(0, hierarchy.GetItemName(item))
            item = hierarchy.GetItemParent(item)
        return " / ".join(names)

    def _refresh(self):
        offered = self._offered()
        self.clear()
        if self.noneEnabled:
            self.addItem(self.noneDisplay, 0)
        for title, item in offered:
            self.addItem(title, item)
        self._select(self._item if self._item in [item for _, item in offered] else 0)

    def _select(self, item):
        self.setCurrentIndex(self.findData(item))
        if item != self._item:
            self._item = item
            self.currentItemChanged.emit(item)

    _refreshing = lambda self, value: self._refresh()
    noneEnabled, setNoneEnabled = _attribute("noneEnabled", bool, False, _refreshing)
    noneDisplay, setNoneDisplay = _attribute("noneDisplay", str, "None", _refreshing)


class qMRMLSliderWidget(ctk.ctkSliderWidget):
    def setMRMLScene(self, scene):
        pass


class qMRMLSpinBox(ctk.ctkDoubleSpinBox):
    def setMRMLScene(self, scene):
        pass


class qMRMLRangeWidget(ctk.ctkRangeWidget):
    def setMRMLScene(self, scene):
        pass


class qMRMLCollapsibleButton(ctk.ctkCollapsibleButton):
    def setMRMLScene(self, scene):
        pass


class qMRMLSegmentationShow3DButton(QtWidgets.QPushButton):
    def setSegmentationNode(self, node):
        pass

    def setMRMLScene(self, scene):
        pass


for _cls in (
    qMRMLCollapsibleButton,
    qMRMLSegmentationShow3DButton,
    qMRMLWidget,
    qSlicerWidget,
    qMRMLNodeComboBox,
    qMRMLCheckableNodeComboBox,
    qMRMLSubjectHierarchyComboBox,
    qMRMLSliderWidget,
    qMRMLSpinBox,
    qMRMLRangeWidget,
):
    qt.registerCustomWidget(_cls)
    setattr(slicer, _cls.__name__, _cls)


class ModulePanel(QtWidgets.QScrollArea):
    """What a module's widget lies in: below its help, in an area that scrolls, of which a screen shows only a part."""

    def __init__(self, representation):
        super().__init__()
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        inside = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(inside)
        layout.setContentsMargins(0, 0, 0, 0)
        help_ = ctk.ctkCollapsibleButton("Help & Acknowledgement")
        help_.setCollapsed(True)
        layout.addWidget(help_)
        layout.addWidget(representation)
        layout.addStretch(1)
        self.setWidget(inside)

    def isInSight(self, widget):
        """Whether all of a widget lies within what is visible."""
        if not widget.isVisible():
            return False
        top = widget.mapTo(self.viewport(), QtCore.QPoint(0, 0)).y()
        return top >= 0 and top + widget.height <= self.viewport().height


# --- application -----------------------------------------------------------------------------


class ModuleManager(QtCore.QObject):
    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)
    pythonSignals = ("moduleLoaded(QString)", "moduleAboutToBeUnloaded(QString)")

    def module(self, name):
        return getattr(slicer.modules, name.lower(), None)

    def modulesNames(self):
        return [m.name for m in vars(slicer.modules).values() if isinstance(m, Module)]


class App(QtCore.QObject):
    startupCompleted = Signal()
    aboutToQuit = Signal()  # not Qt's own, which comes at the end of every loop of `inLoop`
    applicationName, mainApplicationName = "Slicer", "Slicer"
    applicationVersion, majorVersion, minorVersion, revision, os, arch = "5.12.3", 5, 12, "34567", "linux", "amd64"
    pythonSignals = ("startupCompleted()", "aboutToQuit()", "lastWindowClosed()")

    def __init__(self):
        self.qapp = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        super().__init__()
        self.qapp.setOrganizationName("stand-in")
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        self.temporaryPath = tempfile.mkdtemp(prefix="host-")
        atexit.register(shutil.rmtree, self.temporaryPath, ignore_errors=True)
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, self.temporaryPath)
        self._testing, self._manager, self.cursors = False, ModuleManager(), 0
        self.slicerHome = self.temporaryPath
        self.slicerUserSettingsFilePath = self.temporaryPath + "/Slicer.ini"
        self.documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def testingEnabled(self):
        return self._testing

    def processEvents(self, *a):
        self.qapp.processEvents(*a)

    def setOverrideCursor(self, c):
        self.cursors += 1

    def restoreOverrideCursor(self):
        self.cursors -= 1

    def topLevelWidgets(self):
        return self.qapp.topLevelWidgets()

    def moduleManager(self):
        return self._manager

    def layoutManager(self):
        return None

    def mrmlScene(self):
        return slicer.mrmlScene

    def applicationLogic(self):
        return self._applicationLogic

    def userSettings(self):
        return qt.QSettings()

    settings = revisionUserSettings = userSettings

    def translate(self, context, text):
        return text

    def moduleDocumentationUrl(self, name):
        return self.documentationBaseUrl + name

    def startupEnvironment(self):
        return qt.QProcessEnvironment.systemEnvironment()

    def restart(self):
        raise RuntimeError("restart asked")


class Module:
    """slicer.modules.<name>, as qSlicerScriptedLoadableModule shows it to the module."""

    def __init__(self, name, path):
        self.name, self.path = name, str(path)
        self.title = self.categories = self.dependencies = self.contributors = self.helpText = self.acknowledgementText = None
        self.icon, self.hidden, self.index = None, False, -1

    def widgetRepresentation(self):
        if not hasattr(self, "_representation"):
            parent = qSlicerWidget()
            parent.setLayout(qt.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
            parent.isEntered = False
            parent.self = lambda: self.widget
            parent.reload = self._setup
            self._representation = parent
            self._setup()
        return self._representation

    def _setup(self):
        """Also what the application does on Reload, without entering again."""
        self.widget = getattr(sys.modules[self.name], self.name + "Widget")(self._representation)
        setattr(slicer.modules, self.name + "Widget", self.widget)
        self.widget.setup()

    def enter(self):
        self.widgetRepresentation().isEntered = True
        getattr(self.widget, "enter", lambda: None)()

    def exit(self):
        self.widgetRepresentation().isEntered = False
        getattr(self.widget, "exit", lambda: None)()


def _giveCache(scene):
    """Where a scene bundle is unpacked."""
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    cache.SetRemoteCacheDirectory(slicer.app.temporaryPath)
    cache.SetMRMLScene(scene)
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)


def start(pure=None, testing=False):
    """`pure`: a folder with Slicer's own pure-Python slicer/* files to use under the stand-in."""
    if hasattr(slicer, "app"):
        return slicer
    slicer.app = App()
    slicer.app._testing = testing
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    _giveCache(scene)
    slicer.app._applicationLogic = slicer.vtkMRMLApplicationLogic()
    slicer.app._applicationLogic.SetMRMLScene(scene)
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    for name in ("modules", "moduleNames"):
        module = types.ModuleType("slicer." + name)
        sys.modules["slicer." + name] = module
        setattr(slicer, name, module)
    if pure:
        slicer.__path__.append(str(pure))
    return slicer


def loadModule(path):
    path = pathlib.Path(path)
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    python = importlib.util.module_from_spec(spec)
    sys.modules[name] = python
    spec.loader.exec_module(python)
    module = Module(name, path)
    setattr(slicer.modules, name.lower(), module)
    setattr(slicer.modules, name + "Instance", getattr(python, name)(module))
    slicer.app.moduleManager().moduleLoaded.emit(name)
    return module


def inLoop(function):
    """Run `function` inside a running event loop, as everything in Slicer does (deleteLater before exec_ needs it)."""
    result = {}

    def body():
        try:
            result["value"] = function()
        except BaseException as error:  # noqa: BLE001 - handed on below
            result["error"] = error
        slicer.app.qapp.exit()

    QtCore.QTimer.singleShot(0, body)
    slicer.app.qapp.exec()
    if "error" in result:
        raise result["error"]
    return result["value"]
