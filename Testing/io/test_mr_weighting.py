"""The weighting of MR images, by the times that real scanners write into their headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from RegistrationNetLib.io.image_files import read_image
from RegistrationNetLib.io.inputs import Pair, checked_pair
from RegistrationNetLib.io.mr_weighting import weighting, weighting_of
from RegistrationNetLib.io.outlying import plain_pair

from ..dicom_files import CT, MR, inner, write_frames, write_series

SLICES = np.random.default_rng(0).integers(0, 900, (9, 9, 12))
POSITIONS = np.arange(9)[:, None] * np.array([0.0, 0.0, 3.0])


@pytest.mark.parametrize(
    ("sequence", "repetition", "echo", "inversion", "expected"),
    [
        ("SE", "500", "12", "", "T1"),
        ("SE", "4200", "96", "", "T2"),
        ("SE", "3200", "410", "", "T2"),  # three-dimensional turbo spin echo
        ("SE", "2800", "20", "", "PD"),
        ("GR\\IR", "2300", "2.98", "900", "T1"),  # MP-RAGE
        ("GR", "7.4", "3.1", "400", "T1"),  # fast spoiled gradient echo, prepared
        ("GR", "28", "20", "", "T2*"),  # susceptibility weighted
        ("IR\\SE", "9000", "122", "2500", "FLAIR"),
        ("SE", "5000", "388", "1650", "FLAIR"),  # three-dimensional, which some scanners do not call IR
        ("IR\\SE", "4000", "45", "160", "STIR"),
        ("EP\\SE", "4500", "89", "", ""),  # diffusion
        ("SE", "1200", "40", "", ""),
        ("GR", "10", "15", "", ""),
        ("SE", "", "", "", ""),
        ("SE", "about", "two", "", ""),
    ],
)
def test_times_tell_the_weighting_or_nothing(sequence: str, repetition: str, echo: str, inversion: str, expected: str) -> None:
    given = {"ScanningSequence": sequence, "RepetitionTime": repetition, "EchoTime": echo, "InversionTime": inversion}
    assert weighting({name: value for name, value in given.items() if value}) == expected


def flair(one: Dataset, _: int) -> None:
    one.ScanningSequence, one.RepetitionTime, one.EchoTime, one.InversionTime = ["SE", "IR"], "9000", "122", "2500"


def test_a_series_brings_its_weighting(tmp_path: Path) -> None:
    write_series(tmp_path / "flair", SLICES, POSITIONS, storage=MR, modality="MR", extra=flair)
    write_series(tmp_path / "ct", SLICES, POSITIONS, storage=CT, modality="CT")
    one, other = (read_image(tmp_path / name) for name in ("flair", "ct"))
    assert [weighting_of(image) for image in (one, other)] == ["FLAIR", ""]
    assert checked(one, one, ("mr", "ct")).weightings == ("FLAIR", "")


def checked(one: sitk.Image, other: sitk.Image, modalities: tuple[str, str] = ("mr", "mr")) -> Pair:
    return checked_pair((one, other), modalities=modalities, masks=(None, None), labels=(None, None))


def test_the_weighting_stays_where_lone_voxels_are_taken_out(tmp_path: Path) -> None:
    slices = np.random.default_rng(0).integers(0, 900, (12, 16, 16))
    slices[5, 7, 7] = 30_000
    write_series(tmp_path, slices, np.arange(12)[:, None] * np.array([0.0, 0.0, 3.0]), storage=MR, modality="MR", extra=flair)
    pair = checked(read_image(tmp_path), read_image(tmp_path))
    plain = plain_pair(pair, lambda _: None)
    assert plain.fixed is not pair.fixed
    assert plain.weightings == ("FLAIR", "FLAIR")


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_file_with_functional_groups_brings_its_weighting(tmp_path: Path, *, is_shared: bool) -> None:
    def extra(group: Dataset, _: int) -> None:
        group.MRTimingAndRelatedParametersSequence = inner(RepetitionTime=4800.0)
        group.MREchoSequence = inner(EffectiveEchoTime=98.0)

    path = tmp_path / "a.dcm"
    write_frames(path, SLICES, POSITIONS, extra=extra)
    if is_shared:
        import pydicom

        one = pydicom.dcmread(path)
        for name in ("MRTimingAndRelatedParametersSequence", "MREchoSequence"):
            setattr(one.SharedFunctionalGroupsSequence[0], name, getattr(one.PerFrameFunctionalGroupsSequence[0], name))
            for group in one.PerFrameFunctionalGroupsSequence:
                delattr(group, name)
        one.EchoPulseSequence = "SPIN"
        one.save_as(path)
    assert weighting_of(read_image(path)) == "T2"
