"""NePhi in the pipeline: what comes out, what each option does, and where the fit begins when there are weights."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import Registration, register
from RegistrationNetLib.errors import Cancelled, InputError, WeightsError
from RegistrationNetLib.geometry.space import displacements_mm, grid_of
from RegistrationNetLib.io.landmarks import mapped
from RegistrationNetLib.models.catalogue import Card, card_named
from RegistrationNetLib.models.nephi import NePhi
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.registration import size as sizes
from RegistrationNetLib.registration.aligned_pair import on_coarser
from RegistrationNetLib.registration.nephi import NePhi as Method
from RegistrationNetLib.registration.prepare import Prepared

from ..models.layers.published import randomize
from ..small_network import install
from .test_field_refinement import blobs, plain_grid
from .test_pipeline import RESULTS, plain_case

pytestmark = pytest.mark.usefixtures("one_thread", "registered_once")

SHAPE = (64, 64)


@lru_cache
def result(**asked: Any) -> Registration:
    one = plain_case(2)
    return register(one.fixed, one.moving, model="nephi", **{"align": ("centre",), "steps": 3, **asked})


def field_of(one: Registration) -> np.ndarray:
    """The displacements at the voxels of fixed, around which the field's margin differs."""
    return displacements_mm(one.moving_from_fixed.GetBackTransform(), grid_of(one.fixed))


# what comes out


def test_a_known_warp_is_recovered_without_folding_and_can_be_undone() -> None:
    one = plain_case(2)
    found = register(
        one.fixed, one.moving, model="nephi", steps=30, fixed_labels=one.fixed_labels, moving_labels=one.moving_labels
    )
    assert one.error_mm(found.moving_from_fixed) < one.error_before_mm / 3
    report = found.report()
    assert report["jacobian"]["folded_percent"] == 0
    assert report["inverse_consistency_mm"]["mean"] < 0.3
    assert report["similarity"]["after"] > report["similarity"]["before"]
    assert report["labels"]["mean_dice"]["after"] > report["labels"]["mean_dice"]["before"]
    assert (report["model"], report["refine"]) == ("nephi", "network")
    assert (report["steps_done"], report["inputs"]["steps"]) == (60, 30)
    assert report["delivered_spacing_mm"] == pytest.approx([6.0, 6.0])


def test_everything_is_written(tmp_path: Path) -> None:
    result().save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= RESULTS
    assert json.loads((tmp_path / "out" / "report.json").read_text())["model"] == "nephi"


@pytest.mark.slow
def test_a_volume_is_registered_too() -> None:
    one = plain_case(3)
    found = register(one.fixed, one.moving, model="nephi", align=("centre",), steps=8)
    assert one.error_mm(found.moving_from_fixed) < one.error_before_mm


def test_without_refinement_the_alignment_is_all() -> None:
    found = result(refine="none")
    assert float(np.abs(field_of(found)).max()) < 1e-4
    assert found.report()["inputs"]["steps"] == found.report()["steps_done"] == 0


OPTIONS: list[dict[str, Any]] = [
    {"steps": 4},
    {"similarity": "ncc"},
    {"similarity": "mind"},
    {"smoothness": 20.0},
    {"seed": 1},
    {"align": ("centre", "rigid")},
]


@pytest.mark.parametrize("asked", OPTIONS, ids=lambda asked: next(iter(asked)))
def test_every_option_changes_the_map(asked: dict[str, Any]) -> None:
    assert not np.allclose(field_of(result(**asked)), field_of(result()), rtol=1e-6, atol=0)


def test_the_same_seed_gives_the_same_map() -> None:
    assert np.array_equal(field_of(result.__wrapped__()), field_of(result()))


@pytest.mark.slow
def test_the_initial_transform_and_the_masks_are_heard() -> None:
    one = plain_case(2)
    shift = sitk.TranslationTransform(2, (25.0, 0.0))
    half = sitk.Cast(one.fixed * 0, sitk.sitkUInt8)
    half[: half.GetSize()[0] // 2, :] = 1
    for asked in ({"initial": shift, "align": ()}, {"fixed_mask": half}, {"moving_mask": half}):
        found = register(one.fixed, one.moving, **{"model": "nephi", "align": ("centre",), "steps": 3, **asked})
        assert not np.allclose(field_of(found), field_of(result()), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_it_says_how_far_it_is_and_can_be_stopped_in_every_stage() -> None:
    one, heard = plain_case(2), list[Progress]()
    register(one.fixed, one.moving, model="nephi", steps=2, progress=heard.append)
    fractions = [each.fraction for each in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)

    refining = [each.fraction for each in heard if each.stage == "refine"]

    def stop(progress: Progress) -> None:
        if progress.stage == "refine" and progress.fraction > refining[len(refining) // 2]:
            raise Cancelled

    with pytest.raises(Cancelled):
        register(one.fixed, one.moving, model="nephi", steps=2, progress=stop)


def test_landmarks_pull_what_was_fitted() -> None:
    one = plain_case(2)
    places = grid_of(one.fixed).centre_mm + np.array([[10.0, 5.0], [-12.0, 8.0], [3.0, -14.0]])
    partners = mapped(places, result().moving_from_fixed) + np.array([12.0, 6.0])
    found = register(
        one.fixed, one.moving, model="nephi", align=("centre",), steps=3, fixed_landmarks=places, moving_landmarks=partners,
        landmarks="pull",
    )  # fmt: skip
    assert found.quality.landmarks is not None
    for point in found.quality.landmarks.points:
        assert point.after < 2.0 < 10.0 < (point.unpulled or 0.0)  # the images do not want to go
    assert found.quality.jacobian.folded_percent == 0
    assert found.quality.inverse_consistency_mm.mean < 0.3


def test_the_field_is_not_its_to_refine() -> None:
    with pytest.raises(InputError, match="nephi has no field to refine; its refinements are none, network"):
        result(refine="field")


# large images


def test_a_large_image_is_judged_on_half_of_its_lattice_in_the_same_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "WHOLE_FIELD_VOXELS", 10_000)
    shape = (512, 40)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 20:] = True
    image = Prepared(blobs(shape, (200, 20), width_vox=30.0), plain_grid(shape), mask)
    small = on_coarser(image, Method().judged_shape(shape))
    assert small.grid.shape == (257, 21)
    np.testing.assert_allclose(small.grid.world_from_unit, image.grid.world_from_unit)
    assert small.mask is not None
    assert not bool(small.mask[..., :10].any())
    assert bool(small.mask[..., 11:].all())
    assert float(small.values.max()) == pytest.approx(1, abs=0.02)
    assert on_coarser(small, Method().judged_shape(small.grid.shape)) is small


# weights


def small_nephi(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...] = SHAPE) -> Card:
    """The card with an encoder for small images."""
    card = replace(card_named("nephi"), name="small", parameters={"encoder_shape": list(shape)})
    install(monkeypatch, card)
    return card


def checkpoint(file: Path, *, shift: float = 0.0, **changes: Any) -> Path:
    """As the published training writes it; its map moves every point by about `shift` of the cube."""
    network = NePhi(SHAPE)
    randomize(network)
    for one, sign in ((network.phi, 1), (network.phi_inv, -1)):
        torch.nn.init.zeros_(one.synthesis_nw.final_layer.weight)
        torch.nn.init.constant_(one.synthesis_nw.final_layer.bias, 2 * sign * shift)
    parts = {name: getattr(network, name).state_dict() for name in ("encoder", "phi", "phi_inv")}
    torch.save({**parts, "epochs": 3, **changes}, file)
    return file


@pytest.mark.parametrize("align", [(), ("centre",)])
def test_the_fit_begins_at_what_the_encoder_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, align: tuple[str, ...]
) -> None:
    small_nephi(monkeypatch)
    one = plain_case(2)
    asked: dict[str, Any] = {"model": "small", "weights": checkpoint(tmp_path / "net", shift=0.02), "align": align}
    predicted = register(one.fixed, one.moving, refine="none", **asked)
    grid = predicted.fixed
    shift_mm = 0.02 * np.array(
        [(size - 1) * step for size, step in zip(SHAPE, np.array(grid.GetSize()) * 6.0 / SHAPE, strict=True)]
    )
    field = field_of(predicted).reshape(*grid.GetSize()[::-1], 2)
    np.testing.assert_allclose(field, np.broadcast_to(shift_mm, field.shape), rtol=1e-3)
    refined = register(one.fixed, one.moving, steps=3, **asked)
    assert refined.report()["steps_done"] == 6
    moved = np.abs(field_of(refined) - field_of(predicted))
    assert float(moved.max()) > 0.1
    assert float(moved.mean()) < 2
    assert np.array_equal(field_of(register(one.fixed, one.moving, refine="none", **asked)), field_of(predicted))


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_nephi(monkeypatch)
    one = plain_case(2)
    wider = {name: torch.zeros(3, 5) for name in ("of_pair", "local")}
    for changes, message in (
        ({"phi": wider}, "does not fit small: .*without phi"),
        ({"epochs": 3, "more": {}}, "must hold tensors by name; under 'encoder' it holds a dict"),
    ):
        file = checkpoint(tmp_path / "net", **changes)
        with pytest.raises(WeightsError, match=message):
            register(one.fixed, one.moving, model="small", weights=file)


def test_images_of_other_dimensions_than_the_encoders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_nephi(monkeypatch)
    volume = plain_case(3)
    with pytest.raises(InputError, match="takes images of 2 dimensions; got 3"):
        register(volume.fixed, volume.moving, model="small", weights=checkpoint(tmp_path / "net"), align=("centre",))
