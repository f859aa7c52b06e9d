"""The border that uniCARL's preparation cuts off, beside the published one."""

import numpy as np
import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.registration.volume import ranges_within_border
from Testing.models.published_carl import available


def framed(shape: tuple[int, ...], before: tuple[int, ...], behind: tuple[int, ...]) -> np.ndarray:
    """Noise in a frame of zeros, so many slices thick before and behind it along each axis."""
    image = np.zeros(shape, dtype=np.float32)
    inside = tuple(slice(first, size - last) for first, size, last in zip(before, shape, behind, strict=True))
    image[inside] = np.random.default_rng(0).random(image[inside].shape) + 1
    return image


@pytest.mark.parametrize("shape", [(12, 15), (11, 12, 13)])
@pytest.mark.parametrize("margin_vox", [0, 1, 2])
def test_frame_and_margin_are_cut_at_each_end(shape: tuple[int, ...], margin_vox: int) -> None:
    before, behind = (0, 3, 1)[: len(shape)], (2, 0, 4)[: len(shape)]
    expected = tuple(
        slice(first + margin_vox, size - last - margin_vox) for first, size, last in zip(before, shape, behind, strict=True)
    )
    assert ranges_within_border(framed(shape, before, behind), margin_vox=margin_vox) == expected


@pytest.mark.parametrize("shape", [(12, 15), (11, 12, 13)])
def test_ranges_are_those_of_the_published_preparation(shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    itk = pytest.importorskip("itk")
    pytest.importorskip("icon_registration")
    image = framed(shape, (0, 3, 1)[: len(shape)], (2, 0, 4)[: len(shape)])
    image[-1] = 7  # uniform, though not of the frame's value
    crop = available("icon_registration.unicarl.register").itk_crop_foreground
    expected = itk.GetArrayFromImage(crop(itk.GetImageFromArray(image), additional_crop_pixels=1))
    capsys.readouterr()  # it prints
    found = image[ranges_within_border(image)]
    np.testing.assert_array_equal(found, expected)


def test_slices_that_are_uniform_inside_stay() -> None:
    image = framed((12, 15), (2, 2), (2, 2))
    image[6] = 0
    assert ranges_within_border(image, margin_vox=0) == (slice(2, 10), slice(2, 13))


@pytest.mark.parametrize(("image", "count"), [(np.zeros((5, 6)), 0), (framed((9, 9, 9), (3, 3, 3), (4, 3, 3)), 2)])
def test_an_image_of_which_nothing_would_be_left_is_refused(image: np.ndarray, count: int) -> None:
    with pytest.raises(InputError, match=f"moving has {count} slices between uniform ones along axis 0"):
        ranges_within_border(image, what="moving")
