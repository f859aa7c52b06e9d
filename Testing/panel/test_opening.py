"""What opening the module costs; in a process of its own, as the tests have imported everything already."""

import json
import subprocess
import sys
from typing import Any

import pytest

from ..module.conftest import ROOT


@pytest.fixture(scope="module")
def opening() -> dict[str, list[int]]:
    script = ROOT / "Testing" / "benchmarks" / "panel.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=100)
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_opening_imports_no_torch_and_starts_no_worker(opening: dict[str, list[int]]) -> None:
    assert opening["heavy"] == []
    assert not opening["has_worker"]


def test_opening_takes_less_than_300_ms(opening: dict[str, list[int]]) -> None:
    """Of the processor, since the clock also counts what else this machine does."""
    assert min(opening["processor_ms"][1:]) < 300
    assert opening["processor_ms"][0] < 600, "the first also reads the library from the disk"


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
