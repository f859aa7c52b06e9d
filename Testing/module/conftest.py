"""The scene's tests run on the real MRML of slicer-core, and those of the module on the stand-in for Slicer's Qt side."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "Testing" / "host"

collect_ignore_glob: list[str] = []
try:
    import PySide6  # noqa: F401
    import slicer
except ImportError:
    collect_ignore_glob = ["test_*.py"]
else:
    # What of Slicer's own Python the library imports: `slicer.i18n`.
    slicer.__path__.append(os.environ.get("REGISTRATIONNET_SLICER_LAYER") or str(HOST / "slicer_layer"))


@pytest.fixture(scope="session")
def host() -> Any:
    """`slicer` as in the application, with our own small layers of Python on top of slicer-core.

    REGISTRATIONNET_SLICER_LAYER names a folder with Slicer's own `Base/Python/slicer`, to run the same tests on that.
    """
    sys.path.insert(0, str(HOST))
    import slicer_host

    slicer_host.start(os.environ.get("REGISTRATIONNET_SLICER_LAYER") or HOST / "slicer_layer")
    # The application's Colors module does this.
    slicer_host.slicer.mrmlScene.RegisterNodeClass(slicer_host.slicer.vtkMRMLColorLegendDisplayNode())
    return slicer_host


@pytest.fixture
def scene(host: Any) -> Iterator[Any]:
    """The application's scene, empty."""
    slicer = host.slicer
    slicer.mrmlScene.Clear(0)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Without what earlier tests have left in memory, which Python would look through again and again: a tenth of a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
