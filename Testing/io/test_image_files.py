"""Images and transforms from files: read whole, or refused by what is wrong with them."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.space import grid_of
from RegistrationNetLib.io.image_files import read_image, voxel_count
from RegistrationNetLib.io.transform_files import read_transform
from RegistrationNetLib.io.warning import DataWarning

from ..strategies import rotation
from ..volumes import noise, voxels

# reading


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("as_text", [True, False])
def test_each_format_gives_voxels_type_and_geometry_back(tmp_path: Path, suffix: str, *, as_text: bool) -> None:
    image = noise(dtype=np.int16)
    image.SetDirection(rotation(3, (20.0, -10.0, 5.0)).flatten().tolist())
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(image, str(path))
    found = read_image(str(path) if as_text else path)
    assert found.GetPixelID() == image.GetPixelID()
    assert np.array_equal(voxels(found), voxels(image))
    np.testing.assert_allclose(grid_of(found).world_from_voxel, grid_of(image).world_from_voxel, atol=1e-4)


def test_a_folder_with_no_series_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("no slices here")
    with pytest.raises(InputError, match="holds 0 DICOM series; exactly one is needed"):
        read_image(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["missing.nii", "no/folder.nii", "a\0b.nii"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read_image(f"{tmp_path}/{name}")


def test_a_name_that_the_system_refuses_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened.*Check the path"):
        read_image(tmp_path / ("x" * 300))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".xyz"])
def test_a_file_of_junk_is_refused_quietly(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(b"\x01" * 400)
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


FORMATS = {
    ".nii": np.float32, ".nii.gz": np.float32, ".hdr": np.float32, ".img.gz": np.float32, ".nrrd": np.float32, ".nhdr": np.float32,
    ".mha": np.float32, ".mhd": np.float32, ".vtk": np.float32, ".gipl": np.float32, ".gipl.gz": np.float32, ".mrc": np.float32,
    ".tif": np.uint8, ".tiff": np.uint16, ".bmp": np.uint8, ".png": np.uint8, ".jpg": np.uint8,
}  # fmt: skip
COMPANIONS = {".hdr": ".img", ".nhdr": ".raw", ".mhd": ".raw"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_cut_short_is_refused_quietly(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"image{suffix}"
    image = noise((14, 15, 16), dtype=FORMATS[suffix])
    sitk.WriteImage(image[:, :, 3] if suffix in (".bmp", ".png", ".jpg") else image, str(path))
    assert read_image(path).GetSize()[:2] == (16, 15)
    data = path.with_name(f"image{COMPANIONS.get(suffix, suffix)}")
    content = data.read_bytes()
    for size in (len(content) // 2, int(0.95 * len(content)), len(content) - 3):
        data.write_bytes(content[:size])
        with pytest.raises(InputError, match="cut short|cannot be read as an image"):
            read_image(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("said", ["-2", "0", "11", "2147483647", "2.5", "x", ""])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_a_metaimage_of_no_number_of_axes_is_refused(tmp_path: Path, suffix: str, said: str) -> None:
    """ITK's reader would end the process, or never come back."""
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(noise(dtype=np.int16), str(path))
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", f"NDims = {said}".encode(), 1))
    with pytest.raises(
        InputError, match="does not say how many axes it has; NDims of a MetaImage is a whole number .* Copy or write"
    ):
        read_image(path)
    assert voxel_count(path) == 0


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.nrrd is empty; an image file is needed"):
        read_image(tmp_path / "a.nrrd")


def test_text_files_of_vtk_are_read_whole(tmp_path: Path) -> None:
    head = "# vtk DataFile Version 3.0\nname\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 2 2 2\nSPACING 1 1 1\nORIGIN 0 0 0\n"
    (tmp_path / "a.vtk").write_text(head + "POINT_DATA 8\nSCALARS s float 1\nLOOKUP_TABLE default\n1 2 3 4\n5 6 7 8\n")
    assert voxels(read_image(tmp_path / "a.vtk")).flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_packed_file_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    sitk.WriteImage(noise(), str(path))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="cut short or damaged|cannot be read as an image"):
        read_image(path)


def test_a_whole_file_is_read_whatever_its_packing_scaling_and_dimensions(tmp_path: Path) -> None:
    sitk.WriteImage(noise(dtype=np.int16), str(tmp_path / "plain.nii"))
    plain = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "unpacked.nii.gz").write_bytes(plain)
    # scl_slope, a float at byte 112: the reader then gives doubles although the file holds int16.
    scaled = plain[:112] + np.float32(0.5).tobytes() + plain[116:]
    (tmp_path / "scaled.nii.gz").write_bytes(gzip.compress(scaled))
    sitk.WriteImage(sitk.JoinSeries([noise(), noise()]), str(tmp_path / "series.nii"))
    sitk.WriteImage(sitk.Compose([noise(), noise()]), str(tmp_path / "vector.nii.gz"))
    sitk.WriteImage(noise((9, 10), dtype=np.uint8), str(tmp_path / "other.png"))
    (tmp_path / "other.png").rename(tmp_path / "other.nii")
    sizes = {path.name: read_image(path).GetSize() for path in tmp_path.iterdir()}
    assert sizes.pop("other.nii") == (10, 9)
    assert sizes.pop("series.nii") == (10, 9, 8, 2)
    assert set(sizes.values()) == {(10, 9, 8)}
    assert voxels(read_image(tmp_path / "scaled.nii.gz")) == pytest.approx(0.5 * voxels(read_image(tmp_path / "plain.nii")))


def test_a_transform_comes_back_from_its_file(tmp_path: Path) -> None:
    for suffix in (".h5", ".tfm", ".mat", ".txt"):
        sitk.WriteTransform(sitk.AffineTransform(np.eye(3).flatten().tolist(), (1, 2, 3)), str(tmp_path / f"t{suffix}"))
        assert read_transform(tmp_path / f"t{suffix}").TransformPoint((0, 0, 0)) == pytest.approx((1, 2, 3))
    transform = sitk.Transform(2, sitk.sitkIdentity)
    assert read_transform(transform) is transform


def test_a_transform_that_cannot_be_read_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match=r"junk\.h5 cannot be read as an ITK transform"):
        read_transform(tmp_path / "junk.h5")
    for missing in (tmp_path / "missing.h5", tmp_path):
        with pytest.raises(InputError, match="There is no transform file"):
            read_transform(missing)
    assert capfd.readouterr() == ("", "")


# NIfTI headers that contradict themselves

SFORM, QFORM_CODES, PIXDIM, OFFSET = 280, 252, 76, 268


def nifti(folder: Path, *changes: tuple[int, str, Sequence[float]], dtype: type = np.int16) -> Path:
    """A NIfTI file with numbers of its header changed: (place, format, values)."""
    image = noise((10, 11, 12), dtype=dtype)
    image.SetSpacing((2, 2, 2))
    sitk.WriteImage(image, str(folder / "a.nii"))
    content = bytearray((folder / "a.nii").read_bytes())
    for place, form, values in changes:
        struct.pack_into(f"<{form}", content, place, *values)
    (folder / "a.nii").write_bytes(content)
    return folder / "a.nii"


@pytest.mark.parametrize("packed", [True, False])
def test_voxel_sizes_that_contradict_the_transform_are_refused(tmp_path: Path, *, packed: bool) -> None:
    path = nifti(tmp_path, (PIXDIM + 4, "3f", (7, 7, 7)))
    if packed:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    with pytest.raises(InputError, match=r"voxel sizes \(pixdim\) are 7 × 7 × 7, those of its transform \(sform\) 2 × 2 × 2"):
        read_image(path)


@pytest.mark.parametrize(("codes", "taken"), [((1, 1), "sform"), ((1, 2), "qform")])
def test_transforms_that_contradict_each_other_are_said(tmp_path: Path, codes: tuple[int, int], taken: str) -> None:
    path = nifti(tmp_path, (QFORM_CODES, "2h", codes), (OFFSET, "3f", (30, 60, 30)))
    with pytest.warns(DataWarning, match=f"put the image up to 56.6 mm apart; the {taken} was taken"):
        read_image(path)


def test_a_sheared_transform_is_refused_unless_there_is_another(tmp_path: Path) -> None:
    shear = (SFORM, "4f", (-2, 0.5, 0, -10))
    with pytest.raises(InputError, match="only supports orthonormal direction cosines"):
        read_image(nifti(tmp_path, shear, (QFORM_CODES, "2h", (0, 1))))
    with pytest.warns(DataWarning, match="put the image up to 5 mm apart; the qform was taken"):
        read_image(nifti(tmp_path, shear))


def test_a_place_that_is_not_told_is_said(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="does not say how its axes lie in the body"):
        read_image(nifti(tmp_path, (QFORM_CODES, "2h", (0, 0))))
    with pytest.warns(DataWarning, match=r"does not say how large its voxels are \(pixdim 2 × 2 × 0\)"):
        read_image(nifti(tmp_path, (PIXDIM + 12, "f", (0,))))


def test_micrometres_are_millimetres_afterwards(tmp_path: Path) -> None:
    assert read_image(nifti(tmp_path, (123, "B", (3,)))).GetSpacing() == pytest.approx((0.002, 0.002, 0.002))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_nan_in_a_file_is_nan_in_the_image(tmp_path: Path, kind: type, suffix: str) -> None:
    array = np.random.default_rng(0).random((8, 9, 10)).astype(kind)
    array[:5] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{suffix}"))
    image = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(voxels(image), array, equal_nan=True)


def test_a_header_that_is_no_text_comes_along_with_question_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((8, 9, 10), np.nan, np.float32)), str(path))
    content = bytearray(path.read_bytes())
    content[148:152] = b"a\xff\xfeb"  # its description
    path.write_bytes(content)
    image = read_image(path)
    assert image.GetMetaData("descrip") == "a??b"
    assert np.isnan(voxels(image)).all()


def test_nan_of_the_other_byte_order_is_found(tmp_path: Path) -> None:
    path = nifti(tmp_path, dtype=np.float32)
    content = bytearray(path.read_bytes())
    values = np.frombuffer(content[352:], "<f4").copy()
    values[7] = np.nan
    (tmp_path / "b.nii").write_bytes(swapped_header(content[:352]) + values.astype(">f4").tobytes())
    found = voxels(read_image(tmp_path / "b.nii")).flatten()
    assert np.flatnonzero(np.isnan(found)).tolist() == [7]
    np.testing.assert_allclose(np.delete(found, 7), np.delete(values, 7))


def swapped_header(header: bytes) -> bytes:
    """A header of NIfTI-1 in big endian."""
    forms = [(0, "i"), (32, "i"), (36, "h"), (40, "8h"), (56, "3f"), (68, "4h"), (76, "8f"), (108, "3f"), (120, "h"), (124, "6f"),
             (252, "2h"), (256, "6f"), (280, "12f")]  # fmt: skip
    swapped = bytearray(header)
    for place, form in forms:
        struct.pack_into(f">{form}", swapped, place, *struct.unpack_from(f"<{form}", header, place))
    return bytes(swapped)


# names that are not valid Unicode: SimpleITK ends the process at them

SCRIPT = """
import os, sys
import SimpleITK as sitk
from pathlib import Path
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.image_files import read_image, voxel_count
from RegistrationNetLib.io.transform_files import read_transform
from RegistrationNetLib.io.outputs import check_file_name, check_image_name, staged_folder, write_image, write_transform
folder = Path(os.fsdecode(os.fsencode(sys.argv[1]) + b"/K\\xe4se"))
with staged_folder(folder / "out") as new:
    for suffix in (".nii.gz", ".mhd", ".nrrd"):
        write_image(sitk.Image(9, 9, 9, sitk.sitkInt16) + 3, new / f"a{suffix}")
    write_transform(sitk.TranslationTransform(3, (1, 2, 3)), new / "t.h5")
for suffix in (".nii.gz", ".mhd", ".nrrd"):
    assert read_image(folder / "out" / f"a{suffix}").GetPixel(1, 1, 1) == 3
assert read_transform(folder / "out" / "t.h5").TransformPoint((0, 0, 0)) == (1, 2, 3)
bad = folder / "out" / os.fsdecode(b"\\xfc.nii.gz")
(folder / "out" / "a.nii.gz").rename(bad)
assert read_image(bad).GetSize() == (9, 9, 9)
for check in (check_file_name, check_image_name):
    try:
        check(bad)
    except InputError as error:
        assert "is not valid Unicode; an output needs a name that is" in str(error)
        error.args[0].encode("utf-8")
    else:
        raise AssertionError("such a name was taken")
for wrong in (folder / "missing.nii", folder / "out" / "t.h5", folder):
    try:
        read_image(wrong)
    except InputError as error:
        error.args[0].encode("utf-8")
    else:
        raise AssertionError("that was no image")
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has no such names")
def test_no_name_ends_the_process(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_name_that_cannot_be_linked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / os.fsdecode(b"\xfc.nii.gz")
    path.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(InputError, match="is not valid Unicode; files are opened by names that are"):
        read_image(path)


def test_a_pattern_of_files_that_the_reader_cannot_hold_is_refused(tmp_path: Path) -> None:
    """ITK would write beyond the 80 bytes it has for each word."""
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = "
    for number in (1, 2):
        (tmp_path / f"slice-{number}.raw").write_bytes(bytes([number] * 12))
    (tmp_path / "far.mhd").write_text(f"{header}{'./' * 40}slice-%d.raw 1 2 1\n")
    with pytest.raises(InputError, match=r"far.mhd names the files .* more than 79 characters.*Name them without their folder"):
        read_image(tmp_path / "far.mhd")
    assert voxel_count(tmp_path / "far.mhd") == 0
    (tmp_path / "near.mhd").write_text(f"{header}slice-%d.raw 1 2 1\n")
    assert sitk.GetArrayFromImage(read_image(tmp_path / "near.mhd"))[:, 0, 0].tolist() == [1, 2]
