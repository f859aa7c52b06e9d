"""What a person or a program at a terminal expects: a word before the work, JSON, a log, and a shell that completes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.choices import SIMILARITIES
from RegistrationNetLib.cli import cohort_commands, model_commands, registration_commands, train_commands, weights_commands
from RegistrationNetLib.cli.main import log_on_stderr
from RegistrationNetLib.cohort.records import Failure
from RegistrationNetLib.cohort.run import Summary
from RegistrationNetLib.models.catalogue import cards

from .conftest import QUICK, Status


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two planes in a folder of their own."""
    rows, columns = np.indices((24, 28)) - 12.0
    for name, shift in (("fixed", 0), ("moving", 1)):
        values = 900 * np.exp(-(rows**2 / 40 + (columns - shift) ** 2 / 20)) + 2 * rows
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.float32)), str(tmp_path / f"{name}.nii.gz"))
    return tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"


def test_without_a_folder_register_says_what_it_would_do_and_does_nothing(
    pair: tuple[Path, Path], status_of: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_commands, "register", lambda *_, **__: pytest.fail("it was registered"))
    before = set(pair[0].parent.iterdir())
    code, out, err = status_of("register", *pair, *QUICK)
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[:-1])
    assert rows["fixed"] == "28×24 voxels of 1×1 mm, modality other"
    assert rows["method"] == "direct: Direct optimization"
    assert rows["alignment"] == "centre"
    assert rows["refinement"] == "field, 3 steps"
    assert "if the aligned images turn out to have two contrasts" in rows["similarity"]
    assert rows["resolution"] == "1 mm"
    assert "GB are free" in rows["memory"]
    assert rows["time"].startswith("about ")
    assert rows["results"].startswith("transform.h5, inverse.h5, ")
    assert out.splitlines()[-1].startswith("Nothing was done. To do it, name a folder for the results")
    assert set(pair[0].parent.iterdir()) == before
    assert status_of("register", *pair, "--quiet") == (0, "", "")


def test_what_would_be_done_is_told_to_programs_too(pair: tuple[Path, Path], status_of: Status) -> None:
    code, out, _ = status_of("register", *pair, "--resolution", "2", "--json")
    told = json.loads(out)
    assert (code, told["model"], told["resolution_mm"]) == (0, "direct", 2.0)
    assert {"memory_mb", "seconds", "free_mb", "similarity", "across_contrasts", "warnings", "results", "results_mb"} <= set(told)


@pytest.mark.parametrize("option", ["--fixed-landmarks", "--initial", "--fixed-mask"])
def test_what_would_be_refused_is_refused_without_a_folder_too(pair: tuple[Path, Path], status_of: Status, option: str) -> None:
    code, out, err = status_of("register", *pair, option, pair[0].parent / "missing.h5")
    assert (code, out) == (2, "")
    assert err.startswith("registrationnet: ")


def test_a_registration_prints_its_report_as_json_and_says_what_is_done(pair: tuple[Path, Path], status_of: Status) -> None:
    out_dir = pair[0].parent / "out"
    code, out, err = status_of("register", *pair, out_dir, *QUICK, "--json", "--verbose")
    assert code == 0
    assert json.loads(out) == json.loads((out_dir / "report.json").read_text())
    assert {path.name for path in out_dir.iterdir()} == set(registration_commands.RESULTS)
    assert "registrationnet: model direct on " in err
    assert "registrationnet: refine took " in err
    assert all(line.startswith("registrationnet: ") for line in err.splitlines())


def test_a_log_that_was_asked_for_tells_no_warnings_and_is_gone_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("RegistrationNetLib.any")
    with log_on_stderr():
        logger.info("one")
        logger.warning("two")
    logger.info("three")
    assert capsys.readouterr().err == "registrationnet: one\n"


def test_quiet_and_json_exclude_each_other(status_of: Status) -> None:
    code, _, err = status_of("register", "fixed", "moving", "--json", "--quiet")
    assert code == 2
    assert "not allowed with argument" in err


def test_the_other_commands_print_json_for_programs(tmp_path: Path, status_of: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(sha256="abc")
    monkeypatch.setattr(weights_commands, "weights_state", lambda _: state)
    monkeypatch.setattr(weights_commands, "download", lambda *_, **__: tmp_path / "unigradicon.trch")
    monkeypatch.setattr(weights_commands, "import_file", lambda *_, **__: tmp_path / "unigradicon.trch")
    monkeypatch.setattr(model_commands, "remove", lambda _: 12)
    monkeypatch.setattr(cohort_commands, "_plan", lambda *_, **__: SimpleNamespace(pairs=()))
    monkeypatch.setattr(cohort_commands, "run_cohort", lambda *_, **__: Summary(1, 2, (Failure("one", "two", 1.0),)))
    monkeypatch.setattr(cohort_commands, "read_series", lambda *_: SimpleNamespace(frames=(sitk.Image(4, 4, sitk.sitkUInt8),)))
    monkeypatch.setattr(
        cohort_commands,
        "register_series",
        lambda *_, **__: SimpleNamespace(report=lambda: {"frames": []}, save=lambda *_, **__: None),
    )
    monkeypatch.setattr(
        cohort_commands, "build_template", lambda *_, **__: (tmp_path / "template.json").write_text('{"moved_mm": []}')
    )
    trained = SimpleNamespace(card=SimpleNamespace(name="own"), steps=3, weights=tmp_path / "own.trch", skipped=[])
    monkeypatch.setattr(train_commands, "train", lambda *_, **__: trained)
    weights = {"name": "unigradicon", "file": str(tmp_path / "unigradicon.trch"), "sha256": "abc"}
    finetuned = {"name": "own", "steps": 3, "weights": str(tmp_path / "own.trch"), "skipped": []}
    expected: dict[tuple[object, ...], Any] = {
        ("models", "download", "unigradicon"): weights,
        ("models", "import", "unigradicon", "file"): weights,
        ("models", "remove", "unigradicon"): {"name": "unigradicon", "freed_bytes": 12},
        ("cohort", "plan.csv", tmp_path / "out"): {"registered": 2, "before": 1, "failures": [{"name": "one", "error": "two"}]},
        ("series", "s.nrrd", tmp_path / "out"): {"frames": []},
        ("template", "a", "b", tmp_path): {"moved_mm": []},
        ("finetune", "--model", "unigradicon", "--name", "own", "--data", tmp_path, "--out", tmp_path): finetuned,
    }
    for command, content in expected.items():
        _, out, err = status_of(*command, "--json")
        assert out, err
        assert json.loads(out) == content


def completed(line: str) -> set[str]:
    """What argcomplete proposes at the end of `line`, as bash asks it."""
    script = "import os, sys; os.dup2(1, 8); os.dup2(1, 9); from RegistrationNetLib.cli.main import log_on_stderr, main; main(); print('missed')"
    environment = os.environ | {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }  # fmt: skip
    run = [sys.executable, "-c", script]
    done = subprocess.run(
        run, capture_output=True, text=True, env=environment, cwd=Path(__file__).resolve().parents[2], check=True
    )
    assert "missed" not in done.stdout
    return {one.strip() for one in done.stdout.split("\n") if one.strip()}


def test_a_shell_completes_commands_options_and_names() -> None:
    pytest.importorskip("argcomplete")
    assert {"register", "doctor", "warp"} <= completed("registrationnet ")
    assert completed("registrationnet register a b --ref") == {"--refine"}
    assert completed("registrationnet models show ") >= set(cards())
    assert completed("registrationnet register --similarity ") == {"auto", *SIMILARITIES}
