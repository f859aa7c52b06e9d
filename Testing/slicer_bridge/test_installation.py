"""What is asked of Slicer's Python when something must be installed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from RegistrationNetLib.errors import ResourceError
from RegistrationNetLib.slicer_bridge import dependencies
from RegistrationNetLib.slicer_bridge.installation import commands, in_one_line

WITH_EXTENSION = SimpleNamespace(modules=SimpleNamespace(pytorchutils=object()))
WITHOUT = SimpleNamespace(modules=SimpleNamespace())


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("one>=1.0\ntwo\n")
    return path


def lacks(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(dependencies, "missing", lambda asked: [one for one in asked if one.split(">")[0] in names])


def test_torch_comes_by_the_tool_of_the_pytorch_extension(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks(monkeypatch, "torch", "one")
    first, torch, others = commands(wanted, WITH_EXTENSION)
    assert first[:3] == ("-m", "pip", "install")
    assert first[-1].startswith("light-the-torch")
    assert torch == ("-m", "light_the_torch", "install", "torch>=2.2")
    assert others[-1] == "one>=1.0"


def test_only_what_is_missing_is_installed(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks(monkeypatch, "two")
    (only,) = commands(wanted, WITHOUT)
    assert only[-1] == "two"
    lacks(monkeypatch)
    assert commands(wanted, WITHOUT) == []


def test_without_the_extension_that_is_said(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks(monkeypatch, "torch")
    with pytest.raises(ResourceError, match="Slicer gets it by the PyTorch extension. Install that in the Extensions Manager"):
        commands(wanted, WITHOUT)


def test_what_an_installer_says_fits_a_label() -> None:
    assert in_one_line("short") == "short"
    assert in_one_line("x" * 100) == "x" * 79 + "…"
