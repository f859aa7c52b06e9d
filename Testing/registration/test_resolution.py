"""On which lattice the work is done."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from RegistrationNetLib import register
from RegistrationNetLib.errors import InputError, ResourceError
from RegistrationNetLib.geometry.space import grid_of
from RegistrationNetLib.registration import method
from RegistrationNetLib.registration import resolution as module
from RegistrationNetLib.registration import size as sizes
from RegistrationNetLib.registration.options import checked_options
from RegistrationNetLib.registration.resolution import Resolution, resolution_for, resolutions_for

from ..volumes import noise, pair_of
from .test_pipeline import field_grid, plain_case, plain_result

pytestmark = pytest.mark.usefixtures("one_thread", "registered_once")

FINE, THICK = (40, 60, 64), (12, 64, 64)


def chosen(model: str = "direct", **asked: Any) -> Resolution:
    """For a fixed image of 1.5, 2 and 2.5 mm, and a moving one of fewer layers."""
    return _by(resolution_for, model, **asked)


def all_chosen(model: str = "direct", **asked: Any) -> dict[str, Resolution]:
    return _by(resolutions_for, model, **asked)


def _by(function: Callable[..., Any], model: str, **asked: Any) -> Any:
    pair = pair_of(noise(FINE), noise(THICK, seed=1))
    options = checked_options(model, modalities=("ct", "ct"), device="cpu", **asked)
    return function(pair, (grid_of(pair.fixed), grid_of(pair.moving)), options)


def test_small_images_are_worked_on_as_they_are() -> None:
    found = chosen()
    assert (found.spacing_mm, found.size.fixed, found.size.moving, found.warnings) == (0.0, FINE, THICK, ())


@pytest.mark.parametrize("voxels", [20_000, 60_000])
def test_large_ones_are_worked_on_with_so_many_voxels(voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCKWISE_VOXELS", voxels)
    found = chosen()
    assert 0.8 * voxels < math.prod(found.size.fixed) <= voxels
    assert found.spacing_mm > 1.5
    assert found.size.image_voxels == math.prod(FINE)


def test_each_similarity_that_may_be_chosen_has_a_resolution_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKING_VOXELS", 20_000)
    found = all_chosen()
    assert set(found) == {"lncc", "mi", "mind"}
    assert found["lncc"].spacing_mm == 0
    assert found["mi"].spacing_mm == found["mind"].spacing_mm > 1.5
    for name, one in found.items():
        assert one.size.measure == name
        assert one.needed_mb == chosen(similarity=name).needed_mb


@pytest.mark.parametrize("asked", [{"similarity": "mind"}, {"conserve_mass": True}, {"refine": "none", "model": "unigradicon"}])
def test_only_images_that_are_compared_block_by_block_are_worked_on_with_many_voxels(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKING_VOXELS", 20_000)
    assert chosen().spacing_mm == 0
    assert chosen(**asked).spacing_mm > 1.5


def test_where_the_images_turn_out_to_differ_in_contrast_the_work_goes_on_at_the_resolution_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = plain_case(2)
    monkeypatch.setattr(module, "WORKING_VOXELS", case.fixed.GetNumberOfPixels() // 2)
    other = sitk.Cast(sitk.Abs(sitk.Cast(case.moving, sitk.sitkFloat32) - 100), sitk.sitkFloat32)
    plain, across = (register(case.fixed, one, repeats=0) for one in (case.moving, other))
    names = [one.facts["inputs"]["similarity"]["name"] for one in (plain, across)]
    assert names[0] == "lncc"
    assert names[1] in ("mi", "mind")
    assert plain.facts["resolution_mm"] == pytest.approx(case.fixed.GetSpacing())
    assert min(across.facts["resolution_mm"]) > 1.2 * min(case.fixed.GetSpacing())


def test_where_the_memory_is_short_the_lattice_is_coarser_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "COARSE_STAGES_MB", 0)  # more than the lattices of images as small as these take
    free_mb = chosen().needed_mb - 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_mb * 2**20))
    found = chosen()
    assert found.needed_mb <= free_mb
    assert found.size.fixed < FINE
    (told,) = found.warnings
    assert f"allows a resolution of {found.spacing_mm:.3g} mm only" in told


def test_the_inverse_counts_with_the_lattice_that_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chosen().size.inverse
    monkeypatch.setattr(sizes, "WHOLE_FIELD_VOXELS", 1000)
    assert math.prod(chosen().size.inverse) < 0.5 * math.prod(whole)


def test_what_cannot_be_done_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * 2**20))
    with pytest.raises(ResourceError, match=r"needs about .* GB on cpu; 0\.1 GB are free\. Crop the images"):
        chosen()
    with pytest.raises(ResourceError, match=r"Give a coarser resolution than 2 mm"):
        chosen(resolution=2.0)


@pytest.mark.parametrize("asked", [1.0, 20.0])
def test_a_resolution_finer_than_the_images_or_coarser_than_what_they_show_is_refused(asked: float) -> None:
    with pytest.raises(InputError, match=r"resolution must lie between .*: 1\.5 to 1\d\.\d mm\. It is \d+ mm\. Choose another"):
        chosen(resolution=asked)


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_coarser_resolution_costs_little_and_the_results_keep_that_of_fixed(dim: int) -> None:
    case = plain_case(dim)
    asked_mm = 1.5 * case.fixed.GetSpacing()[0]
    found = register(case.fixed, case.moving, resolution=asked_mm)
    assert found.facts["resolution_mm"] == pytest.approx([asked_mm] * dim, rel=0.1)
    assert field_grid(found.moving_from_fixed).spacing_mm[0] == pytest.approx(asked_mm, rel=0.1)
    assert case.error_mm(found.moving_from_fixed) < 1.6 * case.error_mm(plain_result(dim).moving_from_fixed)
    for image in (found.warped, found.jacobian, found.error_mm):
        assert image.IsSameImageGeometryAs(case.fixed)
    assert found.quality.inverse_consistency_mm.mean < 0.5


@pytest.mark.slow
def test_masks_labels_and_a_start_go_with_a_coarser_resolution(tmp_path: Path) -> None:
    case = plain_case(2)
    start = sitk.DisplacementFieldTransform(sitk.Cast(sitk.Compose(case.fixed * 0 + 5, case.fixed * 0), sitk.sitkVectorFloat64))
    for initial in (None, start):
        found = register(
            case.fixed, case.moving, resolution=9.0, fixed_mask=case.fixed_labels, fixed_labels=case.fixed_labels,
            moving_labels=case.moving_labels, initial=initial,
        )  # fmt: skip
        assert case.error_mm(found.moving_from_fixed) < 0.7 * case.error_before_mm
        assert found.quality.labels is not None
        assert found.quality.labels.mean.after > found.quality.labels.mean.before
    found.save(tmp_path / "out")


def test_points_just_outside_of_fixed_move_with_its_border() -> None:
    case, result = plain_case(2), plain_result(2)
    spacing = np.array(case.fixed.GetSpacing())
    for index in ([0, 12], [10, 0]):
        inside = np.array(case.fixed.TransformIndexToPhysicalPoint(index))
        outside = inside - np.where(np.array(index) == 0, spacing, 0.0)
        moves = [np.array(result.moving_from_fixed.TransformPoint(one.tolist())) - one for one in (inside, outside)]
        assert np.linalg.norm(moves[1] - moves[0]) < 0.6 * spacing[0]
    assert result.facts["margin_mm"] > 2
