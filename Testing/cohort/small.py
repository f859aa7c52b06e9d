"""Small cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.cohort.pair import CohortPair
from RegistrationNetLib.cohort.plan import Plan, listed_plan

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
