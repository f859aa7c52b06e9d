"""What a registration would do and take is what it then does."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.progress import Stages, silent
from RegistrationNetLib.registration import forecast as module
from RegistrationNetLib.registration import resolution
from RegistrationNetLib.registration.forecast import forecast
from RegistrationNetLib.registration.pipeline import register

QUICK = {"align": ["centre"], "steps": 3, "repeats": 0}


def image(shift_mm: float = 0.0) -> sitk.Image:
    place = np.stack(np.meshgrid(*[np.arange(24.0)] * 2, indexing="ij")) - 12.0
    place[1] -= shift_mm / 2
    values = 900 * np.exp(-(place[0] ** 2 / 40 + place[1] ** 2 / 20)) + 2 * place[0]
    result = sitk.GetImageFromArray(values.astype(np.float32))
    result.SetSpacing((2.0, 3.0))
    return result


def test_what_is_told_is_what_is_done() -> None:
    told = forecast(image(), image(3.0), similarity="lncc", **QUICK)
    done = register(image(), image(3.0), similarity="lncc", **QUICK).facts
    assert (told.model, told.refine, told.device) == (done["model"], done["refine"], done["device"])
    assert (list(told.align), told.steps, told.repeats) == (
        done["inputs"]["align"],
        done["inputs"]["steps"],
        done["inputs"]["repeats"],
    )
    assert (done["inputs"]["similarity"]["name"], told.across_contrasts) == (told.similarity, ())
    assert told.memory_mb == pytest.approx(done["estimated_memory_mb"])
    assert told.resolution_mm == pytest.approx(min(done["resolution_mm"]))
    assert [told.fixed[name] for name in ("size", "modality")] == [tuple(done["inputs"]["fixed"]["size"]), "other"]
    assert told.seconds is not None
    assert told.free_mb > 0
    assert told.weights == "none needed"


def test_options_change_what_is_told() -> None:
    usual, other = forecast(image(), image()), forecast(image(), image(), similarity="mind", resolution=3.0, steps=0)
    assert usual.across_contrasts
    assert (other.similarity, other.across_contrasts, other.refine) == ("mind", (), "none")
    assert (usual.resolution_mm, other.resolution_mm) == (2.0, 3.0)
    network = forecast(*_volumes(), model="unigradicon", fixed_modality="ct", moving_modality="ct")
    assert (network.title, network.fixed["modality"]) == ("uniGradICON", "ct")
    assert network.weights in ("missing", "ready")


def _volumes() -> tuple[sitk.Image, sitk.Image]:
    volume = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(10, 11, 12)).astype(np.float32))
    return volume, volume


def test_weights_at_hand_are_ready(tmp_path: Path) -> None:
    (tmp_path / "own.trch").write_bytes(b"weights")
    assert forecast(*_volumes(), model="unigradicon", weights=tmp_path / "own.trch").weights == "ready"


def test_of_a_gpu_no_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = module.checked_request

    def on_graphics(*given: object) -> object:
        request = asked(*given)  # type: ignore[arg-type]
        object.__setattr__(request.options, "device", torch.device("cuda"))
        return request

    monkeypatch.setattr(module, "checked_request", on_graphics)
    monkeypatch.setattr(module, "free_mb", lambda _: 1000.0)
    monkeypatch.setattr(resolution, "free_mb", lambda _: 1000.0)
    told = forecast(image(), image())
    assert (told.device, told.seconds, told.free_mb) == ("cuda", None, 1000.0)


def test_what_register_refuses_is_refused_now(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="moving has one value everywhere"):
        forecast(image(), sitk.Image([24, 24], sitk.sitkFloat32))
    with pytest.raises(InputError, match="There is no refinement 'much'"):
        forecast(image(), image(), refine="much")
    monkeypatch.setattr(resolution, "free_mb", lambda _: 0.0)
    monkeypatch.setattr("RegistrationNetLib.devices.free_mb", lambda _: 0.0)
    with pytest.raises(ResourceError, match="Crop the images"):
        forecast(image(), image())


def test_the_logger_hears_what_is_done_and_names_no_file(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    sitk.WriteImage(image(), str(tmp_path / "Doe.nii.gz"))
    holed = sitk.GetArrayFromImage(image(3.0))
    holed[0, 0] = np.nan
    moving = sitk.GetImageFromArray(holed)
    moving.SetSpacing((2.0, 3.0))
    with caplog.at_level(logging.INFO, "RegistrationNetLib"):
        result = register(tmp_path / "Doe.nii.gz", moving, **QUICK)
    heard = [record.getMessage() for record in caplog.records]
    assert "fixed: (24, 24) voxels of (2.0, 3.0) mm, modality other" in heard
    assert any(one.startswith("worked on at ") for one in heard)
    assert any(one.startswith("refine took ") for one in heard)
    assert str(result.verdict) in heard
    assert {record.name for record in caplog.records} == {
        "RegistrationNetLib.registration.pipeline",
        "RegistrationNetLib.progress",
    }
    assert [record.getMessage()[:10] for record in caplog.records if record.levelno == logging.WARNING] == ["moving: 0."]
    assert not any("Doe" in one for one in heard)


def test_stages_that_begin_are_told_on_the_finest_level_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "RegistrationNetLib"):
        Stages(silent, {"one": 1.0}).begin("one")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("DEBUG", "one begins")]


def test_nobody_hears_unasked() -> None:
    handlers = logging.getLogger("RegistrationNetLib").handlers
    assert any(isinstance(one, logging.NullHandler) for one in handlers)
    assert logging.getLogger("RegistrationNetLib").level == logging.NOTSET
