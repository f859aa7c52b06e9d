"""The pipeline with a network: against the published package, in every orientation, with every option."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from RegistrationNetLib import register
from RegistrationNetLib.errors import Cancelled, InputError, ResourceError, WeightsError
from RegistrationNetLib.geometry import space
from RegistrationNetLib.geometry.space import affine_matrix
from RegistrationNetLib.interop import itk_from_simpleitk
from RegistrationNetLib.models.catalogue import Card
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration import correction, network_methods
from RegistrationNetLib.registration.pipeline import Registration

from ..small_network import install, narrow, random_network, random_weights, small_card

pytestmark = pytest.mark.usefixtures("one_thread", "registered_once")

Points = NDArray[np.floating]
FLAT = (64, 72)
MR: dict[str, Any] = {"fixed_modality": "mr", "moving_modality": "mr"}


@pytest.fixture(scope="module")
def flat_card() -> Card:
    return small_card(shape=FLAT)


@pytest.fixture(scope="module")
def weights(flat_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file for the two-dimensional network."""
    file = random_weights(flat_card, tmp_path_factory.mktemp("weights") / "flat.trch", displacement=0.001)
    yield file
    file.unlink()


@pytest.fixture(scope="module", autouse=True)
def narrowed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        yield


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, flat_card: Card) -> None:
    install(monkeypatch, flat_card)


def slice_of(seed: int, *, degrees: float = 0.0, shape: tuple[int, int] = (50, 40)) -> sitk.Image:
    """A head seen in a slice of its own geometry."""
    image = head_phantom(shape, [4.0, 5.0], seed).image
    turn = sitk.Euler2DTransform((0.0, 0.0), np.deg2rad(degrees))
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin([20.0 * seed, -30.0])
    return image


def pair() -> tuple[sitk.Image, sitk.Image]:
    return slice_of(0), slice_of(1, degrees=5.0, shape=(44, 52))


def disc(image: sitk.Image, radius: float = 0.3, value: int = 1) -> sitk.Image:
    index = np.indices(image.GetSize()[::-1])
    centred = [(part + 0.5) / size - 0.5 for part, size in zip(index, image.GetSize()[::-1], strict=True)]
    mask = sitk.GetImageFromArray((value * (np.hypot(*centred) < radius)).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def points_in(image: sitk.Image, count: int = 300) -> Points:
    """Anywhere between the first and the last voxel, in mm."""
    random = np.random.default_rng(0)
    index = random.random((count, image.GetDimension())) * (np.array(image.GetSize()) - 1)
    return np.array([image.TransformContinuousIndexToPhysicalPoint(one.tolist()) for one in index])


def mapped(transform: Any, points: Points) -> Points:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def predicted(weights: Path, **given: Any) -> Registration:
    fixed, moving = pair()
    return register(fixed, moving, **{"model": "small", "weights": weights, "refine": "none", **MR, **given})


# against the published package


def volume(seed: int, shape: tuple[int, ...], spacing: list[float], turn: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(seed).random(shape).astype(np.float32))
    image = sitk.SmoothingRecursiveGaussian(image, [2.0, 2.0, 2.0])
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(*turn)
    image.SetSpacing(spacing)
    image.SetOrigin([10.0 * seed, -40.0, 5.0 + seed])
    image.SetDirection(rotation.GetMatrix())
    return image


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:WrapITK warning:DeprecationWarning")  # the published package calls ITK by old names
def test_the_transform_is_that_of_register_pair_on_oblique_unequal_grids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    narrow(monkeypatch, by=1)
    unigradicon = pytest.importorskip("unigradicon")
    from icon_registration import itk_wrapper

    shape = (66, 70, 65)
    card = small_card(shape=shape)
    install(monkeypatch, card)
    network = random_network(card, displacement=0.004)
    torch.save(network.state_dict(), tmp_path / "weights.trch")
    oracle = unigradicon.make_network([1, 1, *shape], include_last_step=True).eval()
    oracle.regis_net.load_state_dict(network.state_dict())
    fixed = volume(1, (31, 45, 38), [1.7, 1.2, 2.9], (0.1, 0.2, -0.1))
    moving = volume(2, (52, 30, 41), [1.1, 2.1, 1.9], (-0.15, 0.05, 0.2))
    in_itk = [unigradicon.preprocess(itk_from_simpleitk(image), "mri") for image in (moving, fixed)]
    expected, _ = itk_wrapper.register_pair(oracle, *in_itk)
    found = register(fixed, moving, model="small", weights=tmp_path / "weights.trch", refine="none", **MR)
    points = points_in(fixed)
    distance_mm = np.linalg.norm(mapped(found.moving_from_fixed, points) - mapped(expected, points), axis=1)
    moved_mm = np.linalg.norm(mapped(expected, points) - points, axis=1)
    assert moved_mm.mean() > 10
    assert distance_mm.max() < 0.01


# orientation


@pytest.mark.parametrize("mirror", [(True, False), (False, True), (True, True)])
def test_moving_stored_in_other_axes_gives_the_same_transform(weights: Path, mirror: tuple[bool, bool]) -> None:
    fixed, moving = pair()
    stored = sitk.PermuteAxes(sitk.Flip(moving, mirror), [1, 0])
    plain, other = (register(fixed, one, model="small", weights=weights, refine="none", **MR) for one in (moving, stored))
    points = points_in(fixed)
    np.testing.assert_allclose(mapped(plain.moving_from_fixed, points), mapped(other.moving_from_fixed, points), atol=1e-3)


# what comes out


def test_the_inverse_undoes_the_transform(weights: Path) -> None:
    result = predicted(weights)
    assert result.quality.jacobian.folded_percent == 0
    assert result.quality.inverse_consistency_mm.p95 < 0.2 * min(result.quality.voxel_mm)


def test_the_alignment_is_the_affine_part_and_the_field_what_is_left(weights: Path) -> None:
    result = predicted(weights)
    points = points_in(result.fixed)
    affine, whole = (mapped(one, points) for one in (result.alignment, result.moving_from_fixed))
    left = np.linalg.norm(affine - whole, axis=1)
    assert 0 < left.mean() < 0.05 * np.linalg.norm(whole - points, axis=1).mean()


@pytest.mark.parametrize("refine", ["none", "field", "network"])
def test_the_report_tells_what_was_done(weights: Path, refine: str, tmp_path: Path) -> None:
    result = predicted(weights, refine=refine, steps=2)
    result.save(tmp_path / "out")
    report = result.report()
    assert (report["model"], report["refine"]) == ("small", refine)
    assert report["inputs"]["steps"] == (0 if refine == "none" else 2)
    assert report["seconds"]["network"] > 0
    assert ("steps_done" in report) == (refine == "network")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "error_mm.nii.gz", "report.json", "report.html"]
    )


def test_refining_the_field_makes_the_pair_more_alike_than_the_network_left_it(weights: Path) -> None:
    before, after = predicted(weights), predicted(weights, refine="field")
    assert after.quality.similarity.after > before.quality.similarity.after + 0.1
    assert after.quality.jacobian.folded_percent == 0


# options


OPTIONS: dict[str, dict[str, Any]] = {
    "refine": {"refine": "network", "steps": 2},
    "align": {"align": ("centre",)},
    "initial": {"initial": sitk.Euler2DTransform((0.0, 0.0), 0.1)},
    "fixed_modality": {"fixed_modality": "ct"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_option_changes_the_transform(weights: Path, option: str) -> None:
    points = points_in(pair()[0])
    plain, other = predicted(weights), predicted(weights, **OPTIONS[option])
    assert not np.allclose(mapped(plain.moving_from_fixed, points), mapped(other.moving_from_fixed, points), atol=1e-3)


def refined(weights: Path, **given: Any) -> Points:
    """The mapped points after a step or two of the network's refinement."""
    return mapped(predicted(weights, **{"refine": "network", "steps": 2, **given}).moving_from_fixed, points_in(pair()[0]))


@pytest.fixture(scope="module")
def refined_plainly(flat_card: Card, weights: Path) -> Points:
    """The mapped points without any option."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, flat_card)
        return refined(weights)


REFINED: dict[str, dict[str, Any]] = {
    "steps": {"steps": 1},
    "similarity": {"similarity": "ssd"},
    "smoothness": {"smoothness": 100.0},
    "seed": {"seed": 3},
    "fixed_mask": {"fixed_mask": disc(pair()[0], 0.1)},
    "labels": {"fixed_labels": disc(pair()[0]), "moving_labels": disc(pair()[1], 0.2)},
}


@pytest.mark.parametrize("option", REFINED)
def test_the_option_changes_the_refined_network(weights: Path, refined_plainly: Points, option: str) -> None:
    assert not np.allclose(refined_plainly, refined(weights, **REFINED[option]), atol=1e-5)


@pytest.mark.parametrize("refine", ["field", "network"])
def test_conserving_mass_changes_the_refined_transform_of_two_ct(weights: Path, refine: str) -> None:
    points = points_in(pair()[0])
    fixed, moving = (sitk.Cast(20 * image - 1000, sitk.sitkFloat32) for image in pair())
    ct = {"fixed_modality": "ct", "moving_modality": "ct"}
    plain, conserving = (
        register(fixed, moving, model="small", weights=weights, refine=refine, steps=2, conserve_mass=conserves, **ct)
        for conserves in (False, True)
    )
    assert not np.allclose(mapped(plain.moving_from_fixed, points), mapped(conserving.moving_from_fixed, points), atol=1e-5)


def test_the_same_call_gives_the_same_transform(weights: Path, refined_plainly: Points) -> None:
    np.testing.assert_array_equal(refined_plainly, refined(weights))


def test_an_initial_transform_shows_moving_through_itself(weights: Path) -> None:
    """A network that sees the same image twice from one place gives what it gives for the pair (A, A)."""
    fixed, _ = pair()
    turned = sitk.Euler2DTransform((10.0, 5.0), 0.2)
    moving = sitk.Image(fixed)
    # The same image, carried elsewhere in the world.
    matrix = np.array(turned.GetMatrix()).reshape(2, 2)
    moving.SetDirection((matrix @ np.array(fixed.GetDirection()).reshape(2, 2)).flatten().tolist())
    moving.SetOrigin(turned.TransformPoint(fixed.GetOrigin()))
    still = register(fixed, fixed, model="small", weights=weights, refine="none", **MR)
    found = register(fixed, moving, model="small", weights=weights, refine="none", initial=turned, **MR)
    points = points_in(fixed)
    expected = mapped(turned, mapped(still.moving_from_fixed, points))
    assert np.linalg.norm(mapped(found.moving_from_fixed, points) - expected, axis=1).max() < 0.2


# cards that ask for more


def test_a_required_mask_is_asked_for_and_zeroes_the_image(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    card = small_card(shape=FLAT, prepare={"mask": "required"})
    install(monkeypatch, card)
    fixed, moving = pair()
    given: dict[str, Any] = {"model": "small", "weights": weights, "refine": "none", **MR}
    with pytest.raises(InputError, match="fixed has no mask; this model needs masks of both images"):
        register(fixed, moving, **given)
    masks = {"fixed_mask": disc(fixed), "moving_mask": disc(moving)}
    masked = register(fixed, moving, **given, **masks)
    install(monkeypatch, small_card(shape=FLAT))
    cut = [sitk.Mask(image, disc(image)) for image in (fixed, moving)]
    # Windows are found before the mask cuts: the same voxels, where they hold the extremes.
    points = points_in(fixed)
    unmasked = register(fixed, moving, **given)
    assert not np.allclose(mapped(masked.moving_from_fixed, points), mapped(unmasked.moving_from_fixed, points), atol=1e-3)
    same = register(*cut, **given)
    assert np.abs(mapped(masked.moving_from_fixed, points) - mapped(same.moving_from_fixed, points)).max() < 1.0


def test_a_modality_that_the_card_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    install(monkeypatch, small_card(shape=FLAT, prepare={"intensity": {"ct": {"window": [-1000, 0]}}}))
    with pytest.raises(InputError, match="fixed has the modality 'mr'; this model takes ct"):
        predicted(weights)


def test_a_mirrored_pair_gives_the_mirror_image_of_the_transform(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """Two right knees, mirrored for the network, move as the mirror images of two left ones."""
    install(monkeypatch, small_card(shape=FLAT, prepare={"mirror_axis": 1}))
    left = [slice_of(seed) for seed in (0, 1)]
    for image in left:
        image.SetOrigin([0.0, 0.0])
    right = []
    for image in left:
        array = sitk.GetArrayFromImage(image)[:, ::-1]
        other = sitk.GetImageFromArray(np.ascontiguousarray(array))
        other.CopyInformation(image)
        right.append(other)
    given: dict[str, Any] = {"model": "small", "weights": weights, "refine": "none", **MR}
    one, other = register(*left, **given), register(*right, mirrored=True, **given)
    points = points_in(left[0])
    width = (left[0].GetSize()[0] - 1) * left[0].GetSpacing()[0]
    flip = np.array([-1.0, 1.0])
    expected = mapped(one.moving_from_fixed, points) * flip + [width, 0]
    np.testing.assert_allclose(mapped(other.moving_from_fixed, points * flip + [width, 0]), expected, atol=1e-3)
    plain = register(*right, **given)
    assert np.abs(mapped(plain.moving_from_fixed, points * flip + [width, 0]) - expected).max() > 0.1


# what goes wrong


def test_missing_weights_say_which_file_to_import_and_from_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"https://.*models import unigradicon FILE"):
        register(*pair(), model="unigradicon", **MR)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="does not fit small"):
        predicted(tmp_path / "other.pt")


def test_a_volume_is_refused_by_a_network_of_slices(weights: Path) -> None:
    head = head_phantom((16, 16, 16), [10.0] * 3, 0).image
    with pytest.raises(InputError, match="takes images of 2 dimensions; got 3"):
        register(head, head, model="small", weights=weights, **MR)


@pytest.mark.parametrize("refine", ["none", "field", "network"])
@pytest.mark.parametrize("stage", ["network", "refine"])
def test_a_callback_stops_the_work(weights: Path, refine: str, stage: str) -> None:
    heard = []

    def cancel(progress: Progress) -> None:
        heard.append(progress.stage)
        if progress.stage == stage and progress.fraction > 0:
            raise Cancelled

    if refine == "none" and stage == "refine":
        pytest.skip("nothing is refined")
    with pytest.raises(Cancelled):
        predicted(weights, refine=refine, steps=2, progress=cancel)
    assert heard[-1] == stage


def test_the_network_reports_while_it_works(weights: Path) -> None:
    fractions = []

    def hear(progress: Progress) -> None:
        if progress.stage == "network":
            fractions.append(progress.fraction)

    predicted(weights, progress=hear)
    assert len(set(fractions)) > 10
    assert fractions == sorted(fractions)


def test_the_memory_of_the_network_counts_before_the_start(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.setattr(network_methods, "NETWORK_BASE_MB", 10**9)
    with pytest.raises(ResourceError, match="needs about .* GB on cpu"):
        predicted(weights)


@pytest.mark.parametrize("refine", ["none", "field", "network"])
def test_landmarks_pull_what_a_network_found(monkeypatch: pytest.MonkeyPatch, weights: Path, refine: str) -> None:
    result = pulled(monkeypatch, {"model": "small", "weights": weights, "refine": refine, **MR})
    assert result.quality.inverse_consistency_mm.p95 < 0.2 * min(result.quality.voxel_mm)


def pulled(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> Registration:
    """The pair, pulled by three landmarks that a network's result misses by 13 mm: met, without folds, and known from each other."""
    monkeypatch.setattr(correction, "STEPS", 6)
    given |= {"steps": None if given["refine"] == "none" else 1}
    fixed, moving = pair()
    places = space.grid_of(fixed).centre_mm + np.array([[10.0, 5.0], [-12.0, 8.0], [3.0, -14.0]])
    partners = mapped(register(fixed, moving, **given).moving_from_fixed, places) + np.array([12.0, 6.0])
    result = register(fixed, moving, fixed_landmarks=places, moving_landmarks=partners, landmarks="pull", **given)
    assert result.quality.landmarks is not None
    for point in result.quality.landmarks.points:
        assert point.unpulled == pytest.approx(13.4, abs=1.0)
        assert point.after < 1.0
        assert point.left_out is not None
        assert point.left_out < 10
    assert result.quality.jacobian.folded_percent == 0
    return result


# inverse by construction


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Card, Path]]:
    """A network whose maps are inverse to each other by construction, and its weights."""
    card = replace(small_card("constricon", shape=FLAT), name="exact")
    file = random_weights(card, tmp_path_factory.mktemp("weights") / "exact.trch", displacement=0.003)
    yield card, file
    file.unlink()


def test_the_inverse_of_constricon_is_its_map_for_the_reversed_pair(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[Card, Path]
) -> None:
    card, file = exact
    install(monkeypatch, card)
    monkeypatch.setattr(space, "invert", lambda *_, **__: pytest.fail("nothing is to be inverted numerically"))
    fixed, moving = pair()
    given: dict[str, Any] = {"model": "exact", "weights": file, "refine": "none", **MR}
    there, back = register(fixed, moving, **given), register(moving, fixed, **given)
    points = points_in(moving)
    np.testing.assert_allclose(mapped(there.fixed_from_moving, points), mapped(back.moving_from_fixed, points), atol=1.0)
    assert there.quality.inverse_consistency_mm.p95 < 0.1 * min(there.quality.voxel_mm)


@pytest.mark.parametrize(("refine", "steps"), [("field", 8), ("network", 3)])
def test_refined_maps_of_constricon_are_still_inverse_by_construction(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[Card, Path], refine: str, steps: int
) -> None:
    card, file = exact
    install(monkeypatch, card)
    monkeypatch.setattr(space, "invert", lambda *_, **__: pytest.fail("nothing is to be inverted numerically"))
    fixed, moving = pair()
    given: dict[str, Any] = {"model": "exact", "weights": file, **MR}
    bare = register(fixed, moving, refine="none", **given)
    there, back = (register(*images, refine=refine, steps=steps, **given) for images in ((fixed, moving), (moving, fixed)))
    points = points_in(moving)
    moved = mapped(there.fixed_from_moving, points) - mapped(bare.fixed_from_moving, points)
    assert np.linalg.norm(moved, axis=1).max() > 0.3
    assert there.quality.similarity.after > bare.quality.similarity.after
    assert there.quality.inverse_consistency_mm.p95 < 0.1 * min(there.quality.voxel_mm)
    np.testing.assert_allclose(mapped(there.fixed_from_moving, points), mapped(back.moving_from_fixed, points), atol=1.0)


@pytest.mark.parametrize("refine", ["none", "field", "network"])
def test_pulled_by_landmarks_constricon_is_still_inverse_by_construction(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[Card, Path], refine: str
) -> None:
    card, file = exact
    install(monkeypatch, card)
    monkeypatch.setattr(space, "invert", lambda *_, **__: pytest.fail("nothing is to be inverted numerically"))
    result = pulled(monkeypatch, {"model": "exact", "weights": file, "refine": refine, **MR})
    assert result.quality.inverse_consistency_mm.p95 < 0.1 * min(result.quality.voxel_mm)


@pytest.mark.parametrize(("refine", "steps"), [("none", None), ("field", 2)])
def test_the_affine_parts_of_constricon_are_those_of_its_construction(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[Card, Path], refine: str, steps: int | None
) -> None:
    """So they are inverse to each other for exchanged images, which parts of least squares are not."""
    card, file = exact
    install(monkeypatch, card)
    given: dict[str, Any] = {"model": "exact", "weights": file, "refine": refine, "steps": steps, **MR}
    there, back = (register(*images, **given).alignment for images in (pair(), pair()[::-1]))
    product = affine_matrix(there) @ affine_matrix(back)
    np.testing.assert_allclose(product, np.eye(3), atol=1e-3)
    assert abs(affine_matrix(there) - np.eye(3)).max() > 0.01


def test_velocities_that_are_not_resolved_are_refused(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[Card, Path], tmp_path: Path
) -> None:
    card, _ = exact
    install(monkeypatch, card)
    wild = random_weights(card, tmp_path / "wild.trch", displacement=0.5)
    with pytest.raises(InputError, match="squarings|lattice"):
        register(*pair(), model="exact", weights=wild, refine="none", **MR)
