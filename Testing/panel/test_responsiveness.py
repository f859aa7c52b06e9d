"""The panel while a real registration runs: it goes on handling events; the longest gap between two of them is printed."""

import sys
import time
from typing import Any

import numpy as np
import pytest

from RegistrationNetLib.io.nrrd import Volume

from ..module.nodes import volume_node
from .conftest import Panel

SIDE = 128
EVENTS = 20


@pytest.mark.slow
@pytest.mark.usefixtures("small_heap")
def test_events_are_handled_while_a_registration_runs(scene: Any, panel: Panel) -> None:
    indices = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    for name, shift in (("fixed", 0.0), ("moving", 3.0)):
        waves = np.sin((indices + shift) / 7).sum(axis=0)
        volume_node(scene, Volume((300 * waves).astype(np.int16), np.diag([1.5, 1.5, 1.5, 1.0])), name)
    panel.module.enter()
    panel.click("hasOwnStepsCheckBox")
    panel.type("stepsSpinBox", "5")
    ticks, busy = [time.perf_counter()], [time.thread_time()]
    timer = panel.qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: (ticks.append(time.perf_counter()), busy.append(time.thread_time())))
    timer.start()
    panel.click("registerButton")
    panel.until(lambda: not panel.is_running, seconds=300)
    timer.stop()
    assert panel.message == ""
    gaps, work = np.diff(ticks), np.diff(busy)
    sys.stdout.write(
        f"longest gap {1000 * gaps.max():.0f} ms; the panel's own work {1000 * work.max():.0f} ms at most; "
        f"{ticks[-1] - ticks[0]:.1f} s, {len(ticks)} events\n"
    )
    assert len(ticks) > EVENTS
