"""DICOM: each slice lies where its header says it does, or the series is refused by what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io import dicom
from RegistrationNetLib.io.dicom import _with_padding_value
from RegistrationNetLib.io.image_files import read_image
from RegistrationNetLib.io.image_sources import modality_of
from RegistrationNetLib.registration.prepare import prepared

from ..dicom_files import (
    AXIAL,
    CORONAL,
    CT,
    DOSE,
    ENHANCED_CT,
    MR,
    NM,
    PET,
    STRUCTURES,
    changed,
    dataset,
    inner,
    save,
    texts,
    write_frames,
    write_series,
)  # fmt: skip
from ..volumes import QUANTILES, voxels

COUNT, ROWS, COLUMNS = 10, 9, 12
FIRST = np.array([-11.0, 5.0, -30.0])
STEP = np.array([0.0, 0.0, 3.0])
POSITIONS = FIRST + np.arange(COUNT)[:, None] * STEP


def values(count: int = COUNT) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(-1000, 1000, (count, ROWS, COLUMNS))


class Heard(list[str]):
    """What was warned of."""

    @property
    def text(self) -> str:
        return "\n".join(self)


def check_place(image: sitk.Image, expected: NDArray[Any], positions: NDArray[np.float64]) -> None:
    """Every voxel of every slice is there, and where its slice's position puts it."""
    assert np.array_equal(voxels(image), expected)
    for place, position in enumerate(positions):
        corner = image.TransformIndexToPhysicalPoint((0, 0, place))
        np.testing.assert_allclose(corner, position, atol=1e-4)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((2, 3, 0)), positions[0] + (4, 6, 0), atol=1e-4)


# series of one file per slice


def test_slices_are_sorted_by_their_positions_whatever_their_files_are_called(tmp_path: Path) -> None:
    mixed = np.random.default_rng(1).permutation(COUNT)
    write_series(tmp_path, values()[mixed], POSITIONS[mixed])
    check_place(read_image(tmp_path), values(), POSITIONS)


def test_slices_written_from_the_top_give_the_same_volume(tmp_path: Path) -> None:
    write_series(tmp_path, values()[::-1], POSITIONS[::-1])
    check_place(read_image(tmp_path), values(), POSITIONS)


def test_rows_and_columns_have_their_own_spacing(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS, spacing=(3.0, 2.0))
    image = read_image(tmp_path)
    assert image.GetSize() == (COLUMNS, ROWS, COUNT)
    assert image.GetSpacing() == pytest.approx((2.0, 3.0, 3.0))


def density(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A slope, which linear interpolation keeps."""
    return points @ np.array([7.0, -5.0, 9.0])


@pytest.mark.parametrize("degrees", [20.0, -15.0])
def test_a_tilted_gantry_is_resampled_to_where_its_slices_lie(tmp_path: Path, degrees: float) -> None:
    down = np.array([0, np.cos(np.deg2rad(degrees)), -np.sin(np.deg2rad(degrees))])
    rows, columns = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    within = columns[..., None] * np.array([2.0, 0, 0]) + rows[..., None] * 2.0 * down
    slices = np.stack([np.rint(density(position + within)) for position in POSITIONS])
    write_series(tmp_path, slices, POSITIONS, orientation=(1, 0, 0, *down))
    heard = Heard()
    image = read_image(tmp_path, heard.append)
    assert f"tilted by {abs(degrees):.1f}°" in heard.text
    direction = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    lattice = np.linalg.inv(np.stack([np.array([2.0, 0, 0]), 2.0 * down, np.subtract(POSITIONS[1], POSITIONS[0])], axis=1))
    found, last, checked = voxels(image).astype(float), np.array([COLUMNS - 1, ROWS - 1, len(POSITIONS) - 1]), 0
    for index in np.ndindex(*image.GetSize()):
        point, value = np.array(image.TransformIndexToPhysicalPoint(index)), found[index[::-1]]
        place = lattice @ (point - POSITIONS[0])
        if (place >= 0).all() and (place <= last).all():  # between the centres of the outermost voxels, where nothing is extended
            assert value == pytest.approx(density(point), abs=1.5)
            checked += 1
    assert checked > 0.75 * slices.size  # all but the faces
    # Where nothing was measured the image does not count, by the same care as for padding of any scanner.
    places = np.array(list(np.ndindex(*image.GetSize())))
    points = np.array([image.TransformIndexToPhysicalPoint(index.tolist()) for index in places])
    within = (points - POSITIONS[0]) @ lattice.T
    beyond = places[((within < -1) | (within > last + 1)).any(axis=1)]
    counted = prepared(image, QUANTILES).mask
    assert counted is not None
    assert len(beyond) > 20
    assert not counted[0, 0].numpy()[tuple(beyond[:, ::-1].T)].any()
    between = places[((within >= 0) & (within <= last)).all(axis=1)]
    assert counted[0, 0].numpy()[tuple(between[:, ::-1].T)].all()


@pytest.mark.parametrize("bits", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_the_value_for_nothing_measured_is_held_by_its_type_and_far_from_all_others(bits: type) -> None:
    ends = np.array([np.iinfo(bits).min, np.iinfo(bits).max] if np.issubdtype(bits, np.integer) else [-5.5, 1e9])
    values, outside = _with_padding_value(ends.astype(bits))
    assert np.array_equal(values, ends.astype(bits))
    assert float(values.dtype.type(outside)) == outside
    assert outside <= values.min() - 0.99 * np.ptp(values.astype(float))


def test_a_drift_of_less_than_a_tenth_of_a_pixel_is_rounding(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS + np.linspace(0, 0.15, COUNT)[:, None] * (1, 0, 0))
    assert read_image(tmp_path).GetSize() == (COLUMNS, ROWS, COUNT)


def test_each_slice_of_pet_is_scaled_by_its_own_slope(tmp_path: Path) -> None:
    slopes = np.concatenate([[1.0], np.linspace(1e-4, 3e-4, COUNT - 1)])

    def scale(one: Dataset, place: int) -> None:
        one.RescaleSlope, one.RescaleIntercept = f"{slopes[place]:.8g}", "0"

    write_series(tmp_path, values(), POSITIONS, storage=PET, modality="PT", extra=scale)
    image = read_image(tmp_path)
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(voxels(image), values() * slopes[:, None, None], rtol=1e-5)


def test_a_whole_slope_keeps_whole_numbers(tmp_path: Path) -> None:
    def scale(one: Dataset, _place: int) -> None:
        one.RescaleSlope, one.RescaleIntercept = "1", "-1024"

    write_series(tmp_path, values(), POSITIONS, extra=scale)
    image = read_image(tmp_path)
    assert "integer" in image.GetPixelIDTypeAsString()
    assert np.array_equal(voxels(image), values() - 1024)


def twice(words: str, **attributes: Callable[[int], object]) -> tuple[Callable[[Dataset, int], None], str]:
    def extra(one: Dataset, place: int) -> None:
        for name, value in attributes.items():
            setattr(one, name, value(place // COUNT))

    return extra, words


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        twice(r"2 echoes \(EchoTime 2\.3, 4\.6\)", EchoTime=lambda which: ("2.3", "4.6")[which]),
        twice(r"2 moments in time \(TemporalPositionIdentifier 1, 2\)", TemporalPositionIdentifier=lambda which: which + 1),
        twice(r"2 phases of the heart \(TriggerTime 0, 80\)", TriggerTime=lambda which: ("0", "80")[which]),
        twice(r"2 kinds of image \(ImageType", ImageType=lambda which: ["ORIGINAL", "PRIMARY", "MP"[which]]),
        twice(r"2 acquisitions \(AcquisitionNumber 1, 2\)", AcquisitionNumber=lambda which: which + 1),
        twice("no attribute of the headers tells them apart"),
    ],
)
def test_two_images_of_one_place_in_one_series_are_refused_by_what_they_are(
    tmp_path: Path, extra: Callable[[Dataset, int], None], words: str
) -> None:
    write_series(tmp_path, values(2 * COUNT), np.tile(POSITIONS, (2, 1)), storage=MR, modality="MR", extra=extra)
    with pytest.raises(InputError, match=f"10 of 10 positions occur twice: {words}.*Export one of them alone"):
        read_image(tmp_path)


def test_copies_of_files_are_read_once(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS)
    for path in sorted(tmp_path.iterdir()):
        (tmp_path / f"copy of {path.name}").write_bytes(path.read_bytes())
    heard = Heard()
    check_place(read_image(tmp_path, heard.append), values(), POSITIONS)
    assert "10 files are copies of others" in heard.text


@pytest.mark.parametrize("is_same_series", [True, False])
def test_a_localizer_beside_the_volume_is_left_out_and_said(tmp_path: Path, *, is_same_series: bool) -> None:
    series = write_series(tmp_path, values(), POSITIONS)
    scout = np.zeros((1, 32, 32))
    write_series(tmp_path, scout, [FIRST], orientation=CORONAL, series=series if is_same_series else "", name="a")
    heard = Heard()
    check_place(read_image(tmp_path, heard.append), values(), POSITIONS)
    assert "were left out: 1 slice of 32×32" in heard.text


def test_two_series_are_refused_and_described(tmp_path: Path) -> None:
    for title in ("T1", "T2"):
        write_series(tmp_path, values(), POSITIONS, name=title, extra=lambda one, _: setattr(one, "SeriesDescription", title))  # noqa: B023
    with pytest.raises(InputError, match=r"holds 2 volumes.*10 slices of 12×9 across .*\(T1\); .*\(T2\)\. Put one series"):
        read_image(tmp_path)


def test_localizers_alone_are_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path, np.zeros((1, 32, 32)), [FIRST], orientation=CORONAL, name="a")
    write_series(tmp_path, np.zeros((1, 32, 32)), [FIRST], orientation=AXIAL, name="b")
    with pytest.raises(InputError, match="holds no volume; exactly one DICOM series"):
        read_image(tmp_path)


def test_a_gap_is_refused_by_its_place(tmp_path: Path) -> None:
    positions = POSITIONS + (np.arange(COUNT) >= 6)[:, None] * np.array([0, 0, 300.0])
    write_series(tmp_path, values(), positions)
    with pytest.raises(
        InputError, match=r"slices that lie 3 to 303 mm apart; they must be evenly spaced\. There is a gap after slice 6"
    ):
        read_image(tmp_path)


def test_changing_distances_are_refused(tmp_path: Path) -> None:
    heights = np.cumsum([0, 3, 3, 3, 3, 4, 4, 5, 5, 5])
    write_series(tmp_path, values(), FIRST + heights[:, None] * np.array([0, 0, 1.0]))
    with pytest.raises(InputError, match="3 to 5 mm apart.*some would be .* mm from their place"):
        read_image(tmp_path)


def test_slices_a_little_uneven_are_read_and_said(tmp_path: Path) -> None:
    positions = POSITIONS.copy()
    positions[4, 2] += 0.3
    write_series(tmp_path, values(), positions)
    heard = Heard()
    assert np.array_equal(voxels(read_image(tmp_path, heard.append)), values())
    assert "3 mm apart, some are up to 0.3 mm from their place" in heard.text


def test_slices_without_a_position_are_refused(tmp_path: Path) -> None:
    def unplaced(one: Dataset, _place: int) -> None:
        del one.ImagePositionPatient

    write_series(tmp_path, values(), POSITIONS, extra=unplaced)
    with pytest.raises(InputError, match="does not say where its 10 slices lie"):
        read_image(tmp_path)


def test_mosaics_are_refused(tmp_path: Path) -> None:
    def mosaic(one: Dataset, _place: int) -> None:
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]

    write_series(tmp_path, values(), POSITIONS, storage=MR, modality="MR", extra=mosaic)
    with pytest.raises(InputError, match=r"holds mosaics.*Convert it with dcm2niix"):
        read_image(tmp_path)


def structures(path: Path) -> None:
    one = dataset(STRUCTURES, "RTSTRUCT", np.zeros((2, 2)))
    for name in ("PixelData", "Rows", "Columns"):
        delattr(one, name)
    save(one, path)


def test_what_is_no_image_beside_the_slices_does_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS)
    structures(tmp_path / "RS.dcm")
    (tmp_path / "Thumbs.db").write_bytes(b"x" * 200)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "subfolder").mkdir()
    check_place(read_image(tmp_path), values(), POSITIONS)
    with pytest.raises(InputError, match=r"RS\.dcm is a DICOM file without an image"):
        read_image(tmp_path / "RS.dcm")


def test_a_series_in_a_subfolder_is_found(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "series", values(), POSITIONS)
    check_place(read_image(tmp_path), values(), POSITIONS)


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("RegistrationNetLib.io.dicom.MOST_FILES", 5)
    write_series(tmp_path, values(), POSITIONS)
    with pytest.raises(InputError, match="holds more than 5 files"):
        read_image(tmp_path)


# compressed


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_series_gives_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, values(), POSITIONS)
    for path in tmp_path.iterdir():
        if syntax == RLELossless:
            changed(path, lambda one: one.compress(RLELossless))
        else:
            compressed_by_simpleitk(path, "JPEGLS")
    check_place(read_image(tmp_path), values(), POSITIONS)


def compressed_by_simpleitk(path: Path, compressor: str) -> None:
    image = sitk.ReadImage(str(path))
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(image)


def test_a_syntax_that_nobody_here_reads_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
    with pytest.raises(InputError, match=r"cannot be read \(transfer syntax 1\.2\.840\.10008\.1\.2\.9.*uncompressed"):
        read_image(tmp_path)


# files with many frames


@pytest.mark.parametrize("as_folder", [True, False])
def test_frames_are_placed_by_their_own_positions(tmp_path: Path, *, as_folder: bool) -> None:
    mixed = np.random.default_rng(1).permutation(COUNT)
    write_frames(tmp_path / "a.dcm", values()[mixed], POSITIONS[mixed])
    check_place(read_image(tmp_path if as_folder else tmp_path / "a.dcm"), values(), POSITIONS)


def test_frames_with_a_gap_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.dcm", values(), POSITIONS + (np.arange(COUNT) >= 4)[:, None] * np.array([0, 0, 40.0]))
    with pytest.raises(InputError, match="3 to 43 mm apart.*a gap after slice 4"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("sequence", "name", "first", "second", "words"),
    [
        ("MREchoSequence", "EffectiveEchoTime", 2.5, 5.0, "2 echoes"),
        ("MRDiffusionSequence", "DiffusionBValue", 0.0, 800.0, "2 diffusion weightings"),
        ("FrameContentSequence", "TemporalPositionIndex", 1, 2, "2 moments in time"),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", 0.0, 40.0, "2 phases of the heart"),
        ("SegmentIdentificationSequence", "ReferencedSegmentNumber", 1, 2, "2 segments"),
        ("MRImageFrameTypeSequence", "FrameType", ["ORIGINAL", "M"], ["ORIGINAL", "P"], "2 kinds of image"),
    ],
)
def test_frames_at_one_place_are_refused_by_what_they_are(
    tmp_path: Path, sequence: str, name: str, first: object, second: object, words: str
) -> None:
    def extra(group: Dataset, frame: int) -> None:
        setattr(group, sequence, inner(**{name: (first, second)[frame // COUNT]}))

    write_frames(tmp_path / "a.dcm", values(2 * COUNT), np.tile(POSITIONS, (2, 1)), extra=extra)
    with pytest.raises(InputError, match=f"occur twice: {words}"):
        read_image(tmp_path)


@pytest.mark.parametrize("slopes", [np.full(COUNT, 0.25), np.linspace(0.25, 2.5, COUNT)])
def test_each_frame_is_scaled_by_its_own_slope(tmp_path: Path, slopes: NDArray[np.float64]) -> None:
    rescale = [(slope, -3.0 * frame) for frame, slope in enumerate(slopes)]
    write_frames(tmp_path / "a.dcm", values(), POSITIONS, storage=ENHANCED_CT, modality="CT", rescale=rescale)
    expected = values() * slopes[:, None, None] - 3.0 * np.arange(COUNT)[:, None, None]
    np.testing.assert_allclose(voxels(read_image(tmp_path)), expected, rtol=1e-5, atol=1e-3)


def test_frames_without_a_position_are_refused(tmp_path: Path) -> None:
    one = dataset("1.2.840.10008.5.1.4.1.1.3.1", "US", values())
    one.NumberOfFrames, one.FrameTime = COUNT, "40"
    save(one, tmp_path / "cine.dcm")
    with pytest.raises(InputError, match="does not say where its 10 slices lie"):
        read_image(tmp_path / "cine.dcm")


def nuclear(path: Path, frames: NDArray[Any], *, step: float, first: NDArray[np.float64], **vectors: list[int]) -> None:
    one = dataset(NM, "NM", frames)
    one.NumberOfFrames, one.PixelSpacing, one.SliceThickness = len(frames), texts((2, 2)), "3"
    one.SpacingBetweenSlices = f"{step:g}"
    one.DetectorInformationSequence = inner(ImagePositionPatient=texts(first), ImageOrientationPatient=texts(AXIAL))
    one.NumberOfSlices = COUNT
    for name, numbers in vectors.items():
        setattr(one, name, numbers)
    save(one, path)


def test_frames_of_nuclear_medicine_go_from_where_the_detector_was(tmp_path: Path) -> None:
    nuclear(tmp_path / "up.dcm", values(), step=3, first=POSITIONS[0], SliceVector=list(range(1, COUNT + 1)))
    nuclear(tmp_path / "down.dcm", values()[::-1], step=-3, first=POSITIONS[-1])
    for name in ("up", "down"):
        check_place(read_image(tmp_path / f"{name}.dcm"), values(), POSITIONS)


def test_two_energy_windows_of_nuclear_medicine_are_refused(tmp_path: Path) -> None:
    numbers = [*range(1, COUNT + 1)] * 2
    windows = [1] * COUNT + [2] * COUNT
    nuclear(tmp_path / "a.dcm", values(2 * COUNT), step=3, first=POSITIONS[0], SliceVector=numbers, EnergyWindowVector=windows)
    with pytest.raises(InputError, match=r"occur twice: 2 energy windows \(EnergyWindowVector 1, 2\)"):
        read_image(tmp_path / "a.dcm")


def test_single_slices_of_nuclear_medicine_lie_by_the_usual_attributes(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS, storage=NM, modality="NM")
    check_place(read_image(tmp_path), values(), POSITIONS)


def test_a_dose_lies_by_its_offsets(tmp_path: Path) -> None:
    one = dataset(DOSE, "RTDOSE", values())
    one.NumberOfFrames, one.PixelSpacing = COUNT, texts((2, 2))
    one.ImagePositionPatient, one.ImageOrientationPatient = texts(FIRST), texts(AXIAL)
    one.GridFrameOffsetVector, one.DoseGridScaling = texts(3.0 * np.arange(COUNT)), "0.5"
    save(one, tmp_path / "dose.dcm")
    image = read_image(tmp_path / "dose.dcm")
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((0, 0, COUNT - 1)), POSITIONS[-1])
    np.testing.assert_allclose(voxels(image), 0.5 * values())


# headers that say nothing sensible


def without_sense(name: str, value: object) -> Callable[[Dataset], None]:
    return lambda one: setattr(one, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PixelSpacing", ["0", "2"]),
        ("PixelSpacing", ["2"]),
        ("ImageOrientationPatient", ["0"] * 6),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("ImagePositionPatient", ["1", "2"]),
        ("NumberOfFrames", "-3"),
        ("RescaleSlope", "1e999"),
    ],
)
def test_a_header_without_sense_is_refused(tmp_path: Path, name: str, value: object) -> None:
    write_series(tmp_path, values(), POSITIONS)
    changed(tmp_path / "slice003.dcm", without_sense(name, value))
    with pytest.raises(InputError, match=r"The DICOM header of .*slice003\.dcm cannot be understood"):
        read_image(tmp_path)


def test_groups_must_be_as_many_as_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.dcm", values(), POSITIONS)
    changed(tmp_path / "a.dcm", lambda one: setattr(one, "NumberOfFrames", 4))
    with pytest.raises(InputError, match="cannot be understood .*4 frames, places of 10"):
        read_image(tmp_path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    write_series(tmp_path, values(), POSITIONS)
    path = tmp_path / "slice003.dcm"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError):
        read_image(tmp_path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_the_bytes_that_a_file_lacks_are_told(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, values(), POSITIONS, extra=lambda one, _: setattr(one.file_meta, "TransferSyntaxUID", syntax))
    assert read_image(tmp_path).GetSize() == (COLUMNS, ROWS, COUNT)
    path = tmp_path / "slice003.dcm"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"slice003\.dcm is cut short; .* 7 bytes are missing\. Copy or export"):
        read_image(tmp_path)


# modality


def test_the_tag_is_the_modality_where_nothing_is_stated(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", values(), POSITIONS, storage=CT, modality="CT")
    write_series(tmp_path / "pet", values(), POSITIONS, storage=PET, modality="PT")
    write_frames(tmp_path / "mr" / "a.dcm", values(), POSITIONS)
    for name, modality in (("ct", "ct"), ("mr", "mr"), ("pet", "other"), ("mr/a.dcm", "mr")):
        assert modality_of(tmp_path / name, None) == modality
        assert modality_of(str(tmp_path / name), "other") == "other"
        assert modality_of(read_image(tmp_path / name), None) == modality
    for other in (tmp_path, tmp_path / "missing", sitk.Image(2, 2, sitk.sitkInt8), None):
        assert modality_of(other, None) in ("ct", "other")
    with pytest.raises(InputError, match="no modality 'pet'; the modalities are ct, mr, other"):
        modality_of(None, "pet")


def test_names_of_another_alphabet_than_the_header_says_do_no_harm(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS, extra=lambda one, _: setattr(one, "SpecificCharacterSet", "ISO_IR 192"))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"Nobody", b"N\xf6b\xe4dy"))
    check_place(read_image(tmp_path), values(), POSITIONS)


def test_every_series_of_its_own_identifier_counts(tmp_path: Path) -> None:
    write_series(tmp_path, values(), POSITIONS, series=generate_uid())
    write_series(tmp_path, values(), POSITIONS, series=generate_uid(), name="other")
    with pytest.raises(InputError, match="holds 2 volumes"):
        read_image(tmp_path)


def test_a_file_with_other_voxels_than_its_header_tells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frames(tmp_path / "a.dcm", values(), POSITIONS)
    monkeypatch.setattr(dicom, "_read", lambda _: sitk.Image([7, 5, 3], sitk.sitkInt16))
    with pytest.raises(InputError, match=r"a\.dcm holds 105 values, and its header tells of \d+"):
        read_image(tmp_path / "a.dcm")
