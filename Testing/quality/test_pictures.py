from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RegistrationNetLib.geometry.space import field_transform, grid_of
from RegistrationNetLib.quality.assessment import jacobian_image
from RegistrationNetLib.quality.colours import FOLDED
from RegistrationNetLib.quality.film import films
from RegistrationNetLib.quality.pictures import GRID_COLOUR, difference_legend, jacobian_legend, panels, window_of, windowed
from RegistrationNetLib.quality.slices import centre_of_foreground_mm, letters, views, worst_fold_mm
from Testing.strategies import rotation, signed_permutations

DIRECTIONS = [axes for axes in signed_permutations(3) if np.linalg.det(axes) > 0]
PANELS = [
    "fixed",
    "moving",
    "warped",
    "checkerboard_before",
    "checkerboard_after",
    "difference_before",
    "difference_after",
    "error",
    "jacobian",
    "deformed_grid",
]


def image_of(brightness, size, *, spacing=None, direction=None):
    """An image about the origin of the world; `brightness` takes world coordinates [dim, *shape] in LPS mm."""
    dim = len(size)
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing or [1.0] * dim)
    image.SetDirection((np.eye(dim) if direction is None else direction).flatten().tolist())
    image.SetOrigin([-each for each in image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])])
    world_from_voxel = grid_of(image).world_from_voxel
    world = np.tensordot(world_from_voxel[:-1, :-1], np.indices(image.GetSize()[::-1]), axes=1)
    filled = sitk.GetImageFromArray(brightness(world + world_from_voxel[:-1, -1].reshape(-1, *[1] * dim)).astype(np.float32))
    filled.CopyInformation(image)
    return filled


def ball(world):
    """Bright within 6 mm of (3, -2, ...), with a texture of 4 mm."""
    away = world - np.array([3.0, -2.0, 1.0][: len(world)]).reshape(-1, *[1] * (world.ndim - 1))
    return np.where((away**2).sum(axis=0) < 36, 100 + 20 * np.sin(world).sum(axis=0), 0)


def result_of(fixed, moving=None, transform=None):
    moving = moving or fixed
    transform = transform or sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity)
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)
    return SimpleNamespace(
        fixed=fixed, moving=moving, warped=warped, jacobian=jacobian_image(transform, fixed), moving_from_fixed=transform,
        error_mm=sitk.Cast(fixed * 0 + 0.5, sitk.sitkFloat32),
        body=sitk.Cast(fixed * 0 + 1, sitk.sitkUInt8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shifted():
    """A ball, the same 3 mm to the left, and the shift that finds it."""
    size, direction = [24, 26, 20], rotation(3, (10.0, 5.0, -8.0))
    moving = image_of(lambda world: ball(world - np.array([3.0, 0, 0]).reshape(3, 1, 1, 1)), size, direction=direction)
    return result_of(image_of(ball, size, direction=direction), moving, sitk.TranslationTransform(3, [3.0, 0, 0]))


@pytest.mark.parametrize("turned", [0.0, 20.0])
@pytest.mark.parametrize("axes", DIRECTIONS)
def test_left_back_and_head_lie_where_a_radiologist_expects_them(axes, turned):
    # A ramp along each world axis must rise along the right direction of the picture, however the voxels are stored.
    direction = rotation(3, (turned, 0.0, -turned / 2)) @ axes
    expected = {"Axial": ((1, 1), (0, 1)), "Coronal": ((2, -1), (0, 1)), "Sagittal": ((2, -1), (1, 1))}
    for world_axis in range(3):
        ramp = image_of(lambda world, axis=world_axis: world[axis], [9, 8, 7], spacing=[1.0, 1.2, 1.5], direction=direction)
        for view in views(ramp, np.zeros(3)):
            grey = windowed(ramp, window_of(ramp), view).astype(float)
            rising = {"row": np.diff(grey[20:-20], axis=0).mean(), "column": np.diff(grey[:, 20:-20], axis=1).mean()}
            for name, (axis, sign) in zip(("row", "column"), expected[view.name], strict=True):
                if axis == world_axis:
                    assert rising[name] * sign > 0
                    assert abs(rising[name]) == max(map(abs, rising.values()))


@pytest.mark.parametrize("axes", DIRECTIONS)
def test_letters_name_the_patients_sides_for_any_storage_order(axes):
    shown = {
        view.name: (view.left, view.right, view.top, view.bottom)
        for view in views(image_of(ball, [9, 8, 7], direction=axes), np.zeros(3))
    }
    assert shown == {"Axial": ("R", "L", "A", "P"), "Coronal": ("R", "L", "S", "I"), "Sagittal": ("A", "P", "S", "I")}


def test_an_oblique_direction_has_two_letters_the_main_one_first():
    assert letters(np.array([0.9, -0.43, 0.0])) == "LA"
    assert letters(np.array([0.1, 0.2, -0.97])) == "I"
    tilted = image_of(ball, [9, 8, 7], direction=rotation(3, (30.0, 0, 0)))
    assert [view.left[0] + view.right[0] for view in views(tilted, np.zeros(3))] == ["RL", "RL", "AP"]


def test_a_two_dimensional_image_has_one_view_without_letters():
    (view,) = views(image_of(ball, [20, 10]), np.zeros(2))
    assert (view.left, view.right, view.top, view.bottom) == ("", "", "", "")
    assert view.shape == (160, 320)


@pytest.mark.parametrize("axes", DIRECTIONS[::5])
def test_pictures_have_true_proportions(axes):
    # 30 x 20 x 60 mm from voxels of 3 x 1 x 2 mm: at 60 mm for 320 pixels, 160 x 107 x 320 pixels.
    lengths = np.abs(axes) @ np.array([30.0, 20.0, 60.0])
    left, back, up = (round(length * 320 / 60) for length in lengths)
    image = image_of(ball, [10, 20, 30], spacing=[3.0, 1.0, 2.0], direction=axes)
    assert [view.shape for view in views(image, np.zeros(3))] == [(back, left), (up, left), (up, back)]


def test_a_ball_is_round_in_anisotropic_voxels():
    image = image_of(lambda world: ((world**2).sum(axis=0) < 15**2) * 100.0, [40, 20, 10], spacing=[1.0, 2.0, 4.0])
    for pixels in panels(result_of(image))["fixed"].pixels:
        rows, columns = (np.flatnonzero((pixels[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
        # To within one voxel of 4 mm, 8 pixels each.
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=32)
        assert np.ptp(columns) == pytest.approx(30 * 8, abs=32)


def test_slices_go_through_the_bright_tissue():
    centre = centre_of_foreground_mm(image_of(ball, [40, 40, 40], direction=rotation(3, (10, 20, 0))))
    np.testing.assert_allclose(centre, [3, -2, 1], atol=1)


def test_the_window_ignores_rare_extremes_and_survives_one_value():
    values = np.random.default_rng(0).uniform(0, 100, size=(40, 40)).astype(np.float32)
    values[0, 0] = 1e6
    lower, upper = window_of(sitk.GetImageFromArray(values))
    assert -1 < lower < 2
    assert 98 < upper < 101
    assert window_of(sitk.Image([4, 4], sitk.sitkUInt8)) == (0, 1)


@pytest.mark.parametrize("dim", [2, 3])
def test_every_panel_is_drawn_in_every_view(dim):
    drawn = panels(result_of(image_of(ball, [24, 22, 20][:dim])))
    assert list(drawn) == PANELS
    for panel in drawn.values():
        assert len(panel.views) == len(panel.pixels) == (1 if dim == 2 else 3)
        assert all(
            pixels.shape == (*view.shape, 3) and pixels.dtype == np.uint8
            for pixels, view in zip(panel.pixels, panel.views, strict=True)
        )


def test_a_registered_ball_shows_no_seam_and_no_difference(shifted):
    drawn = panels(shifted)
    seen = np.concatenate([np.abs(pixels.astype(int)).ravel() for pixels in drawn["difference_before"].pixels])
    left = np.concatenate([np.abs(pixels.astype(int)).ravel() for pixels in drawn["difference_after"].pixels])
    assert left.mean() < 0.3 * seen.mean()
    for board, fixed in zip(drawn["checkerboard_after"].pixels, drawn["fixed"].pixels, strict=True):
        assert np.abs(board.astype(int) - fixed).mean() < 3
    assert any(not np.array_equal(*both) for both in zip(drawn["checkerboard_before"].pixels, drawn["fixed"].pixels, strict=True))


@pytest.mark.parametrize("panel", ["difference_before", "difference_after"])
def test_a_difference_is_orange_where_moving_is_brighter_and_blue_where_fixed_is(panel):
    def bright(side):
        return lambda world: np.where((side * world[0] > 2) & (np.abs(world[1]) < 6), 100.0, 0.0)

    pixels = panels(result_of(image_of(bright(-1), [24, 24, 24]), image_of(bright(1), [24, 24, 24])))[panel].pixels[0].astype(int)
    columns = pixels.shape[1] // 2
    redness = (pixels[..., 0] - pixels[..., 2])[20:-20]
    # The patient's left, where x grows, is at the right of the picture.
    assert redness[:, :columns].min() < -50
    assert redness[:, :columns].max() < 50
    assert redness[:, columns:].max() > 50
    assert redness[:, columns:].min() > -50


def test_moving_is_shown_where_it_lies_before_registration(shifted):
    def column(panel):
        pixels = panel.pixels[0][..., 0].astype(float)
        return np.average(np.arange(pixels.shape[1]), weights=pixels.sum(axis=0))

    drawn = panels(shifted)
    pixel_mm = drawn["fixed"].views[0].grid.spacing_mm[-1]
    # 3 mm to the patient's left is to the right in the picture, nearly, the volume being turned by 10 degrees.
    assert (column(drawn["moving"]) - column(drawn["fixed"])) * pixel_mm == pytest.approx(3, abs=0.5)
    assert column(drawn["warped"]) == pytest.approx(column(drawn["fixed"]), abs=0.3 / pixel_mm)


def test_an_unchanged_volume_is_grey_and_growth_is_red():
    def warmth(factor):
        transform = sitk.ScaleTransform(2, [factor**0.5] * 2)
        pixels = panels(result_of(image_of(ball, [24, 22]), transform=transform))["jacobian"].pixels[0].astype(int)
        return (pixels[..., 0] - pixels[..., 2]).mean()

    assert warmth(1.0) == 0
    assert warmth(2.0) > 10
    assert warmth(0.5) < -10


def folding(size):
    """A two-dimensional result with one folded voxel at index (5, 3)."""
    result = result_of(image_of(ball, size))
    result.jacobian[5, 3] = -0.5
    return result


def test_where_nothing_folds_no_pixel_has_the_colour_of_folding(shifted):
    assert not any((pixels == FOLDED).all(axis=-1).any() for pixels in panels(shifted)["jacobian"].pixels)


@pytest.mark.parametrize("size", [[20, 20], [900, 800]])
def test_one_folded_voxel_is_seen_however_large_the_image(size):
    drawn = panels(folding(size))
    assert (drawn["jacobian"].pixels[0] == FOLDED).all(axis=-1).any()
    assert drawn["jacobian_at_fold"].over == "fixed_at_fold"


def test_the_worst_fold_is_found_in_the_world():
    result = folding([20, 20])
    np.testing.assert_allclose(worst_fold_mm(result.jacobian), result.fixed.TransformIndexToPhysicalPoint([5, 3]))


def lines_of(transform):
    """Where the deformed grid runs over a black image of 40 x 40 mm (320 x 320 pixels), a line every 2 mm (16 pixels)."""
    result = result_of(image_of(ball, [40, 40]), transform=transform)
    result.warped = result.warped * 0
    panel = panels(result)["deformed_grid"]
    assert "every 2 mm" in panel.caption
    return panel.pixels[0][..., 1] > GRID_COLOUR[1] / 4


def test_the_grid_of_the_identity_is_straight_and_regular():
    lines = lines_of(sitk.Transform(2, sitk.sitkIdentity))
    for axis in (0, 1):
        straight = lines.all(axis=axis)
        np.testing.assert_array_equal(straight[:-16], straight[16:])
        assert 1 <= straight[:16].sum() <= 2


def test_a_shift_carries_the_grid_along_and_a_whole_step_brings_it_back():
    still, half, whole = (lines_of(sitk.TranslationTransform(2, [step, 0.0])) for step in (0.0, 1.0, 2.0))
    np.testing.assert_array_equal(still, whole)
    np.testing.assert_array_equal(np.roll(still, 8, axis=1), half)


def test_the_grid_bends_where_the_map_bends():
    image = image_of(ball, [40, 40])
    grid = grid_of(image)
    bend = np.zeros((*grid.shape, 2))
    bend[..., 0] = 3 * np.sin(np.linspace(0, 2 * np.pi, 40))[:, None]
    lines = lines_of(field_transform(bend, grid))
    assert lines.any()
    assert not lines.all(axis=0).any()


def test_letters_are_drawn_at_the_edges(shifted):
    panel = panels(shifted)["fixed"]
    with Image.open(io.BytesIO(panel.pngs()[0])) as picture:
        changed = np.asarray(picture.convert("RGB")) != panel.pixels[0]
    rows, _ = panel.views[0].shape
    middle = slice(rows // 2 - 10, rows // 2 + 10)
    assert changed[middle, :20].any()
    assert changed[middle, -20:].any()
    assert not changed[40:-40, 40:-40].any()


@pytest.mark.parametrize("legend", [jacobian_legend, difference_legend])
def test_a_legend_is_a_picture_with_words(legend):
    with Image.open(io.BytesIO(legend())) as picture:
        assert picture.width == 480
        assert np.asarray(picture.convert("RGB"))[32:].max() == 255


def test_only_the_body_is_coloured() -> None:
    """What is above a voxel, or has changed its volume, in the air is noise; what folds is yellow wherever it is."""
    fixed = image_of(ball, [24, 22])
    result = result_of(fixed)
    result.error_mm = sitk.Cast(fixed * 0 + 30.0, sitk.sitkFloat32)
    result.jacobian = sitk.Cast(fixed * 0 + 3.0, sitk.sitkFloat32)
    result.jacobian[1, 1] = -1.0
    half = np.zeros(fixed.GetSize()[::-1], np.uint8)
    half[:, :12] = 1
    result.body = sitk.GetImageFromArray(half)
    result.body.CopyInformation(fixed)
    drawn = panels(result)
    for name in ("error", "jacobian"):
        pixels = drawn[name].pixels[0].astype(int)
        coloured = (np.ptp(pixels, axis=-1) > 0) & ~(pixels == FOLDED).all(axis=-1)
        assert 0.3 < coloured.mean() < 0.7
    assert (drawn["jacobian"].pixels[0] == FOLDED).all(axis=-1).any()
    (film,) = [one for one in films(result) if one.name == "error"]
    pixels = np.asarray(Image.open(io.BytesIO(film.jpeg)).convert("RGB")).astype(int)
    assert 0.3 < (np.ptp(pixels, axis=-1) > 40).mean() < 0.7
