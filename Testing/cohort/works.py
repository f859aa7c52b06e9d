"""Work for the processes of a cohort in place of registrations: it takes no time, and needs no torch."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from RegistrationNetLib.cohort.pair import RESULTS, CohortPair
from RegistrationNetLib.cohort.records import Outcome, Setting, fingerprints_of, placed

REPORT = {"verdict": {"colour": "green", "words": "fits", "reason": ""}}


def fill(folder: Path, text: str = "made") -> None:
    """Files of the names that a registration leaves."""
    for name in RESULTS:
        (folder / name).write_text(json.dumps(REPORT) if name.endswith(".json") else text, encoding="utf-8")


def pretend(pair: CohortPair, setting: Setting) -> Outcome:
    """Leaves files of the right names."""
    with placed(pair, setting, fingerprints_of(pair)) as folder:
        fill(folder, f"{os.getpid()}")
    return Outcome(pair.name)


def die_once(pair: CohortPair, setting: Setting) -> Outcome:
    """The process is killed in the middle of the first try, as by a system without memory."""
    tried = setting.out.parent / f"{pair.name}.tried"
    with placed(pair, setting, fingerprints_of(pair)) as folder:
        fill(folder)
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(pair.name)


def die_over_pair1(pair: CohortPair, setting: Setting) -> Outcome:
    """One pair kills every process that works on it."""
    if pair.name == "pair1":
        os.kill(os.getpid(), signal.SIGKILL)
    return pretend(pair, setting)


def die_three_times(pair: CohortPair, setting: Setting) -> Outcome:
    """One pair has bad luck with three processes, and none later."""
    tries = setting.out.parent / "tries"
    if pair.name == "pair1" and (not tries.exists() or len(tries.read_text()) < 3):
        with tries.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return pretend(pair, setting)


def fill_the_disk(pair: CohortPair, setting: Setting) -> Outcome:
    """From the second pair on the disk is full."""
    if pair.name == "pair0":
        return pretend(pair, setting)
    return Outcome(pair.name, "No space left on device.", is_disk_full=True)


def wait_for_ever(pair: CohortPair, setting: Setting) -> Outcome:
    """As long as the run is wanted."""
    while setting.scratch.is_dir():
        time.sleep(0.05)
    return Outcome(pair.name, is_cancelled=True)
