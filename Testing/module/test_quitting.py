"""The end of the application. In a file of its own: every logic that lives then is closed."""

from typing import Any

import pytest
import slicer

from RegistrationNetLib.errors import WorkerError

from .nodes import pair_nodes
from .test_logic import LONG, module  # noqa: F401, a fixture


def test_quitting_the_application_ends_the_worker(scene: Any, module: Any) -> None:  # noqa: F811
    one = module.RegistrationNetLogic()
    one.devices()
    worker = one.client._worker
    assert worker.folder.exists()
    job = one.startRegistration(*pair_nodes(scene), **LONG)
    slicer.app.aboutToQuit.emit()
    assert not worker.is_running
    assert not worker.folder.exists()
    assert job.state is module.JobState.CANCELLED
    with pytest.raises(WorkerError, match="This client is closed"):
        one.devices()
