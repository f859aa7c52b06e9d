"""A registration from nodes to nodes: what is read from the scene, the request to the worker, and the nodes that come of it.

Names are in Slicer's style, since the Python console of Slicer is where they are used.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import slicer

from ..errors import Cancelled, InputError, RegistrationNetError
from ..progress import Progress
from . import mrml
from .client import Client, Job
from .scene_inputs import Inputs
from .scene_record import RegistrationResult, remembered
from .scene_results import alignment_of, placed

# For so long at a time the scene is read; masks and bent transforms are sampled, which may take seconds.
GATHER_SECONDS = 0.02


class Owner(Protocol):
    """What a job needs of the logic that has started it."""

    client: Client

    def poll(self) -> None:
        """Let every job get on."""


class JobState(enum.Enum):
    """Where a registration stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


Result_co = TypeVar("Result_co", covariant=True)


class Running(Protocol[Result_co]):
    """Something under way that ends with a result or an error."""

    @property
    def isFinished(self) -> bool:
        """Whether it has ended."""

    @property
    def result(self) -> Result_co | None:
        """What came of it; None while it is under way, and where it failed."""

    @property
    def error(self) -> Exception | None:
        """Why it failed; None while it is under way, and where it did not."""


def waited_for(running: Running[Result_co], logic: Owner) -> Result_co:
    """The result, once it is there; the application stays responsive meanwhile. Raises what went wrong."""
    while not running.isFinished:
        logic.poll()
        slicer.app.processEvents()
    if running.error is not None:
        raise running.error
    assert running.result is not None
    return running.result


class RegistrationJob:
    """A registration under way. `onChanged(job)` is called when it has got on, and when it has ended."""

    def __init__(
        self,
        logic: Owner,
        inputs: Inputs,
        onChanged: Callable[[RegistrationJob], None],
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.state = JobState.RUNNING
        self.progress: Progress | None = None
        self.result: RegistrationResult | None = None
        self.error: Exception | None = None
        # Holds the result in the scene.
        self.recordNode: Any = None
        self._logic, self._onChanged = logic, onChanged
        self._inputs: Inputs | None = inputs
        self._outputs = dict(outputs or {})
        self._gathering: Iterator[None] = iter(())
        self._stamp: tuple[int, ...] = ()
        self._job: Job | None = None

    @property
    def isFinished(self) -> bool:
        """Whether it has ended, with a result or without."""
        return self.state is not JobState.RUNNING

    def begin(self, options: dict[str, Any], separateParts: bool) -> None:
        """Read what the scene holds, and send it to the worker."""
        self._gathering = self._gathered(options, separateParts)
        self._gather()

    def getOn(self) -> None:
        """Go on with what is to be done here before the worker can begin. Errors end the job."""
        if self._job is not None or self.isFinished:
            return
        try:
            if self._inputs is not None and self._inputs.stamp() != self._stamp:
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
        """The result, once it is there; the application stays responsive meanwhile. Raises what went wrong."""
        return waited_for(self, self._logic)

    def endIfNodesAreGone(self) -> None:
        """Without its nodes there is nowhere to put a result."""
        assert self._inputs is not None
        gone = [name for name, node in self._inputs.nodes() if not slicer.mrmlScene.IsNodePresent(node)]
        if gone:
            names = " and ".join(gone).replace("_", " ")
            self.cancel(
                InputError(
                    f"The node of {names} went from the scene during the registration, which needs it to the end. Register again."
                )
            )

    def _gather(self) -> None:
        """For a moment only: the application must stay responsive."""
        until = time.monotonic() + GATHER_SECONDS
        for _step in self._gathering:
            if time.monotonic() > until:
                # Reading itself may touch what is read: converting surfaces does.
                assert self._inputs is not None
                self._stamp = self._inputs.stamp()
                return

    def _gathered(self, options: dict[str, Any], separateParts: bool) -> Iterator[None]:
        inputs = self._inputs
        assert inputs is not None
        landmarks = inputs.landmarks()
        volumes = yield from inputs.volumes()
        initial = yield from inputs.initial_on(volumes["fixed"])
        previous = yield from inputs.previous_on(volumes["fixed"])
        self._job = self._logic.client.register(
            volumes,
            initial=initial,
            previous=previous,
            alignment=None if inputs.previous is None else alignment_of(inputs.previous),
            options={**options, **landmarks},
            with_parts=separateParts,
            displacement_axes=mrml.DISPLACEMENT_AXES,
            watch=self._onWorker,
        )

    def _end(self, error: Exception) -> None:
        """End before the worker knew of the job."""
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
            assert self._inputs is not None
            try:
                nodes = placed(
                    slicer.mrmlScene,
                    job.answer,
                    fixed=self._inputs.fixed,
                    moving=self._inputs.moving,
                    outputs={name: node for name, node in self._outputs.items() if slicer.mrmlScene.IsNodePresent(node)},
                )
                self.result = RegistrationResult(
                    nodes, self._inputs.fixed, self._inputs.moving, job.answer.report, job.answer.body
                )
                self.recordNode = remembered(slicer.mrmlScene, self.result, corrects=self._inputs.previous).node
            except Exception as error:  # noqa: BLE001, a timer has nobody to raise to; who waits for the job is told
                self.error = error
        self._settle()

    def _settle(self) -> None:
        self.state = (
            JobState.DONE if self.error is None else JobState.CANCELLED if isinstance(self.error, Cancelled) else JobState.FAILED
        )
        self._inputs, self._gathering = None, iter(())
