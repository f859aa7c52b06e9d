"""The doctor says what is wrong and what to do."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from RegistrationNetLib.cli import doctor
from RegistrationNetLib.cli.doctor import Finding, examine


def finding(what: str) -> Finding:
    return next(one for one in examine() if one.what == what)


def test_everything_that_matters_is_looked_at() -> None:
    seen = {one.what for one in examine()}
    assert {"Python", "torch", "numpy", "SimpleITK", "memory", "threads", "device cpu", "cache folder", "model direct"} <= seen


def test_looking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache" / "registrationnet"))
    assert finding("cache folder").value.startswith(str(tmp_path / "cache" / "registrationnet"))
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_each_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path))
    assert finding("cache folder").value.startswith(f"{tmp_path} (")
    assert finding("model direct") == Finding("model direct", "weights none needed")
    missing = finding("model unigradicon")
    assert missing.is_fine, "a model that was never asked for is no fault"
    assert missing.value == "weights missing, about 283 MB: registrationnet models download unigradicon"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "unigradicon.trch").write_bytes(b"half")
    damaged = finding("model unigradicon")
    assert damaged.value == "weights damaged"
    assert "registrationnet models download unigradicon" in damaged.advice


@pytest.mark.parametrize(("version", "is_fine"), [("2.1.9", False), ("2.2.0", True), ("2.13.0+cpu", True), ("3.0", True)])
def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch, version: str, is_fine: bool) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert finding("torch").is_fine is is_fine
    assert is_fine or "pip install --upgrade torch" in finding("torch").advice


def test_little_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8, total=10**9))
    assert "close other programs" in finding("memory").advice


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert "disk" in finding("cache folder").advice


def test_a_single_thread_on_many_cores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 8)
    assert "OMP_NUM_THREADS" in finding("threads").advice


def test_missing_cards_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cards", dict)
    assert "install registrationnet again" in finding("models").advice
