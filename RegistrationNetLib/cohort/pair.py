"""One registration of many: its files, its options, and where its results go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What `register` reads from files beside fixed and moving, and the option that names one.
IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "rigid", "keep_volume")
LANDMARKS = ("fixed_landmarks", "moving_landmarks")
FILES = (*IMAGES, *LANDMARKS, "initial", "previous", "weights")
# `register` reads this file where it lies beside `previous`; it counts for whether a pair has changed.
PREVIOUS_INVERSE, INVERSE_FILE = "previous_inverse", "inverse.h5"

# What a pair leaves: what `Registration.save` writes, and a small picture for the overview.
RESULTS = (
    "transform.h5",
    "inverse.h5",
    "warped.nii.gz",
    "jacobian.nii.gz",
    "error_mm.nii.gz",
    "report.json",
    "report.html",
    "thumbnail.jpg",
)
RECORD = "pair.json"


@dataclass(frozen=True)
class Layout:
    """Where a pair's results go and what they are called.

    Attributes:
        folder: below the folder of the whole cohort, with / between names.
        names: those of the results, by the names in `RESULTS`.
        record: the name of the file that says what the results were made from; it is written last.
        is_shared: other pairs have files in the same folder.
        sidecars: what stands in a JSON file beside a result, by the result's name in `RESULTS`.
    """

    folder: str
    names: Mapping[str, str] = field(default_factory=lambda: dict(zip(RESULTS, RESULTS, strict=True)))
    record: str = RECORD
    is_shared: bool = False
    sidecars: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def path(self, out: Path, result: str) -> Path:
        """Where a result, by its name in `RESULTS`, lies below `out`."""
        return out / self.folder / self.names[result]

    def record_path(self, out: Path) -> Path:
        """Where the record lies below `out`."""
        return out / self.folder / self.record


@dataclass(frozen=True)
class CohortPair:
    """A pair of a plan.

    Attributes:
        name: no other pair of the plan has it; it is a file name on every system.
        files: by their names in `FILES`, and `PREVIOUS_INVERSE`.
        options: of `register`, those that differ from its defaults; without `weights`, which is a file.
        layout: where the results go.
        place: where the pair stands in the plan, for messages ("line 3").
    """

    name: str
    files: Mapping[str, Path]
    options: Mapping[str, Any]
    layout: Layout
    place: str = ""
