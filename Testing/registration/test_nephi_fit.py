"""The fit of NePhi's networks and codes to one pair, against warps that are known, and what each of its options is for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from RegistrationNetLib.errors import GeometryError, InputError, RefinementError
from RegistrationNetLib.geometry.deformation import DisplacementField, identity_points, jacobian_determinant
from RegistrationNetLib.geometry.space import Grid, transform_from_map
from RegistrationNetLib.losses.similarity import LNCC, MINDSSC, NCC, SSD
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.layers.implicit import LocalMLP
from RegistrationNetLib.models.layers.latent import random_codes
from RegistrationNetLib.quality.known_warp import error_mm
from RegistrationNetLib.registration.nephi_fit import (
    ImplicitMaps,
    ImplicitOptions,
    ImplicitStart,
    implicit_options,
    levels_for,
    refine_implicit,
)
from RegistrationNetLib.registration.prepare import Prepared

from .test_field_refinement import blobs, in_voxels, plain_grid, silent, warped_head

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = ImplicitOptions(LNCC(sigma_vox=1.5, epsilon=1e-4), steps=40, regularity_points=100)


@lru_cache
def fitted_head(dim: int, **changes: Any) -> ImplicitMaps:
    """In 2-D with few steps, in 3-D as the card says."""
    fixed, moving, *_ = warped_head(dim)
    options = OPTIONS if dim == 2 else implicit_options(card_named("nephi").refine, OPTIONS.measure)
    return refine_implicit(fixed, moving, replace(options, **changes), silent)


def error_of(dim: int, field: DisplacementField) -> tuple[float, float]:
    """Mean distance in mm from the truth over the head, before and after."""
    fixed, _, known, mask = warped_head(dim)
    before = error_mm(sitk.Transform(dim, sitk.sitkIdentity), known, mask).mean
    return before, error_mm(transform_from_map(field, fixed.grid, fixed.grid), known, mask).mean


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_known_smooth_warp_is_recovered(dim: int) -> None:
    before, after = error_of(dim, fitted_head(dim).fields().moving_from_fixed)
    assert before > 5
    assert after < before / 2


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_both_directions_undo_each_other_without_folding(dim: int) -> None:
    fields = fitted_head(dim).fields()
    for there, back in itertools.permutations((fields.moving_from_fixed, fields.fixed_from_moving)):
        lattice = identity_points(there.displacement.shape[2:], there.displacement)
        missing = in_voxels(DisplacementField(back(there.on_lattice()) - lattice))
        assert float(missing.norm(dim=0).mean()) < 0.3 * float(in_voxels(there).norm(dim=0).mean())
        assert float(jacobian_determinant(there.on_lattice()).min()) > 0


def test_the_fields_are_the_maps_at_their_lattice_whatever_its_shape() -> None:
    maps = fitted_head(2)
    for shape in ((11, 7), (80, 90)):
        fields = maps.fields(maps.grid.spanned(shape))
        lattice = identity_points(shape, torch.zeros(()))
        torch.testing.assert_close(fields.moving_from_fixed.on_lattice(), maps.moving_from_fixed(lattice).detach())
        torch.testing.assert_close(fields.fixed_from_moving.on_lattice(), maps.fixed_from_moving(lattice).detach())
        assert fields.grid.shape == shape
        np.testing.assert_allclose(fields.grid.world_from_unit, maps.grid.world_from_unit)


@pytest.mark.slow
def test_images_in_place_stay_there() -> None:
    image = warped_head(2)[0]
    moved = in_voxels(refine_implicit(image, image, OPTIONS, silent).fields().moving_from_fixed)
    assert float(moved.abs().mean()) < 0.15


def test_no_steps_give_the_identity() -> None:
    fields = fitted_head(2, steps=0).fields()
    assert float(fields.displacements().abs().max()) < 1e-6


def test_moving_is_seen_through_the_alignment_on_its_own_grid() -> None:
    fixed, moving, *_ = warped_head(2)
    shift = np.eye(3)
    shift[:2, 2] = [30.0, -20.0]
    elsewhere = replace(moving, grid=moving.grid.moved(shift))
    aligned = refine_implicit(fixed, elsewhere, OPTIONS, silent, alignment=shift).fields().displacements()
    torch.testing.assert_close(aligned, fitted_head(2).fields().displacements(), atol=5e-3, rtol=0)


@pytest.mark.slow
def test_images_of_whole_numbers_are_fitted_as_they_are() -> None:
    fixed, moving, *_ = warped_head(2)
    coarse = [replace(one, values=(255 * one.values).round().to(torch.uint8)) for one in (fixed, moving)]
    options = replace(OPTIONS, measure=NCC())
    before, after = error_of(2, refine_implicit(coarse[0], coarse[1], options, silent).fields().moving_from_fixed)
    assert after < before / 2


@pytest.mark.slow
def test_contrast_may_differ_where_the_measure_allows_it() -> None:
    fixed, moving, *_ = warped_head(2)
    inverted = replace(moving, values=1 - moving.values)
    options = replace(OPTIONS, measure=MINDSSC(radius=1, dilation=2))
    before, after = error_of(2, refine_implicit(fixed, inverted, options, silent).fields().moving_from_fixed)
    assert after < before / 2


def test_the_same_seed_gives_the_same_map_and_leaves_the_images_alone() -> None:
    fixed, moving, *_ = warped_head(2)
    values = fixed.values.clone(), moving.values.clone()
    state = torch.get_rng_state()
    options = replace(OPTIONS, steps=5)
    again = refine_implicit(fixed, moving, options, silent).fields().displacements()
    assert torch.equal(again, fitted_head(2, steps=5).fields().displacements())
    assert not torch.equal(again, refine_implicit(fixed, moving, options, silent, seed=1).fields().displacements())
    assert torch.equal(fixed.values, values[0])
    assert torch.equal(moving.values, values[1])
    assert torch.equal(torch.get_rng_state(), state)


CHANGES: list[dict[str, Any]] = [
    {"measure": SSD()},
    {"smoothness": 5.0},
    {"steps": 5},
    {"width": 16},
    {"frequencies": 8},
    {"code_channels": (4, 8)},
    {"node_vox": 6.0},
    {"most_nodes": 4},
    {"inconsistency_weight": 1.0},
    {"regularity_points": 50},
    {"prior": 1.0},
    {"patches": 1},
    {"patch_side_vox": 20},
    {"map_stride_vox": 2},
    {"first_step": 1e-4},
    {"code_step": 1e-3},
    {"conserve_mass": True},
]


@lru_cache
def short_fit(**changes: Any) -> Tensor:
    fixed, moving, *_ = warped_head(2)
    return refine_implicit(fixed, moving, replace(OPTIONS, **{"steps": 3, **changes}), silent).fields().displacements()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_option_changes_the_map(change: dict[str, Any]) -> None:
    assert not torch.allclose(short_fit(**change), short_fit(), rtol=1e-6, atol=0)


def test_measures_of_single_values_take_random_points_as_many_as_asked_for() -> None:
    ncc = short_fit(measure=NCC())
    assert not torch.allclose(short_fit(measure=NCC(), similarity_points=100), ncc, rtol=1e-6, atol=0)
    assert torch.equal(short_fit(measure=NCC(), patches=1, patch_side_vox=9), ncc)


def log_sd(smoothness: float) -> float:
    points = fitted_head(2, smoothness=smoothness).fields().moving_from_fixed.on_lattice()
    return float(jacobian_determinant(points).clamp(min=1e-3).log().std())


@pytest.mark.slow
def test_more_smoothness_gives_a_smoother_map() -> None:
    assert 0 < log_sd(20.0) < log_sd(1.0) < log_sd(0.02)


@pytest.mark.slow
def test_the_weight_of_mass_undoes_what_breathing_in_dilutes() -> None:
    shape, grid = (40, 40), plain_grid((40, 40))
    body = blobs(shape, (20, 20), width_vox=8.0)
    wider = blobs(shape, (20, 20), width_vox=10.0) * (8 / 10) ** 2
    options = replace(OPTIONS, measure=SSD(), steps=60)
    pair = Prepared(body, grid), Prepared(wider, grid)

    def residual(conserve_mass: bool) -> float:
        fields = refine_implicit(*pair, replace(options, conserve_mass=conserve_mass), silent).fields()
        points = fields.moving_from_fixed.on_lattice()
        middle = jacobian_determinant(points)[0, 0, 20, 20]
        return abs(float(middle) - (10 / 8) ** 2)

    assert residual(True) < residual(False)


@pytest.mark.parametrize(
    "masked", [pytest.param("fixed", marks=pytest.mark.slow), pytest.param("moving", marks=pytest.mark.slow)]
)
def test_what_lies_outside_the_mask_is_ignored(masked: str) -> None:
    shape, grid = (40, 40), plain_grid((40, 40))
    images = {
        "fixed": Prepared(blobs(shape, (20, 10), (20, 30)), grid),
        "moving": Prepared(blobs(shape, (22, 10), (17, 30)), grid),
    }
    left = torch.zeros(1, 1, *shape, dtype=torch.bool)
    left[..., :20] = True
    options = replace(OPTIONS, measure=SSD(), smoothness=0.05, steps=60)

    def moved() -> tuple[float, float]:
        down = in_voxels(refine_implicit(images["fixed"], images["moving"], options, silent).fields().moving_from_fixed)[0]
        return float(down[20, 10]), float(down[20, 30])

    without = moved()
    images[masked] = replace(images[masked], mask=left)
    masked_moved = moved()
    assert without[1] < -1.5
    assert masked_moved[0] == pytest.approx(2, abs=0.7)
    assert masked_moved[1] > without[1] + 1


def test_masks_that_never_meet_are_refused() -> None:
    fixed, moving, *_ = warped_head(2)
    left, right = torch.zeros_like(fixed.values, dtype=torch.bool), torch.zeros_like(fixed.values, dtype=torch.bool)
    left[..., :10] = True
    right[..., -10:] = True
    with pytest.raises(GeometryError, match="no voxels to compare"):
        refine_implicit(replace(fixed, mask=left), replace(moving, mask=right), OPTIONS, silent)


def test_a_mask_of_one_line_is_met() -> None:
    fixed, moving, *_ = warped_head(2)
    for row in (20, 21):
        line = torch.zeros_like(fixed.values, dtype=torch.bool)
        line[..., row, :] = True
        assert refine_implicit(replace(fixed, mask=line), moving, replace(OPTIONS, steps=1), silent).fields()


# where it starts


@pytest.mark.slow
def test_the_fit_goes_on_from_a_start_whose_networks_stay_as_they_are() -> None:
    fixed, moving, *_ = warped_head(2)
    torch.manual_seed(0)
    phi, phi_inv = (LocalMLP(2, latent_channels=6, width=16, frequencies=8) for _ in range(2))
    torch.nn.init.constant_(phi.synthesis_nw.final_layer.bias, 0.02)
    codes = random_codes((2, 4), (5, 5), torch.Generator().manual_seed(0), like=fixed.values)
    before = {name: value.clone() for name, value in phi.state_dict().items()}
    grid = fixed.grid.resized((30, 30))
    start = ImplicitStart(phi, phi_inv, codes, grid)
    untouched = refine_implicit(fixed, moving, replace(OPTIONS, steps=0), silent, start=start)
    points = torch.rand(1, 2, 20)
    torch.testing.assert_close(untouched.moving_from_fixed(points).detach(), points + 0.01)
    assert untouched.grid is grid
    refined = refine_implicit(fixed, moving, OPTIONS, silent, start=start)
    assert all(torch.equal(value, before[name]) for name, value in phi.state_dict().items())
    field = refined.fields().on(fixed.grid).moving_from_fixed
    before_mm, after_mm = error_of(2, field)
    assert after_mm < before_mm / 2


# levels, options, errors, progress


def test_levels_halve_the_spacing_down_to_the_images_own_and_codes_become_finer() -> None:
    levels = levels_for(plain_grid((200, 90, 60), 1.5), OPTIONS)
    assert levels[-1].shape == (200, 90, 60)
    assert max(levels[0].shape) <= 30
    for coarse, fine in itertools.pairwise(levels):
        assert coarse.spacing_mm == pytest.approx(2 * fine.spacing_mm)
        assert all(one <= other for one, other in zip(coarse.nodes, fine.nodes, strict=True))
    assert max(node for level in levels_for(plain_grid((2000, 64)), OPTIONS) for node in level.nodes) == OPTIONS.most_nodes


def test_the_card_holds_every_number_of_the_optimization() -> None:
    card = card_named("nephi")
    options = implicit_options(card.refine, SSD(), smoothness=2.0, steps=7, conserve_mass=True)
    named = {**card.refine["implicit"], "code_channels": tuple(card.refine["implicit"]["code_channels"]), "steps": 7}
    assert options == ImplicitOptions(SSD(), smoothness=2.0, conserve_mass=True, **named)
    assert implicit_options(card.refine, SSD()).steps == card.refine["implicit"]["steps"]
    assert set(named) == set(ImplicitOptions.__dataclass_fields__) - {"measure", "smoothness", "conserve_mass"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smoothness": 0.0}, "smoothness is 0; it must be above 0"),
        ({"smoothness": math.nan}, "smoothness is nan; it must be above 0"),
        ({"steps": -1}, "steps is -1; it must be 0"),
        ({"regularity_points": 9}, "regularity_points is 9; it must be 10 or more"),
        ({"similarity_points": 9}, "similarity_points is 9; it must be 10 or more"),
        ({"inconsistency_weight": -1.0}, "weight of the regularizer must be 0 or more"),
        ({"prior": math.inf}, "weight of the regularizer must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(OPTIONS, **change)


def test_a_loss_that_is_not_finite_ends_the_work() -> None:
    fixed, moving, *_ = warped_head(2)
    with pytest.raises(RefinementError, match="loss became infinite or NaN"):
        refine_implicit(replace(fixed, values=fixed.values * math.nan), moving, OPTIONS, silent)


def test_the_reported_fractions_rise_to_one_and_the_report_can_stop_the_work() -> None:
    class Stopped(Exception):
        pass

    def stop(_: float) -> None:
        raise Stopped

    image = warped_head(2)[0]
    fractions: list[float] = []
    refine_implicit(image, image, replace(OPTIONS, steps=3), fractions.append)
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == pytest.approx(1.0)
    with pytest.raises(Stopped):
        refine_implicit(image, image, OPTIONS, stop)


@pytest.mark.slow
def test_a_volume_of_thin_slices_is_taken() -> None:
    shape = (8, 40, 40)
    grid = Grid(shape, np.diag([10.0, 2.0, 2.0, 1.0]))
    fixed, moving = (Prepared(blobs(shape, (4, row, 20), width_vox=5.0), grid) for row in (18, 21))
    moved = in_voxels(refine_implicit(fixed, moving, OPTIONS, silent).fields().moving_from_fixed)
    assert moved[:, 4, 18, 20].tolist() == pytest.approx([0.0, 3.0, 0.0], abs=1.0)
