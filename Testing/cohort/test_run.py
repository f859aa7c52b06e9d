"""A plan carried out on a real Dask cluster: everything once, and nothing lost."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.cohort import clusters, run
from RegistrationNetLib.cohort.clusters import Place, client_of, local_processes
from RegistrationNetLib.cohort.estimate import memory_mb_of
from RegistrationNetLib.cohort.pair import CohortPair
from RegistrationNetLib.cohort.records import is_done
from RegistrationNetLib.cohort.run import run_cohort, run_one
from RegistrationNetLib.cohort.work import carry_out
from RegistrationNetLib.errors import Cancelled, InputError, OutputError, ResourceError
from RegistrationNetLib.progress import Progress

from .small import QUICK, changed, small_plan
from .works import die_once, die_over_pair1, die_three_times, fill_the_disk, pretend, wait_for_ever  # fmt: skip

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two processes of a cluster that was there before."""
    with clusters._silent(), clusters._local(distributed, 2, 2) as cluster:
        yield Place(scheduler=cluster.scheduler_address)


def times(out: Path, pairs: tuple[CohortPair, ...]) -> list[int]:
    return [pair.layout.record_path(out).stat().st_mtime_ns for pair in pairs]


def test_every_pair_is_registered_once_and_what_changed_again(place: Place, tmp_path: Path) -> None:
    plan, out, heard = small_plan(tmp_path, 3), tmp_path / "out", list[Progress]()
    summary = run_cohort(plan, out, place=place, work=pretend, progress=heard.append)
    assert (summary.before, summary.now, summary.failures) == (0, 3, ())
    assert [one.stage for one in heard] == ["0/3", "1/3", "2/3", "3/3"]
    assert heard[0].seconds_left is None
    assert (heard[-1].fraction, heard[-1].seconds_left) == (1.0, 0.0)
    assert {path.name for path in out.iterdir()} == {".lock", "pairs", "index.html", "pairs.csv", "failures.csv"}
    before = times(out, plan.pairs)

    summary = run_cohort(plan, out, place=place, work=pretend)
    assert (summary.before, summary.now) == (3, 0)
    assert times(out, plan.pairs) == before

    pairs = (plan.pairs[0], changed(plan.pairs[1], steps=3), plan.pairs[2])
    plan.pairs[2].layout.path(out, "inverse.h5").unlink()
    summary = run_cohort(type(plan)(plan.source, pairs), out, place=place, work=pretend)
    assert (summary.before, summary.now) == (1, 2)
    assert times(out, pairs)[0] == before[0]
    assert all(is_done(pair, out) for pair in pairs)


def test_a_killed_process_costs_its_own_work_and_every_pair_ends_right(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 2), tmp_path / "out"
    summary = run_cohort(plan, out, place=place, work=die_once)
    assert (summary.now, summary.failures) == (2, ())
    assert all(is_done(pair, out) for pair in plan.pairs)
    assert not (out / ".unfinished").exists()


@pytest.mark.slow
def test_a_pair_that_kills_its_processes_fails_alone(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 3), tmp_path / "out"
    summary = run_cohort(plan, out, place=place, work=die_over_pair1)
    assert summary.now == 2
    assert [one.name for one in summary.failures] == ["pair1"]
    assert "was killed, again and again" in summary.failures[0].error
    assert 'pair1,"The process that worked on it was killed' in (out / "failures.csv").read_text()


@pytest.mark.slow
def test_a_pair_over_which_processes_have_died_is_tried_again_when_it_is_alone(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 3), tmp_path / "out"
    summary = run_cohort(plan, out, place=place, work=die_three_times)
    assert (summary.now, summary.failures) == (3, ())
    assert not (out / "failures").exists()


def test_a_full_disk_ends_the_run_and_the_next_call_goes_on(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 4), tmp_path / "out"
    with pytest.raises(OutputError, match="The disk is full: No space left on device. The same command goes on from there"):
        run_cohort(plan, out, place=place, work=fill_the_disk)
    assert (out / "index.html").exists()
    assert not (out / "failures").exists()
    done = sum(is_done(pair, out) for pair in plan.pairs)
    summary = run_cohort(plan, out, place=place, work=pretend)
    assert (summary.before, summary.now) == (done, 4 - done)


def test_a_run_can_be_stopped_from_the_callback(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 3), tmp_path / "out"

    def enough(progress: Progress) -> None:
        if progress.stage == "1/3":
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        run_cohort(plan, out, place=place, work=pretend, progress=enough)
    assert not (out / ".unfinished").exists()
    assert (out / "pairs.csv").exists()


def test_ctrl_c_stops_processes_elsewhere(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 3), tmp_path / "out"

    def interrupt() -> None:
        while not (out / ".unfinished").exists():
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_cohort(plan, out, place=place, work=wait_for_ever)
    assert not (out / ".unfinished").exists()
    # The processes are free again.
    assert run_cohort(plan, out, place=place, work=pretend).now == 3


def test_a_second_run_in_the_same_folder_waits_for_its_turn(place: Place, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 1), tmp_path / "out"

    def again(_: Progress) -> None:
        with pytest.raises(InputError, match="Another run is at work in .*out; one at a time can be. Wait for its end"):
            run_cohort(plan, out, place=place, work=pretend)

    assert run_cohort(plan, out, place=place, work=pretend, progress=again).now == 1


def test_a_scheduler_that_is_gone_is_told_and_what_is_done_is_kept(tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 3), tmp_path / "out"
    with clusters._silent(), distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:  # fmt: skip

        def close(progress: Progress) -> None:
            if progress.stage == "1/3":
                cluster.close()

        with pytest.raises(ResourceError, match="The scheduler is gone, .* it goes on from there"):
            run_cohort(plan, out, place=Place(scheduler=cluster.scheduler_address), work=pretend, progress=close)
    assert sum(is_done(pair, out) for pair in plan.pairs) >= 1


def test_an_address_where_nothing_answers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.3)
    with pytest.raises(InputError, match="No Dask scheduler answers at tcp://127.0.0.1:9"):
        run_cohort(small_plan(tmp_path, 1), tmp_path / "out", place=Place(scheduler="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheduler": "tcp://a:1", "queue": "slurm"}, "A scheduler and a queue were given"),
        ({"queue": "cron"}, "There is no queue 'cron'; the queues are slurm, pbs"),
        ({"job": {"cores": 4, "memory": "16GB"}}, r"What jobs of a queue ask for was given \(cores, memory\), and no queue"),
        ({"scheduler": "tcp://a:1", "jobs": 4}, r"What jobs of a queue ask for was given \(jobs\), and no queue"),
        ({"queue": "slurm", "processes": 2}, "A number of processes of this machine was given, and the work is not done here"),
    ],
)
def test_places_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Place(**given)


def test_other_versions_and_missing_packages_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "__version__", "another")
    with (
        pytest.raises(InputError, match="The workers of the scheduler have RegistrationNet .*, and this is another"),
        client_of(place, 1),
    ):
        pass
    monkeypatch.setattr(clusters, "_version", os.getpid)
    with pytest.raises(InputError, match="cannot use RegistrationNet"):
        clusters._check_workers(Broken())
    with pytest.raises(
        InputError, match="Cohorts work by Dask, and no_such_package is not installed. Install it with: pip install"
    ):
        clusters._imported("no_such_package")


class Broken:
    """A client whose workers lack the library."""

    def run(self, _: object) -> None:
        raise ModuleNotFoundError("RegistrationNetLib")


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(clusters, "_cards", lambda: 0)
    assert local_processes(0, 100) == (8, 1)
    assert local_processes(0, 3) == (3, 2)
    assert local_processes(2, 100) == (2, 4)
    monkeypatch.setattr(clusters, "_cards", lambda: 4)
    assert local_processes(0, 100) == (4, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert local_processes(0, 100) == (4, 1)


# one element of a job array


def test_elements_of_an_array_are_registered_in_their_own_processes(tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 2), tmp_path / "out"
    assert run_one(plan, out, 2, work=pretend).now == 1
    assert [is_done(pair, out) for pair in plan.pairs] == [False, True]
    assert run_one(plan, out, 2, work=pretend).before == 1
    assert {path.name for path in out.iterdir()} == {"pairs"}
    for number in (0, 3):
        with pytest.raises(InputError, match=f"There is no pair {number}; the plan has 2, counted from 1"):
            run_one(plan, out, number)
    plan.pairs[0].files["moving"].write_bytes(b"")
    (failure,) = run_one(plan, out, 1, work=carry_out).failures
    assert "is empty" in failure.error
    with pytest.raises(OutputError, match="No space left"):
        run_one(small_plan(tmp_path, 2), tmp_path / "other", 2, work=fill_the_disk)


# the work


def test_the_memory_of_a_pair_is_that_of_its_registration(tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 1, **QUICK), tmp_path / "out"
    (pair,) = plan.pairs
    run_one(plan, out, 1)
    report = json.loads(pair.layout.path(out, "report.json").read_text())
    assert memory_mb_of(pair) >= report["estimated_memory_mb"] > 0
    assert memory_mb_of(pair) == pytest.approx(report["estimated_memory_mb"], rel=0.5)
    pair.files["moving"].unlink()
    assert memory_mb_of(pair) == 0


# the queue

SBATCH = """#!/bin/bash
setsid bash "${@: -1}" > /dev/null 2>&1 &
echo "$!" > "$(dirname "$0")/job"
echo "Submitted batch job 7"
"""
SCANCEL = """#!/bin/bash
kill -- -"$(cat "$(dirname "$0")/job")"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the commands of SLURM, which run a job at once on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SLURM's commands are shell scripts here")
def test_jobs_of_a_queue_do_the_work_and_are_cancelled_at_the_end(slurm: Path, tmp_path: Path) -> None:
    plan, out = small_plan(tmp_path, 2), tmp_path / "out"
    job = {"cores": 1, "memory": "1GB", "scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    summary = run_cohort(plan, out, place=Place(queue="slurm", job=job), work=pretend)
    assert (summary.now, summary.failures) == (2, ())
    leader = int((slurm / "job").read_text())
    deadline = time.monotonic() + 30
    while _is_alive(leader) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(leader)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("slurm")
def test_a_job_that_is_not_described_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path, 1)
    with pytest.raises(
        InputError, match="Nothing says what cores and memory each job of slurm asks for; .* Give them by --cores"
    ):
        run_cohort(plan, tmp_path / "out", place=Place(queue="slurm"))
    monkeypatch.setattr("dask_jobqueue.SLURMCluster", refusing)
    job = {"cores": 1, "memory": "1GB", "colour": "red"}
    with pytest.raises(InputError, match="The jobs of slurm cannot be described so .*colour.*; .* Correct --queue-option"):
        run_cohort(plan, tmp_path / "out", place=Place(queue="slurm", job=job))


def refusing(**job: object) -> None:
    raise TypeError(f"unexpected keyword argument among {', '.join(job)}")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a share that is read-only, though its rights say otherwise."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    plan = small_plan(tmp_path, 1)
    monkeypatch.setattr(Path, "mkdir", failing)
    for work in (lambda: run_cohort(plan, tmp_path / "out"), lambda: run_one(plan, tmp_path / "out", 1)):
        with pytest.raises(OutputError, match="Cannot write into .*out: Read-only file system. Choose|Free some space or choose"):
            work()


def test_processes_that_cannot_be_started_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_: object) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(distributed, "LocalCluster", failing)
    with pytest.raises(
        ResourceError, match=r"The 2 processes .* could not be started \(Too many open files\). Try fewer .*__main__"
    ):
        run_cohort(small_plan(tmp_path, 2), tmp_path / "out", place=Place(processes=2))


def test_a_run_ends_when_its_processes_are_gone_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deserted:
        """A cluster whose processes have died, and are not started again."""

        status = "running"

        def nthreads(self) -> dict[str, int]:
            return {}

        def submit(self, *_: Any, **__: Any) -> Any:
            return Future()

        def cancel(self, *_: Any, **__: Any) -> None:
            pass

    @contextmanager
    def deserted(*_: Any) -> Iterator[Any]:
        yield Deserted()

    monkeypatch.setattr(run, "client_of", deserted)
    monkeypatch.setattr(run, "REVIVAL_SECONDS", 0.1)
    monkeypatch.setattr(run, "_ended", lambda *_: time.sleep(0.05) or set())
    with pytest.raises(ResourceError, match=r"all died.*fewer --processes"):
        run_cohort(small_plan(tmp_path, 2, **QUICK), tmp_path / "out", work=pretend)
