"""Files appear whole or not at all, whatever happens on the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError, OutputError
from RegistrationNetLib.io.outputs import check_file_name, check_folder_name, check_image_name, staged, staged_folder, write_image

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
