"""The command `cohort`: what it gives and prints, and how it fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import SimpleITK as sitk

from RegistrationNetLib.cli import cohort_commands
from RegistrationNetLib.cli.main import parser
from RegistrationNetLib.cohort.pair import RECORD, RESULTS
from RegistrationNetLib.cohort.records import Failure, is_done
from RegistrationNetLib.cohort.run import Summary

from ..cohort.small import QUICK, blob, listed, small_plan
from .conftest import Status

pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]


def test_a_plan_is_carried_out_and_told(tmp_path: Path, status_of: Status) -> None:
    plan = small_plan(tmp_path, 2, **QUICK)
    flat = plan.pairs[0].files["moving"]
    good = flat.read_bytes()
    sitk.WriteImage(sitk.Image([24, 24], sitk.sitkInt16), str(flat))
    given = ("cohort", tmp_path / "plan.csv", tmp_path / "out", "--processes", "1")
    code, out, err = status_of(*given)
    assert code == 1
    assert re.fullmatch("registrationnet: pair0: moving has one value everywhere .*\n", err)
    assert out.splitlines() == ["1 registered, 1 failed", f"Overview: {tmp_path / 'out' / 'index.html'}"]
    assert not (tmp_path / "out" / "pairs" / "pair0").exists()
    assert {path.name for path in (tmp_path / "out" / "pairs" / "pair1").iterdir()} == {*RESULTS, RECORD}
    report = json.loads((tmp_path / "out" / "pairs" / "pair1" / "report.json").read_text())
    assert (report["inputs"]["steps"], report["inputs"]["align"]) == (1, ["centre"])
    assert "pair0,moving has one value everywhere" in (tmp_path / "out" / "failures.csv").read_text()

    flat.write_bytes(good)
    assert status_of(*given[:3], "--array", "1", "--quiet") == (0, "", "")
    assert status_of(*given)[1].startswith("0 registered, 2 were done before, 0 failed\n")
    assert status_of(*given, "--quiet") == (0, "", "")
    (tmp_path / "out" / "index.html").unlink()
    assert status_of(*given, "--overview", "--quiet") == (0, "", "")
    assert (tmp_path / "out" / "index.html").exists()
    assert (tmp_path / "out" / "failures.csv").read_text() == "name,error,fixed,moving\n"


def test_faults_of_a_plan_are_lines(tmp_path: Path, status_of: Status) -> None:
    rows = [{"fixed": "a.nii", "moving": "b.nii"}, {"fixed": "a.nii", "moving": "c.nii"}]
    code, out, err = status_of("cohort", listed(tmp_path, rows), tmp_path / "out")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 5
    assert all(line.startswith("registrationnet: ") for line in err.splitlines())
    assert err.splitlines()[-1].endswith("plan.csv has 4 faults; nothing was started")
    assert not (tmp_path / "out").exists()


def test_failures_are_told_and_end_with_status_1(tmp_path: Path, status_of: Status) -> None:
    plan = small_plan(tmp_path, 2, **QUICK)
    plan.pairs[1].files["moving"].write_bytes(b"")
    code, out, err = status_of("cohort", tmp_path / "plan.csv", tmp_path / "out", "--array", "2", "--quiet")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"registrationnet: pair1: .*image2.nii.gz is empty; .*\n", err)


@pytest.mark.parametrize("variable", cohort_commands.ARRAY_VARIABLES)
def test_an_element_of_an_array_knows_its_number(
    variable: str, tmp_path: Path, status_of: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_plan(tmp_path, 2)
    asked: list[int] = []

    def fake(_: object, __: object, number: int, **___: object) -> Summary:
        asked.append(number)
        return Summary(0, 1, ())

    monkeypatch.setattr(cohort_commands, "run_one", fake)
    for name in cohort_commands.ARRAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = ("cohort", tmp_path / "plan.csv", tmp_path / "out", "--quiet", "--array")
    code, _, err = status_of(*given)
    assert code == 2
    assert "No queue tells which element of a job array this is" in err
    monkeypatch.setenv(variable, "2")
    assert status_of(*given) == (0, "", "")
    for number in ("1", "0"):
        assert status_of(*given, number)[0] == 0
    assert asked == [2, 1, 0], "0 is a number too, which no pair has"


def test_what_is_asked_for_all_pairs_and_of_the_place_arrives(
    tmp_path: Path, status_of: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_plan(tmp_path, 1, smoothness="3")
    asked = Namespace()

    def fake(plan: object, _: Path, **options: object) -> Summary:
        asked.plan, asked.options = plan, options
        return Summary(0, 0, (Failure("pair0", "oh", 1.0),))

    monkeypatch.setattr(cohort_commands, "run_cohort", fake)
    queue = (
        "--queue",
        "slurm",
        "--jobs",
        "4",
        "--cores",
        "2",
        "--memory",
        "8GB",
        "--walltime",
        "1:00",
        "--queue-option",
        "account=a",
    )
    given = ("cohort", tmp_path / "plan.csv", tmp_path / "out", "--steps", "5", "--smoothness", "2", "--anonymous", *queue)
    assert status_of(*given)[0] == 1
    (pair,) = asked.plan.pairs
    assert pair.options == {"steps": 5, "smoothness": 3.0}
    place = asked.options["place"]
    assert (place.queue, place.jobs, asked.options["is_anonymous"]) == ("slurm", 4, True)
    assert place.job == {"cores": 2, "memory": "8GB", "walltime": "1:00", "account": "a"}
    assert status_of("cohort", tmp_path / "plan.csv", tmp_path / "out", "--scheduler", "tcp://a:1")[0] == 1
    assert asked.options["place"].scheduler == "tcp://a:1"
    assert status_of("cohort", tmp_path / "plan.csv", tmp_path / "out", "--processes", "3")[0] == 1
    assert asked.options["place"].processes == 3


def test_a_bids_folder_is_a_plan(tmp_path: Path, status_of: Status) -> None:
    folder = tmp_path / "bids"
    code, _, err = status_of("cohort", folder, tmp_path / "out")
    assert code == 2
    assert "cannot be read as a list" in err
    folder.mkdir()
    (folder / "dataset_description.json").write_text("{}")
    code, _, err = status_of("cohort", folder, tmp_path / "out", "--suffix", "CT", "--select", "run-1")
    assert code == 2
    assert "it holds no image CT with run-1" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--queue", "cron"], "There is no queue 'cron'"),
        (["--queue-option", "account"], "'account' is not NAME=VALUE"),
        (["--scheduler", "tcp://a:1", "--queue", "slurm"], "A scheduler and a queue were given"),
        (["--rule", "all"], "--rule: invalid choice: 'all'"),
        (["--rule", "first-session", "--suffix", "T1w"], "--rule, --suffix choose among the images of a BIDS folder, and"),
        (["--template", "mni.nii.gz"], "--template choose among the images of a BIDS folder"),
        (["--memory", "16GB"], "What jobs of a queue ask for was given (memory), and no queue"),
    ],
)
def test_bad_options_are_refused_in_one_line(flags: list[str], message: str, tmp_path: Path, status_of: Status) -> None:
    small_plan(tmp_path, 1)
    code, out, err = status_of("cohort", tmp_path / "plan.csv", tmp_path / "out", *flags)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a child is a POSIX notion")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(number: signal.Signals, tmp_path: Path, status_of: Status) -> None:
    plan, out = small_plan(tmp_path, 40, **QUICK), tmp_path / "out"
    command = [sys.executable, "-m", "RegistrationNetLib", "cohort", str(tmp_path / "plan.csv"), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("pairs/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    done = sum(is_done(pair, out) for pair in plan.pairs)
    assert 0 < done < 40
    assert process.returncode == 130
    assert err == f"registrationnet: cancelled; {done} of 40 are done, and the same command goes on\n"
    assert not (out / ".unfinished").exists()
    assert status_of("cohort", tmp_path / "plan.csv", out, "--quiet") == (0, "", "")
    assert all(is_done(pair, out) for pair in plan.pairs)


def test_the_command_is_understood() -> None:
    assert parser().parse_args(["cohort", "plan.csv", "out"]).command == "cohort"


def test_what_is_asked_of_a_template_arrives(tmp_path: Path, status_of: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Namespace()

    def fake(images: list[Path], out: Path, **given: object) -> Namespace:
        asked.images, asked.out, asked.given = images, out, given
        return Namespace(moved_mm=(Namespace(mean=0.5, p95=1.0),), has_converged=False)

    monkeypatch.setattr(cohort_commands, "build_template", fake)
    given = ("a.nii", "b.nii", tmp_path / "out", "--iterations", "3", "--tolerance", "0.2", "--steps", "5", "--processes", "2")
    code, out, err = status_of("template", *given)
    assert (code, err) == (0, "")
    assert (asked.images, asked.out) == ([Path("a.nii"), Path("b.nii")], tmp_path / "out")
    assert (asked.given["course"].iterations, asked.given["course"].tolerance_vox) == (3, 0.2)
    assert asked.given["options"] == {"steps": 5}
    assert asked.given["place"].processes == 2
    assert out.splitlines()[:2] == [
        "Iteration 1: off the mean shape by 0.500 mm mean, 1.000 mm for 95 %",
        "The template does not stand yet; --iterations gives it more.",
    ]


def test_what_is_asked_of_a_series_arrives(tmp_path: Path, status_of: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Namespace()

    def fake(series: Path, **given: object) -> Namespace:
        asked.series, asked.given = series, given
        moved = Namespace(mean=1.5, max=3.0)
        frame = Namespace(number=0, time=2.0, displacement_mm=moved, registration=None)
        return Namespace(frames=(frame,), drift_mm=(moved,), save=lambda out, **files: vars(asked).update(out=out, files=files))

    monkeypatch.setattr(cohort_commands, "register_series", fake)
    (tmp_path / "points.csv").write_text("x,y,z,label\n1,2,3,a\n")
    sitk.WriteImage(sitk.JoinSeries([blob((5.0, 5.0, 5.0), size=10)] * 3), str(tmp_path / "4d.nii"))
    given = (tmp_path / "4d.nii", tmp_path / "out", "--reference", "2", "--points", tmp_path / "points.csv", "--seed", "4")
    code, out, err = status_of("series", *given)
    assert (code, err) == (0, "")
    assert (len(asked.series.frames), asked.given["reference"], asked.given["seed"]) == (3, 2, 4)
    assert (asked.out, asked.files["labels"], asked.files["points"][0]) == (tmp_path / "out", None, ("a",))
    (tmp_path / "flat.csv").write_text("x,y,label\n1,2,a\n")
    del asked.series
    code, _, err = status_of("series", *given, "--points", tmp_path / "flat.csv")
    assert (code, hasattr(asked, "series")) == (2, False)
    assert "The points to carry along have 2 dimensions and the frames of the series 3" in err
    assert out.splitlines()[-1].startswith("Drift when a chain of neighbours comes back to the reference: 1.50 mm mean")
