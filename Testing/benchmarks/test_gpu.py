"""The check for a CUDA card, rehearsed on the CPU: what it writes, and what it says where something is missing, too large or too slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.benchmarks.gpu import RUNTIME, STEPS, missing, table
from Testing.benchmarks.gpu_measures import MEASURES, measured

# The steps' own limits are those of a machine with nothing else to do.
PATIENT = ("--rehearse", "--limit", "3000", "--seconds", "9000")
ROOT = Path(__file__).resolve().parents[2]
REFERENCES = [step.name for step in STEPS if "reference" in step.name]
# Those that take long.
SLOW = (
    "direct",
    "constricon",
    "carl",
    "carl, reference",
    "unicarl",
    "unicarl, reference",
    "unigradicon, reference",
    "network refinement, reference",
)


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "Testing.benchmarks.gpu", str(folder), *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """The exit status, what was said, and the outcome of each step."""
    process = started(folder, *options)
    out, err = process.communicate()
    return process.returncode, out + err, recorded(folder)


def recorded(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    return {step["name"]: step for step in content["steps"]}


def outcomes(steps: dict[str, Any]) -> dict[str, str]:
    return {name: step["outcome"] for name, step in steps.items()}


@pytest.mark.slow
def test_a_rehearsal_leaves_every_figure_and_reason(tmp_path: Path) -> None:
    chosen = "machine;tests;constricon;carl;unicarl, reference"
    status, said, steps = run(tmp_path, *PATIENT, "--steps", chosen, "--without", "icon_registration", "--memory-gb", "0.05")
    assert status == 0, said
    assert outcomes(steps) == {
        "machine": "done",
        "tests": "done",
        "carl": "skipped",
        "constricon": "done",
        "unicarl, reference": "skipped",
    }
    assert steps["unicarl, reference"]["reason"] == "needs icon_registration, which this machine has not"
    assert steps["carl"]["reason"] == "needs about 0.08 GB of the card; 0.05 GB are free"
    assert "1 passed" in steps["tests"]["reason"]
    rows = steps["constricon"]["rows"]
    assert [row["setting"].split(", ")[-1] for row in rows] == ["fp32 as torch does it (TF32)", "fp16"]
    assert all(row["seconds"] > 0 and row["runs"] == 1 for row in rows)
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert f"torch: {torch.__version__}" in written
    assert "the figures mean nothing" in written
    for name, step in steps.items():
        assert f"| {name} | {step['outcome']} | {step['reason']} |" in written
        for row in step["rows"]:
            assert f"| {name} | {row['setting']} | {row['seconds']:.4g} |" in written


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MEASURES])
@pytest.mark.usefixtures("one_thread")
def test_every_measurement_works_on_tiny_sizes(name: str) -> None:
    if name in REFERENCES:
        pytest.importorskip("icon_registration")
        pytest.importorskip("unigradicon")
    rows = measured(name, is_rehearsal=True)
    assert rows
    for row in rows:
        assert set(row) == {"setting", "seconds", "runs", "peak_mb", "note"}
        assert row["seconds"] > 0


def test_every_step_is_measured() -> None:
    assert set(MEASURES) == {step.name for step in STEPS} - {"machine", "tests"}


def test_a_run_that_is_killed_has_kept_what_it_had(tmp_path: Path) -> None:
    process = started(tmp_path, *PATIENT, "--steps", "machine;nephi")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("machine: done")
    process.kill()
    process.communicate()
    assert outcomes(recorded(tmp_path)) == {"machine": "done", "nephi": "not reached"}
    assert f"torch: {torch.__version__}" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_a_step_that_takes_too_long_is_named_and_the_next_one_done(tmp_path: Path) -> None:
    status, _, steps = run(tmp_path, "--rehearse", "--steps", "constricon;nephi", "--limit", "0.2", "--without", "psutil")
    assert status == 0
    assert {step["reason"] for step in steps.values()} == {"needs psutil, which this machine has not"}
    status, said, steps = run(tmp_path, "--rehearse", "--steps", "constricon;nephi", "--limit", "0.2")
    assert status == 1
    assert outcomes(steps) == dict.fromkeys(("nephi", "constricon"), "took too long")
    assert "nephi: took too long more than 0.2 s" in said


def test_when_the_time_is_over_what_is_left_is_named(tmp_path: Path) -> None:
    status, _, steps = run(tmp_path, "--rehearse", "--seconds", "1")
    assert status == 0
    assert list(steps) == [step.name for step in STEPS]
    assert {step["reason"] for step in steps.values()} == {"the time for the whole run, 1 s, was over"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_without_a_card_nothing_is_measured(tmp_path: Path) -> None:
    status, said, steps = run(tmp_path, *PATIENT[1:])
    assert status == 2
    assert "has no CUDA card; the check needs one" in said
    assert steps.pop("machine")["outcome"] == "failed"
    assert {(step["outcome"], step["reason"]) for step in steps.values()} == {("skipped", "no CUDA card")}


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    process = started(tmp_path, "--steps", "memory")
    assert "there is no step 'memory'; the steps are machine; tests;" in process.communicate()[1]
    assert process.returncode == 2


def test_packages_that_are_missing_are_named() -> None:
    assert missing(RUNTIME) == []
    assert missing(("torch", "no_such_package", "tqdm"), without=["tqdm"]) == ["no_such_package", "tqdm"]


def test_a_step_without_figures_has_its_reason_in_the_table() -> None:
    step = {"name": "carl", "outcome": "failed", "reason": "a | b", "rows": []}
    assert "| carl | failed | a / b |" in table({"rehearsal": False, "machine": {"card": "H100"}, "steps": [step]})


def test_every_test_for_a_card_lies_where_the_check_runs_them() -> None:
    marked = [
        file.relative_to(ROOT)
        for file in (ROOT / "Testing").rglob("*.py")
        if "mark." + "gpu" in file.read_text(encoding="utf-8") and file.parent != ROOT / "Testing/gpu"
    ]
    assert marked == []
