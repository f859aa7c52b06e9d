"""Warping against closed forms: rounding, outside, labels, channels, geometry."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.warping import LABELS, Reading, warp_image, warp_series

WHOLE = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


def ramp(dtype: type, *, dim: int = 3) -> sitk.Image:
    """Value = 10 × index along x."""
    row = (10 * np.arange(6)).astype(dtype)
    return sitk.GetImageFromArray(np.broadcast_to(row, (*(3,) * (dim - 1), 6)).copy())


def shift(x_mm: float, *, dim: int = 3) -> sitk.Transform:
    return sitk.TranslationTransform(dim, [x_mm, *(0.0,) * (dim - 1)])


def row(image: sitk.Image) -> list[float]:
    return sitk.GetArrayFromImage(image).reshape(-1, image.GetSize()[0])[0].tolist()


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_are_rounded_not_cut(dtype: type) -> None:
    warped = warp_image(ramp(dtype), ramp(dtype), shift(0.26))
    assert warped.GetPixelID() == ramp(dtype).GetPixelID()
    assert row(warped)[:5] == [3, 13, 23, 33, 43]  # 2.6, 12.6, …


def test_negative_whole_numbers_are_rounded_to_the_nearest() -> None:
    image = sitk.Cast(ramp(np.int16), sitk.sitkInt16) - 50
    assert row(warp_image(image, image, shift(0.26)))[:5] == [-47, -37, -27, -17, -7]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [2, 3])
def test_real_images_are_interpolated_linearly(dtype: type, dim: int) -> None:
    warped = warp_image(ramp(dtype, dim=dim), ramp(dtype, dim=dim), shift(0.26, dim=dim))
    assert row(warped)[:5] == pytest.approx([2.6, 12.6, 22.6, 32.6, 42.6], rel=1e-6)


def test_outside_an_image_is_its_minimum() -> None:
    image = sitk.Cast(ramp(np.int16), sitk.sitkInt16) - 1024
    assert row(warp_image(image, image, shift(4))) == [-984, -974, -1024, -1024, -1024, -1024]


def test_outside_labels_is_zero_and_no_new_label_appears() -> None:
    labels = ramp(np.uint8) + 5
    assert row(warp_image(labels, labels, shift(2.3), LABELS)) == [25, 35, 45, 55, 0, 0]


def test_labels_are_exact_up_to_the_53_bits_of_a_double() -> None:
    labels = sitk.GetImageFromArray(np.full((2, 2, 2), 2**53 - 1))
    warped = warp_image(labels, labels, shift(0), LABELS)
    assert sitk.GetArrayFromImage(warped).tolist() == np.full((2, 2, 2), 2**53 - 1).tolist()


def test_minimum_passes_over_values_that_are_no_numbers() -> None:
    array = np.array([[[np.nan, -3, 7, 9]]], dtype=np.float32)
    image = sitk.GetImageFromArray(array)
    assert row(warp_image(image, image, shift(2))) == [7, 9, -3, -3]


def test_channels_are_warped_like_single_images() -> None:
    parts = [ramp(np.uint8), ramp(np.uint8) + 100, ramp(np.uint8) + 200]
    warped = warp_image(sitk.Compose(parts), parts[0], shift(0.26))
    assert warped.GetPixelID() == sitk.sitkVectorUInt8
    for channel, part in enumerate(parts):
        alone = warp_image(part, parts[0], shift(0.26))
        assert row(sitk.VectorIndexSelectionCast(warped, channel)) == row(alone)


def test_result_lies_on_the_grid_of_like() -> None:
    like = sitk.Image([5, 6, 7], sitk.sitkUInt8)
    like.SetSpacing([1.0, 2.0, 0.5])
    like.SetOrigin([3.0, 4.0, 5.0])
    like.SetDirection([0, 1, 0, -1, 0, 0, 0, 0, 1])
    warped = warp_image(ramp(np.float32), like, shift(0))
    assert warped.IsSameImageGeometryAs(like, 0.0, 0.0)


def test_dimensions_that_differ_are_named() -> None:
    with pytest.raises(InputError, match="image 3-D, grid 2-D, transform 3-D"):
        warp_image(ramp(np.uint8), ramp(np.uint8, dim=2), shift(0))


def test_complex_pixels_are_refused() -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 2, 2), dtype=np.complex64))
    with pytest.raises(InputError, match="complex"):
        warp_image(image, image, shift(0))


# series and metadata


def test_each_volume_of_a_series_is_warped_and_its_times_stay() -> None:
    volumes = [ramp(np.int16), ramp(np.int16) + 7]
    series = sitk.JoinSeries(volumes, 5.0, 2.0)
    for like in (volumes[0], series):
        warped = warp_series(series, like, shift(1.0))
        assert (warped.GetSize(), warped.GetSpacing()[3], warped.GetOrigin()[3]) == (series.GetSize(), 2.0, 5.0)
        for moment, volume in enumerate(volumes):
            assert row(warped[..., moment]) == row(warp_image(volume, volumes[0], shift(1.0)))


def test_names_of_segments_come_along_with_the_extent_of_the_new_grid() -> None:
    image = ramp(np.uint8)
    told = {
        "Segment0_Name": "Liver", "Segment0_LabelValue": "10", "Segment0_Extent": "1 2 0 1 0 2", "Segmentation_ReferenceImageExtentOffset": "3 4 5",
        "mine": "kept",
    }  # fmt: skip
    for key, value in {**told, "ITK_InputFilterName": "NrrdImageIO", "NRRD_kinds[0]": "domain"}.items():
        image.SetMetaData(key, value)
    large = sitk.Resample(image, (9, 8, 7))
    warped = warp_series(image, large, shift(0.0), LABELS)
    changed = {"Segment0_Extent": "0 8 0 7 0 6", "Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    assert {key: warped.GetMetaData(key) for key in warped.GetMetaDataKeys()} == {**told, **changed}


def test_what_a_header_says_that_is_no_text_comes_along_with_question_marks(tmp_path: Path) -> None:
    image = ramp(np.uint8)
    image.SetMetaData("mine", "a??b")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    path = tmp_path / "b.nrrd"
    path.write_bytes((tmp_path / "a.nrrd").read_bytes().replace(b"a??b", b"a\xff\xfeb"))
    assert warp_series(sitk.ReadImage(str(path)), image, shift(0.0)).GetMetaData("mine") == "a??b"


@pytest.mark.parametrize("key", ["nifti_type", "0008|0060"])
def test_headers_that_speak_of_the_old_grid_do_not_come_along(key: str) -> None:
    image = ramp(np.uint8)
    image.SetMetaData(key, "1")
    assert warp_series(image, image, shift(0.0)).GetMetaDataKeys() == ()


# what is read between voxels and outside


def wave(dtype: type = np.float32) -> sitk.Image:
    """A smooth wave along x."""
    line = 100 + 80 * np.sin(np.arange(24) * 0.9)
    return sitk.GetImageFromArray(np.broadcast_to(line, (5, 6, 24)).round(6).astype(dtype))


def test_b_splines_follow_a_wave_closer_than_lines_do() -> None:
    true = 100 + 80 * np.sin((np.arange(24) + 0.5) * 0.9)
    off = {
        kind: np.abs(row(warp_image(wave(), wave(), shift(0.5), Reading(kind))) - true)[4:-4].max()
        for kind in ("linear", "bspline")
    }
    assert off["bspline"] < 1.0 < 5.0 < off["linear"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_b_splines_of_whole_numbers_are_rounded_and_stay_in_their_range(dtype: type) -> None:
    edge = np.zeros((5, 6, 24), dtype=dtype)
    edge[..., 8:16] = np.iinfo(dtype).max
    image = sitk.GetImageFromArray(edge)
    real = row(warp_image(sitk.Cast(image, sitk.sitkFloat64), image, shift(0.5), Reading("bspline")))
    assert min(real) < 0, "it swings beyond the edge"
    warped = warp_image(image, image, shift(0.5), Reading("bspline"))
    assert warped.GetPixelID() == image.GetPixelID()
    limits = np.iinfo(dtype)
    assert row(warped) == pytest.approx(np.floor(np.array(real) + 0.5).clip(limits.min, limits.max), abs=1)
    assert row(warped)[10] == pytest.approx(limits.max, rel=0.05)


def test_b_splines_need_a_number_everywhere() -> None:
    array = sitk.GetArrayFromImage(wave())
    array[0, 0, 0] = np.nan
    image = sitk.GetImageFromArray(array)
    with pytest.raises(InputError, match="no finite number; B-splines need a value everywhere"):
        warp_image(image, image, shift(0.5), Reading("bspline"))


def test_gaussian_labels_are_labels_with_smoother_borders() -> None:
    y, x = np.mgrid[:40, :40]
    labels = np.where((x - 20) ** 2 + (y - 20) ** 2 < 100, 3, 0) + np.where(x > 32, 7, 0)
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    fine = sitk.Image([160, 160], sitk.sitkUInt8)
    fine.SetSpacing([0.25, 0.25])
    nearest, smooth = (
        sitk.GetArrayFromImage(warp_image(image, fine, shift(0, dim=2), Reading(kind))) for kind in ("nearest", "label-gaussian")
    )
    assert set(np.unique(smooth)) == {0, 3, 7}
    fine_y, fine_x = np.mgrid[:160, :160] * 0.25
    true = (fine_x - 20) ** 2 + (fine_y - 20) ** 2 < 100
    inner = np.s_[30:130, 30:120]
    assert ((smooth == 3) != true)[inner].sum() < ((nearest == 3) != true)[inner].sum()


@pytest.mark.parametrize(("kind", "usual"), [("linear", 20), ("bspline", 20), ("nearest", 0), ("label-gaussian", 0)])
def test_the_value_outside_is_as_usual_or_as_asked(kind: str, usual: int) -> None:
    image = ramp(np.uint8) + 20
    assert row(warp_image(image, image, shift(30), Reading(kind)))[-1] == usual
    assert row(warp_image(image, image, shift(30), Reading(kind, fill=9)))[-1] == 9


def test_the_value_outside_holds_for_channels_and_series() -> None:
    image = ramp(np.int16)
    for several in (sitk.Compose([image, image]), sitk.JoinSeries([image, image])):
        warped = sitk.GetArrayFromImage(warp_series(several, image, shift(30), Reading(fill=-7)))
        assert (warped == -7).all()


@pytest.mark.parametrize(("dtype", "fill"), [(np.uint8, -1), (np.uint8, 256), (np.int16, 0.5)])
def test_a_value_outside_that_no_pixel_can_have_is_refused(dtype: type, fill: float) -> None:
    with pytest.raises(InputError, match=f"The value outside is {fill:g}; pixels of .* are whole numbers from"):
        warp_image(ramp(dtype), ramp(dtype), shift(0), Reading(fill=fill))


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(InputError, match="no interpolation 'sinc'; there are linear, bspline, nearest, label-gaussian"):
        Reading("sinc")
