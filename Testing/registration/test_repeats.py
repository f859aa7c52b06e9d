"""Repeats: the perturbation is undone exactly, and what is equivariant does not spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.errors import Cancelled, InputError, RefinementError
from RegistrationNetLib.geometry.space import Grid, grid_of
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.quality.evidence import Evidence, Seen, evidence_of
from RegistrationNetLib.quality.likeness import best_other_pose, score_as_they_lie
from RegistrationNetLib.quality.phantom import DemoPair, demo_pair
from RegistrationNetLib.registration import repeats as repeating
from RegistrationNetLib.registration.methods import method_of
from RegistrationNetLib.registration.perturbation import PerturbationOptions, random_perturbation
from RegistrationNetLib.registration.prepare import Prepared
from RegistrationNetLib.registration.repeats import lattice_mm
from Testing.small_network import install, narrow, random_weights, small_card

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {"align": ("centre",), "steps": 4}


def grid(shape: tuple[int, ...] = (20, 24, 22), spacing_mm: float = 5.0) -> Grid:
    dim = len(shape)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = spacing_mm * np.eye(dim)[::-1]
    matrix[:dim, dim] = [-50.0, 30.0, 12.0][:dim]
    return Grid(shape, matrix)


def pair() -> DemoPair:
    return demo_pair(3, shape=(22, 26, 22), spacing_mm=9.0)


@pytest.mark.parametrize("shape", [(20, 24, 22), (40, 48), (8, 9, 10)])
def test_a_perturbation_is_undone(shape) -> None:
    perturbation = random_perturbation(grid(shape), 0)
    points = lattice_mm(perturbation.grid)
    inner = points[(slice(None), slice(None), *(slice(2, -2),) * len(shape))]
    assert float((perturbation.moved_mm(inner) - inner).norm(dim=1).mean()) > 2.0
    back = perturbation.undone_mm(perturbation.moved_mm(inner))
    assert float((back - inner).norm(dim=1).max()) < 0.25


def test_a_perturbation_does_not_fold() -> None:
    field = random_perturbation(grid(), 1).field.on_lattice()
    assert all(float(torch.diff(field[:, axis], dim=1 + axis).min()) > 0 for axis in range(3))


def test_the_image_goes_with_the_points() -> None:
    perturbation = random_perturbation(grid(), 2, PerturbationOptions(degrees=2.0, shift=0.01))
    world = lattice_mm(perturbation.grid)
    ramp = Prepared(world[:, :1].float(), perturbation.grid)
    seen = perturbation.apply(ramp)
    inside = torch.ones_like(ramp.values, dtype=torch.bool) if seen.mask is None else seen.mask
    moved = perturbation.moved_mm(world)[:, :1]
    inside = inside & (moved > world[:, :1].min()) & (moved < world[:, :1].max())
    assert float((seen.values - moved)[inside].abs().max()) < 0.01


def test_the_same_seed_gives_the_same_perturbation_and_another_gives_another() -> None:
    one, same, other = (random_perturbation(grid(), seed) for seed in (0, 0, 1))
    assert torch.equal(one.field.displacement, same.field.displacement)
    assert not np.allclose(one.affine, other.affine)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_method_that_knows_the_truth_does_not_spread(dim, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the repeats' deformation left out and the alignment right, only the smooth part of the perturbation is left."""
    shape = (22, 26, 22) if dim == 3 else (60, 52)
    made = demo_pair(0, shape=shape, spacing_mm=9.0 if dim == 3 else 4.0)
    still = PerturbationOptions(displacement_vox=1e-6)
    monkeypatch.setattr(repeating, "random_perturbation", lambda grid, seed: random_perturbation(grid, seed, still))
    result = register(made.fixed, made.fixed, align=("centre",), steps=0, repeats=3)
    assert len(result.evidence.repeats_off_mm) == 3
    # The first finds its centre by itself, from an image that lost some of its border.
    assert max(result.evidence.repeats_off_mm[1:]) < 0.01


def test_more_repeats_are_made_when_asked_and_none_for_0() -> None:
    made = pair()
    none, three = (register(made.fixed, made.moving, **QUICK, repeats=count) for count in (0, 3))
    assert none.evidence.spread_vox is None
    assert "No repeat was made" in none.verdict.reason or none.verdict.colour != "green"
    assert len(three.evidence.repeats_off_mm) == three.evidence.repeats_asked == 3
    assert np.isfinite(sitk.GetArrayViewFromImage(none.error_mm)).all()


def test_fewer_than_0_repeats_are_refused() -> None:
    with pytest.raises(InputError, match="repeats is -1; it must be 0"):
        register(pair().fixed, pair().moving, repeats=-1)


def test_repeats_change_nothing_of_the_result() -> None:
    made = pair()
    none, some = (register(made.fixed, made.moving, **QUICK, repeats=count) for count in (0, 1))
    assert np.array_equal(*(sitk.GetArrayFromImage(one.warped) for one in (none, some)))


def test_a_repeat_that_fails_leaves_the_others_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    full, calls = repeating._once, []

    def once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RefinementError("The loss became infinite")
        return full(*arguments)

    monkeypatch.setattr(repeating, "_once", once)
    result = register(pair().fixed, pair().moving, **QUICK, repeats=2)
    assert len(result.evidence.repeats_off_mm) == 1
    assert "1 of 2 failed: The loss became infinite" in [mark.reason for mark in result.marks]
    assert any("The loss became infinite" in warning for warning in result.report()["warnings"])
    assert result.verdict.colour != "green"


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_repeat_that_finds_no_memory_is_no_failure_of_the_registration(failure, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(*_: Any) -> Any:
        raise failure

    monkeypatch.setattr(repeating, "_once", once)
    result = register(pair().fixed, pair().moving, **QUICK, repeats=1)
    assert result.evidence.repeats_off_mm == ()
    assert "memory" in result.evidence.repeat_failure


def test_an_error_of_our_own_is_not_hidden_by_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(*_: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(repeating, "_once", once)
    with pytest.raises(RuntimeError, match="shapes differ"):
        register(pair().fixed, pair().moving, **QUICK, repeats=1)


def test_repeats_can_be_cancelled() -> None:
    def stop(progress: Any) -> None:
        if progress.stage == "repeats":
            raise Cancelled

    with pytest.raises(Cancelled):
        register(pair().fixed, pair().moving, **QUICK, repeats=1, progress=stop)


def seen_of(monkeypatch: pytest.MonkeyPatch, moving: sitk.Image) -> Seen:
    """What the evidence about a registered pair is found from."""
    seen: list[Seen] = []

    def spy(one: Seen) -> Evidence:
        seen.append(one)
        return evidence_of(one)

    monkeypatch.setattr(repeating, "evidence_of", spy)
    register(pair().fixed, moving, **QUICK, repeats=0)
    return seen[0]


def test_another_pose_is_improved_before_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving is mirrored, and turned about an axis in which a head is not symmetric, so that its halves do not lie along the lattice."""
    original = pair().moving
    grid = grid_of(original)
    turn = sitk.Euler3DTransform()
    turn.SetCenter(grid.centre_mm.tolist())
    turn.SetRotation(0.0, 0.15, 0.1)
    mirror = np.flip(sitk.GetArrayFromImage(sitk.Resample(original, original, turn)), 2).copy()
    moving = sitk.GetImageFromArray(mirror)
    moving.CopyInformation(original)
    seen = seen_of(monkeypatch, moving)
    mask = seen.counted & seen.inside_aligned
    here, other = best_other_pose(seen.fixed, seen.aligned, mask)
    assert other.mirrored == (2,)
    world = seen.grid.world_from_voxel @ other.voxels(mask) @ np.linalg.inv(seen.grid.world_from_voxel)
    near = seen.near_pose(world)
    assert near is not None
    improved = score_as_they_lie(seen.fixed, near[0], mask, near[1])
    assert improved > other.score + 0.03
    found = evidence_of(seen)
    assert found.pose_doubt > (1 - here) / (1 - other.score)
    assert found.other_pose.mirrored == (2,)


def test_a_pose_that_leads_back_to_what_was_found_is_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_of(monkeypatch, pair().moving)
    assert seen.near_pose(np.eye(4)) is None
    nudge = np.eye(4)
    nudge[0, 3] = 8.0
    assert seen.near_pose(nudge) is None


def test_it_is_known_how_much_finer_the_work_was_than_that_of_the_repeats() -> None:
    made = demo_pair(3, shape=(50, 56, 50), spacing_mm=4.0)
    fineness = [
        register(made.fixed, made.moving, **QUICK, repeats=count, resolution=resolution).evidence.repeats_fineness
        for count, resolution in ((1, None), (0, None), (1, 8.0))
    ]
    # Repeats work on 40 voxels along the longest side, and no finer than the registration does.
    assert fineness == [pytest.approx(39 / 55, rel=0.05), 1.0, pytest.approx(1.0, rel=0.02)]


def test_what_moving_does_not_show_is_far_from_what_it_shows() -> None:
    made = pair()
    found = register(made.fixed, made.moving[:, :, :13], align=(), steps=2, repeats=0).evidence
    assert found.beyond_vox[2].max() == 0.0
    assert found.beyond_vox[-1].min() == pytest.approx(found.beyond_vox[-2].min() + 1, abs=0.2)
    assert found.beyond_vox[-1].max() < 14


@pytest.mark.parametrize("refine", ["none", "field"])
def test_a_network_is_asked_again_by_the_same_code(refine, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    narrow(monkeypatch)
    card = small_card()
    install(monkeypatch, card)
    weights = random_weights(card, tmp_path / "weights.trch")
    made = pair()
    result = register(
        made.fixed, made.moving, model="small", weights=weights, refine=refine, steps=None if refine == "none" else 2
    )
    assert len(result.evidence.repeats_off_mm) == result.evidence.repeats_asked == 1
    # On its own lattice, as the registration.
    assert result.evidence.repeats_fineness == pytest.approx(1.0)
    assert result.verdict.words in ("fits", "look closely", "does not fit")
    assert result.error_mm.GetSize() == made.fixed.GetSize()


def test_nephi_is_asked_again_by_the_same_code() -> None:
    made = pair()
    result = register(made.fixed, made.moving, model="nephi", align=("centre",), steps=2)
    assert len(result.evidence.repeats_off_mm) == 1


def test_a_network_works_on_its_lattice_and_direct_on_that_of_the_images() -> None:
    network, direct = (method_of(card_named(name)) for name in ("unigradicon", "direct"))
    assert [network.worked_side_vox(card_named("unigradicon"), side) for side in (60, 400)] == [60, 175]
    assert direct.worked_side_vox(card_named("direct"), 400) == 400
