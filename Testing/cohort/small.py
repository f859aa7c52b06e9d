"""Small cohorts, and work for their processes that takes no time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.cohort.pair import RESULTS, CohortPair
from RegistrationNetLib.cohort.plan import Plan, listed_plan
from RegistrationNetLib.cohort.records import Setting, fingerprints_of, placed
from RegistrationNetLib.cohort.work import Outcome

SIZE = 24
# Options of a registration that takes as little as one can.
QUICK = {"align": "centre", "steps": "1", "repeats": "0"}


def blob(centre: Sequence[float], *, size: int = SIZE) -> sitk.Image:
    """A round blob on a slope, spacing 2 mm, int16, two-dimensional or three."""
    points = np.stack(np.meshgrid(*[np.arange(size)] * len(centre), indexing="ij"))
    distance = np.linalg.norm(points - np.reshape(centre, (-1, *[1] * len(centre))), axis=0)
    image = sitk.GetImageFromArray((1000 * np.exp(-((distance / 5) ** 2)) + points[0]).astype(np.int16))
    image.SetSpacing([2.0] * len(centre))
    return image


def images(folder: Path, count: int, *, dim: int = 2) -> list[str]:
    """So many images, each a little off the one before."""
    names = [f"image{number}.nii.gz" for number in range(count)]
    for number, name in enumerate(names):
        sitk.WriteImage(blob([12.0] * (dim - 1) + [11.0 + 0.25 * number]), str(folder / name))
    return names


def listed(folder: Path, rows: Sequence[dict[str, str]], *, name: str = "plan.csv") -> Path:
    """A list with these rows; columns that a row lacks are empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    (folder / name).write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
    return folder / name


def small_plan(folder: Path, pairs: int, **options: str) -> Plan:
    """Pairs of small images, each with the first."""
    fixed, *moving = images(folder, pairs + 1)
    rows = [{"name": f"pair{number}", "fixed": fixed, "moving": name, **options} for number, name in enumerate(moving)]
    return listed_plan(listed(folder, rows), {})


def changed(pair: CohortPair, **options: Any) -> CohortPair:
    """The same pair with other options."""
    return CohortPair(pair.name, pair.files, {**pair.options, **options}, pair.layout, pair.place)


def fill(folder: Path, text: str = "made") -> None:
    """Files of the names that a registration leaves."""
    for name in RESULTS:
        (folder / name).write_text("{}" if name.endswith(".json") else text, encoding="utf-8")


# Work for processes of a cluster; each is known there by its name.


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
