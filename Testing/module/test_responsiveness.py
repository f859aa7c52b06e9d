"""The application goes on at 256³ while a registration starts, and when its result arrives; how long it stood still is printed."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from PySide6 import QtCore

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge.client import Client

from .conftest import ROOT
from .nodes import bent_transform, segmentation_node, volume_node
from .test_scene_results import REPORT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("small_heap"),
    pytest.mark.skipif(os.name == "nt", reason="a script stands in for the Python"),
]

SIDE = 256
EVENTS = 20  # an application that stood still all the while would handle three

# Answers at once with results of full size, so that only the two ends of the way are measured.
WORKER = f"""#!{sys.executable}
import json, sys
from pathlib import Path
import numpy as np
from RegistrationNetLib.io.nrrd import Volume, read_volume, write_volume
for line in sys.stdin:
    request = json.loads(line)
    folder = Path(request["folder"])
    fixed = read_volume(Path(request["images"]["fixed"]))
    shape = fixed.values.shape
    volumes = {{"warped": fixed.values, "jacobian": np.ones(shape, np.float32)}}
    volumes.update(dict.fromkeys(("moving_from_fixed", "fixed_from_moving"), np.ones((*shape, 3), np.float32)))
    files = {{name: str(folder / f"{{name}}.nrrd") for name in volumes}}
    for name, values in volumes.items():
        write_volume(Volume(values, fixed.world_from_index), Path(files[name]))
    result = {{"files": files, "alignment": np.eye(4).tolist(), "report": {REPORT!r}, "histogram": {{"determinant": [1.0], "voxels": [2.0]}}}}
    print(json.dumps({{"id": request["id"], "event": "result", "result": result}}), flush=True)
"""


@pytest.mark.parametrize("given", ["volumes", "mask, labels", "bent volume, bent initial"])
def test_the_application_handles_events_all_the_while(scene: Any, host: Any, tmp_path: Path, given: str) -> None:
    python = tmp_path / "python-stand-in"
    python.write_text(WORKER)
    python.chmod(0o700)
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    module = sys.modules["RegistrationNet"]
    logic = module.RegistrationNetLogic()
    logic.client.close()
    logic.client = Client(str(python))
    values = np.random.default_rng(0).integers(0, 1000, (SIDE,) * 3, dtype=np.int16)
    fixed, moving = (volume_node(scene, Volume(values, np.eye(4)), name) for name in ("fixed", "moving"))
    keywords: dict[str, Any] = {}
    if "mask" in given:
        inside = np.zeros((SIDE,) * 3, np.uint8)
        inside[40:200, 30:220, 50:210] = 1
        segments = {name: Volume(inside, np.eye(4)) for name in ("one", "two", "three")}
        node = segmentation_node(scene, segments)
        keywords = {"fixedMask": node, "fixedLabels": node, "movingLabels": node}
    if "bent" in given:
        keywords = {"initial": bent_transform(scene)}
        fixed.SetAndObserveTransformNodeID(bent_transform(scene).GetID())
    try:
        job, still = followed(host, lambda: logic.startRegistration(fixed, moving, **keywords))
    finally:
        logic.close()
    assert job.error is None
    print(f"longest standstill {1000 * still.max():.0f} ms, whole {still.sum():.2f} s")
    assert len(still) >= EVENTS


def followed(host: Any, start: Callable[[], Any]) -> tuple[Any, Any]:
    """A job from its start to its end in the application's loop, and how long each time the application did not handle events, in seconds."""
    ticks: list[float] = []

    def body() -> Any:
        timer = QtCore.QTimer()
        timer.setInterval(10)
        timer.timeout.connect(lambda: ticks.append(time.monotonic()))
        timer.start()
        slicer.app.processEvents()
        ticks.append(time.monotonic())
        job = start()
        ticks.append(time.monotonic())
        while not job.isFinished:
            slicer.app.processEvents()
            time.sleep(0.001)
        slicer.app.processEvents()
        ticks.append(time.monotonic())
        timer.stop()
        return job

    return host.inLoop(body), np.diff(ticks)
