"""The field's optimization against warps that are known, and what each of its options is for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from RegistrationNetLib.errors import InputError, RefinementError
from RegistrationNetLib.geometry.deformation import DisplacementField, identity_points, jacobian_determinant
from RegistrationNetLib.geometry.space import Grid, grid_of, transform_from_map
from RegistrationNetLib.losses.similarity import LNCC, SSD
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import KnownMap, WarpOptions, error_mm
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration import field_refinement
from RegistrationNetLib.registration.field_refinement import FieldOptions, FieldPair, levels_for, refine_field
from RegistrationNetLib.registration.measures import FIELD_MEASURES
from RegistrationNetLib.registration.prepare import Prepared, prepared

from ..volumes import QUANTILES

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES: dict[int, tuple[int, ...]] = {2: (40, 44), 3: (28, 32, 28)}
OPTIONS = FieldOptions(LNCC(sigma_vox=1.5, epsilon=1e-4), steps=30)


def silent(_: float) -> None:
    """A report that nobody reads."""


@lru_cache
def warped_head(dim: int) -> tuple[Prepared, Prepared, KnownMap, sitk.Image]:
    """A head, the head warped by a smooth map without a rigid part, the map, and where the head is."""
    shape = SHAPES[dim]
    head = head_phantom([2 * size for size in shape], [3.0] * dim, 0)
    grid = grid_of(head.image).resized(shape)
    warp = WarpOptions(0.0, 0.0, displacement_mm=12.0, correlation_mm=28.0, lattice_mm=3.0)
    pair = known_pair(head.image, grid, seed=1, warp=warp, appearance=AppearanceOptions(0.0, 0.0, 0.0))
    still = sitk.Transform(dim, sitk.sitkIdentity)
    mask = sitk.Resample(head.labels, pair.fixed, still, sitk.sitkNearestNeighbor)
    return prepared(pair.fixed, QUANTILES), prepared(pair.moving, QUANTILES), pair.known, mask


def plain_grid(shape: Sequence[int], spacing_mm: float = 2.0) -> Grid:
    return Grid(tuple(shape), np.diag([*[spacing_mm] * len(shape), 1.0]))


def blobs(shape: Sequence[int], *centres: Sequence[float], width_vox: float = 3.0) -> Tensor:
    """Gaussian blobs in [0, 1]: [1, 1, *shape]."""
    index = torch.as_tensor(np.indices(tuple(shape)), dtype=torch.float32)
    values = torch.zeros(*shape)
    for centre in centres:
        column = torch.tensor(centre, dtype=torch.float32).view(-1, *(1,) * len(shape))
        values = values + torch.exp(-((index - column) / width_vox).square().sum(0) / 2)
    return values[None, None]


def in_voxels(field: DisplacementField) -> Tensor:
    """The displacement [dim, *shape] in voxels."""
    shape = field.displacement.shape[2:]
    return field.displacement[0] * torch.tensor([size - 1.0 for size in shape]).view(-1, *(1,) * len(shape))


# levels


SPACINGS = st.floats(0.3, 8.0)


@given(
    geometry=st.integers(2, 3).flatmap(lambda dim: st.lists(st.tuples(st.integers(8, 300), SPACINGS), min_size=dim, max_size=dim))
)
def test_levels_come_closer_until_the_lattice_of_the_image(geometry: list[tuple[int, float]]) -> None:
    shape, spacing_mm = zip(*geometry, strict=True)
    levels = levels_for(shape, spacing_mm, 10)
    assert levels[-1].shape == shape
    for level in levels:
        assert all(min(8, size) <= side <= size for side, size in zip(level.shape, shape, strict=True))
        assert min(level.intervals) >= 1
        assert level.steps > 0
        assert level.step_vox > 0
    for coarse, fine in itertools.pairwise(levels):
        assert all(one <= other for one, other in zip(coarse.shape, fine.shape, strict=True))
        assert all(one <= other for one, other in zip(coarse.intervals, fine.intervals, strict=True))


@given(size=st.integers(8, 400), spacing=SPACINGS, dim=st.integers(2, 3))
def test_the_first_level_of_a_cube_is_small(size: int, spacing: float, dim: int) -> None:
    assert max(levels_for([size] * dim, [spacing] * dim, 10)[0].shape) <= 30


def test_thick_slices_are_not_thinned_out_before_the_planes_are_as_coarse() -> None:
    levels = levels_for((24, 192, 192), (5.0, 1.0, 1.0), 10)
    for level in levels:
        in_plane_mm = 191 / (level.shape[1] - 1)
        across_mm = 5 * 23 / (level.shape[0] - 1)
        assert across_mm <= max(5.0, 1.1 * in_plane_mm)
        assert level.shape[1] == level.shape[2]


def test_a_tiny_image_has_one_lattice() -> None:
    assert {level.shape for level in levels_for((8, 9, 10), (1.0, 1.0, 1.0), 10)} == {(8, 9, 10)}


def test_no_steps_means_no_steps_at_any_level() -> None:
    assert {level.steps for level in levels_for((64, 64), (1.0, 1.0), 0)} == {0}


# what comes out


@pytest.mark.parametrize("dim", [2, 3])
def test_images_in_place_stay_there(dim: int) -> None:
    image = warped_head(dim)[0]
    fields = refine_field(image, image, OPTIONS, silent)
    for field in (fields.moving_from_fixed, fields.fixed_from_moving):
        assert field.displacement.shape == (1, dim, *image.grid.shape)
        assert float(in_voxels(field).abs().mean()) < 0.1
        assert float(in_voxels(field).abs().max()) < 0.5


def error_of(dim: int, field: DisplacementField) -> tuple[float, float]:
    """Mean distance in mm from the truth over the head, before and after."""
    fixed, _, known, mask = warped_head(dim)
    before = error_mm(sitk.Transform(dim, sitk.sitkIdentity), known, mask).mean
    return before, error_mm(transform_from_map(field, fixed.grid, fixed.grid), known, mask).mean


@lru_cache
def refined_head(dim: int, smoothness: float = 1.0) -> FieldPair:
    fixed, moving, *_ = warped_head(dim)
    return refine_field(fixed, moving, replace(OPTIONS, smoothness=smoothness), silent)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_known_smooth_warp_is_recovered(dim: int) -> None:
    before, after = error_of(dim, refined_head(dim).moving_from_fixed)
    assert before > 5
    assert after < before / 3


@pytest.mark.parametrize("dim", [2, 3])
def test_both_directions_undo_each_other_without_folding(dim: int) -> None:
    fields = refined_head(dim)
    for there, back in itertools.permutations((fields.moving_from_fixed, fields.fixed_from_moving)):
        lattice = identity_points(there.displacement.shape[2:], there.displacement)
        missing = in_voxels(DisplacementField(back(there.on_lattice()) - lattice))
        moved = in_voxels(there).norm(dim=0)
        assert float(missing.norm(dim=0).mean()) < 0.2 * float(moved.mean())
        assert float(jacobian_determinant(there.on_lattice()).min()) > 0


def log_sd(fields: FieldPair) -> float:
    return float(jacobian_determinant(fields.moving_from_fixed.on_lattice()).log().std())


def test_with_mutual_information_the_regularity_counts_thirty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, *_ = warped_head(2)

    def field(smoothness: float) -> Tensor:
        options = FieldOptions(FIELD_MEASURES["mi"], smoothness=smoothness, steps=4)
        return refine_field(fixed, moving, options, silent).moving_from_fixed.displacement

    usual = field(1.0)
    monkeypatch.setattr(field_refinement, "FIELD_STIFFNESS", {})
    assert torch.equal(usual, field(30.0))
    assert not torch.allclose(usual, field(1.0), atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_more_smoothness_gives_a_smoother_map(dim: int) -> None:
    rough, usual, smooth = (log_sd(refined_head(dim, smoothness)) for smoothness in (0.01, 1.0, 20.0))
    assert 0 < smooth < usual < rough


def test_the_weight_of_gradicon_makes_the_map_smoother() -> None:
    fixed, moving, *_ = warped_head(2)
    stiff = replace(OPTIONS, gradicon_weight=100 * OPTIONS.gradicon_weight)
    assert log_sd(refine_field(fixed, moving, stiff, silent)) < log_sd(refined_head(2))


@pytest.mark.parametrize("dim", [2, 3])
def test_no_steps_give_the_identity(dim: int) -> None:
    fixed, moving, *_ = warped_head(dim)
    fields = refine_field(fixed, moving, replace(OPTIONS, steps=0), silent)
    assert not fields.moving_from_fixed.displacement.any()
    assert not fields.fixed_from_moving.displacement.any()


def test_thick_slices_are_recovered_too() -> None:
    shape = (12, 40, 40)
    grid = Grid(shape, np.diag([10.0, 2.0, 2.0, 1.0]))
    centre = (6.0, 18.0, 22.0)
    fixed = Prepared(blobs(shape, centre, (6, 30, 10)), grid)
    moving = Prepared(blobs(shape, (6.0, 21.0, 22.0), (6, 30, 10)), grid)
    moved = in_voxels(refine_field(fixed, moving, OPTIONS, silent).moving_from_fixed)
    assert moved[:, 6, 18, 22].tolist() == pytest.approx([0.0, 3.0, 0.0], abs=0.6)


def test_the_same_call_gives_the_same_field_and_leaves_its_input_alone() -> None:
    fixed, moving, *_ = warped_head(2)
    before = fixed.values.clone(), moving.values.clone()
    again = refine_field(fixed, moving, OPTIONS, silent)
    assert torch.equal(again.moving_from_fixed.displacement, refined_head(2).moving_from_fixed.displacement)
    assert torch.equal(again.fixed_from_moving.displacement, refined_head(2).fixed_from_moving.displacement)
    assert torch.equal(fixed.values, before[0])
    assert torch.equal(moving.values, before[1])
    assert not again.moving_from_fixed.displacement.requires_grad


# labels and masks


def dice(one: Tensor, other: Tensor) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("shape", [(32, 32), (24, 24, 24)])
def test_labels_are_brought_together_where_intensities_say_nothing(shape: tuple[int, ...]) -> None:
    dim = len(shape)
    # Shifted or not, a ramp correlates with a ramp.
    ramp = identity_points(shape, torch.zeros(()))[:, :1]
    middle = [size / 2 for size in shape]
    labels, moved_labels = (
        (blobs(shape, [*middle[:-1], middle[-1] + shift], width_vox=5.0) > 0.5).long() * 3 for shift in (0.0, 3.0)
    )
    fixed, moving = (Prepared(ramp, plain_grid(shape), labels=one) for one in (labels, moved_labels))

    def dice_with(weight: float) -> float:
        field = refine_field(fixed, moving, replace(OPTIONS, label_weight=weight), silent).moving_from_fixed
        place = (identity_points(shape, ramp)[0] + field.displacement[0]) * (torch.tensor(shape).view(-1, *(1,) * dim) - 1)
        index = tuple(axis.round().long().clamp(0, size - 1) for axis, size in zip(place, shape, strict=True))
        return dice(moved_labels[0, 0][index] == 3, labels[0, 0] == 3)

    before = dice(moved_labels == 3, labels == 3)
    assert before < 0.8
    assert dice_with(0.0) == pytest.approx(before, abs=0.05)
    assert 1 - dice_with(1.0) < 0.5 * (1 - before)


def test_labels_of_one_image_alone_say_nothing() -> None:
    fixed, moving, *_ = warped_head(2)
    labelled = replace(fixed, labels=torch.ones_like(fixed.values, dtype=torch.int64))
    fields = refine_field(labelled, moving, OPTIONS, silent)
    assert torch.equal(fields.moving_from_fixed.displacement, refined_head(2).moving_from_fixed.displacement)


@pytest.mark.parametrize("masked", [("fixed", "moving"), ("fixed",), ("moving",)])
def test_what_lies_outside_the_masks_is_ignored(masked: tuple[str, ...]) -> None:
    shape, grid = (40, 40), plain_grid((40, 40))
    # On the left the truth, two voxels down; on the right something that went three voxels up.
    fixed = Prepared(blobs(shape, (20, 10), (20, 30)), grid)
    moving = Prepared(blobs(shape, (22, 10), (17, 30)), grid)
    left = torch.zeros(1, 1, *shape, dtype=torch.bool)
    left[..., :20] = True
    options = replace(OPTIONS, measure=SSD(), smoothness=0.01)

    def moved(**masks: Tensor | None) -> tuple[float, float]:
        one, two = replace(fixed, mask=masks.get("fixed")), replace(moving, mask=masks.get("moving"))
        down = in_voxels(refine_field(one, two, options, silent).moving_from_fixed)[0]
        return float(down[20, 10]), float(down[20, 30])

    left_without, right_without = moved()
    left_with, right_with = moved(**dict.fromkeys(masked, left))
    assert left_without == pytest.approx(2, abs=0.5)
    assert left_with == pytest.approx(2, abs=0.5)
    assert right_without == pytest.approx(-3, abs=0.7)
    if len(masked) == 2:
        assert abs(right_with) < 0.5
    else:
        assert right_with != right_without


# what is refused, and what is told


@pytest.mark.parametrize("smoothness", [0.0, -1.0, math.nan, math.inf])
def test_a_smoothness_that_is_no_positive_number_is_refused(smoothness: float) -> None:
    with pytest.raises(InputError, match=f"smoothness is {smoothness:g}; it must be above 0"):
        replace(OPTIONS, smoothness=smoothness)


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(InputError, match="steps is -1; it must be 0"):
        replace(OPTIONS, steps=-1)


def test_a_loss_that_is_not_finite_ends_the_work() -> None:
    fixed, moving, *_ = warped_head(2)
    with pytest.raises(RefinementError, match="loss became infinite or NaN"):
        refine_field(replace(fixed, values=fixed.values * math.nan), moving, OPTIONS, silent)


@pytest.mark.parametrize("shape", [(12, 12), (70, 60), (12, 70, 20)])
def test_the_reported_fractions_rise_to_one(shape: tuple[int, ...]) -> None:
    image = Prepared(blobs(shape, [size / 2 for size in shape]), plain_grid(shape))
    fractions: list[float] = []
    refine_field(image, image, replace(OPTIONS, steps=2), fractions.append)
    assert fractions == sorted(set(fractions))
    assert fractions[0] > 0
    assert fractions[-1] == pytest.approx(1.0)


def test_the_report_can_stop_the_work_and_the_threads_stay_as_they_were() -> None:
    class Stopped(Exception):
        pass

    def stop(_: float) -> None:
        raise Stopped

    image = warped_head(2)[0]
    torch.set_num_threads(2)
    with pytest.raises(Stopped):
        refine_field(image, image, OPTIONS, stop)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
