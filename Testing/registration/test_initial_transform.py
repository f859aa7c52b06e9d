"""Where a registration starts: linear transforms of every class, non-linear ones, and those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.geometry.space import Grid, affine_transform, grid_of, image_on
from RegistrationNetLib.io.inputs import Pair, checked_pair
from RegistrationNetLib.quality.known_warp import KnownMap, WarpOptions, random_map
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.initial_transform import Initial, initial_of
from RegistrationNetLib.registration.pipeline import register

from ..strategies import images, rotation

pytestmark = pytest.mark.usefixtures("one_thread")


Both = tuple[sitk.Image | None, sitk.Image | None]


def pair_of(fixed: sitk.Image, moving: sitk.Image, *, masks: Both = (None, None), labels: Both = (None, None)) -> Pair:
    return checked_pair((fixed, moving), modalities=("other", "other"), masks=masks, labels=labels)


def noise(dim: int) -> sitk.Image:
    return sitk.GetImageFromArray(np.random.default_rng(0).random([8] * dim).astype(np.float32))


def linear_transforms() -> list[sitk.Transform]:
    turn = rotation(3, (10, -5, 20)).flatten().tolist()
    both = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3)), sitk.ScaleTransform(3, (1.1, 0.9, 1))])
    both.AddTransform(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3))
    return [
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.TranslationTransform(3, (5, -6, 7)),
        sitk.ScaleTransform(3, (1.2, 0.8, 1.0)),
        sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, (4, 5, 6)),
        sitk.VersorRigid3DTransform((0, 0.6, 0.8), 0.4, (1, 2, 3), (4, 5, 6)),
        sitk.Similarity3DTransform(1.3, (1, 0, 0), 0.3, (1, 2, 3), (4, 5, 6)),
        sitk.ScaleSkewVersor3DTransform((1.1, 1, 0.9), (0.1, 0, 0, 0, 0, 0), (0, 0, 1), 0.2, (1, 2, 3)),
        sitk.AffineTransform([1, 0.1, 0, 0, 1.1, 0.2, 0, 0, 0.9], (1, 2, 3), (4, 5, 6)),
        sitk.AffineTransform(turn, (1, 2, 3)),
        both,
        sitk.TranslationTransform(2, (5, -6)),
        sitk.Euler2DTransform((1, 2), 0.1, (3, 4)),
        sitk.Similarity2DTransform(1.2, 0.3, (1, 2), (3, 4)),
        sitk.AffineTransform([1, 0.1, 0, 1.1], (1, 2), (3, 4)),
    ]


@pytest.mark.parametrize("transform", linear_transforms(), ids=lambda one: f"{one.GetName()}-{one.GetDimension()}")
@pytest.mark.parametrize("suffix", ["", ".h5", ".tfm"])
def test_a_linear_transform_of_any_class_is_one_matrix(transform: sitk.Transform, suffix: str, tmp_path: Path) -> None:
    dim = transform.GetDimension()
    pair = pair_of(noise(dim), noise(dim))
    source: object = transform
    if suffix:
        source = tmp_path / f"transform{suffix}"
        sitk.WriteTransform(transform, str(source))
    found = initial_of(source, pair)  # type: ignore[arg-type]
    assert found.pair is pair
    assert (found.moving_from_carried, found.carried_from_moving) == (None, None)
    for point in np.random.default_rng(0).uniform(-100, 100, (5, dim)):
        assert found.matrix @ np.append(point, 1) == pytest.approx([*transform.TransformPoint(point.tolist()), 1], abs=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_nothing_given_is_the_identity(dim: int) -> None:
    pair = pair_of(noise(dim), noise(dim))
    found = initial_of(None, pair)
    assert np.array_equal(found.matrix, np.eye(dim + 1))
    assert found.pair is pair


def test_another_dimension_is_refused() -> None:
    with pytest.raises(InputError, match="initial transform has 2 dimensions and the images 3; both need the same"):
        initial_of(sitk.Euler2DTransform(), pair_of(noise(3), noise(3)))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.tfm").write_text("junk")
    for path, message in (
        (tmp_path / "junk.tfm", "cannot be read as an ITK transform"),
        (tmp_path / "no.h5", "no transform file"),
    ):
        with pytest.raises(InputError, match=message):
            initial_of(path, pair_of(noise(3), noise(3)))


@pytest.mark.parametrize(
    "transform",
    [
        sitk.AffineTransform([1, 0, 0, 1, 0, 0, 0, 0, 1], (0, 0, 0)),
        sitk.ScaleTransform(3, (1, 0, 1)),
        sitk.TranslationTransform(3, (np.nan, 0, 0)),
        sitk.TranslationTransform(3, (np.inf, 0, 0)),
    ],
)
def test_a_transform_without_inverse_is_refused(transform: sitk.Transform) -> None:
    with pytest.raises(InputError, match=r"initial transform cannot be inverted; its matrix must be finite"):
        initial_of(transform, pair_of(noise(3), noise(3)))


def field_of(displacement: np.ndarray) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(displacement, isVector=True))


def test_a_field_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="maps points of fixed to no finite place"):
        initial_of(field_of(np.full((8, 8, 2), np.nan)), pair_of(noise(2), noise(2)))


def test_a_field_that_crushes_everything_is_refused() -> None:
    index = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1)
    with pytest.raises(InputError, match="initial transform cannot be inverted"):
        initial_of(field_of(4.0 - index), pair_of(noise(2), noise(2)))


def test_a_field_that_leads_out_of_moving_is_refused() -> None:
    with pytest.raises(GeometryError, match="takes no voxel of fixed into moving; the two must overlap"):
        initial_of(field_of(np.full((8, 8, 2), 100.0)), pair_of(noise(2), noise(2)))


# non-linear


def known_map(grid: Grid, seed: int = 0) -> KnownMap:
    """A warp of about a tenth of the image, with a rigid part."""
    size_mm = min(grid.extent_mm)
    options = WarpOptions(5.0, 0.05 * size_mm, 0.07 * size_mm, 0.25 * size_mm, 0.3 * size_mm, size_mm / 24)
    return random_map(grid, seed, options)


@given(fixed=images(2, min_size=12, max_size=20), seed=st.integers(0, 9))
@settings(max_examples=4)
def test_a_nonlinear_transform_carries_moving_to_the_grid_of_fixed(fixed: sitk.Image, seed: int) -> None:
    known = known_map(grid_of(fixed), seed)
    mask, labels = (sitk.Cast(fixed > threshold, sitk.sitkUInt8) * 3 for threshold in (0.0, -0.5))
    pair = pair_of(fixed, fixed, masks=(None, mask), labels=(labels, labels))
    found = initial_of(known.moving_from_fixed, pair)
    assert np.array_equal(found.matrix, np.eye(3))
    assert found.moving_from_carried is not None
    assert found.carried_from_moving is not None
    assert found.pair.fixed is fixed
    assert np.array_equal(grid_of(found.pair.moving).world_from_voxel, grid_of(fixed).world_from_voxel)
    nearest = [
        sitk.GetArrayFromImage(sitk.Resample(one, fixed, known.moving_from_fixed, sitk.sitkNearestNeighbor))
        for one in (mask, labels)
    ]
    assert np.array_equal(sitk.GetArrayFromImage(found.pair.masks[1]) != 0, nearest[0] != 0)
    assert np.array_equal(sitk.GetArrayFromImage(found.pair.labels[1]), nearest[1])
    # Only what has come from voxels of moving is compared.
    inside = sitk.Resample(labels * 0 + 1, fixed, known.moving_from_fixed, sitk.sitkNearestNeighbor)
    counted = found.pair.masks[0]
    assert counted is not None
    assert np.array_equal(sitk.GetArrayFromImage(counted) != 0, sitk.GetArrayFromImage(inside) != 0)


def test_padding_of_moving_is_not_carried_along() -> None:
    """It is not mixed with what lies beside it, and counts nowhere."""
    values = 1000 + 100 * np.random.default_rng(0).random((16, 16)).astype(np.float32)
    values[:, :5] = -32768
    moving = sitk.GetImageFromArray(values)
    field = np.zeros((16, 16, 2))
    field[..., 0] = 2.5
    found = initial_of(field_of(field), pair_of(sitk.Cast(moving > 1050, sitk.sitkFloat32), moving))
    carried = sitk.GetArrayFromImage(found.pair.moving)
    assert carried.min() >= 1000
    for mask in found.pair.masks:
        assert mask is not None
        # Columns 0 and 1 come from padding (2.5 and 3.5), the last two from beyond the image; 13 from the end of its last voxel (15.5).
        assert np.array_equal(np.flatnonzero(sitk.GetArrayFromImage(mask).all(axis=0)), range(2, 14))


def test_a_nonlinear_transform_within_moving_leaves_fixed_without_a_mask() -> None:
    fixed = noise(2)
    moving = sitk.ConstantPad(fixed, [4, 4], [4, 4], 0.5)
    found = initial_of(field_of(np.full((8, 8, 2), 0.5)), pair_of(fixed, moving))
    assert found.pair.masks == (None, None)


def test_the_fixed_mask_shrinks_to_what_moving_covers() -> None:
    fixed, left = noise(2), np.zeros((8, 8), dtype=np.uint8)
    left[:, :4] = 5
    pair = pair_of(fixed, fixed, masks=(sitk.GetImageFromArray(left), None))
    found = initial_of(field_of(np.stack([np.full((8, 8), -2.0), np.zeros((8, 8))], axis=-1)), pair)
    counted = found.pair.masks[0]
    assert counted is not None
    assert np.array_equal(np.nonzero(sitk.GetArrayFromImage(counted).any(axis=0))[0], [2, 3])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("turned", [False, True])
def test_a_registration_that_does_nothing_more_gives_the_initial_transform_and_its_inverse(dim: int, *, turned: bool) -> None:
    shape = (24, 22, 20)[:dim]
    fixed = head_phantom(shape, [9.0] * dim, 0).image
    known = known_map(grid_of(fixed))
    # Moving with another orientation, place and spacing.
    world = np.eye(dim + 1)
    if turned:
        world[:dim, :dim] = rotation(dim, (30, -20, 10)) @ np.eye(dim)[::-1]
        world[:dim, dim] = 5.0
    grid = grid_of(fixed).moved(world).resized([size + 4 for size in shape])
    like = image_on(grid, np.zeros(grid.shape, dtype=np.uint8))
    moving = sitk.Resample(fixed, like, known.fixed_from_moving, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    result = register(fixed, moving, initial=known.moving_from_fixed, align=(), refine="none")
    assert np.allclose(result.alignment.GetParameters(), affine_transform(np.eye(dim + 1)).GetParameters())
    places = grid_of(fixed).world_from_unit @ np.vstack([np.random.default_rng(1).random((dim, 50)), np.ones(50)])
    for point in places[:-1].T.tolist():
        there = result.moving_from_fixed.TransformPoint(point)
        assert there == pytest.approx(known.moving_from_fixed.TransformPoint(point), abs=1e-6)
        unit = grid.unit_from_world @ np.append(there, 1.0)
        if (unit[:-1] >= 0).all() and (unit[:-1] <= 1).all():
            assert result.fixed_from_moving.TransformPoint(there) == pytest.approx(point, abs=0.3)
    assert result.quality.inverse_consistency_mm.mean < 0.1
    assert result.quality.jacobian.folded_percent == 0
    assert result.quality.similarity.after > 0.8


def test_what_follows_an_initial_transform_is_chained_with_it() -> None:
    fixed = head_phantom((40, 36), (5.0, 5.0), 0).image
    known = known_map(grid_of(fixed))
    warped = sitk.Resample(fixed, fixed, known.fixed_from_moving, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    # Turned by a right angle in the world, so that shifts before and after it differ.
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moving = image_on(grid_of(warped).moved(quarter), sitk.GetArrayFromImage(warped))
    true = sitk.CompositeTransform([affine_transform(quarter), known.moving_from_fixed])
    # The truth, but for a shift of 12 mm that remains to be found.
    start = sitk.CompositeTransform([sitk.TranslationTransform(2, (12.0, 0.0)), true])
    before, after = (register(fixed, moving, initial=start, align=align, refine="none") for align in ((), ("rigid",)))
    for point in ((0.0, 0.0), (30.0, -20.0), (-20.0, 40.0)):
        truth = true.TransformPoint(point)
        assert np.linalg.norm(np.subtract(truth, before.moving_from_fixed.TransformPoint(point))) == pytest.approx(12.0)
        assert np.linalg.norm(np.subtract(truth, after.moving_from_fixed.TransformPoint(point))) < 3.0
        assert np.linalg.norm(np.subtract(point, after.fixed_from_moving.TransformPoint(truth))) < 3.0


def test_the_transform_that_came_in_is_left_as_it_was() -> None:
    fixed = head_phantom((24, 20), (9.0, 9.0), 0).image
    known = known_map(grid_of(fixed))
    before = known.moving_from_fixed.GetNumberOfTransforms(), known.moving_from_fixed.TransformPoint((3.0, 4.0))
    result = register(fixed, fixed, initial=known.moving_from_fixed, steps=2)
    assert (known.moving_from_fixed.GetNumberOfTransforms(), known.moving_from_fixed.TransformPoint((3.0, 4.0))) == before
    assert isinstance(initial_of(known.moving_from_fixed, pair_of(fixed, fixed)), Initial)
    assert result.facts["inputs"]["initial"] is True
