"""Volumes as NRRD files: what one side writes, the other reads, SimpleITK as well."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError, OutputError
from RegistrationNetLib.io.nrrd import Volume, read_volume, write_volume

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def oblique(*shape: int, dtype: str = "int16") -> Volume:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([turn * [0.5, 1.25, 3.0], [-10.1, 20.2, 1e3 / 3]])
    return Volume(values, matrix)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    volume = oblique(3, 4, 5, dtype=dtype)
    write_volume(volume, tmp_path / "a.nrrd")
    back = read_volume(tmp_path / "a.nrrd")
    assert back.values.dtype == volume.values.dtype
    assert np.array_equal(back.values, volume.values)
    assert np.array_equal(back.world_from_index, volume.world_from_index)
    assert back.size == (5, 4, 3)


@pytest.mark.parametrize("dtype", TYPES)
def test_simpleitk_reads_what_is_written_and_its_files_are_read(tmp_path: Path, dtype: str) -> None:
    volume = oblique(3, 4, 5, dtype=dtype)
    write_volume(volume, tmp_path / "a.nrrd")
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.values)
    index = (4, 1, 2)
    assert np.allclose(image.TransformIndexToPhysicalPoint(index), (volume.world_from_index @ [*index, 1])[:3])
    sitk.WriteImage(image, str(tmp_path / "b.nrrd"), useCompression=False)
    back = read_volume(tmp_path / "b.nrrd")
    assert back.values.dtype == volume.values.dtype
    assert np.array_equal(back.values, volume.values)
    assert np.allclose(back.world_from_index, volume.world_from_index, rtol=0, atol=1e-9)


def test_vectors_keep_their_channels(tmp_path: Path) -> None:
    volume = oblique(3, 4, 5, 3, dtype="float32")
    write_volume(volume, tmp_path / "a.nrrd")
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert image.GetPixel(4, 1, 2) == tuple(volume.values[2, 1, 4])
    sitk.WriteImage(image, str(tmp_path / "b.nrrd"), useCompression=False)
    assert np.array_equal(read_volume(tmp_path / "b.nrrd").values, volume.values)


def test_voxels_that_nrrd_has_no_type_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Voxels are bool"):
        write_volume(Volume(np.zeros((2, 2, 2), bool), np.eye(4)), tmp_path / "a.nrrd")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Free some disk space"):
        write_volume(oblique(2, 2, 2), tmp_path / "missing" / "a.nrrd")


def damaged(path: Path, old: bytes, new: bytes) -> Path:
    write_volume(oblique(3, 4, 5), path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"NRRD0004", b"DRRN0004", "no NRRD file"),
        (b"encoding: raw", b"encoding: gzip", "encoding gzip; only raw"),
        (b"left-posterior-superior", b"right-anterior-superior", "only left-posterior-superior"),
        (b"endian: little", b"endian: big", "endian big; only little"),
        (b"sizes: 5 4 3", b"sizes: 5 4 4", "cut short; it must hold 4 x 4 x 5 values and holds 60"),
        (b"type: short", b"typo: short", "its header lacks 'type'"),
        (b"type: short", b"type: block", "its header lacks 'block'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_volume(damaged(tmp_path / "a.nrrd", old, new))


def test_a_file_that_ends_within_its_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    with pytest.raises(InputError, match="cut short within its header"):
        read_volume(tmp_path / "a.nrrd")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        read_volume(tmp_path / "a.nrrd")
