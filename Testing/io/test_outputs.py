"""Files appear whole or not at all, whatever happens on the way."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError, OutputError, ResourceError
from RegistrationNetLib.io.outputs import (
    check_disk_space,
    check_file_name,
    check_folder_name,
    check_image_name,
    check_picture,
    result_bytes,
    rounded,
    staged,
    staged_folder,
    write_image,
    write_transform,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
IMAGE = sitk.Image([4, 5, 6], sitk.sitkInt16)


def everything(folder: Path) -> dict[str, str]:
    """Names and contents, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    with staged(tmp_path / "a.txt") as path:
        path.write_text("new")
        assert path.name == "a.txt"
        assert not (tmp_path / "a.txt").exists()
    assert everything(tmp_path) == {"a.txt": "new"}
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_stood_there(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(failure), staged(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise failure
    assert everything(tmp_path) == {"a.txt": "old"}
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a" / "b") as folder:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")
        assert not (tmp_path / "a").exists()
    assert everything(tmp_path) == {"a/b/one": "1", "a/b/two": "2"}


def test_a_failed_folder_leaves_no_parents(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "a" / "b") as folder:
        (folder / "one").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_names_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "one").write_text("old")
    with staged_folder(tmp_path) as folder:
        (folder / "one").write_text("new")
    assert everything(tmp_path) == {"mine": "mine", "one": "new"}


@pytest.mark.parametrize("at", range(5))
def test_a_failure_while_moving_brings_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "one").write_text("old")
    (target / "two").write_text("old")
    count, rename = 0, Path.replace

    def failing(self: Path, other: Path) -> Path:
        nonlocal count
        count += 1
        if count == at + 1:
            raise KeyboardInterrupt
        return rename(self, other)

    with pytest.raises(KeyboardInterrupt), staged_folder(target) as folder:
        for name in ("one", "three", "two"):
            (folder / name).write_text("new")
        monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.undo()
    assert everything(tmp_path) == {"out/one": "old", "out/two": "old"}


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device"), staged(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
import SimpleITK as sitk
from RegistrationNetLib.errors import OutputError
from RegistrationNetLib.io.outputs import write_image

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
try:
    write_image(sitk.GetImageFromArray(noise), Path(sys.argv[1]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is a POSIX notion")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_that_does_not_fit_on_the_disk_is_noticed_in_every_format(tmp_path: Path, suffix: str) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / f"a{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("Cannot write")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_staging_within_staging_appears_once(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as folder:
        write_image(IMAGE, folder / "a.mha")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mha"]


def test_both_files_of_a_pair_appear(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "a.mhd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", "a.zraw"]
    assert sitk.ReadImage(str(tmp_path / "a.mhd")).GetSize() == (4, 5, 6)


def test_an_image_that_the_format_cannot_hold_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot write .*a\.png"):
        write_image(sitk.Image([4, 4, 4], sitk.sitkFloat64), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_names_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_file_name(tmp_path / "a.csv")
    check_image_name(tmp_path / "a.NII.GZ")
    check_folder_name(tmp_path / "a" / "b")
    with pytest.raises(InputError, match="is a folder"):
        check_file_name(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        check_image_name(tmp_path / "missing" / "a.nii")
    with pytest.raises(InputError, match=r"names no image format.*\.nii\.gz"):
        check_image_name(tmp_path / "a.txt")
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(InputError, match="is a file"):
            check_folder_name(path)


# before the work


@pytest.mark.parametrize("name", ["a.png", "a.tif", "A.TIFF"])
def test_a_volume_is_no_picture(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} would be a picture, which holds a single plane .*the result has 3 dimensions"):
        check_image_name(tmp_path / name, dim=3)
    check_image_name(tmp_path / name, dim=2)


def test_a_picture_keeps_a_plane_of_small_whole_numbers_without_a_place(tmp_path: Path) -> None:
    plane = sitk.Image([9, 9], sitk.sitkUInt8)
    check_picture(tmp_path / "a.png", plane, plane.GetPixelID())
    check_picture(tmp_path / "a.nrrd", plane, sitk.sitkFloat32)
    with pytest.raises(InputError, match="whole numbers from 0 to 255 or 65535; the result has pixels of 32-bit float"):
        check_picture(tmp_path / "a.png", plane, sitk.sitkFloat32)
    plane.SetSpacing((2, 2))
    with pytest.raises(InputError, match="keeps neither spacing nor origin"):
        check_picture(tmp_path / "a.png", plane, plane.GetPixelID())


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of folders are a POSIX notion")
@pytest.mark.parametrize("check", [check_file_name, check_image_name, check_folder_name])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, check: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path or not mode & os.W_OK
    )  # as for other users than root
    with pytest.raises(InputError, match="cannot be written; outputs go into one that can"):
        check(tmp_path / "a.nii.gz")


def test_space_on_the_disk_is_asked_for(tmp_path: Path) -> None:
    check_disk_space(tmp_path / "missing" / "deep", 1)
    with pytest.raises(ResourceError, match=r"The results need about 1099511627776 MB; the disk of .* has \d+ MB free"):
        check_disk_space(tmp_path, 2.0**60)


def test_the_space_that_results_take_is_about_what_is_estimated(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((12, 13, 14, 3))
    field = sitk.GetImageFromArray(values, isVector=True)
    write_transform(sitk.DisplacementFieldTransform(field), tmp_path / "t.h5")
    voxels = values[..., 0].size
    for suffix, bytes_each in (("float32", 4), ("float64", 8)):
        write_image(sitk.GetImageFromArray(values[..., 0].astype(suffix)), tmp_path / f"{suffix}.nii.gz")
        assert (tmp_path / f"{suffix}.nii.gz").stat().st_size < voxels * bytes_each + 1000
    size = (tmp_path / "t.h5").stat().st_size
    assert size < 24 * voxels + 10_000
    assert result_bytes(voxels, voxels) > 2 * size + 12 * voxels
    ct = 512 * 512 * 300
    assert 16 * ct < result_bytes(ct, ct) < 16 * ct + 300e6


def test_a_transform_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"The transform t\.unknown cannot be written"):
        write_transform(sitk.Transform(3, sitk.sitkIdentity), tmp_path / "t.unknown")


@pytest.mark.parametrize("digits", [2, 9, 13, 23])
def test_values_are_rounded_to_so_many_binary_digits(digits: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 50)).astype(np.float32) * np.logspace(-20, 20, 50, dtype=np.float32)
    values[0, 0, :4] = 0, np.inf, -np.inf, np.nan
    image = sitk.GetImageFromArray(values)
    image.SetOrigin((1.0, 2.0, 3.0))
    found = rounded(image, digits)
    assert found.IsSameImageGeometryAs(image)
    kept = sitk.GetArrayFromImage(found)
    np.testing.assert_array_equal(kept[0, 0, :4], values[0, 0, :4])
    np.testing.assert_allclose(kept, values, rtol=2.0**-digits)
    assert not (kept.view(np.uint32) & np.uint32((1 << (24 - digits)) - 1)).any()
    assert (sitk.GetArrayFromImage(image).view(np.uint32) == values.view(np.uint32)).all()


def test_a_rounded_image_takes_less_room(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(1 + np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32))
    for digits in (None, 9):
        write_image(image, tmp_path / f"{digits}.nii.gz", digits=digits)
    assert (tmp_path / "9.nii.gz").stat().st_size < 0.6 * (tmp_path / "None.nii.gz").stat().st_size
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "9.nii.gz")), sitk.GetArrayFromImage(image), rtol=2e-3
    )
