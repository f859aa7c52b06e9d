"""Images of nibabel, whose world is RAS, at the same places in LPS."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.interop import is_nibabel_image, simpleitk_from_nibabel
from RegistrationNetLib.io.image_sources import as_image
from RegistrationNetLib.io.inputs import checked_image

nibabel = pytest.importorskip("nibabel")

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


def oblique(*, is_mirrored: bool = False) -> np.ndarray:
    """A RAS affine with unequal spacing, turned about every axis, away from the origin."""
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.5, 0.9).GetMatrix(), (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.7 if is_mirrored else 0.7, 1.3, 2.9])
    affine[:3, 3] = -12.5, 30.25, 7.0
    return affine


def values(shape: tuple[int, ...] = (9, 10, 11), dtype: type = np.int16) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_each_voxel_keeps_its_place_and_its_value(is_mirrored: bool) -> None:
    image = nibabel.Nifti1Image(values(), oblique(is_mirrored=is_mirrored))
    converted = simpleitk_from_nibabel(image)
    assert converted.GetPixelID() == sitk.sitkInt16
    for voxel in [(0, 0, 0), (8, 0, 0), (0, 9, 0), (0, 0, 10), (3, 7, 5)]:
        ras = (image.affine @ [*voxel, 1])[:3]
        assert converted.TransformIndexToPhysicalPoint(voxel) == pytest.approx(RAS_FROM_LPS @ ras, abs=1e-6)
        assert converted.GetPixel(voxel) == image.dataobj[voxel]


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
def test_it_is_the_image_that_its_file_holds(tmp_path: Path, name: str) -> None:
    nibabel.save(nibabel.Nifti1Image(values(), oblique()), tmp_path / name)
    read, converted = as_image(tmp_path / name, "fixed"), as_image(nibabel.load(tmp_path / name), "fixed")
    for own, other in (
        (read.GetSpacing(), converted.GetSpacing()),
        (read.GetOrigin(), converted.GetOrigin()),
        (read.GetDirection(), converted.GetDirection()),
    ):
        assert other == pytest.approx(own, abs=1e-6)
    assert (sitk.GetArrayViewFromImage(converted) == sitk.GetArrayViewFromImage(read)).all()


def test_values_are_those_after_the_scaling_of_the_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(values(), np.eye(4))
    image.header.set_slope_inter(2.0, -5.0)
    nibabel.save(image, tmp_path / "scaled.nii")
    converted = simpleitk_from_nibabel(nibabel.load(tmp_path / "scaled.nii"))
    assert converted.GetPixel(3, 2, 1) == pytest.approx(nibabel.load(tmp_path / "scaled.nii").get_fdata()[3, 2, 1])


@pytest.mark.parametrize(
    ("dtype", "pixel"), [(np.uint8, sitk.sitkUInt8), (np.dtype(">f4"), sitk.sitkFloat32), (np.float64, sitk.sitkFloat64)]
)
def test_the_type_of_the_voxels_stays(dtype: type, pixel: int) -> None:
    assert simpleitk_from_nibabel(nibabel.Nifti1Image(values(dtype=dtype), np.eye(4))).GetPixelID() == pixel


@pytest.mark.parametrize(("dtype", "pixel"), [(np.bool_, sitk.sitkUInt8), (np.float16, sitk.sitkFloat32)])
def test_types_that_simpleitk_lacks_become_larger_ones(dtype: type, pixel: int) -> None:
    image = nibabel.spatialimages.SpatialImage(values().astype(dtype), np.eye(4))
    converted = simpleitk_from_nibabel(image)
    assert converted.GetPixelID() == pixel
    assert (values().astype(dtype) == sitk.GetArrayFromImage(converted).T).all()


def test_a_slice_is_a_two_dimensional_image_and_a_series_of_one_a_volume() -> None:
    plane = simpleitk_from_nibabel(nibabel.Nifti1Image(values((9, 10)), np.diag([2.0, 3.0, 1.0, 1.0])))
    assert (plane.GetSize(), plane.GetSpacing()) == ((9, 10), (2.0, 3.0))
    assert plane.TransformIndexToPhysicalPoint((1, 1)) == pytest.approx((-2.0, -3.0))
    assert simpleitk_from_nibabel(nibabel.Nifti1Image(values((9, 10, 11, 1)), np.eye(4))).GetSize() == (9, 10, 11)


def test_a_series_in_time_is_refused_as_that_of_a_file_is() -> None:
    series = nibabel.Nifti1Image(values((9, 10, 11, 3)), oblique())
    assert simpleitk_from_nibabel(series).GetSize() == (9, 10, 11, 3)
    with pytest.raises(InputError, match="fixed has 4 dimensions; two or three are needed"):
        checked_image(series, "fixed")


def rgb() -> np.ndarray:
    return np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda: nibabel.Nifti1Image(values(), None), "has no affine; voxels need a place in the world. It came as None. Give it one"),
        (lambda: nibabel.Nifti1Image(values((9, 10)), oblique()), "lies obliquely in space; a plane needs .* tilts it .* Give the volume"),
        (
            lambda: nibabel.spatialimages.SpatialImage(values(), np.diag([1.0, 0.0, 1.0, 1.0])),
            "affine of the nibabel image is singular or not finite; each axis .* Got .* Correct its header",
        ),
        (lambda: nibabel.Nifti1Image(rgb(), np.eye(4)), "voxels of the nibabel image are .*; one number .* Extract one channel first"),
        (lambda: nibabel.Nifti1Image(values((3, 3, 3, 2, 2)), np.eye(4)), "has 5 dimensions; two or three .* Extract one volume"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_or_compared_is_refused(image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simpleitk_from_nibabel(image())  # type: ignore[operator]


def test_a_file_that_is_cut_short_is_refused_when_its_voxels_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(values((20, 20, 20)), np.eye(4)), tmp_path / "cut.nii")
    (tmp_path / "cut.nii").write_bytes((tmp_path / "cut.nii").read_bytes()[:2000])
    with pytest.raises(InputError, match="The file of moving cannot be read .* Copy or download it again"):
        as_image(nibabel.load(tmp_path / "cut.nii"), "moving")


def test_only_images_of_voxels_are_seen_as_such() -> None:
    assert is_nibabel_image(nibabel.Nifti1Image(values(), np.eye(4)))
    assert not any(map(is_nibabel_image, (None, "path", sitk.Image(2, 2, 2, sitk.sitkUInt8), np.zeros((3, 3, 3)))))
    with pytest.raises(InputError, match=r"fixed is a GiftiImage; .* only images of voxels are taken"):
        as_image(nibabel.gifti.GiftiImage(), "fixed")
