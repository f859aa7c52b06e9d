"""RegistrationNet in 3D Slicer: the module, its parameters, its widget and its logic. The work is RegistrationNetLib's."""

import enum
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
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

from RegistrationNetLib.errors import Cancelled, InputError, RegistrationNetError
from RegistrationNetLib.models.catalogue import DIRECT, NEPHI
from RegistrationNetLib.models.weights import listed_models
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.registration.needs import inverse_shape, needed_mb
from RegistrationNetLib.slicer_bridge import dependencies, mrml, scene_display
from RegistrationNetLib.slicer_bridge.client import Client, Job
from RegistrationNetLib.slicer_bridge.panel_devices import DevicePanel
from RegistrationNetLib.slicer_bridge.panel_inputs import modality_of, pair_in_view
from RegistrationNetLib.slicer_bridge.panel_models import ModelPanel
from RegistrationNetLib.slicer_bridge.panel_results import ResultPanel, recalled, remembered
from RegistrationNetLib.slicer_bridge.panel_run import RunPanel
from RegistrationNetLib.slicer_bridge.panel_segments import SIDES, SegmentPanel
from RegistrationNetLib.slicer_bridge.panel_words import CHOICES, gigabytes
from RegistrationNetLib.slicer_bridge.sample_data import TUMOUR_PAIR, register_sample_data
from RegistrationNetLib.slicer_bridge.scene_inputs import Inputs
from RegistrationNetLib.slicer_bridge.scene_results import ResultNodes, all_or_none, file_beside, placed
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once

POLL_MSEC = 20
# For so long at a time the scene is read; masks and bent transforms are sampled, which may take seconds.
GATHER_SECONDS = 0.02
REQUIREMENTS = Path(__file__).parent / "Resources" / "requirements.txt"

# What the choice means to `register`; None leaves it to the model.
ALIGNMENTS = {
    "default": None,
    "none": (),
    "centre": ("centre",),
    "rigid": ("centre", "rigid"),
    "affine": ("centre", "rigid", "affine"),
}
REFINEMENTS = {"default": None, "none": "none", "field": "field", "network": "network"}
SIMILARITIES = ("auto", "lncc", "lncc2", "ncc", "ssd", "mind", "mi")
MODALITIES = ("other", "ct", "mr")

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
    alignment: Annotated[str, Choice(list(ALIGNMENTS))] = "default"
    refinement: Annotated[str, Choice(list(REFINEMENTS))] = "default"
    hasOwnSteps: bool = False
    steps: Annotated[int, WithinRange(0, 1000)] = 50
    similarity: Annotated[str, Choice(list(SIMILARITIES))] = "auto"
    fixedModality: Annotated[str, Choice(list(MODALITIES))] = "other"
    movingModality: Annotated[str, Choice(list(MODALITIES))] = "other"
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
        if (self._model["method"], self._refinement) in ((DIRECT, "network"), (NEPHI, "field")):
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

    def _onJob(self, job: "RegistrationJob") -> None:
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
    return needed_mb(
        shapes[0], inverse, method=model["method"], input_shape=model["input_shape"], refine=refine, on_graphics=onGraphics
    )


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


class JobState(enum.Enum):
    """Where a registration stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RegistrationResult:
    """The nodes of a registered pair; names as in `ResultNodes` with "Node" behind them, and the two volumes."""

    def __init__(self, nodes: ResultNodes, fixedNode: Any, movingNode: Any, report: Any) -> None:
        self.fixedNode, self.movingNode, self.report = fixedNode, movingNode, report
        self.transformNode, self.inverseTransformNode = nodes.transform, nodes.inverse
        self.warpedNode, self.jacobianNode = nodes.warped, nodes.jacobian
        self.tableNode, self.histogramNode, self.chartNode = nodes.table, nodes.histogram, nodes.chart
        self.affineNode, self.deformableNode = nodes.affine, nodes.deformable


class RegistrationJob:
    """A registration under way. `onChanged(job)` is called when it has got on, and when it has ended."""

    def __init__(self, logic: "RegistrationNetLogic", inputs: Inputs, onChanged: Callable[["RegistrationJob"], None]) -> None:
        self.state = JobState.RUNNING
        self.progress: Progress | None = None
        self.result: RegistrationResult | None = None
        self.error: Exception | None = None
        self._logic, self._onChanged = logic, onChanged
        self._inputs: Inputs | None = inputs
        self._gathering: Iterator[None] = iter(())
        self._stamp: tuple[int, ...] = ()
        self._job: Job | None = None

    @property
    def isFinished(self) -> bool:
        return self.state is not JobState.RUNNING

    def begin(self, options: dict, separateParts: bool) -> None:
        """Take what the scene holds, and send it on its way."""
        self._gathering = self._gathered(options, separateParts)
        self._gather()

    def getOn(self) -> None:
        """Go on with what is to be done here before the worker can begin. Errors end the job."""
        if self._job is not None or self.isFinished:
            return
        try:
            if self._inputs.stamp() != self._stamp:
                raise InputError(
                    "A volume, mask or transform was changed while it was read; all must stay as they are until then. Register again."
                )
            self._gather()
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to; who waits for the job is told
            self._end(error)

    def cancel(self, error: RegistrationNetError | None = None) -> None:
        """Stop, for the reason `error`; the scene stays as it is."""
        self.error = self.error or error
        if self._job is not None:
            self._job.cancel()
        elif not self.isFinished:
            self._end(self.error or Cancelled("cancelled; nothing was changed"))

    def wait(self) -> RegistrationResult:
        """The result, once it is there; the application lives on meanwhile. Raises what went wrong."""
        while not self.isFinished:
            self._logic.poll()
            slicer.app.processEvents()
        if self.error is not None:
            raise self.error
        return self.result

    def endIfNodesAreGone(self) -> None:
        """Without its nodes there is nowhere to put a result."""
        gone = [name for name, node in self._inputs.nodes() if not slicer.mrmlScene.IsNodePresent(node)]
        if gone:
            names = " and ".join(gone).replace("_", " ")
            self.cancel(
                InputError(
                    f"The node of {names} went from the scene during the registration, which needs it to the end. Register again."
                )
            )

    def _gather(self) -> None:
        """For a moment only: the application must live on."""
        until = time.monotonic() + GATHER_SECONDS
        for _step in self._gathering:
            if time.monotonic() > until:
                # Reading itself may touch what is read: converting surfaces does.
                self._stamp = self._inputs.stamp()
                return

    def _gathered(self, options: dict, separateParts: bool) -> Iterator[None]:
        inputs = self._inputs
        landmarks = inputs.landmarks()
        volumes = yield from inputs.volumes()
        initial = yield from inputs.initial_on(volumes["fixed"])
        self._job = self._logic.client.register(
            volumes,
            initial=initial,
            options={**options, **landmarks},
            with_parts=separateParts,
            displacement_axes=mrml.DISPLACEMENT_AXES,
            watch=self._onWorker,
        )

    def _end(self, error: Exception) -> None:
        """Before the worker knew of it."""
        self.error = error
        self._settle()
        self._onChanged(self)

    def _onWorker(self, job: Job) -> None:
        self.progress = job.progress
        if job.is_finished and not self.isFinished:
            self._finish(job)
        self._onChanged(self)

    def _finish(self, job: Job) -> None:
        self.error = self.error or job.error
        if self.error is None:
            try:
                nodes = placed(slicer.mrmlScene, job.answer, fixed=self._inputs.fixed, moving=self._inputs.moving)
                self.result = RegistrationResult(nodes, self._inputs.fixed, self._inputs.moving, job.answer.report)
            except Exception as error:  # noqa: BLE001, a timer has nobody to raise to; who waits for the job is told
                self.error = error
        self._settle()

    def _settle(self) -> None:
        self.state = (
            JobState.DONE if self.error is None else JobState.CANCELLED if isinstance(self.error, Cancelled) else JobState.FAILED
        )
        self._inputs, self._gathering = None, iter(())


class RegistrationNetLogic(ScriptedLoadableModuleLogic):
    """Registration for the console and the panel. One worker process serves it, started when it is first needed."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.client = Client()
        self._jobs: list[RegistrationJob] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MSEC)
        self._timer.connect("timeout()", self.poll)
        self._scene = slicer.mrmlScene
        self._sceneTag = self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneStartClose)
        # Slicer may end without running what Python has to do at exit.
        slicer.app.connect("aboutToQuit()", self.close)

    def close(self) -> None:
        """End the worker; registrations under way are cancelled."""
        slicer.app.disconnect("aboutToQuit()", self.close)
        self._timer.stop()
        for job in self._jobs:
            job.cancel()
        self.client.close()
        self._scene.RemoveObserver(self._sceneTag)

    def getParameterNode(self) -> RegistrationNetParameterNode:
        return RegistrationNetParameterNode(super().getParameterNode())

    def register(self, fixedNode: Any, movingNode: Any, **keywords: Any) -> RegistrationResult:
        """Register movingNode to fixedNode and wait for the result; the application stays responsive.

        Takes what `startRegistration` takes and raises what went wrong.
        """
        return self.startRegistration(fixedNode, movingNode, **keywords).wait()

    def startRegistration(
        self,
        fixedNode: Any,
        movingNode: Any,
        *,
        separateParts: bool = False,
        onChanged: Callable[[RegistrationJob], None] = lambda _: None,
        **keywords: Any,
    ) -> RegistrationJob:
        """Start to register movingNode to fixedNode and return at once.

        Args:
            separateParts: the affine and the deformable part come as transform nodes of their own too.
            onChanged: called with the job when it has got on, and when it has ended.
            keywords: nodes (fixedMask, movingMask, fixedLabels, movingLabels, fixedLandmarks, movingLandmarks, initial,
                and the names fixedMaskSegment, movingMaskSegment), and the options of `RegistrationNetLib.register` (model,
                refine, steps, similarity, fixedModality, movingModality, align, device, smoothness, seed).

        Raises:
            InputError: a node is none of what it should be. What shows only after some time, as masks and bent transforms are
                sampled while the application lives on, is the job's `error` instead.
            ResourceError: the user does not want what must be installed.
        """
        given = {_inSnakeCase(name): value for name, value in keywords.items()}
        nodes = {one.name: given.pop(one.name) for one in fields(Inputs) if one.name in given}
        inputs = Inputs(fixedNode, movingNode, **nodes)
        dependencies.ensure(REQUIREMENTS, slicer)
        job = RegistrationJob(self, inputs, onChanged)
        job.begin(given, separateParts)
        self._jobs.append(job)
        self._timer.start()
        return job

    def startFromParameters(self, **keywords: Any) -> RegistrationJob:
        """Start what the parameter node asks for."""
        chosen = self.getParameterNode()
        sides = [f"{side}{what}" for what in ("Mask", "Labels", "Landmarks") for side in ("fixed", "moving")]
        asked = {
            "align": ALIGNMENTS[chosen.alignment],
            "refine": REFINEMENTS[chosen.refinement],
            "steps": chosen.steps if chosen.hasOwnSteps else None,
            "initial": chosen.initialTransform,
            **{f"{side}MaskSegment": getattr(chosen, f"{side}MaskSegment") or None for side in SIDES},
            **{name: getattr(chosen, name) for name in sides},
        }
        always = (
            "model",
            "similarity",
            "fixedModality",
            "movingModality",
            "smoothness",
            "device",
            "separateParts",
            "mirrored",
            "conserveMass",
        )
        return self.startRegistration(
            chosen.fixedVolume,
            chosen.movingVolume,
            **{name: value for name, value in asked.items() if value is not None},
            **{name: getattr(chosen, name) for name in always},
            **keywords,
        )

    def models(self) -> list:
        """Every model card, with the state of its weights. Starts no worker."""
        return listed_models()

    def devices(self) -> list:
        """What the worker can compute on; the application lives on while it is asked."""
        return self.client.devices().wait(meanwhile=slicer.app.processEvents)

    def startDownload(self, model: str, onChanged: Callable[[Job], None] = lambda _: None) -> Job:
        """Start to download the weights of a model; the job has progress, cancel() and error."""
        job = self.client.download(model, onChanged)
        self._timer.start()
        return job

    def startImport(self, model: str, file: str, onChanged: Callable[[Job], None] = lambda _: None) -> Job:
        """Start to take a file as the weights of a model."""
        job = self.client.import_weights(model, file, onChanged)
        self._timer.start()
        return job

    def startDevices(self, onChanged: Callable[[Job], None] = lambda _: None) -> Job:
        """Start to ask the worker what it can compute on."""
        job = self.client.devices(onChanged)
        self._timer.start()
        return job

    def applyTransform(self, nodes: Any, transformNode: Any, harden: bool = False) -> None:
        """Place nodes (volumes, label maps, segmentations, models, markups) under a transform of the world.

        What a node lies under already stays between the two, as a copy, so that nothing else moves.

        Raises:
            InputError: a node cannot be transformed.
        """
        nodes = [nodes] if isinstance(nodes, slicer.vtkMRMLNode) else list(nodes)
        for node in nodes:
            _checkTransformable(node, transformNode)
        with all_or_none(slicer.mrmlScene):
            for node in nodes:
                between = _copyOfParent(node, transformNode)
                node.SetAndObserveTransformNodeID((between or transformNode).GetID())
                if harden:
                    node.HardenTransform()
                    if between is not None:
                        slicer.mrmlScene.RemoveNode(between)

    def showResult(self, result: RegistrationResult, view: str) -> None:
        """Show a result in the slice views: "fixed", "moving", "warped", "difference", "checkerboard", "jacobian" or "grid".

        Raises:
            InputError: there is no such view.
        """
        if view not in VIEWS:
            raise InputError(f"There is no view {view!r}; the views are {', '.join(VIEWS)}. Choose one of them.")
        background, foreground = VIEWS[view](result)
        slicer.util.setSliceViewerLayers(background=background, foreground=foreground, foregroundOpacity=0.5)
        # Last, because a legend looks at the layers when it is itself modified, not when they are.
        legend = scene_display.legend_of(result.jacobianNode)
        legend.SetVisibility(view == "jacobian")
        legend.Modified()
        if result.transformNode.GetDisplayNode() is None:
            # Whoever deletes it has deleted how it looks, too.
            fixed = at_once(mrml.volume_of(result.fixedNode, "fixed"))
            scene_display.show_as_grid(result.transformNode, fixed)
        grid = result.transformNode.GetDisplayNode()
        grid.SetVisibility(view == "grid")
        grid.SetVisibility2D(view == "grid")

    def poll(self) -> None:
        """Let jobs get on; called by a timer while there are any."""
        for job in self._jobs:
            if not job.isFinished:
                job.endIfNodesAreGone()
                job.getOn()
        self.client.poll()
        self._jobs = [job for job in self._jobs if not job.isFinished]
        if not self._jobs and not self.client.unfinished:
            self._timer.stop()

    def _onSceneStartClose(self, *_caller: Any) -> None:
        for job in self._jobs:
            job.cancel(Cancelled("cancelled; the scene was closed"))


def _comparison(result: RegistrationResult, name: str, fill: Callable) -> Any:
    """The volume that compares fixed and warped, made when it is first wanted."""
    role = f"RegistrationNet.{name}"
    node = result.warpedNode.GetNodeReference(role)
    if node is None:
        with all_or_none(slicer.mrmlScene):
            title = slicer.mrmlScene.GenerateUniqueName(f"{result.warpedNode.GetName()}, {name}")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", title)
            for one in (result.fixedNode, result.warpedNode):
                one.CreateDefaultDisplayNodes()
            both = [
                (at_once(mrml.volume_of(one, "the volume")), one.GetDisplayNode())
                for one in (result.fixedNode, result.warpedNode)
            ]
            fill(node, *both)
            file_beside(node, result.warpedNode)
        result.warpedNode.SetNodeReferenceID(role, node.GetID())
    return node


VIEWS = {
    "fixed": lambda result: (result.fixedNode, None),
    "moving": lambda result: (result.movingNode, None),
    "warped": lambda result: (result.warpedNode, None),
    "difference": lambda result: (_comparison(result, "difference", scene_display.set_difference), None),
    "checkerboard": lambda result: (_comparison(result, "checkerboard", scene_display.set_checkerboard), None),
    "jacobian": lambda result: (result.fixedNode, result.jacobianNode),
    "grid": lambda result: (result.warpedNode, None),
}


def _inSnakeCase(name: str) -> str:
    """fixed_mask of fixedMask."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda letter: f"_{letter[1].lower()}", name)


def _checkTransformable(node: Any, transformNode: Any) -> None:
    if transformNode is None or not transformNode.IsA("vtkMRMLTransformNode"):
        raise InputError("There is no transform to apply; a transform node is needed. Choose one.")
    if node is None or not node.IsA("vtkMRMLTransformableNode") or not node.CanApplyNonLinearTransforms():
        name = "Nothing" if node is None else node.GetName()
        raise InputError(f"{name} cannot be deformed; volumes, segmentations, models and markups can. Choose one of these.")
    if node is transformNode or (node.IsA("vtkMRMLTransformNode") and transformNode.IsTransformNodeMyParent(node)):
        raise InputError(f"{node.GetName()} cannot be placed under itself. Choose another node.")


def _copyOfParent(node: Any, transformNode: Any) -> Any:
    """A transform node under transformNode that does what the node's parents do; None where it has none."""
    parent = node.GetParentTransformNode()
    if parent is None or parent is transformNode:
        return None
    toWorld = vtk.vtkGeneralTransform()
    parent.GetTransformToWorld(toWorld)
    name = slicer.mrmlScene.GenerateUniqueName(f"{parent.GetName()} (of {node.GetName()})")
    kind = "vtkMRMLLinearTransformNode" if parent.IsTransformToWorldLinear() else "vtkMRMLTransformNode"
    copy = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    if parent.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(matrix)
        copy.SetMatrixTransformToParent(matrix)
    else:
        copy.SetAndObserveTransformToParent(toWorld)
    copy.SetAndObserveTransformNodeID(transformNode.GetID())
    return copy


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
