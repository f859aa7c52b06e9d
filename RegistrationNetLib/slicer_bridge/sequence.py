"""A sequence of volumes registered to one reference, each frame from where its neighbour has ended; the same as `register_series`.

How far such a chain drifts is measured by closing the loop: from where the last frame ended, the reference is registered to itself.
Names are in Slicer's style, since the console is where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import slicer

from ..choices import OPTIONS
from ..cohort.chains import chains, reference_number
from ..errors import Cancelled, InputError
from ..io.nrrd import Volume
from ..progress import Progress
from .client import Job, Result
from .mrml import DISPLACEMENT_AXES, volume_of
from .scene_job import GATHER_SECONDS, JobState, Owner, waited_for
from .scene_record import remembered_sequence
from .scene_sampling import Node, Steps
from .scene_sequences import FramesAside, SequenceNodes, frames_of, placed_beside

SAME_LATTICE_WITHIN = 1e-4


class SequenceResult:
    """A registered sequence.

    The sequences `transformSequenceNode`, `warpedSequenceNode`, `jacobianSequenceNode` and `errorSequenceNode` have the index of the
    one that was registered, and `browserNode` plays all of them; `fixedNode` is the reference, `tableNode` has a row for each frame.
    Of each frame `reports` has the content of report.json, None for the reference itself.
    `drift` tells of each chain of frames how far, in mm, the reference seems to have moved when it is closed; 0 is right.
    """

    def __init__(
        self,
        nodes: SequenceNodes,
        referenceNumber: int | None,
        reports: list[Mapping[str, Any] | None],
        drift: list[Mapping[str, float]],
    ) -> None:
        self.transformSequenceNode, self.warpedSequenceNode = nodes.transform, nodes.warped
        self.jacobianSequenceNode, self.errorSequenceNode = nodes.jacobian, nodes.error
        self.fixedNode, self.tableNode, self.browserNode = nodes.fixed, nodes.table, nodes.browser
        self.referenceNumber, self.reports, self.drift = referenceNumber, reports, drift


class SequenceRegistration:
    """The registration of a sequence under way. `onChanged(self)` is called when it has got on, and when it has ended.

    Args:
        logic: has the client that talks to the worker.
        sequenceNode: a sequence of volumes.
        reference: "first", "middle", "last", "mean" (of all frames), the number of a frame, from 0, or a volume node.
        options: of `register`, by their names there.
        onChanged: called with this.

    Raises:
        InputError: no sequence of volumes, no such reference, or an option that registrations of a sequence do not take.
    """

    def __init__(
        self,
        logic: Owner,
        sequenceNode: Node,
        reference: str | int | Node,
        options: Mapping[str, Any],
        onChanged: Callable[[SequenceRegistration], None] = lambda _: None,
    ) -> None:
        self.state = JobState.RUNNING
        self.progress: Progress | None = None
        self.result: SequenceResult | None = None
        self.error: Exception | None = None
        # Holds the result in the scene.
        self.recordNode: Any = None
        self._logic, self._sequence, self._onChanged = logic, sequenceNode, onChanged
        self._frames = frames_of(sequenceNode)
        self._fixedNode = reference if isinstance(reference, slicer.vtkMRMLNode) else None
        self._number = reference_number(reference, len(self._frames)) if self._fixedNode is None else None
        if unknown := [name for name in options if name not in OPTIONS]:
            raise InputError(
                f"A sequence is registered without {', '.join(unknown)}; it takes {', '.join(OPTIONS)}. Leave out what belongs to one pair."
            )
        self._options = dict(options)
        self._stamp = self._stamped()
        self._chains = chains(len(self._frames), self._number)
        self._begun = -1
        self._job: Job | None = None
        self._work = self._steps()

    @property
    def isFinished(self) -> bool:
        """Whether it has ended, with a result or without."""
        return self.state is not JobState.RUNNING

    def getOn(self) -> None:
        """Go on for a moment with what is to be done here. Errors end the job. Called by the logic's `poll`."""
        until = time.monotonic() + GATHER_SECONDS
        try:
            while not self.isFinished:
                next(self._work)
                if self._job is not None or time.monotonic() > until:
                    return
        except StopIteration:
            self._end(None)
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to; who waits is told
            self._end(error)

    def cancel(self) -> None:
        """Stop; the scene stays as it is."""
        if self._job is not None and not self._job.is_finished:
            self._job.cancel()
        elif not self.isFinished:
            self._end(Cancelled("cancelled; nothing was changed"))

    def wait(self) -> SequenceResult:
        """The result, once it is there; the application stays responsive meanwhile. Raises what went wrong."""
        return waited_for(self, self._logic)

    def _end(self, error: Exception | None) -> None:
        self.error = error
        self.state = JobState.DONE if error is None else JobState.CANCELLED if isinstance(error, Cancelled) else JobState.FAILED
        self._work = iter(())
        self._onChanged(self)

    def _steps(self) -> Iterator[None]:
        """All the work; it gives way wherever there is something to wait for."""
        fixed = yield from self._reference()
        aside, found = FramesAside(self._sequence, fixed), dict[int, Result]()
        if self._number is not None:
            yield from aside.add(self._number, None)
        drift: list[Mapping[str, float]] = []
        for chain in self._chains:
            start: Volume | None = None
            for number in chain:
                moving = yield from volume_of(self._frames[number], f"frame {number}")
                answer = yield from self._answer(f"frame {number}", fixed, moving, start, self._options)
                yield from aside.add(number, answer)
                # The volumes are held once.
                found[number] = replace(answer, volumes={})
                start = _in_lps(answer.volumes["moving_from_fixed"])
            closed = yield from self._answer("loop", fixed, fixed, start, {**self._options, "repeats": 0})
            drift.append(closed.report["displacement_mm"])
        self._check_scene()
        frames = [found.get(number) for number in range(len(self._frames))]
        reports, title = [None if one is None else one.report for one in frames], self._title()
        nodes = placed_beside(self._sequence, aside, reports, title=title, fixed=fixed, fixed_node=self._fixedNode)
        self.recordNode = remembered_sequence(slicer.mrmlScene, nodes, self._sequence, frames, title=title).node
        self.result = SequenceResult(nodes, self._number, reports, drift)

    def _answer(
        self, stage: str, fixed: Volume, moving: Volume, start: Volume | None, options: Mapping[str, Any]
    ) -> Steps[Result]:
        """What the worker makes of a pair. An error says at which frame it came."""
        self._begun += 1
        self._job = self._logic.client.register(
            {"fixed": fixed, "moving": moving},
            initial=start,
            options=options,
            displacement_axes=DISPLACEMENT_AXES,
            watch=lambda job: self._hear(stage, job),
        )
        job = self._job
        while not job.is_finished:
            self._check_scene()
            yield
        self._job = None
        if job.error is None:
            answer: Result = job.answer
            return answer
        if isinstance(job.error, Cancelled):
            raise job.error
        raise type(job.error)(f"{stage} of {self._sequence.GetName()}: {job.error}") from job.error

    def _hear(self, stage: str, job: Job) -> None:
        if job.progress is not None and not job.is_finished:
            total = sum(len(chain) + 1 for chain in self._chains)
            self.progress = Progress(stage, (self._begun + job.progress.fraction) / total, None)
            self._onChanged(self)

    def _reference(self) -> Steps[Volume]:
        """The volume to which every frame is registered."""
        if self._fixedNode is not None:
            return (yield from volume_of(self._fixedNode, "the reference"))
        if self._number is not None:
            return (yield from volume_of(self._frames[self._number], "the reference"))
        first = yield from volume_of(self._frames[0], "frame 0")
        total = np.zeros(first.values.shape, np.float32)
        for number, frame in enumerate(self._frames):
            one = yield from volume_of(frame, f"frame {number}")
            if one.size != first.size or not np.allclose(one.world_from_index, first.world_from_index, atol=SAME_LATTICE_WITHIN):
                raise InputError(
                    "The frames of the sequence lie on different grids; their mean needs one grid. Choose a frame as the reference."
                )
            total += one.values
            yield
        return replace(first, values=total / np.float32(len(self._frames)))

    def _title(self) -> str:
        if self._fixedNode is not None:
            return f"{self._sequence.GetName()} to {self._fixedNode.GetName()}"
        return f"{self._sequence.GetName()} to {'their mean' if self._number is None else f'frame {self._number}'}"

    def _stamped(self) -> tuple[tuple[str, int], ...]:
        """Another one when frames were exchanged or their voxels changed."""
        values = [self._sequence.GetNthIndexValue(number) for number in range(self._sequence.GetNumberOfDataNodes())]
        times = [self._sequence.GetNthDataNode(number).GetImageData() for number in range(len(values))]
        return tuple((value, 0 if image is None else image.GetMTime()) for value, image in zip(values, times, strict=True))

    def _check_scene(self) -> None:
        given = [node for node in (self._sequence, self._fixedNode) if node is not None]
        if not all(slicer.mrmlScene.IsNodePresent(node) for node in given) or self._stamped() != self._stamp:
            error = InputError(
                "The sequence was changed, or went from the scene, during the registration; it must stay as it is to the end. Register "
                "again."
            )
            if self._job is not None:
                self._job.cancel()
                self._job = None
            raise error


def _in_lps(displacements: Volume) -> Volume:
    """Displacements along `DISPLACEMENT_AXES` as those along LPS, in which a registration begins."""
    return replace(displacements, values=displacements.values * np.array(DISPLACEMENT_AXES, dtype=np.float32))
