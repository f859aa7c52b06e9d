"""RegistrationNet in 3D Slicer: the module, its parameters, its widget and its logic. The work is RegistrationNetLib's."""

import sys
import time
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

from RegistrationNetLib.slicer_bridge.client import Client
from RegistrationNetLib.slicer_bridge.logic import RegistrationLogic
from RegistrationNetLib.slicer_bridge.panel_binding import connected_gui
from RegistrationNetLib.slicer_bridge.panel_checks import (
    about_frame,
    frames_miss,
    memory_warning,
    not_for_several,
    refinement_of,
    what_is_missing,
    what_several_miss,
)
from RegistrationNetLib.slicer_bridge.panel_correct import CorrectPanel
from RegistrationNetLib.slicer_bridge.panel_devices import DevicePanel
from RegistrationNetLib.slicer_bridge.panel_inputs import modality_of, name_in_tips, pair_in_view
from RegistrationNetLib.slicer_bridge.panel_installation import InstallationPanel
from RegistrationNetLib.slicer_bridge.panel_models import ModelPanel
from RegistrationNetLib.slicer_bridge.panel_presets import PresetPanel
from RegistrationNetLib.slicer_bridge.panel_results import ResultPanel
from RegistrationNetLib.slicer_bridge.panel_run import RunPanel
from RegistrationNetLib.slicer_bridge.panel_segments import SIDES, SegmentPanel
from RegistrationNetLib.slicer_bridge.panel_sequence import SequencePanel
from RegistrationNetLib.slicer_bridge.panel_several import SeveralPanel
from RegistrationNetLib.slicer_bridge.panel_sight import bring_into_sight
from RegistrationNetLib.slicer_bridge.panel_words import CHOICES
from RegistrationNetLib.slicer_bridge.presets import settings_of
from RegistrationNetLib.slicer_bridge.sample_data import TUMOUR_PAIR, register_sample_data
from RegistrationNetLib.slicer_bridge.scene_job import JobState, RegistrationJob
from RegistrationNetLib.slicer_bridge.scene_record import RegistrationResult

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
# Which result of the scene the panel shows, as a reference of the parameter node.
RESULT = "RegistrationNet.Result"
SECTIONS = ("moreInputs", "refinement", "device", "outputs", "several", "log", "numbers", "use")
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
    rigid: Mask
    keepVolume: Mask
    landmarks: Annotated[str, Choice(list(CHOICES["landmarks"]))] = "judge"
    tolerance: Annotated[float, WithinRange(0.1, 10.0)] = 1.0
    initialTransform: slicer.vtkMRMLTransformNode
    outputTransform: slicer.vtkMRMLGridTransformNode
    outputVolume: slicer.vtkMRMLScalarVolumeNode
    model: str = "direct"
    alignment: Annotated[str, Choice(list(CHOICES["alignment"]))] = "default"
    refinement: Annotated[str, Choice(list(CHOICES["refinement"]))] = "default"
    hasOwnSteps: bool = False
    steps: Annotated[int, WithinRange(0, 1000)] = 50
    similarity: Annotated[str, Choice(list(CHOICES["similarity"]))] = "auto"
    fixedModality: Annotated[str, Choice(list(CHOICES["fixedModality"]))] = "other"
    movingModality: Annotated[str, Choice(list(CHOICES["movingModality"]))] = "other"
    smoothness: Annotated[float, WithinRange(0.1, 10.0)] = 1.0
    # In mm; 0 leaves it to the program.
    resolution: Annotated[float, WithinRange(0.0, 20.0)] = 0.0
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
        self._makeParts()
        self._connect()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        if self.logic is None:
            # Its setup had failed.
            return
        self.job = None
        self.correctPanel.close()
        self.resultPanel.exit()
        self.severalPanel.close()
        self.setParameterNode(None)
        for part in (self.modelPanel, self.devicePanel, self.segmentPanel, self.installationPanel):
            part.close()
        self.logic.close()
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()

    def exit(self) -> None:
        self.correctPanel.close()
        self.resultPanel.exit()

    def onSceneStartClose(self, *_caller: Any) -> None:
        self.setParameterNode(None)

    def onSceneEndClose(self, *_caller: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodeRemoved(self, *_caller: Any) -> None:
        if self._parameterNode is not None and not slicer.mrmlScene.IsBatchProcessing():
            self.resultPanel.refresh()
            self._update()

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
            self.segmentPanel.close()
            self.correctPanel.close()
            self.severalPanel.forget()
            self.sequencePanel.forget()
            self.resultPanel.show("")
            self.ui.registerButton.setEnabled(False)
            self.ui.severalButton.setEnabled(False)
            return
        self._disconnectGui = connected_gui(node, self.ui)
        self._nameChoices()
        self.addObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self._update)
        self.resultPanel.show(node.parameterNode.GetNodeReferenceID(RESULT) or "")
        self._update()

    def onRegister(self) -> None:
        self.runPanel.tell(None)
        if not self.installationPanel.may_work():
            return
        try:
            self.job = self.logic.startFromParameters(onChanged=self._onJob)
        except Exception as error:  # noqa: BLE001, told in the panel
            self.runPanel.tell(error)
            return
        self.correctPanel.close()
        self._refreshSeveral()
        names = (self._parameterNode.movingVolume.GetName(), self._parameterNode.fixedVolume.GetName())
        self.resultPanel.show("")
        self.runPanel.begin(
            _("{moving} to {fixed} by {model}").format(moving=names[0], fixed=names[1], model=self.modelPanel.card["title"])
        )

    def onCancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _makeParts(self) -> None:
        self.runPanel = RunPanel(self.ui)
        tell, log, ui, logic = self.runPanel.tell, self.runPanel.log, self.ui, self.logic
        self.installationPanel = InstallationPanel(
            ui, logic, requirements=REQUIREMENTS, tell=tell, log=log, on_changed=self._update
        )
        mayWork = self.installationPanel.may_work
        self.resultPanel = ResultPanel(ui, logic, tell=tell, log=log, on_shown=self._onResultShown)
        self.correctPanel = CorrectPanel(
            ui,
            logic,
            tell=tell,
            result=lambda: self.resultPanel.result,
            on_refine=self._refineFrom,
            on_undo=lambda: self.resultPanel.show(self.resultPanel.before),
            on_flicker=self.resultPanel.flicker_with_before,
            can_undo=lambda: bool(self.resultPanel.before),
        )
        self.modelPanel = ModelPanel(
            ui, logic, tell=tell, on_chosen=lambda name: self._set("model", name), on_weights=self._update, may_work=mayWork
        )
        self.devicePanel = DevicePanel(
            ui,
            logic,
            tell=tell,
            on_chosen=lambda name: self._set("device", name),
            on_found=self._update,
            is_installed=lambda: self.installationPanel.is_installed,
            may_work=mayWork,
        )
        self.segmentPanel = SegmentPanel(
            ui, lambda side, segment: self._set(f"{side}MaskSegment", segment), on_changed=self._update
        )
        self.severalPanel = SeveralPanel(
            ui,
            logic,
            tell=tell,
            log=log,
            fixed=lambda: self._chosenVolumes()[0],
            missing=self._missingForSeveral,
            left_out=lambda: not_for_several(self._parameterNode),
            may_work=mayWork,
            on_changed=self._onSeveral,
            show=self._showOneOfSeveral,
        )
        self.sequencePanel = SequencePanel(
            ui,
            logic,
            tell=tell,
            log=log,
            chosen=self._chosenVolumes,
            missing=lambda: self._busyWords() or frames_miss(self._parameterNode, self.modelPanel),
            may_work=mayWork,
            on_changed=self._onSeveral,
            show=self._showOneOfSeveral,
        )
        self.presetPanel = PresetPanel(ui, tell=tell, on_chosen=self._onPreset, settings=self._settings)

    def _connect(self) -> None:
        ui = self.ui
        ui.registerButton.connect("clicked(bool)", self.onRegister)
        ui.cancelButton.connect("clicked(bool)", self.onCancel)
        name_in_tips(ui)
        ui.fixedSelector.connect("nodeActivated(vtkMRMLNode*)", lambda node: self._guessModality("fixed", node))
        ui.movingSelector.connect("nodeActivated(vtkMRMLNode*)", lambda node: self._guessModality("moving", node))
        for name in SECTIONS:
            section = getattr(ui, f"{name}CollapsibleButton")
            section.connect(
                "contentsCollapsed(bool)", lambda isClosed, section=section: None if isClosed else bring_into_sight(section)
            )

    def _set(self, parameter: str, value: Any) -> None:
        if self._parameterNode is not None:
            setattr(self._parameterNode, parameter, value)

    def _settings(self) -> Any:
        return None if self._parameterNode is None else settings_of(self._parameterNode)

    def _onPreset(self, preset: Any) -> None:
        node = self._parameterNode
        for parameter, value in preset.asked((node.fixedModality, node.movingModality)).items():
            if parameter != "model" or self.modelPanel.knows(value):
                setattr(node, parameter, value)

    def _refineFrom(self, fixedPoints: Any, movingPoints: Any) -> None:
        self.runPanel.tell(None)
        if not self.installationPanel.may_work():
            return
        result = self.resultPanel.result
        self.job = self.logic.startRefinement(
            result,
            fixedLandmarks=fixedPoints,
            movingLandmarks=movingPoints,
            tolerance=self._parameterNode.tolerance,
            device=self._parameterNode.device,
            onChanged=self._onJob,
        )
        self.correctPanel.set_busy(is_busy=True)
        self._refreshSeveral()
        self.runPanel.begin(
            _("{moving} to {fixed}, corrected").format(moving=result.movingNode.GetName(), fixed=result.fixedNode.GetName())
        )

    @property
    def _isSeveralRunning(self) -> bool:
        return self.severalPanel.is_running or self.sequencePanel.is_running

    def _chosenVolumes(self) -> tuple:
        node = self._parameterNode
        return (None, None) if node is None else (node.fixedVolume, node.movingVolume)

    def _busyWords(self) -> str:
        if self.job is not None or self._isSeveralRunning:
            return _("A registration is under way; this can begin after it.")
        return ""

    def _refreshSeveral(self) -> None:
        self.severalPanel.refresh()
        self.sequencePanel.refresh()

    def _missingForSeveral(self) -> str:
        if self._parameterNode is None:
            return _("There is no scene.")
        return self._busyWords() or what_several_miss(self._parameterNode, self.modelPanel, self.segmentPanel)

    def _onSeveral(self) -> None:
        """Volumes of a folder, or the frames of a sequence, have begun, got on or ended."""
        self.correctPanel.set_busy(is_busy=self._isSeveralRunning)
        self.resultPanel.refresh()
        self._update()

    def _showOneOfSeveral(self, nodeId: str) -> None:
        self.resultPanel.show(nodeId)
        if not self.correctPanel.is_open:
            self.resultPanel.show_view("warped")

    def _onResultShown(self, nodeId: str) -> None:
        if self._parameterNode is not None:
            self._parameterNode.parameterNode.SetNodeReferenceID(RESULT, nodeId or None)
        if hasattr(self, "correctPanel"):
            self.correctPanel.follow()
            self.correctPanel.refresh()

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
            self._set(f"{side}Modality", modality_of(volume))

    def _update(self, *_caller: Any) -> None:
        """Show what follows from the choices, and whether the run can start."""
        node = self._parameterNode
        if node is None:
            return
        if node.model != self.modelPanel.card["name"]:
            if not self.modelPanel.knows(node.model):
                node.model = self.modelPanel.simplest
                return
            self.modelPanel.show(node.model)
        self.devicePanel.show(node.device)
        self.presetPanel.show(node)
        for side in SIDES:
            self.segmentPanel.show(side, getattr(node, f"{side}Mask"), getattr(node, f"{side}MaskSegment"))
        self._enableOptions(node)
        self._describeOutputs(node)
        self._refreshSeveral()
        if self._isSeveralRunning:
            self.runPanel.show_idle(
                _("Several volumes are being registered: see Apply to several."),
                is_asking=self.installationPanel.is_asking,
            )
        elif self.job is None:
            missing = what_is_missing(node, self.modelPanel, self.segmentPanel)
            words = missing or memory_warning(node, self.modelPanel.card, self.devicePanel) or about_frame(node)
            self.runPanel.show_idle(words, may_start=not missing, is_asking=self.installationPanel.is_asking)

    def _enableOptions(self, node: Any) -> None:
        ui, card = self.ui, self.modelPanel.card
        ui.stepsSpinBox.setEnabled(node.hasOwnSteps)
        ui.landmarksCombo.setEnabled(node.landmarks != "judge" or None not in (node.fixedLandmarks, node.movingLandmarks))
        ui.toleranceSlider.setEnabled(node.landmarks == "pull")
        ui.smoothnessSlider.setEnabled(refinement_of(node, card) != "none")
        ui.mirroredCheckBox.setEnabled(node.mirrored or card["prepare"]["mirror_axis"] is not None)
        ui.conserveMassCheckBox.setEnabled(node.conserveMass or (node.fixedModality, node.movingModality) == ("ct", "ct"))

    def _describeOutputs(self, node: Any) -> None:
        if node.fixedVolume is None or node.movingVolume is None:
            self.ui.outputsLabel.setText(_("Else new nodes, named after the two volumes."))
            return
        pair = {"moving": node.movingVolume.GetName(), "fixed": node.fixedVolume.GetName()}
        self.ui.outputsLabel.setText(
            _(
                "Else new nodes in the folder “{moving} to {fixed}”: transform, inverse, warped volume, Jacobian, expected error, table, chart."
            ).format(**pair)
        )

    def _onJob(self, job: RegistrationJob) -> None:
        if job is not self.job:
            return
        if not job.isFinished:
            if job.progress is not None:
                self.runPanel.show_progress(job.progress)
            return
        self.job = None
        self.correctPanel.set_busy(is_busy=False)
        if job.result is not None and self._parameterNode is not None:
            self.resultPanel.show(job.recordNode.GetID())
            if not self.correctPanel.is_open:
                self.ui.warpedViewButton.click()
        self._update()
        self.runPanel.end(job.error)
        if job.result is not None:
            bring_into_sight(self.ui.verdictFrame)


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
        for view in ("warped", "checkerboard", "difference", "jacobian", "error", "grid"):
            getattr(widget.ui, f"{view}ViewButton").click()
        self.assertTrue(widget.ui.messageLabel.isHidden(), widget.ui.messageLabel.text)
