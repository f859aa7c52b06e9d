"""Several registrations of nodes, one after the other; one that fails does not end the others.

Names are in Slicer's style, since the console is where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import slicer
import vtk

from ..errors import Cancelled
from ..progress import Progress
from .scene_job import RegistrationJob
from .scene_record import RegistrationResult
from .scene_results import role_of

Pair = tuple[Any, Any]


class Owner(Protocol):
    """What is needed of the logic."""

    def startRegistration(self, fixedNode: Any, movingNode: Any, **keywords: Any) -> RegistrationJob:
        """Start to register movingNode to fixedNode."""

    def poll(self) -> None:
        """Let every job get on."""


Watch = Callable[["ManyRegistrations"], None]


class ManyRegistrations:
    """Registrations under way. `results` and `errors` have one entry for each pair, None where there is none (yet).

    A pair is read from the scene when its turn has come, so that only one is held beside the scene.

    Args:
        logic: starts each registration.
        pairs: fixed and moving of each.
        keywords: what all of them are started with.
        onChanged: called with this when a pair has ended.
        onProgress: called with this when the pair that is worked on has got on.
        keywordsOf: called with this and the number of a pair when its turn has come; gives what it is started with beside.
    """

    def __init__(
        self,
        logic: Owner,
        pairs: Sequence[Pair],
        keywords: Mapping[str, Any],
        *,
        onChanged: Watch = lambda _: None,
        onProgress: Watch = lambda _: None,
        keywordsOf: Callable[[ManyRegistrations, int], Mapping[str, Any]] = lambda _many, _number: {},
    ) -> None:
        self.pairs = list(pairs)
        self.results: list[RegistrationResult | None] = [None] * len(self.pairs)
        self.errors: list[Exception | None] = [None] * len(self.pairs)
        # The nodes that hold the results in the scene.
        self.recordNodes: list[Any] = [None] * len(self.pairs)
        self._logic, self._keywords, self._keywordsOf = logic, dict(keywords), keywordsOf
        self._onChanged, self._onProgress = onChanged, onProgress
        self._current, self._last = 0, len(self.pairs)
        self._job: RegistrationJob | None = None

    @property
    def isFinished(self) -> bool:
        """Whether every pair has ended, or none will begin any more."""
        return self._current >= self._last

    @property
    def done(self) -> int:
        """How many pairs have ended."""
        return self._current

    @property
    def progress(self) -> Progress | None:
        """How far the pair is that is worked on; None where that is not known yet."""
        return None if self._job is None else self._job.progress

    def getOn(self) -> None:
        """Start the next pair when the one before has ended. Called by the logic's `poll`."""
        if self.isFinished:
            return
        if self._job is None:
            self._start()
        elif self._job.isFinished:
            self.recordNodes[self._current] = self._job.recordNode
            self._end(self._job.result, self._job.error)

    def cancel(self) -> None:
        """Stop the pair that is worked on, and begin no other; what is done stays."""
        begun = self._current + (self._job is not None)
        for number in range(begun, len(self.pairs)):
            self.errors[number] = Cancelled("cancelled before it began; nothing was changed")
        self._last = begun
        if self._job is not None:
            self._job.cancel()

    def wait(self) -> ManyRegistrations:
        """Itself, once every pair has ended; the application stays responsive meanwhile."""
        while not self.isFinished:
            self._logic.poll()
            slicer.app.processEvents()
        return self

    def _start(self) -> None:
        fixed, moving = self.pairs[self._current]
        try:
            given = {**self._keywords, **self._keywordsOf(self, self._current)}
            self._job = self._logic.startRegistration(fixed, moving, onChanged=self._hear, **given)
        except Exception as error:  # noqa: BLE001, a timer has nobody to raise to; it is among the errors
            self._end(None, error)

    def _hear(self, job: RegistrationJob) -> None:
        if not job.isFinished and job.progress is not None:
            self._onProgress(self)

    def _end(self, result: RegistrationResult | None, error: Exception | None) -> None:
        self.results[self._current], self.errors[self._current] = result, error
        self._current, self._job = self._current + 1, None
        self._onChanged(self)


def volumesOfFolder(folder: int) -> Iterator[Any]:
    """The scalar volumes in a folder of the subject hierarchy and the folders within, in their order there.

    Label maps, hidden volumes and those that registrations have made are left out.

    Args:
        folder: the folder's item.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(folder, items, True)
    for place in range(items.GetNumberOfIds()):
        node = hierarchy.GetItemDataNode(items.GetId(place))
        if node is None or node.GetClassName() != "vtkMRMLScalarVolumeNode":
            continue
        if not (node.GetHideFromEditors() or role_of(node)):
            yield node
