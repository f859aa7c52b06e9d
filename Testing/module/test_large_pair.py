"""A pair of 512×512×300 goes from nodes through the worker into nodes, and into a file, in the memory that Slicer has beside it.

The longest standstill is printed.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from RegistrationNetLib.io.nrrd import Volume

from ..benchmarks.memory import peak_memory_mb
from .conftest import ROOT
from .nodes import volume_node
from .test_responsiveness import followed

PEAK = Path("/proc/self/clear_refs")  # where Linux is told to forget the peak so far

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PEAK.exists(), reason="the peak of a process is read from Linux")]

SHAPE = (300, 512, 512)
# Above the two volumes, in the process of the scene: while the result comes, and while the scene is saved.
MOST_MB = 2048


def thorax_like(shift_vox: int) -> Any:
    """An ellipsoid of tissue in air with stripes along each axis, int16."""
    depth, height, width = SHAPE
    z, y, x = np.ogrid[:depth, :height, :width]
    inside = ((y - height / 2) / (0.35 * height)) ** 2 + ((x - width / 2 - shift_vox) / (0.45 * width)) ** 2 < 1
    stripes = np.int16(40) * ((z // 20 + y // 24 + (x - shift_vox) // 28) % 5).astype(np.int16)
    return np.where(inside, stripes, np.int16(-1000))


def peak_above_mb(before_mb: float) -> float:
    """The peak since the last call, and a new beginning."""
    peak = peak_memory_mb() - before_mb
    PEAK.write_text("5")
    return peak


def test_a_full_ct_goes_through_the_scene_and_into_a_file(scene: Any, host: Any, tmp_path: Path, small_heap: None) -> None:
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    logic = sys.modules["RegistrationNet"].RegistrationNetLogic()
    spacing = np.diag([0.7, 0.7, 1.0, 1.0])
    fixed, moving = (
        volume_node(scene, Volume(thorax_like(shift), spacing), name) for name, shift in (("fixed", 0), ("moving", 6))
    )
    PEAK.write_text("5")
    before_mb = peak_memory_mb()
    options = {"align": [], "repeats": 0, "fixedModality": "ct", "movingModality": "ct", "resolution": 4.0}
    try:
        job, still = followed(host, lambda: logic.startRegistration(fixed, moving, **options))
    finally:
        logic.close()
    assert job.error is None
    came_mb = peak_above_mb(before_mb)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    saved_mb = peak_above_mb(before_mb)
    print(f"peak {came_mb:.0f} MB, while saving {saved_mb:.0f} MB; longest standstill {1000 * still.max():.0f} ms")
    assert max(came_mb, saved_mb) < MOST_MB
    for node in (job.result.warpedNode, job.result.jacobianNode):
        assert node.GetImageData().GetDimensions() == SHAPE[::-1]
    assert job.result.report["resolution_mm"] == pytest.approx([4.0] * 3, rel=0.05)
