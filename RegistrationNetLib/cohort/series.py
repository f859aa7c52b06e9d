"""A series in time: every frame registered to one reference, each starting from its neighbour.

How far such a chain drifts is measured by closing the loop: from where the last frame ended, the reference is registered to itself.
The answer is known, since it does not move.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.space import displacements_mm, field_transform, grid_of
from ..io.image_sources import ImageLike
from ..io.landmark_matching import Points
from ..io.landmarks import mapped
from ..io.outputs import staged_folder, write_image
from ..io.series_files import Series, read_series, series_of
from ..io.warping import LABELS, warp_image
from ..progress import Progress, ProgressCallback, silent
from ..quality.assessment import Displacement
from ..quality.marks import ALARM
from ..registration.pipeline import ERROR_DIGITS, JACOBIAN_DIGITS, Registration, register
from .chains import chains, reference_number
from .report_numbers import frame_numbers


@dataclass(frozen=True)
class Frame:
    """A frame of a series; `registration` is None for the reference itself, which stays where it is."""

    number: int
    time: float
    image: sitk.Image
    registration: Registration | None

    @property
    def moving_from_fixed(self) -> sitk.Transform:
        """Points of the reference → points of this frame."""
        return _identity(self.image) if self.registration is None else self.registration.moving_from_fixed

    @property
    def fixed_from_moving(self) -> sitk.Transform:
        """Points of this frame → points of the reference."""
        return _identity(self.image) if self.registration is None else self.registration.fixed_from_moving

    @property
    def warped(self) -> sitk.Image:
        """This frame on the grid of the reference."""
        return self.image if self.registration is None else self.registration.warped

    @property
    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant on the grid of the reference; 1 for the reference itself."""
        return _constant(self.image, 1.0) if self.registration is None else self.registration.jacobian

    @property
    def error_mm(self) -> sitk.Image:
        """The expected error at each voxel of the reference; 0 for the reference itself."""
        return _constant(self.image, 0.0) if self.registration is None else self.registration.error_mm

    @property
    def displacement_mm(self) -> Displacement:
        """How far the voxels of the reference move to this frame."""
        return Displacement(0.0, 0.0) if self.registration is None else self.registration.quality.displacement_mm


@dataclass(frozen=True, repr=False)
class SeriesRegistration:
    """A registered series. `repr` tells in two lines what it holds and how the frames fit.

    Attributes:
        reference: the image to which every frame was registered; `reference_number` is None where that is no frame.
        drift_mm: how far the reference's body seems to have moved when each chain of neighbours comes back to it; 0 is right.
    """

    reference: sitk.Image
    reference_number: int | None
    frames: tuple[Frame, ...]
    drift_mm: tuple[Displacement, ...]

    def __repr__(self) -> str:
        reference = "the mean of all" if self.reference_number is None else f"frame {self.reference_number}"
        verdicts = {frame.number: frame.registration.verdict for frame in self.frames if frame.registration is not None}
        counts = Counter(verdict.words for verdict in verdicts.values())
        told = ", ".join(f"{count} {words}" for words, count in counts.items())
        worst = max(verdicts, key=lambda number: ALARM.index(verdicts[number].colour), default=None)
        why = "" if worst is None else f"; the worst is frame {worst}: {verdicts[worst].reason}"
        return f"Series of {len(self.frames)} frames registered to {reference}\n{told or 'no frame beside the reference'}{why}"

    @property
    def times(self) -> tuple[float, ...]:
        """Of the frames."""
        return tuple(frame.time for frame in self.frames)

    def warped(self) -> sitk.Image:
        """All frames on the grid of the reference, a series of volumes (or of 2-D images)."""
        return joined([frame.warped for frame in self.frames], self.times)

    def jacobian(self) -> sitk.Image:
        """The Jacobian determinant of every frame, a series on the grid of the reference."""
        return joined([frame.jacobian for frame in self.frames], self.times)

    def error_mm(self) -> sitk.Image:
        """The expected error of every frame, a series on the grid of the reference."""
        return joined([frame.error_mm for frame in self.frames], self.times)

    def labels(self, labels: sitk.Image) -> sitk.Image:
        """Labels of the reference carried to every frame, a series on the frames' own grid."""
        carried = [warp_image(labels, frame.image, frame.fixed_from_moving, LABELS) for frame in self.frames]
        return joined(carried, self.times)

    def points(self, points_mm: Points) -> NDArray[np.float64]:
        """Points of the reference [N, dim] in LPS mm followed through the series: [frames, N, dim]."""
        return np.stack([mapped(points_mm, frame.moving_from_fixed) for frame in self.frames])

    def report(self) -> dict[str, Any]:
        """The content of `series.json`."""
        return {
            "reference": "mean" if self.reference_number is None else self.reference_number,
            "drift_mm": [vars(one) for one in self.drift_mm],
            "frames": [_told(frame) for frame in self.frames],
        }

    def save(
        self, directory: Path, *, labels: sitk.Image | None = None, points: tuple[Sequence[str], Points] | None = None
    ) -> None:
        """Write the warped series, Jacobian and expected error as series, a folder and a row of the table for each frame, and what was
        carried along: all or none.

        Args:
            labels: of the reference, to be carried to the frames.
            points: names and places of points of the reference, to be followed.

        Raises:
            OutputError: the folder cannot be written; what stood there before is untouched.
        """
        with staged_folder(directory) as folder:
            write_image(self.reference, folder / "reference.nii.gz")
            write_image(self.warped(), folder / "warped.nii.gz")
            write_image(self.jacobian(), folder / "jacobian.nii.gz", digits=JACOBIAN_DIGITS)
            write_image(self.error_mm(), folder / "error_mm.nii.gz", digits=ERROR_DIGITS)
            if labels is not None:
                write_image(self.labels(labels), folder / "labels.nii.gz")
            if points is not None:
                _write_points(folder / "points.csv", self, *points)
            for frame in self.frames:
                if frame.registration is not None:
                    frame.registration.save(folder / f"frame{frame.number:03d}")
            _write_table(folder / "series.csv", self.frames)
            (folder / "series.json").write_text(json.dumps(self.report(), indent=2), encoding="utf-8")


def register_series(
    series: ImageLike | Series,
    *,
    reference: str | int = "middle",
    progress: ProgressCallback = silent,
    **options: Any,
) -> SeriesRegistration:
    """Register every frame of a series to one reference, each starting from where its neighbour has ended.

    Args:
        series: a path (4-D image, Slicer sequence, DICOM folder by phase, folder of images), a 4-D SimpleITK image, or a `Series`.
        reference: "first", "middle", "last", "mean" (of all frames), or the number of a frame, from 0.
        progress: told how far the work is; raises `Cancelled` to stop it.
        options: of `register`, but for masks, labels, landmarks and `initial`, which belong to one pair.

    Raises:
        InputError: it is no series, there is no such reference, or an option breaks a rule.
    """
    series = _as_series(series)
    fixed, number = _reference(series, reference)
    both = chains(len(series.frames), number)
    counted = _Counted(sum(len(chain) + 1 for chain in both), progress)
    found: dict[int, Registration] = {}
    drift = []
    for chain in both:
        start: sitk.Transform | None = None
        for frame in chain:
            found[frame] = register(
                fixed, series.frames[frame], initial=start, progress=counted.next(f"frame {frame}"), **options
            )
            start = as_one_field(found[frame].moving_from_fixed, fixed)
        closed = register(fixed, fixed, initial=start, progress=counted.next("loop"), **{**options, "repeats": 0})
        drift.append(_within_the_body(closed))
    frames = tuple(
        Frame(place, time, image, found.get(place))
        for place, (time, image) in enumerate(zip(series.times, series.frames, strict=True))
    )
    return SeriesRegistration(fixed, number, frames, tuple(drift))


def _within_the_body(closed: Registration) -> Displacement:
    """How far the voxels of the body move; what lies around it has no place of its own."""
    body = closed.body
    distances_mm = np.linalg.norm(displacements_mm(closed.moving_from_fixed, grid_of(body)), axis=-1)
    distance_mm = distances_mm[sitk.GetArrayFromImage(body) > 0]
    return Displacement(mean=float(distance_mm.mean()), max=float(distance_mm.max()))


def check_carried(series: Series, *, labels: sitk.Image | None = None, points_mm: Points | None = None) -> None:
    """Can labels and points of the reference be carried along?

    Raises:
        InputError: they are of other dimensions than the frames, or the labels could not become one series.
    """
    if labels is not None and not _have_one_grid(series.frames):
        raise InputError(
            "The frames of the series lie on different grids; labels carried to them need one grid. Resample the frames, or leave the labels out."
        )
    dim = series.frames[0].GetDimension()
    given = {
        "labels": None if labels is None else labels.GetDimension(),
        "points": None if points_mm is None else points_mm.shape[1],
    }
    for what, own in given.items():
        if own not in (None, dim):
            raise InputError(
                f"The {what} to carry along have {own} dimensions and the frames of the series {dim}; both need the same. "
                "Give those of the reference."
            )


def as_one_field(transform: sitk.Transform, like: sitk.Image) -> sitk.Transform:
    """The transform as one displacement field on the lattice of `like`, however many parts it is made of."""
    grid = grid_of(like)
    return field_transform(displacements_mm(transform, grid), grid)


def joined(images: Sequence[sitk.Image], times: Sequence[float]) -> sitk.Image:
    """Images of one grid as a series, with the first time and the mean step between times, and pixels that hold the values of all."""
    step = (times[-1] - times[0]) / (len(times) - 1)
    common = np.result_type(*(sitk.GetArrayViewFromImage(image).dtype for image in images))
    pixel = sitk.GetImageFromArray(np.zeros((1, 1), common)).GetPixelID()
    return sitk.JoinSeries([sitk.Cast(image, pixel) for image in images], times[0], step if step > 0 else 1.0)


def _as_series(given: ImageLike | Series) -> Series:
    if isinstance(given, Series):
        return given
    if isinstance(given, sitk.Image):
        return series_of(given, "The image")
    return read_series(given)


def _reference(series: Series, named: str | int) -> tuple[sitk.Image, int | None]:
    """The image to which all are registered, and which frame that is."""
    number = reference_number(named, len(series.frames))
    return (_mean(series.frames), None) if number is None else (series.frames[number], number)


def _mean(frames: Sequence[sitk.Image]) -> sitk.Image:
    """The mean of frames on the grid of the first, which all must have."""
    if not _have_one_grid(frames):
        raise InputError(
            "The frames of the series lie on different grids; their mean needs one grid. Choose a frame as the reference."
        )
    total = sum(sitk.GetArrayFromImage(one).astype(np.float64) for one in frames)
    mean = sitk.GetImageFromArray((np.asarray(total) / len(frames)).astype(np.float32))
    mean.CopyInformation(frames[0])
    return mean


def _have_one_grid(frames: Sequence[sitk.Image]) -> bool:
    return all(one.IsSameImageGeometryAs(frames[0], 1e-4, 1e-4) for one in frames)


def _identity(image: sitk.Image) -> sitk.Transform:
    return sitk.Transform(image.GetDimension(), sitk.sitkIdentity)


@dataclass
class _Counted:
    """The progress of so many registrations, one after the other."""

    total: int
    progress: ProgressCallback
    _begun: int = field(default=-1, init=False)

    def next(self, stage: str) -> ProgressCallback:
        """The callback of the next one."""
        self._begun += 1
        begun = self._begun

        def hear(one: Progress) -> None:
            self.progress(Progress(stage, (begun + one.fraction) / self.total, None))

        return hear


def _constant(like: sitk.Image, value: float) -> sitk.Image:
    image = sitk.Image(like.GetSize(), sitk.sitkFloat32) + value
    image.CopyInformation(like)
    return image


def _told(frame: Frame) -> dict[str, Any]:
    report = {} if frame.registration is None else frame.registration.report()
    judged: dict[str, Any] = {name: report[name] for name in ("verdict", "error_mm", "jacobian", "similarity") if name in report}
    return {"number": frame.number, "time": frame.time, "displacement_mm": vars(frame.displacement_mm), **judged}


def _write_table(path: Path, frames: Sequence[Frame]) -> None:
    """A line for each frame: its time, how far the reference moves to it, how far to trust that, and the verdict."""
    measures = frame_numbers()

    def lines() -> Iterator[Sequence[str]]:
        yield "frame", "time", *(measure.name for measure in measures), "verdict", "reason"
        for frame in frames:
            told = _told(frame)
            numbers = [measure.of(told) for measure in measures]
            verdict = told.get("verdict", {"words": "reference", "reason": ""})
            shown = ("" if number is None else f"{number:.6g}" for number in numbers)
            yield str(frame.number), f"{frame.time:g}", *shown, verdict["words"], verdict["reason"]

    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines())


def _write_points(path: Path, series: SeriesRegistration, labels: Sequence[str], points_mm: Points) -> None:
    """A line for each point in each frame, LPS mm."""
    axes = ("x", "y", "z")[: points_mm.shape[1]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("frame", "time", "label", *axes))
        for frame, places in zip(series.frames, series.points(points_mm), strict=True):
            for label, place in zip(labels, places, strict=True):
                writer.writerow((frame.number, f"{frame.time:g}", label, *(f"{value:.6f}" for value in place)))
