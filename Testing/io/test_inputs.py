"""The border of the library: reading, checking, and what it refuses."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.geometry.space import grid_of
from RegistrationNetLib.io.inputs import (
    as_image,
    checked_image,
    checked_labels,
    checked_mask,
    checked_pair,
    read_image,
    read_transform,
)
from RegistrationNetLib.registration.prepare import prepared

from ..strategies import rotation
from ..volumes import QUANTILES, SHAPE, box, noise, on_grid_of, pair_of, state, voxels

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


def write_dicom_slices(folder: Path, image: sitk.Image, *, series: str, heights_mm: Sequence[float]) -> None:
    """One file per slice, named against the order of the slices."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, height in enumerate(heights_mm):
        one = image[:, :, k]
        tags = {
            "0008|0018": f"{series}.{k + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.826.1",
            "0020|000e": series,
            "0020|0013": str(k + 1),
            "0020|0032": f"10\\-20\\{height}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{99 - k}.dcm"))
        writer.Execute(one)


def test_a_folder_of_dicom_slices_is_one_volume_in_the_order_of_the_slices(tmp_path: Path) -> None:
    image = noise(dtype=np.int16)
    write_dicom_slices(tmp_path, image, series="1.2.826.2", heights_mm=[30 + 2.5 * k for k in range(SHAPE[0])])
    found = read_image(tmp_path)
    assert np.array_equal(voxels(found), voxels(image))
    np.testing.assert_allclose(grid_of(found).world_from_voxel, grid_of(image).world_from_voxel, atol=1e-6)


def test_positions_rounded_in_the_files_are_no_missing_slice(tmp_path: Path) -> None:
    heights = [round(0.625 * k, 2) for k in range(SHAPE[0])]
    write_dicom_slices(tmp_path, noise(dtype=np.int16), series="1.2.826.2", heights_mm=heights)
    assert read_image(tmp_path).GetSpacing()[2] == pytest.approx(0.625, abs=0.005)


def test_a_dicom_series_without_one_of_its_slices_is_refused(tmp_path: Path) -> None:
    heights = [3.0 * (k + (k > 4)) for k in range(SHAPE[0])]
    write_dicom_slices(tmp_path, noise(dtype=np.int16), series="1.2.826.2", heights_mm=heights)
    with pytest.raises(InputError, match="3 to 6 mm apart.*A slice may be missing"):
        read_image(tmp_path)


def test_a_folder_with_no_series_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note.txt").write_text("no slices here")
    with pytest.raises(InputError, match="holds 0 DICOM series; exactly one is needed"):
        read_image(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_folder_with_two_series_is_refused(tmp_path: Path) -> None:
    for series in ("1.2.826.2", "1.2.826.3"):
        write_dicom_slices(tmp_path, noise(dtype=np.int16), series=series, heights_mm=[2.5 * k for k in range(SHAPE[0])])
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        read_image(tmp_path)


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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_cut_short_is_refused_quietly(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"image{suffix}"
    sitk.WriteImage(noise(), str(path))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="cut short|cannot be read as an image"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("source", [3, None, np.zeros(SHAPE), torch.zeros(SHAPE), b"path"])
def test_what_is_no_image_is_refused_by_its_type(source: object) -> None:
    with pytest.raises(InputError, match=f"fixed is a {type(source).__name__}; a path, a SimpleITK image or an ITK image"):
        as_image(source, "fixed")


def test_a_label_map_is_refused_before_simpleitk_aborts() -> None:
    label_map = sitk.LabelImageToLabelMap(sitk.Cast(noise(), sitk.sitkUInt16))
    with pytest.raises(InputError, match="fixed labels is a label map; an image of voxels is needed"):
        as_image(label_map, "fixed labels")


# checking images


def with_value(value: float) -> sitk.Image:
    array = voxels(noise()).copy()
    array[3, 4, 5] = value
    return on_grid_of(noise(), array)


def with_direction(*direction: float) -> sitk.Image:
    image = noise(SHAPE if len(direction) == 9 else SHAPE[:2])
    image.SetDirection(direction)
    return image


def with_geometry(*, origin: float = 0.0, spacing: float = 1.0) -> sitk.Image:
    image = noise()
    image.SetOrigin((0.0, origin, 0.0))
    image.SetSpacing((1.0, 1.0, spacing))
    return image


BAD: dict[str, tuple[Callable[[], sitk.Image], type[InputError], str]] = {
    "NaN": (lambda: with_value(np.nan), InputError, "fixed has 1 voxels that are NaN or infinite; all must be finite"),
    "inf": (lambda: with_value(np.inf), InputError, "fixed has 1 voxels that are NaN or infinite"),
    "constant": (lambda: noise() * 0 + 7, InputError, r"one value everywhere \(7\); registration needs contrast"),
    "constant int": (lambda: noise(dtype=np.int16) * 0, InputError, r"one value everywhere \(0\)"),
    "vector": (lambda: sitk.Compose([noise()] * 3), InputError, "3 values per voxel.*one real number"),
    "RGB": (lambda: sitk.Compose([noise(dtype=np.uint8)] * 3), InputError, "3 values per voxel"),
    "complex": (lambda: sitk.RealToHalfHermitianForwardFFT(noise((8, 8, 16))), InputError, "complex.*one real number"),
    "thin": (lambda: noise((7, 20, 20)), GeometryError, "20×20×7 voxels; every side needs at least 8.*two-dimensional"),
    "one slice": (lambda: noise((1, 20, 20)), GeometryError, "20×20×1 voxels"),
    "thin 2-D": (lambda: noise((20, 7)), GeometryError, "7×20 voxels"),
    "4-D": (lambda: sitk.JoinSeries([noise()] * 9), GeometryError, "4 dimensions; two or three are needed"),
    "sheared": (lambda: with_direction(1, 0.1, 0, 0, 1, 0, 0, 0, 1), GeometryError, "axes of fixed are not orthogonal"),
    "sheared 2-D": (lambda: with_direction(1, 0.1, 0, 1), GeometryError, "axes of fixed are not orthogonal"),
    "NaN origin": (lambda: with_geometry(origin=np.nan), GeometryError, "origin .*nan.*must be finite"),
    "infinite origin": (lambda: with_geometry(origin=np.inf), GeometryError, "origin .*inf.*must be finite"),
    "infinite spacing": (lambda: with_geometry(spacing=np.inf), GeometryError, "spacing .*inf.*must be finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_image_is_refused(what: str) -> None:
    make, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        checked_image(make(), "fixed")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float64])
def test_a_good_image_of_any_type_comes_through_untouched(dtype: type) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype))
    before = state(image)
    assert checked_image(image, "fixed") is image
    found = prepared(image, QUANTILES)
    assert found.values.dtype == torch.float32
    assert (float(found.values.min()), float(found.values.max())) == (0.0, 1.0)
    assert state(image) == before


def test_dimensions_must_agree() -> None:
    with pytest.raises(GeometryError, match="fixed has 3 dimensions and moving 2; both need the same"):
        pair_of(noise(), noise((20, 20)))


def test_an_unknown_modality_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no modality 'pet'; the modalities are ct, mr, other"):
        checked_pair((noise(), noise()), modalities=("mr", "pet"), masks=(None, None), labels=(None, None))


# masks and labels


@pytest.mark.parametrize("check", [checked_mask, checked_labels])
def test_a_mask_on_another_grid_is_refused(check: Callable[..., sitk.Image]) -> None:
    image, mask = noise(), box(noise())
    with pytest.raises(InputError, match=r"fixed mask is \(9, 9, 8\) voxels and its image \(10, 9, 8\).*Resample it to fixed"):
        check(mask[1:], image, "fixed mask")
    with pytest.raises(InputError, match="both must lie on one grid"):
        check(mask[:, :, 4], image, "fixed mask")
    moved = sitk.Image(mask)
    moved.SetOrigin((10.0, -20.0, 30.05))
    with pytest.raises(InputError, match=r"fixed mask lies up to 0\.05 mm away from its image; both must lie on one grid"):
        check(moved, image, "fixed mask")
    stretched = sitk.Image(mask)
    stretched.SetSpacing((1.5, 2.0, 2.6))
    with pytest.raises(InputError, match="mm away"):
        check(stretched, image, "fixed mask")


def test_a_mask_off_by_rounding_is_taken() -> None:
    image, mask = noise(), box(noise())
    mask.SetOrigin((10.001, -20.0, 30.0))
    assert checked_mask(mask, image, "fixed mask").GetSize() == image.GetSize()


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="moving mask is empty; at least one voxel must be nonzero"):
        checked_mask(box(noise(), value=0), noise(), "moving mask")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_labels_that_are_not_whole_numbers_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="fixed labels has values that are not whole numbers"):
        checked_labels(box(noise(), dtype=np.float32, value=value), noise(), "fixed labels")


def test_labels_of_several_channels_are_refused() -> None:
    with pytest.raises(InputError, match="2 values per voxel .*labels need one real number"):
        checked_labels(sitk.Compose([box(noise())] * 2), noise(), "fixed labels")


def test_whole_numbers_in_floats_are_labels() -> None:
    labels = checked_labels(box(noise(), dtype=np.float64, value=-3), noise(), "fixed labels")
    assert set(np.unique(voxels(labels)).tolist()) == {-3, 0}
    assert labels.GetPixelID() == sitk.sitkInt32


@pytest.mark.parametrize("value", [1, 7, -1])
def test_whatever_is_not_zero_counts_in_a_mask(value: int) -> None:
    image = noise()
    mask = checked_mask(box(image, dtype=np.int8, value=value), image, "fixed mask")
    found = prepared(image, QUANTILES, mask).mask
    assert found is not None
    assert np.array_equal(found[0, 0].numpy(), voxels(box(image)) == 1)


def test_labels_for_one_image_only_are_refused() -> None:
    for labels in ((box(noise()), None), (None, box(noise()))):
        with pytest.raises(InputError, match="Labels came for one image only.*Give both or neither"):
            pair_of(noise(), noise(), labels=labels)


def test_labels_without_a_common_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"no label in common.*Got \[0, 1\] and \[0, 2\]"):
        pair_of(noise(), noise(), labels=(box(noise()), box(noise(), value=2)))


def test_a_bad_mask_is_named_by_its_side() -> None:
    with pytest.raises(InputError, match="^moving mask is empty"):
        pair_of(noise(), noise(), masks=(box(noise()), box(noise(), value=0)))
