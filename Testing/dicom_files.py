"""Small DICOM files, written for a test: series of one file per slice, and files with many frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

CT, MR, PET, NM, DOSE = (f"1.2.840.10008.5.1.4.1.1.{one}" for one in ("2", "4", "128", "20", "481.2"))
ENHANCED_CT, ENHANCED_MR = f"{CT}.1", f"{MR}.1"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
AXIAL, CORONAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)

Extra = Callable[[Dataset, int], None]


def texts(values: ArrayLike) -> list[str]:
    return [f"{value:.8g}" for value in np.asarray(values, dtype=float)]


def dataset(storage: str, modality: str, values: NDArray[Any]) -> FileDataset:
    """All that an image of `values` [H, W] or [N, H, W] needs beside where it lies; int16."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID, one.Modality = storage, meta.MediaStorageSOPInstanceUID, modality
    one.PatientName, one.PatientID = "Nobody", "0"
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    one.Rows, one.Columns = values.shape[-2:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.PixelData = np.ascontiguousarray(values).astype("<i2").tobytes()
    return one


def save(one: FileDataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if int(pydicom.__version__.partition(".")[0]) >= 3:
        one.save_as(path, enforce_file_format=True)
    else:
        # As Slicer 5.10 has it.
        one.is_little_endian, one.is_implicit_VR = True, one.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        one.save_as(path, write_like_original=False)


def write_series(
    folder: Path,
    slices: NDArray[Any],
    positions: ArrayLike,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (2.0, 2.0),
    thickness: float = 3.0,
    storage: str = CT,
    modality: str = "CT",
    series: str = "",
    name: str = "slice",
    extra: Extra = lambda _one, _place: None,
) -> str:
    """One file per slice of `slices` [N, H, W]; `spacing` is between rows and between columns. Gives the UID of the series."""
    series = series or generate_uid()
    for place, (values, position) in enumerate(zip(slices, np.asarray(positions), strict=True)):
        one = dataset(storage, modality, values)
        one.SeriesInstanceUID, one.InstanceNumber = series, place + 1
        one.ImagePositionPatient, one.ImageOrientationPatient = texts(position), texts(orientation)
        one.PixelSpacing, one.SliceThickness = texts(spacing), f"{thickness:g}"
        extra(one, place)
        save(one, folder / f"{name}{place:03}.dcm")
    return series


def inner(**values: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return [item]


def write_frames(
    path: Path,
    frames: NDArray[Any],
    positions: ArrayLike,
    *,
    spacing: tuple[float, float] = (2.0, 2.0),
    storage: str = ENHANCED_MR,
    modality: str = "MR",
    rescale: Sequence[tuple[float, float]] | None = None,
    extra: Extra = lambda _group, _frame: None,
) -> None:
    """A file with functional groups, the place of each frame in its own; `rescale` gives each frame's slope and intercept."""
    one = dataset(storage, modality, frames)
    one.NumberOfFrames = len(frames)
    shared = Dataset()
    shared.PlaneOrientationSequence = inner(ImageOrientationPatient=texts(AXIAL))
    shared.PixelMeasuresSequence = inner(PixelSpacing=texts(spacing), SliceThickness="3")
    one.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame, position in enumerate(np.asarray(positions)):
        group = Dataset()
        group.PlanePositionSequence = inner(ImagePositionPatient=texts(position))
        if rescale is not None:
            slope, intercept = texts(rescale[frame])
            group.PixelValueTransformationSequence = inner(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
        extra(group, frame)
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    save(one, path)


def changed(path: Path, change: Callable[[Dataset], None]) -> None:
    """The same file with something of its header changed."""
    one = pydicom.dcmread(path)
    change(one)
    one.save_as(path)
