"""The border of the library: reading, checking, windows, masks and labels, and what it refuses."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.prepare import (
    Pair,
    Prepared,
    as_image,
    checked_image,
    checked_labels,
    checked_mask,
    checked_pair,
    prepared,
    read_image,
    read_transform,
    resized,
    windowed,
)
from RegistrationNetLib.space import Grid, grid_of

from .strategies import images, rotation

SHAPE = (8, 9, 10)


def noise(shape: Sequence[int] = SHAPE, *, seed: int = 0, dtype: type = np.float32) -> sitk.Image:
    """Random voxels with a geometry of their own."""
    image = sitk.GetImageFromArray((1000 * np.random.default_rng(seed).random(tuple(shape))).astype(dtype))
    image.SetSpacing([1.5, 2.0, 2.5][: len(shape)])
    image.SetOrigin([10.0, -20.0, 30.0][: len(shape)])
    return image


def on_grid_of(image: sitk.Image, array: NDArray[np.generic]) -> sitk.Image:
    other = sitk.GetImageFromArray(array)
    other.CopyInformation(image)
    return other


def box(image: sitk.Image, *, dtype: type = np.uint8, value: float = 1) -> sitk.Image:
    """`value` in the middle of the grid of `image`, 0 around."""
    array = np.zeros(image.GetSize()[::-1], dtype=dtype)
    array[tuple(slice(2, -3) for _ in array.shape)] = value
    return on_grid_of(image, array)


def voxels(image: sitk.Image) -> NDArray[np.generic]:
    return sitk.GetArrayFromImage(image)


def state(image: sitk.Image) -> tuple[object, ...]:
    """All that an image is, bit for bit."""
    geometry = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID()
    return (*geometry, voxels(image).tobytes())


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
    found = prepared(image, "other")
    assert found.values.dtype == torch.float32
    assert (float(found.values.min()), float(found.values.max())) == (0.0, 1.0)
    assert state(image) == before


def test_dimensions_must_agree() -> None:
    with pytest.raises(GeometryError, match="fixed has 3 dimensions and moving 2; both need the same"):
        pair_of(noise(), noise((20, 20)))


def test_an_unknown_modality_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no modality 'pet'; the modalities are ct, mr, other"):
        checked_pair((noise(), noise()), modalities=("mr", "pet"), masks=(None, None), labels=(None, None))


Both = tuple[sitk.Image | None, sitk.Image | None]


def pair_of(fixed: sitk.Image, moving: sitk.Image, *, masks: Both = (None, None), labels: Both = (None, None)) -> Pair:
    return checked_pair((fixed, moving), modalities=("other", "other"), masks=masks, labels=labels)


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
    found = prepared(image, "other", mask).mask
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


# intensity windows


def test_ct_is_cut_to_its_window() -> None:
    values = torch.tensor([-3000.0, -1000.0, -500.0, 0.0, 1000.0, 4000.0])
    assert windowed(values, "ct").tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert values[0] == -3000


@given(seed=st.integers(0, 99), size=st.integers(50, 700), modality=st.sampled_from(["mr", "other"]))
def test_the_window_of_others_ends_at_the_quantiles_of_numpy(seed: int, size: int, modality: str) -> None:
    values = np.random.default_rng(seed).normal(size=size) ** 3
    low, high = np.quantile(values, [0.01, 0.99], method="closest_observation")
    # For less than 100 values numpy's nearest order statistic could be the zeroth.
    low = max(low, values.min())
    expected = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(windowed(torch.as_tensor(values), modality), expected, atol=1e-12)


def test_an_image_of_few_bright_voxels_keeps_its_contrast() -> None:
    array = np.zeros((20, 20), dtype=np.float32)
    array[3, 4] = 50.0
    assert float(prepared(sitk.GetImageFromArray(array), "mr").values.max()) == 1.0


@pytest.mark.parametrize(
    "array",
    [
        1e9 + np.random.default_rng(0).random(SHAPE),
        2**53 + np.random.default_rng(0).integers(0, 100, SHAPE),
        1e300 * np.random.default_rng(0).random(SHAPE),
        np.float32(3e38) * (2 * np.random.default_rng(0).random(SHAPE, dtype=np.float32) - 1),
    ],
)
def test_extreme_intensities_keep_their_contrast(array: NDArray[np.generic]) -> None:
    values = prepared(checked_image(sitk.GetImageFromArray(array), "fixed"), "other").values
    assert (float(values.min()), float(values.max())) == (0.0, 1.0)
    assert 0.2 < float(values.std()) < 0.4


def test_no_contrast_within_the_window_is_refused() -> None:
    bright = on_grid_of(noise(), voxels(noise()) + 2000)
    with pytest.raises(InputError, match=r"no contrast within the ct window \[-1000, 1000\].*Check the modality"):
        prepared(bright, "ct")
    with pytest.raises(InputError, match=r"no contrast within the other window \[5, 5\]"):
        windowed(torch.full((9,), 5.0), "other")


# what the methods see


@given(fixed=images(min_size=8, max_size=10), moving=images(min_size=8, max_size=10, max_degrees=40))
@settings(max_examples=15)
def test_moving_comes_in_the_axes_of_fixed_and_no_voxel_moves(fixed: sitk.Image, moving: sitk.Image) -> None:
    before = state(fixed), state(moving)
    mask, labels = box(moving), box(moving, dtype=np.int16, value=-4)
    pair = pair_of(fixed, moving, masks=(None, mask), labels=(box(fixed, dtype=np.int16, value=-4), labels))
    still, found = pair.prepared()
    assert np.array_equal(still.grid.world_from_voxel, grid_of(fixed).world_from_voxel)
    cosines = unit_columns(still.grid).T @ unit_columns(found.grid)
    assert max(abs(np.diag(cosines, k=k)).max() for k in (-2, -1, 1, 2)) <= abs(np.diag(cosines)).max()
    assert np.diag(cosines).sum() == pytest.approx(best_trace(fixed, moving))
    # Every voxel is where it was: its value, mask and label are those of moving at its place in the world.
    assert found.mask is not None
    assert found.labels is not None
    window = windowed(torch.as_tensor(voxels(moving)).double(), "other").float().numpy()
    for voxel in np.ndindex(*found.grid.shape):
        if sum(voxel) % 7 == 0:
            place = found.grid.world_from_voxel @ (*voxel, 1.0)
            index = moving.TransformPhysicalPointToIndex(place[:-1].tolist())[::-1]
            assert float(found.values[0, 0][voxel]) == window[index]
            assert bool(found.mask[0, 0][voxel]) == bool(voxels(mask)[index])
            assert int(found.labels[0, 0][voxel]) == voxels(labels)[index]
    assert (state(fixed), state(moving)) == before


def unit_columns(grid: Grid) -> NDArray[np.floating]:
    return grid.world_from_voxel[:-1, :-1] / np.array(grid.spacing_mm)


def best_trace(fixed: sitk.Image, moving: sitk.Image) -> float:
    """The largest sum of cosines over all ways to permute and flip the axes of moving."""
    cosines = abs(unit_columns(grid_of(fixed)).T @ unit_columns(grid_of(moving)))
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(sum(cosines[axis, order[axis]] for axis in range(3)) for order in orders)


def ramp_on(grid: Grid, slope: Sequence[float]) -> torch.Tensor:
    """slope · world position, at every voxel: [1, 1, *shape]."""
    index = np.indices(grid.shape).reshape(grid.dim, -1)
    world = grid.world_from_voxel @ np.vstack([index, np.ones_like(index[:1])])
    return torch.as_tensor((np.asarray(slope) @ world[:-1]).reshape(1, 1, *grid.shape), dtype=torch.float32)


@pytest.mark.parametrize("dim", [2, 3])
def test_carried_keeps_the_world_and_counts_only_where_there_are_voxels(dim: int) -> None:
    grid = grid_of(noise(SHAPE[:dim]))
    slope = (0.1, -0.2, 0.3)[:dim]
    labels = torch.zeros(1, 1, *grid.shape, dtype=torch.int64)
    labels[..., 4:] = 2**40 + 1
    mask = torch.ones(1, 1, *grid.shape, dtype=torch.bool)
    mask[..., :2] = False
    turned = np.eye(dim + 1)
    turned[:dim, :dim] = rotation(dim, (10.0, 5.0, -5.0))
    turned[:dim, dim] = 1.0
    target = Grid(tuple(size + 3 for size in grid.shape), turned @ grid.world_from_voxel)
    whole = Prepared(ramp_on(grid, slope), grid, labels=labels)
    found = whole.carried(target)
    assert found.grid is target
    assert found.mask is not None
    assert found.labels is not None
    # Within the outermost voxel centres the ramp is exact; half a voxel beyond still counts.
    voxel = np.linalg.inv(grid.world_from_voxel) @ target.world_from_voxel
    index = np.indices(target.shape).reshape(dim, -1)
    place = (voxel @ np.vstack([index, np.ones_like(index[:1])]))[:-1]
    top = np.array(grid.shape)[:, None] - 1
    within = ((place >= 0) & (place <= top)).all(axis=0).reshape(target.shape)
    counted = ((place >= -0.5) & (place <= top + 0.5)).all(axis=0).reshape(target.shape)
    assert counted.any()
    assert not counted.all()
    np.testing.assert_allclose(found.values[0, 0].numpy()[within], ramp_on(target, slope)[0, 0].numpy()[within], atol=1e-3)
    assert np.array_equal(found.mask[0, 0].numpy(), counted)
    nearest = tuple(np.clip(np.rint(place), 0, top).astype(int))
    expected = np.where(counted, labels[0, 0].numpy()[nearest].reshape(target.shape), 0)
    assert np.mean(found.labels[0, 0].numpy() == expected) > 0.999  # a tie of nearest voxels may fall either way
    masked = Prepared(whole.values, grid, mask).carried(target).mask
    assert masked is not None
    assert np.array_equal(masked[0, 0].numpy(), counted & mask[0, 0].numpy()[nearest].reshape(target.shape))


def test_carried_to_its_own_grid_is_the_same() -> None:
    image = prepared(noise(), "other", box(noise()), box(noise(), dtype=np.int16, value=5))
    found = image.carried(image.grid)
    assert image.mask is not None
    assert image.labels is not None
    assert torch.allclose(found.values, image.values, atol=1e-5)
    assert torch.equal(found.mask, image.mask)
    assert torch.equal(found.labels, image.labels)
    assert prepared(noise(), "other").carried(image.grid).mask is None


def test_resized_covers_the_same_extent_and_leaves_coarse_axes_alone() -> None:
    image = noise((32, 30, 16))
    image.SetSpacing((5.0, 2.0, 1.0))
    small = resized(prepared(image, "other", box(image)), 4.0)
    assert small.grid.shape == (8, 15, 16)
    for corner in (-0.5, 0.5):
        edges = [corner + 0.5] * 3
        place, expected = (
            one.world_from_voxel @ np.append(np.array(edges) * np.array(one.shape) - 0.5, 1.0)
            for one in (small.grid, grid_of(image))
        )
        np.testing.assert_allclose(place, expected)
    assert float(small.values.mean()) == pytest.approx(float(prepared(image, "other").values.mean()), abs=0.02)
    assert small.mask is not None
    assert 0 < int(small.mask.sum()) < small.mask.numel()


def test_resized_is_never_thinner_than_8_nor_finer_than_it_was() -> None:
    image = prepared(noise((40, 9, 8)), "other")
    assert resized(image, 1000.0).grid.shape == (8, 8, 8)
    assert resized(image, 0.1).grid.shape == (40, 9, 8)


def test_a_mask_too_small_for_the_coarse_lattice_keeps_its_place() -> None:
    image = noise((32, 32, 32))
    point = np.zeros((32, 32, 32), dtype=np.uint8)
    point[16, 16, 16] = 1
    small = resized(prepared(image, "other", on_grid_of(image, point)), 8.0)
    assert small.grid.shape == (10, 8, 8)
    assert small.mask is not None
    found = small.mask[0, 0].nonzero().double().mean(0).numpy()
    place = small.grid.world_from_voxel @ np.append(found, 1.0)
    np.testing.assert_allclose(place[:-1], image.TransformIndexToPhysicalPoint((16, 16, 16)), atol=4.0)


def test_everything_moves_to_a_device_together() -> None:
    image = prepared(noise(), "other", box(noise()), box(noise()))
    moved = image.to(torch.device("meta"))
    assert {moved.values.device.type, moved.mask.device.type, moved.labels.device.type} == {"meta"}  # type: ignore[union-attr]
    assert moved.grid is image.grid
    assert image.values.device.type == "cpu"
