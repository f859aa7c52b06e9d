"""Whether inputs still hold what they held."""

import os
from pathlib import Path

import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.checksums import Fingerprint

from ..cohort.small import blob


def test_a_file_that_is_touched_or_moved_is_the_same_and_one_of_other_content_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    before = Fingerprint.of(file)
    os.utime(file, (1, 1))
    assert before.still_holds(file)
    moved = file.rename(tmp_path / "b.bin")
    assert before.still_holds(moved)
    moved.write_bytes(b"two")
    assert not before.still_holds(moved)
    moved.unlink()
    assert not before.still_holds(moved)


def test_a_fingerprint_comes_back_from_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"one")
    before = Fingerprint.of(tmp_path / "a.bin")
    assert Fingerprint.from_dict(before.as_dict()) == before


@pytest.mark.parametrize("name", ["image.mhd", "image.nhdr", "image.hdr"])
def test_the_voxels_beside_a_header_count(name: str, tmp_path: Path) -> None:
    for file, centre in ((tmp_path / name, (12.0, 12.0)), (tmp_path / f"other-{name}", (12.0, 9.0))):
        sitk.WriteImage(blob(centre), str(file))
    before = Fingerprint.of(tmp_path / name)
    assert before.still_holds(tmp_path / name)
    ending = {".mhd": ".raw", ".nhdr": ".raw", ".hdr": ".img"}[Path(name).suffix]
    beside, other = (next(tmp_path.glob(f"{start}*{ending}*")) for start in ("image", "other-image"))
    beside.write_bytes(other.read_bytes())
    assert not before.still_holds(tmp_path / name)


META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = "
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: "


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", META + "LIST\nslice-1.raw\nslice-2.raw\n"),
        ("a.mhd", META + "slice-%d.raw 1 2 1\n"),
        ("a.mhd", META + "FOLDER/slice-%d.raw 1 2 1\n"),
        ("a.mha", META + "LIST\nslice-1.raw\nslice-2.raw\n"),
        ("a.nhdr", NRRD + "LIST\nslice-1.raw\nslice-2.raw\n"),
        ("a.nhdr", NRRD + "LIST 2\nslice-1.raw\nslice-2.raw\n"),
        ("a.nhdr", NRRD + "./slice-%d.raw 1 2 1\n"),
        ("a.nhdr", NRRD + "./slice-%01d.raw 2 1 -1 2\n"),
    ],
)
def test_all_files_of_voxels_that_a_header_names_count(name: str, header: str, tmp_path: Path) -> None:
    folder = tmp_path / "[1] a"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"slice-{number}.raw").write_bytes(bytes([number] * 12))
    (folder / name).write_text(header.replace("FOLDER", str(folder)))
    before = Fingerprint.of(folder / name)
    assert before.still_holds(folder / name)
    (folder / "slice-2.raw").write_bytes(bytes([7] * 12))
    assert not before.still_holds(folder / name)
    (folder / "slice-2.raw").write_bytes(bytes([2] * 12))
    assert before.still_holds(folder / name)


def test_a_folder_holds_its_files_under_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    before = Fingerprint.of(folder)
    (folder / "a").write_text("b")
    (folder / "b").write_text("a")
    assert not before.still_holds(folder)
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    assert before.still_holds(folder)
    (folder / "c").touch()
    assert not before.still_holds(folder)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.nii cannot be read \(No such file"):
        Fingerprint.of(tmp_path / "missing.nii")
