"""RegistrationNet in 3D Slicer: the module, its parameters, its widget and its logic. The work is RegistrationNetLib's."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# In the source tree the library lies beside the module's folder; installed, beside this file, and is found already.
if (Path(__file__).parents[1] / "RegistrationNetLib" / "__init__.py").is_file():
    sys.path.append(str(Path(__file__).parents[1]))

from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration.methods import METHODS
from RegistrationNetLib.registration.size import Size, inverse_shape
from RegistrationNetLib.slicer_bridge import dependencies
from RegistrationNetLib.slicer_bridge.client import Client
from RegistrationNetLib.slicer_bridge.job import JobState, RegistrationJob, RegistrationResult
from RegistrationNetLib.slicer_bridge.logic import REFINEMENTS, RegistrationLogic
from RegistrationNetLib.slicer_bridge.panel_devices import DevicePanel
from RegistrationNetLib.slicer_bridge.panel_inputs import modality_of, pair_in_view
from RegistrationNetLib.slicer_bridge.panel_models import ModelPanel
from RegistrationNetLib.slicer_bridge.panel_results import ResultPanel, recalled, remembered
from RegistrationNetLib.slicer_bridge.panel_run import RunPanel
from RegistrationNetLib.slicer_bridge.panel_segments import SIDES, SegmentPanel
from RegistrationNetLib.slicer_bridge.panel_words import CHOICES, gigabytes
from RegistrationNetLib.slicer_bridge.sample_data import TUMOUR_PAIR, register_sample_data

# The console finds these here.
__all__ = [
    "JobState",
    "RegistrationJob",
    "RegistrationNet",
    "RegistrationNetLogic",
    "RegistrationNetWidget",
    "RegistrationResult",
]

POLL_MSEC = 20
REQUIREMENTS = Path(__file__).parent / "Resources" / "requirements.txt"

# Slicer writes the absence of a node only where the union says so.
Mask = Union[slicer.vtkMRMLLabelMapVolumeNode, slicer.vtkMRMLSegmentationNode, None]


class RegistrationNet(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("RegistrationNet")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["The RegistrationNet developers"]
        parent.helpText = _(
            "Registers two volumes by deep networks or direct optimization, and says in numbers whether to trust the result."
        )
        parent.acknowledgementText = _("The published networks are named with their papers in the list of models.")
        slicer.app.connect("startupCompleted()", register_sample_data)


@parameterNodeWrapper
class RegistrationNetParameterNode:
    """The choices of the panel, saved with the scene."""

    fixedVolume: slicer.vtkMRMLScalarVolumeNode
    movingVolume: slicer.vtkMRMLScalarVolumeNode
    fixedMask: Mask
    movingMask: Mask
    fixedMaskSegment: str = ""
    movingMaskSegment: str = ""
    fixedLabels: Mask
    movingLabels: Mask
    fixedLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    movingLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    initialTransform: slicer.vtkMRMLTransformNode
    model: str = "direct"
    alignment: Annotated[str, Choice(list(CHOICES["alignment"]))] = "default"
    refinement: Annotated[str, Choice(list(CHOICES["refinement"]))] = "default"
    hasOwnSteps: bool = False
    steps: Annotated[int, WithinRange(0, 1000)] = 50
    similarity: Annotated[str, Choice(list(CHOICES["similarity"]))] = "auto"
    fixedModality: Annotated[str, Choice(list(CHOICES["fixedModality"]))] = "other"
    movingModality: Annotated[str, Choice(list(CHOICES["movingModality"]))] = "other"
    smoothness: Annotated[float, WithinRange(0.1, 10.0)] = 1.0
    device: str = "auto"
    separateParts: bool = False
    mirrored: bool = False
    conserveMass: bool = False


class RegistrationNetWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: binds the widgets to the parameter node, and the buttons to the logic. Its parts are RegistrationNetLib's panel_*."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.job = None
        self._parameterNode = None
        self._disconnectGui = None

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/RegistrationNet.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = RegistrationNetLogic()
        self.runPanel = RunPanel(self.ui)
        tell = self.runPanel.tell
        self.resultPanel = ResultPanel(self.ui, self.logic, tell=tell, log=self.runPanel.log)
        self.modelPanel = ModelPanel(
            self.ui, self.logic, tell=tell, on_chosen=self._onModelChosen, on_weights=self._update, may_work=self._mayWork
        )
        self.devicePanel = DevicePanel(
            self.ui,
            self.logic,
            tell=tell,
            on_chosen=self._onDeviceChosen,
            on_found=self._update,
            is_installed=lambda: not _lacking(),
            may_work=self._mayWork,
        )
        self.segmentPanel = SegmentPanel(self.ui, self._onSegmentChosen)
        self._connect()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        if self.logic is None:
            # Its setup had failed.
            return
        self.job = None
        self.setParameterNode(None)
        self.modelPanel.close()
        self.devicePanel.close()
        self.logic.close()
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()

    def exit(self) -> None:
        self.resultPanel.pause()

    def onSceneStartClose(self, *_caller: Any) -> None:
        self.setParameterNode(None)

    def onSceneEndClose(self, *_caller: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())
        self._proposeVolumes()

    def setParameterNode(self, node: Any) -> None:
        """Show the choices and the result that a parameter node holds; None between two scenes."""
        if self._parameterNode is not None:
            self._disconnectGui()
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self._update)
        self._parameterNode = node
        if node is None:
            self.resultPanel.show(None)
            self.ui.registerButton.setEnabled(False)
            return
        self._disconnectGui = _connectedGui(node, self.ui)
        self._nameChoices()
        self.addObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self._update)
        found = recalled(node.parameterNode)
        self.resultPanel.show(None if found is None else RegistrationResult(*found))
        self._update()

    def onRegister(self) -> None:
        self.runPanel.tell(None)
        if not self._mayWork():
            return
        try:
            self.job = self.logic.startFromParameters(onChanged=self._onJob)
        except Exception as error:  # noqa: BLE001, told in the panel
            self.runPanel.tell(error)
            return
        names = (self._parameterNode.movingVolume.GetName(), self._parameterNode.fixedVolume.GetName())
        self.resultPanel.show(None)
        self.runPanel.begin(
            _("{moving} to {fixed} by {model}").format(moving=names[0], fixed=names[1], model=self._model["title"])
        )
        self._update()

    def onCancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def onInstall(self) -> None:
        """The user has agreed."""
        self.runPanel.tell(None)
        self.ui.consentBox.setVisible(False)
        try:
            dependencies.ensure(REQUIREMENTS, slicer, ask=False)
        except Exception as error:  # noqa: BLE001, told in the panel
            self.runPanel.tell(error)
            return
        self._update()

    @property
    def _model(self) -> Any:
        return self.modelPanel.card

    def _connect(self) -> None:
        ui = self.ui
        for button, slot in (
            (ui.registerButton, self.onRegister),
            (ui.cancelButton, self.onCancel),
            (ui.installButton, self.onInstall),
            (ui.laterButton, lambda: ui.consentBox.setVisible(False)),
        ):
            button.connect("clicked(bool)", slot)
        ui.fixedSelector.connect("nodeActivated(vtkMRMLNode*)", lambda node: self._guessModality("fixed", node))
        ui.movingSelector.connect("nodeActivated(vtkMRMLNode*)", lambda node: self._guessModality("moving", node))
        ui.consentBox.setVisible(False)

    def _nameChoices(self) -> None:
        """Binding has filled the lists with the values; people see words."""
        for parameter, names in CHOICES.items():
            combo = getattr(self.ui, f"{parameter}Combo")
            for index, words in enumerate(names.values()):
                combo.setItemText(index, words)

    def _proposeVolumes(self) -> None:
        node = self._parameterNode
        if node.fixedVolume is None and node.movingVolume is None:
            node.fixedVolume, node.movingVolume = pair_in_view(slicer.mrmlScene)
            self._guessModality("fixed", node.fixedVolume)
            self._guessModality("moving", node.movingVolume)

    def _guessModality(self, side: str, volume: Any) -> None:
        if volume is not None:
            setattr(self._parameterNode, f"{side}Modality", modality_of(volume))

    def _onModelChosen(self, name: str) -> None:
        node = self._parameterNode
        if node is not None:
            node.model = name

    def _onDeviceChosen(self, name: str) -> None:
        node = self._parameterNode
        if node is not None:
            node.device = name

    def _onSegmentChosen(self, side: str, segment: str) -> None:
        if self._parameterNode is not None:
            setattr(self._parameterNode, f"{side}MaskSegment", segment)

    def _update(self, *_caller: Any) -> None:
        """Show what follows from the choices, and whether the run can start."""
        node = self._parameterNode
        if node is None:
            return
        if node.model != self._model["name"]:
            if not self.modelPanel.knows(node.model):
                node.model = self.modelPanel.simplest
                return
            self.modelPanel.show(node.model)
        self.devicePanel.show(node.device)
        for side in SIDES:
            self.segmentPanel.show(side, getattr(node, f"{side}Mask"), getattr(node, f"{side}MaskSegment"))
        if self.resultPanel.result is not None and recalled(node.parameterNode) is None:
            self.resultPanel.show(None)
        isRunning, missing = self.job is not None, self._whatIsMissing()
        self.ui.registerButton.setEnabled(not isRunning and not missing)
        self.ui.cancelButton.setEnabled(isRunning)
        self.ui.stepsSpinBox.setEnabled(node.hasOwnSteps)
        self.ui.smoothnessSlider.setEnabled(self._refinement != "none")
        self.ui.mirroredCheckBox.setEnabled(node.mirrored or self._model["prepare"]["mirror_axis"] is not None)
        self.ui.conserveMassCheckBox.setEnabled(node.conserveMass or (node.fixedModality, node.movingModality) == ("ct", "ct"))
        self._describeOutputs()
        if not isRunning:
            self.runPanel.show_idle(missing or self._memoryWarning())

    def _whatIsMissing(self) -> str:
        """What the user must do before the run can start, "" where nothing is missing."""
        node = self._parameterNode
        if node.fixedVolume is None or node.movingVolume is None:
            return _("Choose a fixed and a moving volume.")
        if node.fixedVolume is node.movingVolume:
            return _("Fixed and moving are the same volume. Choose two.")
        if not self.modelPanel.is_ready:
            return _("The weights of {title} are not here. Get them under Network, or choose a network that is ready.").format(
                title=self._model["title"]
            )
        if self._refinement not in ("none", *METHODS[self._model["method"]].refinements):
            return _("{title} has nothing of that kind to refine. Choose another refinement.").format(title=self._model["title"])
        if lost := self.segmentPanel.lost:
            return _("{mask} has lost the segment that was chosen. Choose another under Optional inputs.").format(
                mask=getattr(node, f"{lost[0]}Mask").GetName()
            )
        if self._model["prepare"]["mask"] == "required" and None in (node.fixedMask, node.movingMask):
            return _("{title} needs a mask of each volume. Choose them under Optional inputs.").format(title=self._model["title"])
        return ""

    @property
    def _refinement(self) -> str:
        """What is refined: what was chosen, or what the network's card says."""
        node = self._parameterNode
        if node.hasOwnSteps and node.steps == 0:
            return "none"
        return REFINEMENTS[node.refinement] or self._model["refine"]["default"]

    def _memoryWarning(self) -> str:
        """What to say of a run that will not fit, "" where it will, or nothing is known."""
        node = self._parameterNode
        onGraphics = self.devicePanel.meant(node.device).startswith("cuda")
        needed = _neededMb(node, self._model, self._refinement, onGraphics)
        free = self.devicePanel.free_mb(node.device)
        if free is None or needed <= free:
            return ""
        return _(
            "This needs about {needed} of memory; {device} has {free} free. Crop the volumes, or choose another network or refinement."
        ).format(needed=gigabytes(needed), device=self.devicePanel.words_for(node.device), free=gigabytes(free))

    def _describeOutputs(self) -> None:
        node = self._parameterNode
        if node.fixedVolume is None or node.movingVolume is None:
            self.ui.outputsLabel.setText(_("New nodes, named after the two volumes."))
            return
        self.ui.outputsLabel.setText(
            _("New nodes, named “{moving} to {fixed}”: transform, inverse, warped volume, Jacobian, table, chart.").format(
                moving=node.movingVolume.GetName(), fixed=node.fixedVolume.GetName()
            )
        )

    def _mayWork(self) -> bool:
        """Whether everything is installed; if not, the panel asks."""
        lacking = _lacking()
        if lacking:
            self.ui.consentLabel.setText(
                _(
                    "Registration needs {packages} in Slicer's own Python. PyTorch takes 0.2 GB (processor) to 5 GB (graphics card)"
                    " on the disk, the rest a few MB. Looking around works without."
                ).format(packages=", ".join(map(_packageName, lacking)))
            )
        self.ui.consentBox.setVisible(bool(lacking))
        return not lacking

    def _onJob(self, job: RegistrationJob) -> None:
        if job is not self.job:
            return
        if not job.isFinished:
            if job.progress is not None:
                self.runPanel.show_progress(job.progress)
            return
        self.job = None
        if job.result is not None and self._parameterNode is not None:
            remembered(self._parameterNode.parameterNode, job.result)
            self.resultPanel.show(job.result)
            self.ui.warpedViewButton.click()
        self._update()
        self.runPanel.end(job.error)


def _lacking() -> list[str]:
    """What must be installed before the worker can run."""
    return dependencies.missing([dependencies.TORCH, *dependencies.requirements(REQUIREMENTS)])


def _neededMb(node: RegistrationNetParameterNode, model: Any, refine: str, onGraphics: bool) -> float:
    """About the memory of a run as chosen; 0 while a volume has no voxels."""
    fixed, moving = node.fixedVolume, node.movingVolume
    images = [volume.GetImageData() for volume in (fixed, moving)]
    if None in images:
        return 0.0
    shapes = [image.GetDimensions() for image in images]
    inverse = inverse_shape(shapes[1], moving.GetSpacing(), fixed.GetSpacing())
    card = card_named(model["name"])
    return METHODS[card.method].memory_mb(Size(shapes[0], inverse, card, refine, on_graphics=onGraphics))


def _packageName(requirement: str) -> str:
    """PyTorch of torch>=2.2."""
    name = re.split("[<>=! ]", requirement)[0]
    return "PyTorch" if name == "torch" else name


def _connectedGui(node: RegistrationNetParameterNode, ui: Any) -> Callable[[], None]:
    """Bind the widgets to the node; what is returned undoes it.

    Slicer 5.10 forgets one observer when it unbinds, which then calls what Python has collected already.
    """
    tags: list[int] = []

    def addObserver(*given: Any) -> int:
        tags.append(type(node).AddObserver(node, *given))
        return tags[-1]

    node.AddObserver = addObserver
    try:
        guiTag = node.connectGui(ui)
    finally:
        del node.AddObserver

    def disconnect() -> None:
        node.disconnectGui(guiTag)
        for tag in tags:
            node.RemoveObserver(tag)

    return disconnect


class RegistrationNetLogic(RegistrationLogic, ScriptedLoadableModuleLogic):
    """What the console and the panel call. One worker process serves it, started when it is first needed."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        timer = qt.QTimer()
        timer.setInterval(POLL_MSEC)
        RegistrationLogic.__init__(self, Client(), timer, REQUIREMENTS)
        timer.connect("timeout()", self.poll)
        # Slicer may end without running what Python has to do at exit.
        slicer.app.connect("aboutToQuit()", self.close)

    def close(self) -> None:
        """End the worker; registrations under way are cancelled."""
        slicer.app.disconnect("aboutToQuit()", self.close)
        RegistrationLogic.close(self)

    def getParameterNode(self) -> RegistrationNetParameterNode:
        return RegistrationNetParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))


class RegistrationNetTest(ScriptedLoadableModuleTest):
    """What runs inside Slicer by its own test runner."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()
        register_sample_data()

    def test_moduleIsLoadedAndListsItsModels(self) -> None:
        self.assertIn("direct", [model["name"] for model in slicer.util.getModuleLogic("RegistrationNet").models()])

    def test_theOpenPanelHasStartedNothing(self) -> None:
        widget = slicer.modules.registrationnet.widgetRepresentation().self()
        self.assertNotIn("torch", sys.modules)
        self.assertEqual(len(widget.logic.client.unfinished), 0)
        self.assertFalse(widget.ui.registerButton.enabled)

    def test_sampleVolumesAreRegisteredFromThePanel(self) -> None:
        # Another module, there when Slicer runs.
        import SampleData

        fixed, moving = SampleData.downloadSamples(TUMOUR_PAIR)
        widget = slicer.modules.registrationnet.widgetRepresentation().self()
        widget.initializeParameterNode()
        chosen = widget.logic.getParameterNode()
        chosen.fixedVolume, chosen.movingVolume = fixed, moving
        chosen.hasOwnSteps, chosen.steps = True, 5
        widget.ui.registerButton.click()
        deadline = time.monotonic() + 300
        while widget.job is not None and time.monotonic() < deadline:
            slicer.app.processEvents()
            time.sleep(0.02)
        self.assertIsNone(widget.job)
        self.assertIsNotNone(widget.resultPanel.result, widget.ui.messageLabel.text)
        after = widget.resultPanel.result.report["similarity"]
        self.assertGreater(after["after"], after["before"])
        for view in ("warped", "checkerboard", "difference", "jacobian", "grid"):
            getattr(widget.ui, f"{view}ViewButton").click()
        self.assertTrue(widget.ui.messageLabel.isHidden(), widget.ui.messageLabel.text)
