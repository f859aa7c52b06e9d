"""The numbers of a report that tables of many registrations have as columns; for the library and for Slicer, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ReportNumber:
    """A number of each report: where it stands there, and whether a large one is bad (1), a small one (-1), or neither (0)."""

    name: str
    title: str
    path: tuple[str, ...]
    bad: int = 0
    has_histogram: bool = False

    def of(self, report: Mapping[str, Any]) -> float | None:
        """The number in a report; None where the report has none."""
        value: Any = report
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


REPORT_NUMBERS = (
    ReportNumber("error_mm_median", "Expected error, median mm", ("error_mm", "median"), 1, has_histogram=True),
    ReportNumber("error_mm_p95", "Expected error, 95 % mm", ("error_mm", "p95"), 1, has_histogram=True),
    ReportNumber("jacobian_min", "Smallest Jacobian", ("jacobian", "min"), -1, has_histogram=True),
    ReportNumber("jacobian_max", "Largest Jacobian", ("jacobian", "max"), 1),
    ReportNumber("jacobian_log_sd", "Spread of log Jacobian", ("jacobian", "log_sd"), 1),
    ReportNumber("folded_percent", "Folded %", ("jacobian", "folded_percent"), 1),
    ReportNumber("dice_before", "Dice before", ("labels", "mean_dice", "before")),
    ReportNumber("dice_after", "Dice after", ("labels", "mean_dice", "after"), -1, has_histogram=True),
    ReportNumber("landmarks_mm_before", "Landmarks before, mm", ("landmarks", "error_mm", "before", "mean")),
    ReportNumber("landmarks_mm_after", "Landmarks after, mm", ("landmarks", "error_mm", "after", "mean"), 1, has_histogram=True),
    ReportNumber("similarity_before", "Similarity before", ("similarity", "before")),
    ReportNumber("similarity_after", "Similarity after", ("similarity", "after"), -1),
    ReportNumber("displacement_mm_mean", "Displacement, mean mm", ("displacement_mm", "mean")),
    ReportNumber("displacement_mm_max", "Displacement, largest mm", ("displacement_mm", "max")),
    ReportNumber("seconds", "Seconds", ("seconds", "total")),
    ReportNumber("peak_memory_mb", "Memory, MB", ("peak_memory_mb",)),
)
# Of each frame of a series, in this order.
OF_FRAMES = ("displacement_mm_mean", "displacement_mm_max", "error_mm_median", "error_mm_p95", "jacobian_min", "jacobian_max",
             "folded_percent", "similarity_before", "similarity_after")  # fmt: skip


def frame_numbers() -> list[ReportNumber]:
    """Those of `OF_FRAMES`."""
    return sorted((one for one in REPORT_NUMBERS if one.name in OF_FRAMES), key=lambda one: OF_FRAMES.index(one.name))
