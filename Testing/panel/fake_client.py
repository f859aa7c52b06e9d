"""A worker that does what the test says, for what a real one does too slowly, too quickly or only on other machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from RegistrationNetLib.errors import Cancelled, RegistrationNetError
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.slicer_bridge.client import Job


class FakeClient:
    """Takes the place of `Client`. What has happened to a job is told when the module polls, as with the real one."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.is_closed = False
        self.python: str | None = None
        self.packages: str | None = None
        self._events: list[tuple[Job, Callable[[Job], None]]] = []

    def register(
        self,
        volumes: Mapping[str, Any],
        *,
        initial: Any = None,
        previous: Any = None,
        alignment: Any = None,
        options: Mapping[str, Any] | None = None,
        with_parts: bool = False,
        displacement_axes: Sequence[int] = (1, 1, 1),
        watch: Callable[[Job], None] = lambda _: None,
    ) -> Job:
        request = {"do": "register", "options": options, "initial": initial, "parts": with_parts, "volumes": volumes}
        request |= {"displacement_axes": list(displacement_axes), "previous": previous, "alignment": alignment}
        return self._begun(request, lambda result: result, watch)

    def devices(self, watch: Callable[[Job], None]) -> Job:
        return self._begun({"do": "devices"}, lambda answer: answer, watch)

    def download(self, model: str, watch: Callable[[Job], None], *, sha256: str | None = None) -> Job:
        return self._begun({"do": "download", "model": model, "sha256": sha256}, lambda answer: answer, watch)

    def import_weights(self, model: str, file: str, watch: Callable[[Job], None], *, sha256: str | None = None) -> Job:
        return self._begun({"do": "import", "model": model, "file": file, "sha256": sha256}, lambda answer: answer, watch)

    def use(self, python: str | None, packages: str | None) -> None:
        self.python, self.packages = python, packages

    @property
    def unfinished(self) -> Sequence[Job]:
        return tuple(job for job in self.jobs if not job.is_finished)

    def poll(self) -> None:
        events, self._events = self._events, []
        for job, happened in events:
            if not job.is_finished:
                happened(job)
                job.watch(job)

    def close(self) -> None:
        self.is_closed = True
        for job in self.unfinished:
            self.send_cancel(job)
        self.poll()

    def send_cancel(self, job: Job) -> None:
        self.fail(job, Cancelled("cancelled; nothing was changed"))

    def progress(self, job: Job, stage: str, fraction: float, seconds_left: float | None = None) -> None:
        def happened(one: Job) -> None:
            one.progress = Progress(stage, fraction, seconds_left)

        self._events.append((job, happened))

    def answer(self, job: Job, answer: Any) -> None:
        def happened(one: Job) -> None:
            one.answer, one.is_finished = one.receive(answer), True

        self._events.append((job, happened))

    def fail(self, job: Job, error: RegistrationNetError) -> None:
        def happened(one: Job) -> None:
            one.error, one.is_finished = error, True

        self._events.append((job, happened))

    def _begun(self, request: dict[str, Any], receive: Callable[[Any], Any], watch: Callable[[Job], None]) -> Job:
        # A Job asks of its client only that it sends the cancelling.
        job = Job(self, request, receive=receive, watch=watch)  # type: ignore[arg-type]
        self.jobs.append(job)
        return job
