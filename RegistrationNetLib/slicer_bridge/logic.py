"""Registration for Slicer's Python console and for the panel: what `slicer.util.getModuleLogic("RegistrationNet")` can do.

Names are in Slicer's style, since the console is where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import slicer

from ..choices import ALIGNMENT_STAGES, OPTIONS
from ..errors import Cancelled, InputError
from ..models.catalogue import card_named
from ..models.weights import listed_models, remove
from . import dependencies
from .client import Client, Job
from .interpreter import named_python
from .many import ManyRegistrations, volumesOfFolder
from .scene_inputs import Inputs
from .scene_job import RegistrationJob
from .scene_record import RegistrationResult
from .scene_results import REPLACEABLE, check_outputs, remove_empty_folders
from .scene_transforms import placed_under
from .scene_views import Views, go_to
from .sequence import SequenceRegistration, SequenceResult

# What the panel's choice of an alignment or refinement means to `register`; None leaves it to the model.
ALIGNMENTS: Mapping[str, tuple[str, ...] | None] = {
    "default": None,
    "none": (),
    **{stage: ALIGNMENT_STAGES[: count + 1] for count, stage in enumerate(ALIGNMENT_STAGES)},
}
REFINEMENTS: Mapping[str, str | None] = {"default": None, "none": "none", "field": "field", "network": "network"}


class Timer(Protocol):
    """Calls `poll` again and again while it runs; in Slicer a qt.QTimer."""

    def start(self) -> None:
        """Begin to call."""

    def stop(self) -> None:
        """Call no more."""


class RegistrationLogic:
    """Registration from nodes to nodes, by one worker process that is started when it is first needed.

    Args:
        client: what talks to the worker.
        timer: calls `poll`; it runs while there is something to wait for.
        requirements: the file that lists what must be installed beside PyTorch.
    """

    def __init__(self, client: Client, timer: Timer, requirements: Path) -> None:
        self.client = client
        # Another Python than Slicer's, or an environment or folder of packages, as the user has named it; "" for Slicer's own.
        self.python = ""
        self._timer, self._requirements = timer, requirements
        self._jobs: list[RegistrationJob] = []
        self._many: list[ManyRegistrations | SequenceRegistration] = []
        self._views = Views()
        self._scene = slicer.mrmlScene
        self._sceneTags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneStartClose),
            self._scene.AddObserver(self._scene.EndUndoEvent, self._onEndUndo),
        ]

    def close(self) -> None:
        """End the worker; registrations under way are cancelled."""
        self._timer.stop()
        for several in self._many:
            several.cancel()
        for job in self._jobs:
            job.cancel()
        self.client.close()
        for tag in self._sceneTags:
            self._scene.RemoveObserver(tag)

    def getParameterNode(self) -> Any:
        """What was chosen in the panel; the module says how it is kept."""
        raise NotImplementedError

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
        outputs: Mapping[str, Any] | None = None,
        onChanged: Callable[[RegistrationJob], None] = lambda _: None,
        **keywords: Any,
    ) -> RegistrationJob:
        """Start to register movingNode to fixedNode and return at once.

        Args:
            separateParts: the affine and the deformable part come as transform nodes of their own too.
            outputs: nodes to write into instead of new ones, by name: "transform", "inverse", "warped", "jacobian", "table".
            onChanged: called with the job when it has got on, and when it has ended.
            keywords: nodes (fixedMask, movingMask, fixedLabels, movingLabels, fixedLandmarks, movingLandmarks, rigid, keepVolume,
                initial, and the names fixedMaskSegment, movingMaskSegment), and the options of `RegistrationNetLib.register` (model,
                refine, steps, similarity, fixedModality, movingModality, landmarks, tolerance, align, device, smoothness,
                resolution, seed).

        Raises:
            InputError: a node is none of what it should be. What shows only after some time, as masks and bent transforms are
                sampled while the application stays responsive, is the job's `error` instead.
            ResourceError: the user does not want what must be installed.
        """
        given = {_in_snake_case(name): value for name, value in keywords.items()}
        nodes = {one.name: given.pop(one.name) for one in fields(Inputs) if one.name in given}
        inputs = Inputs(fixedNode, movingNode, **nodes)
        outputs = {name: node for name, node in (outputs or {}).items() if node is not None}
        if unknown := set(outputs) - set(REPLACEABLE):
            raise InputError(
                f"There is no output {', '.join(sorted(unknown))}; the outputs are {', '.join(REPLACEABLE)}. Choose among them."
            )
        check_outputs(outputs, dict(inputs.nodes()))
        if not self.python:
            dependencies.ensure(self._requirements, slicer)
        job = RegistrationJob(self, inputs, onChanged, outputs)
        job.begin(given, separateParts)
        self._jobs.append(job)
        self._timer.start()
        return job

    def registerMany(
        self, pairs: Sequence[tuple[Any, Any]], onChanged: Callable[[ManyRegistrations], None] = lambda _: None, **keywords: Any
    ) -> ManyRegistrations:
        """Register several pairs (fixedNode, movingNode), one after the other, and wait; the application stays responsive.

        Takes what `startRegistration` takes. A pair that fails does not end the others: of each there is an entry in `results` and
        in `errors`.
        """
        return self.startMany(pairs, onChanged, **keywords).wait()

    def startMany(
        self,
        pairs: Sequence[tuple[Any, Any]],
        onChanged: Callable[[ManyRegistrations], None] = lambda _: None,
        *,
        onProgress: Callable[[ManyRegistrations], None] = lambda _: None,
        keywordsOf: Callable[[ManyRegistrations, int], Mapping[str, Any]] = lambda _many, _number: {},
        **keywords: Any,
    ) -> ManyRegistrations:
        """Start to register several pairs, one after the other, and return at once. `pairsOfFolder` gives those of a folder.

        Args:
            onChanged: called with what is returned when a pair has ended.
            onProgress: called with it when the pair that is worked on has got on.
            keywordsOf: gives what a pair, by its number, is started with beside; called when its turn has come.
        """
        many = ManyRegistrations(self, pairs, keywords, onChanged=onChanged, onProgress=onProgress, keywordsOf=keywordsOf)
        self._many.append(many)
        self._timer.start()
        return many

    def pairsOfFolder(self, fixedNode: Any, folder: int) -> list[tuple[Any, Any]]:
        """fixedNode with each other scalar volume in a folder of the subject hierarchy, which is named by its item.

        Raises:
            InputError: there is none.
        """
        pairs = [(fixedNode, node) for node in volumesOfFolder(folder) if node is not fixedNode]
        if not pairs:
            raise InputError(
                "The folder holds no scalar volume beside the fixed one; at least one is needed to register. Move volumes into it."
            )
        return pairs

    def registerSequence(self, sequenceNode: Any, reference: Any = "middle", **keywords: Any) -> SequenceResult:
        """Register every frame of a sequence of volumes to one reference and wait for the result; the application stays responsive.

        Takes what `startSequence` takes and raises what went wrong.
        """
        return self.startSequence(sequenceNode, reference, **keywords).wait()

    def startSequence(
        self,
        sequenceNode: Any,
        reference: Any = "middle",
        onChanged: Callable[[SequenceRegistration], None] = lambda _: None,
        **keywords: Any,
    ) -> SequenceRegistration:
        """Start to register every frame of a sequence of volumes, each from where its neighbour has ended, and return at once.

        The result are sequences of transforms, warped volumes, determinants and expected errors, which the Sequences toolbar plays.

        Args:
            sequenceNode: a vtkMRMLSequenceNode of volumes.
            reference: "first", "middle", "last", "mean" (of all frames), the number of a frame, from 0, or a volume node.
            onChanged: called with what is returned when it has got on, and when it has ended.
            keywords: options of `RegistrationNetLib.register`; masks, labels, landmarks and initial transforms belong to one pair.

        Raises:
            InputError: no sequence of volumes, no such reference, or an option that it does not take.
            ResourceError: the user does not want what must be installed.
        """
        options = {_in_snake_case(name): value for name, value in keywords.items()}
        several = SequenceRegistration(self, sequenceNode, reference, options, onChanged)
        if not self.python:
            dependencies.ensure(self._requirements, slicer)
        self._many.append(several)
        self._timer.start()
        return several

    def refineFrom(
        self, result: RegistrationResult, *, fixedLandmarks: Any, movingLandmarks: Any, **keywords: Any
    ) -> RegistrationResult:
        """Correct a result where landmarks say that it is wrong, and wait for the new one; the application stays responsive.

        Takes what `startRefinement` takes and raises what went wrong.
        """
        return self.startRefinement(result, fixedLandmarks=fixedLandmarks, movingLandmarks=movingLandmarks, **keywords).wait()

    def startRefinement(
        self, result: RegistrationResult, *, fixedLandmarks: Any, movingLandmarks: Any, **keywords: Any
    ) -> RegistrationJob:
        """Start to correct a result, also one of a loaded scene, where landmarks say that it is wrong, and return at once.

        Far from the landmarks everything stays as it is. The result that is corrected stays in the scene.

        Args:
            fixedLandmarks, movingLandmarks: markups; partners by their labels where both have the same, else by order.
            keywords: what `startRegistration` takes beside (tolerance, onChanged, …); the model and the modalities are those of the result.

        Raises:
            InputError: a node of the result is gone, or the landmarks are none.
        """
        lacking = [name for name in ("fixed", "moving", "transform") if getattr(result, f"{name}Node") is None]
        if lacking:
            raise InputError(
                f"The {' and '.join(lacking)} of this result is gone; to go on from it takes the two volumes and the transform. "
                "Register again."
            )
        inputs = result.report.get("inputs", {})
        told = {
            "model": result.report["model"],
            **{f"{side}Modality": inputs[side]["modality"] for side in _SIDES if "modality" in inputs.get(side, {})},
        }
        return self.startRegistration(
            result.fixedNode,
            result.movingNode,
            previous=result.transformNode,
            previousInverse=result.inverseTransformNode,
            fixedLandmarks=fixedLandmarks,
            movingLandmarks=movingLandmarks,
            landmarks="pull",
            **{**told, **keywords},
        )

    def startFromParameters(self, **keywords: Any) -> RegistrationJob:
        """Start what the parameter node asks for."""
        chosen = self.getParameterNode()
        asked = {name: getattr(chosen, name) for name in _NODES if getattr(chosen, name) is not None}
        segments = {name: getattr(chosen, name) for name in _SEGMENTS if getattr(chosen, name)}
        return self.startRegistration(
            chosen.fixedVolume,
            chosen.movingVolume,
            **asked,
            **segments,
            **_options(chosen),
            separateParts=chosen.separateParts,
            outputs={name: getattr(chosen, parameter) for name, parameter in _OUTPUTS.items()},
            **keywords,
        )

    def startFolderFromParameters(self, folder: int, **keywords: Any) -> ManyRegistrations:
        """Start to register every volume of a folder of the subject hierarchy to the fixed one of the parameter node, with its options.

        What belongs to one moving volume (mask, labels, landmarks, initial transform, output nodes) is left out.

        Args:
            folder: the folder's item.
            keywords: what `startMany` takes.

        Raises:
            InputError: the folder holds no volume to register.
        """
        chosen = self.getParameterNode()
        asked = {name: getattr(chosen, name) for name in _OF_FIXED if getattr(chosen, name)}
        options = {name: value for name, value in _options(chosen).items() if name not in _OF_ONE_PAIR}
        return self.startMany(
            self.pairsOfFolder(chosen.fixedVolume, folder),
            separateParts=chosen.separateParts,
            **asked,
            **options,
            **keywords,
        )

    def startSequenceFromParameters(self, sequenceNode: Any, reference: Any, **keywords: Any) -> SequenceRegistration:
        """Start to register a sequence, with the options of the parameter node.

        Args:
            sequenceNode, reference, keywords: what `startSequence` takes.
        """
        options = {name: value for name, value in _options(self.getParameterNode()).items() if name not in _OF_ONE_PAIR}
        return self.startSequence(sequenceNode, reference, **options, **keywords)

    def usePython(self, path: str) -> None:
        """From the next request on run the worker by another Python; "" is Slicer's own.

        Args:
            path: a Python program, an environment that holds one (venv, conda), or a folder of packages for Slicer's Python.

        Raises:
            InputError: there is nothing of that kind.
        """
        self.client.use(*named_python(Path(path)) if path else (None, None))
        self.python = path

    def models(self) -> list[dict[str, Any]]:
        """Every model card, with the state of its weights. Starts no worker."""
        return listed_models()

    def devices(self) -> list[dict[str, Any]]:
        """What the worker can compute on; the application stays responsive while it is asked."""
        found: list[dict[str, Any]] = self.client.devices().wait(meanwhile=slicer.app.processEvents)
        return found

    def startDownload(self, model: str, onChanged: Callable[[Job], None] = lambda _: None, *, sha256: str | None = None) -> Job:
        """Start to download the weights of a model, only with the checksum where one is given; the job has progress, cancel() and error."""
        job = self.client.download(model, onChanged, sha256=sha256)
        self._timer.start()
        return job

    def startImport(
        self, model: str, file: str, onChanged: Callable[[Job], None] = lambda _: None, *, sha256: str | None = None
    ) -> Job:
        """Start to take a file as the weights of a model, only with the checksum where one is given."""
        job = self.client.import_weights(model, file, onChanged, sha256=sha256)
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
        placed_under(transformNode, [nodes] if isinstance(nodes, slicer.vtkMRMLNode) else list(nodes), harden=harden)

    def removeWeights(self, model: str) -> int:
        """Delete the weights of a model from this computer; how many bytes that freed.

        Raises:
            InputError: there is no such model, or it needs no weights.
            OutputError: the file cannot be removed.
        """
        return remove(card_named(model))

    def showResult(self, result: RegistrationResult, view: str, other: RegistrationResult | None = None) -> None:
        """Show a result in the slice views: "fixed", "moving", "warped", "difference", "checkerboard", "jacobian", "error" or "grid".

        What another result has left there (its grid, its legend) goes. "other" shows the warped volume of the result `other`.

        Raises:
            InputError: there is no such view, or a node that it needs is gone.
        """
        self._views.show(result, view, other)

    def showPlace(self, place: Sequence[float]) -> None:
        """Move the slices to a point in LPS mm, as `report["marks"][…]["worst_at_mm"]` gives it."""
        go_to(place)

    def leaveViews(self) -> None:
        """Give the slice views back as they were before the first result was shown."""
        self._views.leave()

    def poll(self) -> None:
        """Let jobs get on; called by a timer while there are any."""
        for job in self._jobs:
            if not job.isFinished:
                job.endIfNodesAreGone()
                job.getOn()
        self.client.poll()
        self._jobs = [job for job in self._jobs if not job.isFinished]
        for many in self._many:
            many.getOn()
        self._many = [many for many in self._many if not many.isFinished]
        if not (self._jobs or self._many or self.client.unfinished):
            self._timer.stop()

    def _onEndUndo(self, *_caller: Any) -> None:
        remove_empty_folders(self._scene)

    def _onSceneStartClose(self, *_caller: Any) -> None:
        for many in self._many:
            many.cancel()
        for job in self._jobs:
            job.cancel(Cancelled("cancelled; the scene was closed"))


_SIDES = ("fixed", "moving")
_NODES = [*(f"{side}{what}" for what in ("Mask", "Labels", "Landmarks") for side in _SIDES), "rigid", "keepVolume"]
# What a folder of moving volumes shares, and what it does not.
_OF_FIXED = ("fixedMask", "fixedMaskSegment", "rigid", "keepVolume")
_OF_ONE_PAIR = ("landmarks", "tolerance", "initial")
_OUTPUTS = {"transform": "outputTransform", "warped": "outputVolume"}
_SEGMENTS = [f"{side}MaskSegment" for side in _SIDES]


def _options(chosen: Any) -> dict[str, Any]:
    """The options of `register`, by name, that a parameter node asks for; those that it leaves to the model are left out."""
    named = {name: getattr(chosen, name, None) for name in map(_in_camel_case, OPTIONS)}
    named["align"], named["refine"] = ALIGNMENTS[chosen.alignment], REFINEMENTS[chosen.refinement]
    named["steps"] = chosen.steps if chosen.hasOwnSteps else None
    named["resolution"] = chosen.resolution or None
    return {name: value for name, value in {**named, "initial": chosen.initialTransform}.items() if value is not None}


def _in_snake_case(name: str) -> str:
    """fixed_mask of fixedMask."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda letter: f"_{letter[1].lower()}", name)


def _in_camel_case(name: str) -> str:
    """fixedMask of fixed_mask."""
    return re.sub(r"_([a-z])", lambda letter: letter[1].upper(), name)
