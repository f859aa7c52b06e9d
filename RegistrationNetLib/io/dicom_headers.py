"""What the headers of DICOM files say: where each slice lies, how its values are scaled, and what tells it from others.

Headers are read by pydicom, which Slicer brings, because SimpleITK does not give the sequences in which multi-frame files
keep the place of each frame. Voxels are read by SimpleITK, which knows the compressed transfer syntaxes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .mr_weighting import TAGS
from .native_paths import printable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Array = NDArray[np.float64]

# What a file without the usual preamble begins with: groups 0002 and 0008, little endian.
BARE_STARTS = (b"\x02\x00", b"\x08\x00")
# Attributes that tell images at one place apart, in the order in which they are looked at, with the words for them.
KINDS: Mapping[str, str] = {
    "ReferencedSegmentNumber": "segments",
    "EffectiveEchoTime": "echoes",
    "EchoTime": "echoes",
    "EchoNumbers": "echoes",
    "DiffusionBValue": "diffusion weightings",
    "InversionTime": "inversion times",
    "FlipAngle": "flip angles",
    "TemporalPositionIndex": "moments in time",
    "TemporalPositionIdentifier": "moments in time",
    "NominalCardiacTriggerDelayTime": "phases of the heart",
    "NominalPercentageOfCardiacPhase": "phases of the heart",
    "TriggerTime": "phases of the heart",
    "EnergyWindowVector": "energy windows",
    "DetectorVector": "detectors",
    "PhaseVector": "phases",
    "RRIntervalVector": "phases of the heart",
    "TimeSlotVector": "phases of the heart",
    "TimeSliceVector": "moments in time",
    "ComplexImageComponent": "parts of complex images",
    "FrameType": "kinds of image",
    "ImageType": "kinds of image",
    "AcquisitionNumber": "acquisitions",
    "AcquisitionTime": "moments in time",
    "FrameReferenceDateTime": "moments in time",
    "SeriesInstanceUID": "series",
}
# Where files with functional groups keep what `mr_weighting` asks for: the sequence, and the name in it.
IN_GROUPS = {
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
}
SCANNING = {"SPIN": "SE", "GRADIENT": "GR"}
# Transfer syntaxes whose voxels are not compressed, and how many bytes stand between the header and these; "" where none is told.
UNCOMPRESSED = {"": 8, "1.2.840.10008.1.2": 8, "1.2.840.10008.1.2.1": 12, "1.2.840.10008.1.2.2": 12}
# How a frame of a nuclear-medicine file is told by vectors, with one number for each frame.
VECTORS = tuple(name for name in KINDS if name.endswith("Vector"))


@dataclass(frozen=True)
class Slice:
    """One slice as its header places it: lengths in LPS mm; `position_mm` is the middle of its first pixel, None where not told.

    `axes` [2, 3] are the directions in which columns and rows count, `spacing_mm` the distances along these; `shape` is rows, columns.
    """

    file: Path
    frame: int
    shape: tuple[int, int]
    position_mm: Array | None
    axes: Array
    spacing_mm: tuple[float, float]
    thickness_mm: float
    rescale: tuple[float, float]
    series: str
    title: str
    image: str
    kind: Mapping[str, str] = field(default_factory=dict)

    @property
    def normal(self) -> Array:
        """Unit vector across the slice."""
        return np.cross(*self.axes)


@dataclass(frozen=True)
class Header:
    """What is needed of a DICOM file: its slices, and what it is.

    `times` are the tags by which MR images are told apart, as text; `missing_bytes` is by how much the file is too short for its voxels,
    where these are not compressed.
    """

    file: Path
    modality: str
    syntax: str
    bits: int
    is_dose: bool
    missing_bytes: int
    slices: tuple[Slice, ...]
    times: Mapping[str, str] = field(default_factory=dict)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do; a damaged one may."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or (start[:2] in BARE_STARTS and path.suffix.lower() in ("", ".dcm", ".ima", ".img", ".dic"))


def read_header(path: Path) -> Header | None:
    """The header of a DICOM file; None for one that holds no image (structure sets, reports, directories).

    Raises:
        InputError: it cannot be read, or says nothing sensible.
    """
    # It takes a third of a second, and most images are no DICOM files.
    import pydicom

    try:
        # pydicom warns of each value that is not by the book; what matters here is checked below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
                left_bytes = path.stat().st_size - file.tell()
            return _header(path, dataset, left_bytes) if "Rows" in dataset and "Columns" in dataset else None
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"Cannot read {printable(path)}: {error.strerror or error}. Check the path and who may read it."
        ) from error
    except Exception as error:  # a damaged header can raise anything in pydicom
        raise InputError(
            f"The DICOM header of {printable(path)} cannot be understood ({type(error).__name__}: {printable(str(error))}). "
            "Copy or export the file again."
        ) from error


def _header(path: Path, dataset: Dataset, left_bytes: int) -> Header:
    meta = getattr(dataset, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    return Header(
        file=path,
        modality=str(dataset.get("Modality", "")),
        syntax=syntax,
        missing_bytes=max(0, _voxel_bytes(dataset) + UNCOMPRESSED[syntax] - left_bytes) if syntax in UNCOMPRESSED else 0,
        is_dose="DoseGridScaling" in dataset,
        bits=int(dataset.get("BitsAllocated") or 16),
        slices=tuple(_slices(path, dataset)),
        times={name: text for name in TAGS if (text := _time(dataset, name))},
    )


def _voxel_bytes(dataset: Dataset) -> int:
    samples = 2 if "422" in str(dataset.get("PhotometricInterpretation", "")) else int(dataset.get("SamplesPerPixel") or 1)
    voxels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    return math.ceil(voxels * samples * int(dataset.get("BitsAllocated") or 16) / 8)


def _time(dataset: Dataset, name: str) -> str:
    """A value of `mr_weighting.TAGS`, as DICOM writes it; of a file with functional groups, that of all its frames or of the first. "" without one."""
    sequence, own_name = IN_GROUPS.get(name, ("", name))
    places = [dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")]
    groups = [_first(group.get(sequence)) for place in places if sequence and (group := _first(place)) is not None]
    values = [dataset.get(name), *(group.get(own_name) for group in groups if group is not None)]
    if name == "ScanningSequence":
        values.append(SCANNING.get(str(dataset.get("EchoPulseSequence", ""))))
    found = next((value for value in values if value not in (None, "")), "")
    return str(found) if isinstance(found, str) or _length(found) == 0 else "\\".join(map(str, found))


def _slices(path: Path, dataset: Dataset) -> Iterator[Slice]:
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1 or count > 100_000:
        raise ValueError(f"{count} frames")
    one = partial(
        Slice,
        path,
        shape=(int(dataset.Rows), int(dataset.Columns)),
        series=str(dataset.get("SeriesInstanceUID", "")),
        title=printable(str(dataset.get("SeriesDescription", ""))),
        image=str(dataset.get("SOPInstanceUID", path)),
    )
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups:
        if len(groups) != count:
            raise ValueError(f"{count} frames, places of {len(groups)}")
        for frame, group in enumerate(groups):
            yield one(frame, **_of_groups([group, shared, dataset], dataset))
        return
    for frame in range(count):
        yield one(frame, **_of_frame(dataset, frame, count))


def _of_groups(levels: Sequence[Dataset | None], dataset: Dataset) -> dict[str, Any]:
    """A frame of a file with functional groups: what its own group says, else the shared one, else the file."""

    def said(sequence: str, name: str) -> Any:
        for level in levels:
            inner = None if level is None else level if level is dataset else _first(level.get(sequence))
            if inner is not None and inner.get(name) is not None:
                return inner.get(name)
        return None

    spacing = said("PixelMeasuresSequence", "PixelSpacing")
    kind = {
        "ReferencedSegmentNumber": said("SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        "EffectiveEchoTime": said("MREchoSequence", "EffectiveEchoTime"),
        "DiffusionBValue": said("MRDiffusionSequence", "DiffusionBValue"),
        "TemporalPositionIndex": said("FrameContentSequence", "TemporalPositionIndex"),
        "NominalCardiacTriggerDelayTime": said("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "NominalPercentageOfCardiacPhase": said("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
        "FrameReferenceDateTime": said("FrameContentSequence", "FrameReferenceDateTime"),
        "FrameType": said("MRImageFrameTypeSequence", "FrameType") or said("CTImageFrameTypeSequence", "FrameType"),
    }
    return _placed(
        position=said("PlanePositionSequence", "ImagePositionPatient"),
        orientation=said("PlaneOrientationSequence", "ImageOrientationPatient"),
        spacing=spacing,
        thickness=said("PixelMeasuresSequence", "SpacingBetweenSlices") or said("PixelMeasuresSequence", "SliceThickness"),
        rescale=(
            said("PixelValueTransformationSequence", "RescaleSlope"),
            said("PixelValueTransformationSequence", "RescaleIntercept"),
        ),
        kind=kind,
    )


def _of_frame(dataset: Dataset, frame: int, count: int) -> dict[str, Any]:
    """A frame of a file without functional groups; several of them lie where a detector moved, or by a list of offsets."""
    detector: Mapping[str, Any] | Dataset = _first(dataset.get("DetectorInformationSequence")) or {}
    position = detector.get("ImagePositionPatient") or dataset.get("ImagePositionPatient")
    orientation = detector.get("ImageOrientationPatient") or dataset.get("ImageOrientationPatient")
    thickness = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness")
    kind = {name: dataset.get(name) for name in KINDS if not name.endswith("Vector")}
    kind |= {name: dataset.get(name)[frame] for name in VECTORS if _length(dataset.get(name)) == count}
    if count > 1 and position is not None and orientation is not None:
        position = _moved(dataset, frame, count, _numbers(position, 3), _numbers(orientation, 6), thickness)
    return _placed(
        position=position,
        orientation=orientation,
        spacing=dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing"),
        thickness=thickness,
        rescale=(dataset.get("RescaleSlope", dataset.get("DoseGridScaling")), dataset.get("RescaleIntercept")),
        kind=kind,
    )


def _moved(dataset: Dataset, frame: int, count: int, position: Array, orientation: Array, thickness: Any) -> Array | None:
    """The place of a frame: `position` and so much along the normal, by offsets (dose) or by the number of its slice."""
    normal = np.cross(orientation[:3], orientation[3:])
    offsets = dataset.get("GridFrameOffsetVector")
    if _length(offsets) == count:
        return position + normal * (float(offsets[frame]) - float(offsets[0]))
    numbers = dataset.get("SliceVector")
    if _length(numbers) == count and thickness is not None:
        return position + normal * float(thickness) * (int(numbers[frame]) - 1)
    if dataset.get("NumberOfSlices") == count and thickness is not None:
        return position + normal * float(thickness) * frame
    return None


def _placed(
    *, position: Any, orientation: Any, spacing: Any, thickness: Any, rescale: tuple[Any, Any], kind: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `Slice` that a frame of its own says, as numbers."""
    axes = np.eye(3)[:2] if orientation is None else _numbers(orientation, 6).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if not (np.abs(lengths - 1) < 0.01).all() or abs(axes[0] @ axes[1]) > 0.01:
        raise ValueError(f"ImageOrientationPatient {orientation}")
    down, across = (1.0, 1.0) if spacing is None else _numbers(spacing, 2)
    if not (across > 0 and down > 0):
        raise ValueError(f"PixelSpacing {spacing}")
    is_placed = position is not None and orientation is not None and spacing is not None
    slope, intercept = (float(default if value is None else value) for value, default in zip(rescale, (1, 0), strict=True))
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"RescaleSlope {slope}, RescaleIntercept {intercept}")
    return {
        "position_mm": _numbers(position, 3) if is_placed else None,
        "axes": _orthonormal(axes),
        "spacing_mm": (float(across), float(down)),
        "thickness_mm": abs(float(thickness or 0.0)),
        "rescale": (slope, intercept),
        "kind": {name: printable(str(value)) for name, value in kind.items() if value is not None},
    }


def _orthonormal(axes: Array) -> Array:
    """`axes` [2, 3], which are so but for rounding, exactly so."""
    first = axes[0] / np.linalg.norm(axes[0])
    second = axes[1] - (axes[1] @ first) * first
    return np.stack([first, second / np.linalg.norm(second)])


def _numbers(values: Any, count: int) -> Array:
    numbers = np.array([float(value) for value in values])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{count} numbers are needed, got {values}")
    return numbers


def _first(sequence: Any) -> Dataset | None:
    return sequence[0] if sequence else None


def _length(values: Any) -> int:
    return 0 if values is None or isinstance(values, str | int | float) else len(values)
