"""Which slices of DICOM files make one volume, and where: sorted by their own positions, or refused by what they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..errors import InputError
from .dicom_headers import KINDS, Array, Slice
from .native_paths import printable
from .warning import Warn

# A series with fewer slices is no volume that can be registered: a localizer beside one is left out.
FEWEST_SLICES = 8
# Of the distance between slices: positions are rounded in the files; farther off than that is said, and than that refused.
ROUNDED, UNEVEN = 0.02, 0.2
# Of the distance between slices: what lies closer is at one place.
SAME_PLACE = 1e-3
# What tells the moments of a series in time apart, the first that does.
_TIMES = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "PhaseVector",
    "TimeSlotVector",
    "TimeSliceVector",
    "AcquisitionNumber",
)
# Of the spacing within a slice: so far the last slice may lie aside of a straight block before the block is resampled.
ASIDE = 0.1


@dataclass(frozen=True)
class Stack:
    """Slices in their order along their common normal, `step_mm` [3] from each to the next."""

    slices: tuple[Slice, ...]
    step_mm: Array

    @property
    def distance_mm(self) -> float:
        """Between neighbours, along the normal."""
        return float(self.step_mm @ self.slices[0].normal)

    @property
    def aside_mm(self) -> Array:
        """How far each slice lies aside of the one before, [2], along columns and rows."""
        return self.slices[0].axes @ self.step_mm

    @property
    def is_straight(self) -> bool:
        """Whether the slices lie one over the other, as in a block of voxels."""
        farthest = np.abs(self.aside_mm) * (len(self.slices) - 1)
        return bool((farthest <= ASIDE * np.array(self.slices[0].spacing_mm)).all())


def stacked(slices: Sequence[Slice], source: Path, warn: Warn) -> Stack:
    """The one volume among `slices`.

    Args:
        source: the file or folder, for messages.
        warn: hears what was left out, and of slices that lie a little unevenly.

    Raises:
        InputError: there is not exactly one volume, or its slices are doubled, uneven or not placed.
    """
    chosen = _one_volume(_without_copies(slices, source, warn), source, warn)
    if any(one.position_mm is None for one in chosen):
        raise InputError(
            f"{_name(source)} does not say where its {len(chosen)} slices lie (a film or photograph?); a volume needs the position, "
            "orientation and pixel spacing of each slice. Export it as a volume, or give a NIfTI or NRRD file."
        )
    normal = chosen[0].normal
    ordered = sorted(chosen, key=lambda one: float(_position(one) @ normal))
    heights = np.array([float(_position(one) @ normal) for one in ordered])
    if len(ordered) == 1:
        return Stack(tuple(ordered), normal * (ordered[0].thickness_mm or 1.0))
    _refuse_doubled(ordered, heights, source)
    return Stack(tuple(ordered), _even_step(ordered, heights, source, warn))


def phases_of(slices: Sequence[Slice], source: Path) -> dict[str, list[Slice]]:
    """The slices of each moment in time, in order, by the number (or title) that tells it.

    Args:
        source: the folder, for messages.

    Raises:
        InputError: no attribute of the headers gives moments of equally many slices.
    """
    for name in _TIMES:
        phases = _by_value([(one.kind.get(name, ""), one) for one in slices])
        if _are_moments(phases):
            return dict(sorted(phases.items(), key=lambda phase: float(phase[0])))
    series = _by_value([(one.series, one) for one in slices])
    phases = {_phase_title(group, number): group for number, group in enumerate(series.values()) if len(group) >= FEWEST_SLICES}
    if len(phases) > 1 and len({len(group) for group in phases.values()}) == 1:
        return dict(sorted(phases.items(), key=lambda phase: float(phase[0].removesuffix("%"))))
    raise InputError(
        f"{_name(source)} holds no series in time that its headers tell ({', '.join(_TIMES)}, or series of one size); each moment needs as "
        "many slices. Put the files of one series in time into a folder of their own, or convert them to a 4-D image."
    )


def _by_value(pairs: Sequence[tuple[str, Slice]]) -> dict[str, list[Slice]]:
    groups: dict[str, list[Slice]] = {}
    for value, one in pairs:
        groups.setdefault(value, []).append(one)
    return groups


def _are_moments(phases: dict[str, list[Slice]]) -> bool:
    """Whether there are several, each a number, each with as many slices that make a volume."""
    try:
        numbers = {float(value) for value in phases}
    except ValueError:
        return False
    sizes = {len(group) for group in phases.values()}
    return len(numbers) == len(phases) > 1 and len(sizes) == 1 and min(sizes) >= FEWEST_SLICES


def _phase_title(group: Sequence[Slice], number: int) -> str:
    """The percentage that the title of a series tells, else its place."""
    found = re.search(r"(\d+(?:\.\d+)?) ?%", group[0].title)
    return f"{found[1]}%" if found else str(number)


def _position(one: Slice) -> Array:
    assert one.position_mm is not None
    return one.position_mm


def _name(source: Path) -> str:
    return printable(source)


def _without_copies(slices: Sequence[Slice], source: Path, warn: Warn) -> list[Slice]:
    """Each image once: folders hold copies under other names."""
    seen = {(one.image, one.frame): one for one in reversed(slices)}
    kept = [one for one in slices if seen[one.image, one.frame] is one]
    if copies := len(slices) - len(kept):
        warn(f"{_name(source)}: {copies} files are copies of others (the same SOP instance) and were read once.")
    return kept


def _one_volume(slices: Sequence[Slice], source: Path, warn: Warn) -> list[Slice]:
    """The only group of slices that is a volume; smaller groups beside it (localizers) are left out."""
    groups = _groups(slices)
    volumes = [group for group in groups if len(group) >= FEWEST_SLICES]
    if len(groups) == 1:
        return groups[0]
    if len(volumes) != 1:
        listed = "; ".join(_described(group) for group in groups[:6]) + ("; …" if len(groups) > 6 else "")
        count = f"{len(volumes)} volumes" if volumes else "no volume"
        raise InputError(
            f"{_name(source)} holds {count}; exactly one DICOM series with slices of one orientation and size is needed. "
            f"It holds: {listed}. Put one series into a folder of its own."
        )
    left = [group for group in groups if group is not volumes[0]]
    warn(f"{_name(source)}: beside {_described(volumes[0])} were left out: {'; '.join(map(_described, left))}.")
    return volumes[0]


def _groups(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one series, orientation, size and spacing together."""
    groups: list[list[Slice]] = []
    for one in slices:
        for group in groups:
            if _is_like(one, group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _is_like(one: Slice, other: Slice) -> bool:
    return (
        one.series == other.series
        and one.shape == other.shape
        and np.allclose(one.axes, other.axes, atol=2e-3)
        and np.allclose(one.spacing_mm, other.spacing_mm, rtol=1e-3)
    )


def _described(group: Sequence[Slice]) -> str:
    rows, columns = group[0].shape
    title = f" ({group[0].title})" if group[0].title else ""
    count = "1 slice" if len(group) == 1 else f"{len(group)} slices"
    return f"{count} of {columns}×{rows} across {np.round(group[0].normal, 2).tolist()}{title}"


def _refuse_doubled(ordered: Sequence[Slice], heights: Array, source: Path) -> None:
    """Refuse slices at one place: several images of one part of the body, mixed."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
    # A number for each place, in order.
    places = np.concatenate([[0], np.cumsum(gaps > SAME_PLACE * typical)])
    counts = Counter(places.tolist())
    if len(counts) == len(ordered):
        return
    doubled = [count for count in counts.values() if count > 1]
    often = f"{max(doubled)} times" if max(doubled) > 2 else "twice"
    raise InputError(
        f"{_name(source)}: {len(doubled)} of {len(counts)} positions occur {often}: {_what_differs(ordered, places)}. A volume needs one "
        "slice at each position. Export one of them alone, or put its files into a folder of their own."
    )


def _what_differs(ordered: Sequence[Slice], places: Array) -> str:
    """In which attribute the slices at one place differ, in words."""
    for name, words in KINDS.items():
        values = [one.kind.get(name, "") for one in ordered]
        at_place = [{value for value, place in zip(values, places, strict=True) if place == one} for one in set(places.tolist())]
        if max(map(len, at_place)) > 1 and len(set(values)) < len(ordered):
            return f"{len(set(values))} {words} ({name} {', '.join(sorted(set(values))[:4])})"
    return "no attribute of the headers tells them apart"


def _even_step(ordered: Sequence[Slice], heights: Array, source: Path, warn: Warn) -> Array:
    """From each slice to the next, where each lies within a fraction of it of where an even stack has it."""
    positions = np.stack([_position(one) for one in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    off_mm = float(np.linalg.norm(positions - (positions[0] + np.arange(len(ordered))[:, None] * step), axis=1).max())
    distance = float(step @ ordered[0].normal)
    if off_mm > UNEVEN * distance:
        _refuse_uneven(np.diff(heights), off_mm, source)
    if off_mm > ROUNDED * distance:
        warn(
            f"{_name(source)}: its slices do not lie evenly; read as if they were, {distance:.3g} mm apart, some are up to "
            f"{off_mm:.2g} mm from their place."
        )
    return step


def _refuse_uneven(steps: Array, off_mm: float, source: Path) -> NoReturn:
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if 0 < len(gaps) <= 3:
        where = ", ".join(f"after slice {place + 1}" for place in gaps)
        what = f"There is a gap {where}: a slice may be missing, or two scans are in one series"
    else:
        what = f"Read as if they did, some would be {off_mm:.3g} mm from their place"
    raise InputError(
        f"{_name(source)} holds slices that lie {steps.min():.3g} to {steps.max():.3g} mm apart; they must be evenly spaced. {what}. "
        "Export the series again, or each evenly spaced part alone."
    )
