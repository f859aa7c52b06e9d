"""To ITK's Python package and back without loss."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.interop import (
    is_itk_image,
    itk_from_simpleitk,
    itk_from_simpleitk_transform,
    simpleitk_from_itk,
    simpleitk_from_itk_transform,
)

itk = pytest.importorskip("itk")


def oblique(array: np.ndarray, *, is_vector: bool = False) -> sitk.Image:
    """An image whose origin, spacing and axes are all out of the ordinary."""
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    dim = image.GetDimension()
    image.SetOrigin((-12.5, 30.25, 7.0)[:dim])
    image.SetSpacing((0.7, 1.3, 2.9)[:dim])
    turn = (
        sitk.Euler3DTransform((0, 0, 0), 0.1, -0.4, 0.7).GetMatrix()
        if dim == 3
        else sitk.Euler2DTransform((0, 0), 0.3).GetMatrix()
    )
    image.SetDirection(turn)
    return image


def values(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_there_and_back_changes_nothing(dtype: type, shape: tuple[int, ...]) -> None:
    image = oblique(values(dtype, shape))
    back = simpleitk_from_itk(itk_from_simpleitk(image))
    assert back.IsSameImageGeometryAs(image, 1e-12, 1e-12)
    assert back.GetPixelID() == image.GetPixelID()
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_stay_channels(channels: int) -> None:
    image = oblique(values(np.float32, (2, 3, 4, channels)), is_vector=True)
    back = simpleitk_from_itk(itk_from_simpleitk(image))
    assert back.GetPixelIDTypeAsString() == image.GetPixelIDTypeAsString()
    assert back.GetNumberOfComponentsPerPixel() == channels
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()


def test_a_voxel_lies_at_the_same_place_in_both() -> None:
    image = oblique(values(np.float32, (2, 3, 4)))
    place = itk_from_simpleitk(image).TransformIndexToPhysicalPoint([3, 2, 1])
    assert list(place) == pytest.approx(image.TransformIndexToPhysicalPoint([3, 2, 1]), abs=1e-12)


def test_an_image_that_starts_at_another_index_keeps_its_place() -> None:
    image = itk_from_simpleitk(oblique(values(np.int16, (4, 5, 6))))
    region = image.GetLargestPossibleRegion()
    region.SetIndex([1, 2, 1])
    region.SetSize([3, 2, 2])
    part = itk.extract_image_filter(image, extraction_region=region, direction_collapse_to_strategy=2)
    assert list(part.GetLargestPossibleRegion().GetIndex()) == [1, 2, 1]
    converted = simpleitk_from_itk(part)
    assert converted.GetOrigin() == pytest.approx(tuple(image.TransformIndexToPhysicalPoint([1, 2, 1])), abs=1e-12)
    assert converted.GetPixel([0, 0, 0]) == image.GetPixel([1, 2, 1])


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_pixel_types_that_itk_lacks_are_named(dtype: type) -> None:
    with pytest.raises(InputError, match=r"no 3-D image of .*(8|64)-bit signed integer"):
        itk_from_simpleitk(sitk.GetImageFromArray(values(dtype, (2, 3, 4))))


def transforms() -> list[sitk.Transform]:
    rigid = sitk.Euler3DTransform((4, 5, 6), 0.1, 0.2, 0.3, (1, 2, 3))
    affine = sitk.AffineTransform((1.1, 0.1, 0, 0, 0.9, 0.2, 0.1, 0, 1.05), (3, -2, 1), (1, 1, 1))
    field = sitk.Cast(oblique(np.random.default_rng(0).normal(size=(5, 6, 7, 3)), is_vector=True), sitk.sitkVectorFloat64)
    dense = sitk.DisplacementFieldTransform(field)
    return [rigid, affine, dense, sitk.CompositeTransform([affine, rigid, sitk.TranslationTransform(3, (1, 2, 3))])]


@pytest.mark.parametrize("transform", transforms(), ids=lambda transform: transform.GetName())
def test_a_transform_maps_the_same_points_there_and_back(transform: sitk.Transform) -> None:
    converted = itk_from_simpleitk_transform(transform)
    back = simpleitk_from_itk_transform(converted)
    for point in np.random.default_rng(1).uniform(-15, 35, size=(20, 3)).tolist():
        expected = transform.TransformPoint(point)
        assert list(converted.TransformPoint(point)) == pytest.approx(expected, abs=1e-9)
        assert back.TransformPoint(point) == pytest.approx(expected, abs=1e-9)


def test_only_images_of_itk_are_seen_as_such() -> None:
    image = oblique(values(np.float32, (2, 3, 4)))
    assert is_itk_image(itk_from_simpleitk(image))
    assert not any(map(is_itk_image, (image, "path", None, np.zeros(3), itk_from_simpleitk_transform(transforms()[0]))))


def test_without_itk_the_library_says_what_to_install() -> None:
    script = """
import sys
sys.modules["itk"] = None
import SimpleITK as sitk
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.interop import is_itk_image, itk_from_simpleitk
assert not is_itk_image(3)
try:
    itk_from_simpleitk(sitk.Image(2, 2, 2, sitk.sitkUInt8))
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[1]
    )
    assert "pip install itk" in done.stdout
