"""What opening the module costs; in a process of its own, as the tests have imported everything already."""

import json
import subprocess
import sys
from typing import Any

import pytest

from ..module.conftest import ROOT


@pytest.fixture(scope="module")
def opening() -> dict[str, list[Any]]:
    script = ROOT / "Testing" / "benchmarks" / "panel.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=100)
    found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_opening_imports_no_torch_and_starts_no_worker(opening: dict[str, list[Any]]) -> None:
    assert opening["heavy"] == []
    assert not opening["has_worker"]


def test_opening_reads_nothing_of_networks_losses_or_training(opening: dict[str, list[Any]]) -> None:
    """How long it takes, the benchmark says; what it must not wait for is said here."""
    packages = {name.partition(".")[0] for name in opening["library"]}
    assert "slicer_bridge" in packages
    assert not packages & {"losses", "training", "cli"}
    read = {name for name in opening["library"] if name.startswith(("models.", "quality.", "geometry.", "io."))}
    assert read <= {
        "models.catalogue",
        "models.download",
        "models.weights",
        "quality.colours",
        "io.landmark_matching",
        "io.nrrd",
        "io.native_paths",
        "io.warning",
    }


def test_the_panel_works_before_anything_is_installed_and_asks_for_it_when_it_is_needed() -> None:
    script = ROOT / "Testing" / "panel" / "bare_slicer.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(found["models"]) == {file.stem for file in (ROOT / "Resources" / "Models").glob("*.json")}
    assert found["may register"]
    assert not found["asked before"]
    assert found["asked"]
    for package in ("PyTorch", "jinja2", "psutil", "tqdm"):
        assert package in found["words"]
    assert not found["runs"]
    assert "Slicer gets it by the PyTorch extension" in found["message"]
