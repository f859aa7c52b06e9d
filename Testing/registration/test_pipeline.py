"""The pipeline: what it finds, what it gives back, what each option does, and what it leaves alone."""

from __future__ import annotations

import inspect
import json
import math
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from RegistrationNetLib import Registration, register
from RegistrationNetLib.errors import Cancelled, GeometryError, InputError, OutputError, ResourceError
from RegistrationNetLib.geometry.space import Grid, affine_matrix, displacements_mm, grid_of, image_on
from RegistrationNetLib.interop import itk_from_simpleitk
from RegistrationNetLib.io.warping import warp_image
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.quality.known_warp import KnownMap, WarpOptions, error_mm, random_map
from RegistrationNetLib.quality.phantom import Head, head_phantom
from RegistrationNetLib.registration import pipeline as registration

from ..strategies import directions, rotation

Matrix = NDArray[np.floating]

pytestmark = pytest.mark.usefixtures("one_thread", "registered_once")

RESULTS = {"transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "error_mm.nii.gz", "report.json", "report.html"}
QUICK: dict[str, Any] = {"align": ("centre",), "steps": 3}
HEAD_SHAPES = {2: (120, 100), 3: (52, 60, 50)}
HEAD_MM = {2: 2.0, 3: 4.0}


class Case(NamedTuple):
    """A pair with the truth about it."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    known: KnownMap

    def error_mm(self, transform: sitk.Transform) -> float:
        return error_mm(transform, self.known, self.fixed_labels).mean

    @property
    def error_before_mm(self) -> float:
        return self.error_mm(sitk.Transform(self.fixed.GetDimension(), sitk.sitkIdentity))


@lru_cache
def head(dim: int) -> Head:
    return head_phantom(HEAD_SHAPES[dim], [HEAD_MM[dim]] * dim, 0)


@lru_cache
def known_map(dim: int) -> KnownMap:
    warp = WarpOptions(4.0, 8.0, displacement_mm=9.0, correlation_mm=30.0, lattice_mm=HEAD_MM[dim])
    return random_map(grid_of(head(dim).image), 3, warp)


def grid_over_head(spacing_mm: tuple[float, ...], direction: Matrix | None = None) -> Grid:
    """A lattice around the head, its axes (in array order) along the columns of `direction`."""
    dim = len(spacing_mm)
    direction = np.eye(dim)[::-1] if direction is None else direction
    extent = np.array(head(dim).image.GetSize()) * HEAD_MM[dim]
    shape = tuple(math.ceil(length / step) for length, step in zip(abs(direction).T @ extent, spacing_mm, strict=True))
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = direction * np.array(spacing_mm)
    matrix[:dim, dim] = -matrix[:dim, :dim] @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, matrix)


def case_on(fixed: Grid, moving: Grid) -> Case:
    """The head on the grid of fixed, and warped by the known map on that of moving."""
    known = known_map(fixed.dim)
    still = sitk.Transform(fixed.dim, sitk.sitkIdentity)

    def seen(grid: Grid, transform: sitk.Transform) -> tuple[sitk.Image, sitk.Image]:
        like = image_on(grid, np.zeros(grid.shape, dtype=np.uint8))
        image = head(grid.dim).image
        for axis, step in enumerate(image.GetSpacing()):
            wide = float(np.mean(grid.spacing_mm))
            if wide > step:
                image = sitk.RecursiveGaussian(image, 0.5 * math.sqrt(wide**2 - step**2) + 0.1, False, 0, axis)
        return (
            sitk.Resample(image, like, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32),
            sitk.Resample(head(grid.dim).labels, like, transform, sitk.sitkNearestNeighbor, 0.0),
        )

    fixed_image, fixed_labels = seen(fixed, still)
    moving_image, moving_labels = seen(moving, known.fixed_from_moving)
    return Case(fixed_image, moving_image, fixed_labels, moving_labels, known)


@lru_cache
def plain_case(dim: int = 2) -> Case:
    grid = grid_over_head((6.0,) * dim if dim == 2 else (9.0,) * dim)
    return case_on(grid, grid)


@lru_cache
def plain_result(dim: int = 2) -> Registration:
    """A whole registration with labels and landmarks, for those who look at what it gives."""
    case = plain_case(dim)
    points = landmarks(dim)
    return register(
        case.fixed,
        case.moving,
        fixed_labels=case.fixed_labels,
        moving_labels=case.moving_labels,
        fixed_landmarks=points,
        moving_landmarks=[case.known.moving_from_fixed.TransformPoint(point) for point in points.tolist()],
    )


def landmarks(dim: int) -> Matrix:
    return np.random.default_rng(0).uniform(-40, 40, (9, dim))


@lru_cache
def quick_result() -> Registration:
    return register(plain_case().fixed, plain_case().moving, **QUICK)


def voxels(image: sitk.Image) -> NDArray[np.generic]:
    return sitk.GetArrayFromImage(image)


def state(image: sitk.Image) -> tuple[object, ...]:
    geometry = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID()
    return (*geometry, voxels(image).tobytes())


def mapped(transform: sitk.Transform, points: Matrix) -> Matrix:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def field_of(result: Registration) -> NDArray[np.generic]:
    """The displacements, at the voxels of fixed, of the field of `moving_from_fixed`, which acts first and was added last."""
    last = result.moving_from_fixed.GetNumberOfTransforms() - 1
    return displacements_mm(result.moving_from_fixed.GetNthTransform(last), grid_of(result.fixed))


def field_grid(transform: sitk.Transform) -> Grid:
    """The lattice of the field of a transform."""
    return grid_of(sitk.DisplacementFieldTransform(transform.GetNthTransform(1)).GetDisplacementField())


def correlation(one: sitk.Image, other: sitk.Image) -> float:
    return float(np.corrcoef(voxels(one).ravel(), voxels(other).ravel())[0, 1])


# what it finds


def check_found(case: Case, result: Registration, *, share: float) -> None:
    """The transform is near the known one, both ways, and moving resampled by it lies on fixed."""
    assert case.error_before_mm > 5
    assert case.error_mm(result.moving_from_fixed) < share * case.error_before_mm
    back = KnownMap(case.known.fixed_from_moving, case.known.moving_from_fixed)
    identity = sitk.Transform(case.fixed.GetDimension(), sitk.sitkIdentity)
    back_before, back_after = (error_mm(one, back, case.moving_labels).mean for one in (identity, result.fixed_from_moving))
    assert back_after < share * back_before
    resampled = sitk.Resample(case.moving, case.fixed, result.moving_from_fixed, sitk.sitkLinear, 0.0)
    as_they_lay = sitk.Resample(case.moving, case.fixed, identity, sitk.sitkLinear, 0.0)
    assert 1 - correlation(case.fixed, resampled) < 0.5 * (1 - correlation(case.fixed, as_they_lay))
    assert result.quality.similarity.after > result.quality.similarity.before
    assert result.quality.jacobian.folded_percent == 0
    assert result.quality.inverse_consistency_mm.mean < 0.1 * min(grid_of(case.fixed).spacing_mm)


@given(fixed=directions(2), moving=directions(2), spacing=st.tuples(*[st.floats(5.0, 8.0)] * 4))
@settings(max_examples=3)
def test_slices_of_any_two_orientations_and_grids_are_registered(
    fixed: Matrix, moving: Matrix, spacing: tuple[float, ...]
) -> None:
    case = case_on(grid_over_head(spacing[:2], fixed), grid_over_head(spacing[2:], moving))
    check_found(case, register(case.fixed, case.moving, repeats=0), share=0.4)


@pytest.mark.slow
@given(fixed=directions(3), moving=directions(3), spacing=st.tuples(*[st.floats(8.0, 11.0)] * 6))
@settings(max_examples=2)
def test_volumes_of_any_two_orientations_and_grids_are_registered(
    fixed: Matrix, moving: Matrix, spacing: tuple[float, ...]
) -> None:
    case = case_on(grid_over_head(spacing[:3], fixed), grid_over_head(spacing[3:], moving))
    check_found(case, register(case.fixed, case.moving, repeats=0), share=0.5)


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        pytest.param((15.0, 6.0, 6.0), (15.0, 6.0, 6.0), id="thick slices"),
        pytest.param((15.0, 7.0, 7.0), (7.0, 7.0, 15.0), id="thick slices across thick slices"),
        pytest.param((7.0, 7.0, 7.0), (14.0, 14.0, 14.0), id="fixed finer"),
        pytest.param((14.0, 14.0, 14.0), (7.0, 7.0, 7.0), id="moving finer"),
    ],
)
def test_unlike_resolutions_are_registered(fixed: tuple[float, ...], moving: tuple[float, ...]) -> None:
    case = case_on(grid_over_head(fixed), grid_over_head(moving))
    result = register(case.fixed, case.moving, align=("centre",))
    assert case.error_mm(result.moving_from_fixed) < 0.6 * case.error_before_mm
    assert result.warped.GetSize() == case.fixed.GetSize()
    assert result.quality.jacobian.folded_percent == 0


@pytest.mark.parametrize("similarity", ["lncc", "lncc2", "ncc", "ssd", "mind", "mi"])
def test_every_similarity_registers(similarity: str) -> None:
    case = plain_case()
    result = register(case.fixed, case.moving, similarity=similarity, align=("centre",))
    assert case.error_mm(result.moving_from_fixed) < 0.7 * case.error_before_mm
    assert result.quality.similarity.after > result.quality.similarity.before


def test_one_contrast_is_aligned_as_closely_where_nobody_tells_the_modality() -> None:
    case = plain_case()
    told, untold = (register(case.fixed, case.moving, refine="none", repeats=0, similarity=one) for one in ("lncc", "auto"))
    assert case.error_mm(untold.alignment) < 1.05 * case.error_mm(told.alignment)


def test_another_contrast_is_registered_when_the_modalities_say_so() -> None:
    case = plain_case()
    inverted = sitk.Mask(1.2 - case.moving, case.moving_labels)
    result = register(case.fixed, inverted, fixed_modality="mr", moving_modality="other")
    assert case.error_mm(result.moving_from_fixed) < 0.6 * case.error_before_mm


@pytest.mark.parametrize("dim", [2, 3])
def test_an_image_registers_to_itself_by_standing_still(dim: int) -> None:
    image = plain_case(dim).fixed
    result = register(image, image, repeats=0)
    assert result.quality.displacement_mm.mean < 0.1 * image.GetSpacing()[0]


@pytest.mark.parametrize(
    ("shape", "similarity"), [((8, 8), "auto"), ((8, 8), "mind"), ((8, 9, 10), "auto"), ((8, 9, 10), "mind")]
)
def test_the_smallest_images_go_through(shape: tuple[int, ...], similarity: str) -> None:
    fixed, moving = (head_phantom(shape, [20.0] * len(shape), seed).image for seed in (0, 1))
    result = register(fixed, moving, similarity=similarity, align=("centre",), steps=2)
    assert result.warped.GetSize() == fixed.GetSize()


# what it gives back


@pytest.mark.parametrize("dim", [2, 3])
def test_the_transform_is_an_affine_after_a_field_on_the_grid_of_fixed_and_around_it(dim: int) -> None:
    case, result = plain_case(dim), plain_result(dim)
    affine, field = (result.moving_from_fixed.GetNthTransform(one) for one in range(2))
    assert result.moving_from_fixed.GetNumberOfTransforms() == 2
    np.testing.assert_allclose(affine_matrix(affine), affine_matrix(result.alignment), atol=1e-6)
    field = sitk.DisplacementFieldTransform(field)
    points = landmarks(dim)
    np.testing.assert_allclose(mapped(result.moving_from_fixed, points), mapped(affine, mapped(field, points)))
    for transform, image in ((result.moving_from_fixed, case.fixed), (result.fixed_from_moving, case.moving)):
        own_from_field = np.linalg.inv(grid_of(image).world_from_voxel) @ field_grid(transform).world_from_voxel
        np.testing.assert_allclose(own_from_field[:-1, :-1], np.eye(dim), atol=1e-6)
        start = own_from_field[:-1, -1]
        assert (start < 0).all()
        np.testing.assert_allclose(start, np.round(start), atol=1e-4)
    assert case.error_mm(result.moving_from_fixed) < case.error_mm(result.alignment)


def test_without_refinement_the_transform_is_the_alignment() -> None:
    case = plain_case()
    result = register(case.fixed, case.moving, refine="none", align=("rigid",))
    points = landmarks(2)
    np.testing.assert_allclose(mapped(result.moving_from_fixed, points), mapped(result.alignment, points), atol=1e-4)
    inverse = np.linalg.inv(affine_matrix(result.alignment))
    np.testing.assert_allclose(mapped(result.fixed_from_moving, points), (points @ inverse[:2, :2].T) + inverse[:2, 2], atol=1e-3)


@pytest.mark.parametrize("dim", [2, 3])
def test_both_transforms_undo_each_other_where_moving_has_voxels(dim: int) -> None:
    result = plain_result(dim)
    there = mapped(result.moving_from_fixed, landmarks(dim))
    assert np.linalg.norm(there - landmarks(dim), axis=1).max() > 5
    np.testing.assert_allclose(mapped(result.fixed_from_moving, there), landmarks(dim), atol=1.0)
    assert result.quality.inverse_consistency_mm.mean < 0.5


@pytest.mark.parametrize("pixel", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkFloat32, sitk.sitkFloat64])
def test_warped_is_moving_on_the_grid_of_fixed_in_its_own_pixel_type(pixel: int) -> None:
    case = plain_case()
    moving = sitk.Cast(case.moving * 100, pixel)
    result = register(case.fixed, moving, **QUICK)
    assert result.warped.GetPixelID() == pixel
    assert state(result.warped) == state(warp_image(moving, case.fixed, result.moving_from_fixed))
    assert (result.warped.GetSize(), result.warped.GetOrigin()) == (case.fixed.GetSize(), case.fixed.GetOrigin())


def test_jacobian_is_the_change_of_area_on_the_grid_of_fixed() -> None:
    case, result = plain_case(), plain_result()
    assert result.jacobian.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(grid_of(result.jacobian).world_from_voxel, grid_of(case.fixed).world_from_voxel)
    steps = np.diag(case.fixed.GetSpacing())
    for index in ((10, 12), (20, 20), (15, 25)):
        point = np.array(case.fixed.TransformIndexToPhysicalPoint(index))
        ends = mapped(result.moving_from_fixed, np.concatenate([point + steps, point - steps]))
        derivative = (ends[:2] - ends[2:]).T / (2 * np.diag(steps))
        assert result.jacobian[index] == pytest.approx(np.linalg.det(derivative), rel=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_dice_and_landmarks_tell_that_it_got_better(dim: int) -> None:
    quality = plain_result(dim).quality
    assert quality.labels is not None
    assert quality.labels.mean.after > quality.labels.mean.before + 0.1
    assert quality.landmarks is not None
    assert quality.landmarks.after.mean < 0.5 * quality.landmarks.before.mean


def test_the_similarity_before_and_after_is_that_of_the_images() -> None:
    case = plain_case()
    result = register(case.fixed, case.moving, similarity="ncc", align=("rigid",))
    identity = sitk.Transform(2, sitk.sitkIdentity)
    for value, transform in (
        (result.quality.similarity.before, identity),
        (result.quality.similarity.after, result.moving_from_fixed),
    ):
        assert value == pytest.approx(correlation(case.fixed, warp_image(case.moving, case.fixed, transform)), abs=0.02)
    assert result.quality.similarity_name == "ncc"


CONTRACT: dict[str, set[str] | None] = {
    "model": None,
    "refine": None,
    "device": None,
    "seconds": {"total", "prepare", "network", "refine", "repeats", "finish"},
    "peak_memory_mb": None,
    "estimated_memory_mb": None,
    "resolution_mm": None,
    "delivered_spacing_mm": None,
    "margin_mm": None,
    "similarity": {"name", "before", "after"},
    "jacobian": {"min", "max", "mean", "folded_percent", "log_sd"},
    "inverse_consistency_mm": {"mean", "p95", "max"},
    "displacement_mm": {"mean", "max"},
    "warnings": None,
    "verdict": {"colour", "words", "reason"},
    "error_mm": {"median", "p95", "max", "share_above_voxel", "share_above_3mm", "bound_factor"},
    "evidence": {"overlap", "volume_factor", "likeness", "pose", "repeats"},
    "inputs": None,
    "versions": {"registrationnet", "python", "torch", "SimpleITK", "numpy"},
    "marks": None,
}


def test_the_report_holds_what_the_contract_names(tmp_path: Path) -> None:
    quick_result().save(tmp_path / "quick")
    plain_result().save(tmp_path / "plain")
    quick, plain = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("quick", "plain"))
    assert set(quick) == set(CONTRACT)
    assert set(plain) == {*CONTRACT, "labels", "landmarks"}
    for content in (quick, plain):
        for key, inner in CONTRACT.items():
            assert inner is None or set(content[key]) == inner
        parts = [content["seconds"][stage] for stage in ("prepare", "network", "refine", "repeats", "finish")]
        assert min(parts) > 0
        assert sum(parts) <= content["seconds"]["total"]
        assert content["peak_memory_mb"] > 50
        assert (content["model"], content["refine"], content["device"]) == ("direct", "field", "cpu")
        assert all(set(mark) - {"worst_at_mm"} == {"colour", "value", "rule"} for mark in content["marks"].values())
        # Where it is worst, for all that has a place.
        placed = {name: mark["worst_at_mm"] for name, mark in content["marks"].items() if "worst_at_mm" in mark}
        assert {"Expected error", "Strongest growing (largest Jacobian determinant)"} <= set(placed)
        assert {len(place) for place in placed.values()} == {2}
    assert plain["landmarks"]["count"] == 9
    assert plain["labels"]["dice"].keys() >= {"1", "5"}
    assert quick == json.loads(json.dumps(quick_result().report()))
    inputs = quick["inputs"]
    assert inputs["fixed"]["size"] == list(plain_case().fixed.GetSize())
    assert inputs["fixed"]["spacing_mm"] == [6.0, 6.0]
    assert inputs["moving"]["pixel_type"] == "32-bit float"
    assert (inputs["align"], inputs["steps"], inputs["seed"], inputs["initial"]) == (["centre"], 3, 0, False)


# saving


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_everything_is_saved_and_reads_back_the_same(tmp_path: Path) -> None:
    result = plain_result()
    result.save(tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert names_in(out) == RESULTS
    points = landmarks(2)
    for name, transform in (("transform.h5", result.moving_from_fixed), ("inverse.h5", result.fixed_from_moving)):
        found = sitk.ReadTransform(str(out / name))
        np.testing.assert_allclose(mapped(found, points), mapped(transform, points), atol=1e-9)
    for name, image in (("warped.nii.gz", result.warped), ("jacobian.nii.gz", result.jacobian)):
        found = sitk.ReadImage(str(out / name))
        assert found.GetPixelID() == image.GetPixelID()
        np.testing.assert_allclose(voxels(found), voxels(image), rtol=1e-4 if name == "jacobian.nii.gz" else 0)
        np.testing.assert_allclose(grid_of(found).world_from_voxel, grid_of(image).world_from_voxel, atol=1e-4)
    again = register(plain_case().fixed, plain_case().moving, initial=out / "transform.h5", align=(), refine="none")
    np.testing.assert_allclose(mapped(again.moving_from_fixed, points), mapped(result.moving_from_fixed, points), atol=1e-6)


def fail_to_write_a_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: sitk.Transform, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(registration.sitk, "WriteTransform", refuse)


def fail_to_write_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: sitk.Image, path: Path) -> None:
        path.write_bytes(b"half")
        raise OutputError("no space left on device")

    monkeypatch.setattr(registration, "write_image", refuse)


def fail_to_write_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Registration, path: Path, **_known: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registration, "write_html", refuse)


@pytest.mark.parametrize("fail", [fail_to_write_a_transform, fail_to_write_an_image, fail_to_write_the_page])
@pytest.mark.parametrize("has_earlier", [False, True])
def test_a_writer_that_fails_leaves_nothing_and_what_stood_there(
    fail: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_earlier: bool
) -> None:
    out = tmp_path / "out"
    if has_earlier:
        out.mkdir()
        (out / "report.json").write_text("earlier")
        (out / "notes.txt").write_text("mine")
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path) if (tmp_path / name).is_file()}
    fail(monkeypatch)
    with pytest.raises(OutputError, match="(?i)no space left|cannot be written|free some space"):
        quick_result().save(out)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path) if (tmp_path / name).is_file()} == before
    assert out.exists() == has_earlier


def test_results_replace_earlier_ones_and_leave_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for name in RESULTS:
        (tmp_path / name).write_text("earlier")
    quick_result().save(str(tmp_path))
    assert names_in(tmp_path) == RESULTS | {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert all((tmp_path / name).read_bytes() != b"earlier" for name in RESULTS)


def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="Cannot write"):
        quick_result().save(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# options


def left_half(image: sitk.Image) -> sitk.Image:
    array = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    array[:, : array.shape[1] // 2] = 1
    mask = sitk.GetImageFromArray(array)
    mask.CopyInformation(image)
    return mask


def both_labels() -> dict[str, sitk.Image]:
    return {"fixed_labels": plain_case().fixed_labels, "moving_labels": plain_case().moving_labels}


def both_landmarks(shift_mm: float) -> dict[str, Matrix]:
    return {"fixed_landmarks": landmarks(2), "moving_landmarks": landmarks(2) + shift_mm}


# What is given → another result. Those without an entry have a test of their own, here or in test_solving.py.
CHANGES_THE_TRANSFORM: dict[str, Callable[[], dict[str, Any]]] = {
    "refine": lambda: {"refine": "none"},
    "steps": lambda: {"steps": 5},
    "similarity": lambda: {"similarity": "ncc"},
    "fixed_modality": lambda: {"fixed_modality": "ct"},
    "moving_modality": lambda: {"moving_modality": "mr"},
    "fixed_mask": lambda: {"fixed_mask": left_half(plain_case().fixed)},
    "moving_mask": lambda: {"moving_mask": left_half(plain_case().moving)},
    "fixed_labels": both_labels,
    "moving_labels": both_labels,
    "initial": lambda: {"initial": sitk.Euler2DTransform((0.0, 0.0), 0.1)},
    "align": lambda: {"align": ()},
    "smoothness": lambda: {"smoothness": 30.0},
}
OTHERWISE_TESTED = {
    "model",
    "weights",
    "device",
    "seed",
    "progress",
    "fixed_landmarks",
    "moving_landmarks",
    "landmark_labels",
    "landmarks",
    "tolerance",
    "previous",
    "rigid",
    "keep_volume",
    "mirrored",
    "conserve_mass",
    "repeats",
    "resolution",
}


@pytest.mark.parametrize("option", CHANGES_THE_TRANSFORM)
def test_the_option_changes_the_transform(option: str) -> None:
    case = plain_case()
    result = register(case.fixed, case.moving, **{**QUICK, **CHANGES_THE_TRANSFORM[option]()})
    points = landmarks(2)
    assert not np.allclose(mapped(result.moving_from_fixed, points), mapped(quick_result().moving_from_fixed, points), atol=1e-3)


def test_every_option_of_the_road_has_a_test_above_or_below() -> None:
    options = set(inspect.signature(register).parameters) - {"fixed", "moving"}
    assert options == set(CHANGES_THE_TRANSFORM) | OTHERWISE_TESTED


def test_the_window_of_each_modality_reaches_its_image() -> None:
    case = plain_case()
    # The same images, but in the range of CT with a few voxels of metal.
    fixed, moving = (1000 * one for one in (case.fixed, case.moving))
    moving[3, 3] = 30000.0
    both = {"fixed_modality": "ct", "moving_modality": "ct"}
    as_ct, as_other = (register(fixed, moving, **{**QUICK, "similarity": "ssd"}, **given) for given in (both, {}))
    assert not np.allclose(field_of(as_ct), field_of(as_other), atol=1e-3)
    assert [as_ct.facts["inputs"][side]["modality"] for side in ("fixed", "moving")] == ["ct", "ct"]


def test_the_similarity_is_chosen_by_the_modalities_and_told_by_the_name_of_what_was_measured() -> None:
    case = plain_case()
    same, across = (register(case.fixed, case.moving, moving_modality=one, **QUICK) for one in ("other", "mr"))
    assert (same.facts["inputs"]["similarity"]["name"], across.facts["inputs"]["similarity"]["name"]) == ("lncc", "mind")
    assert "curve" in across.facts["inputs"]["similarity"]["chosen_because"]
    # MIND-SSC is at most 0; what judges the whole pair is mutual information, which is at least 0.
    assert across.quality.similarity_name == "mi"
    assert across.quality.similarity.before > 0
    assert same.quality.similarity_name == "lncc"


def test_landmarks_change_the_numbers_and_not_the_transform() -> None:
    case = plain_case()
    results = [register(case.fixed, case.moving, **QUICK, **both_landmarks(shift)) for shift in (0.0, 5.0)]
    first, second = (result.quality.landmarks for result in results)
    assert first is not None
    assert second is not None
    assert first.before.mean == 0.0
    assert second.before.mean == pytest.approx(5.0 * 2**0.5)
    assert np.array_equal(field_of(results[0]), field_of(quick_result()))


def test_the_stages_of_the_alignment_that_were_asked_for_are_done() -> None:
    case = plain_case()
    rigid = affine_matrix(register(case.fixed, case.moving, align=("rigid",), refine="none").alignment)[:2, :2]
    affine = affine_matrix(register(case.fixed, case.moving, align=("affine",), refine="none").alignment)[:2, :2]
    np.testing.assert_allclose(rigid @ rigid.T, np.eye(2), atol=1e-6)
    assert not np.allclose(affine @ affine.T, np.eye(2), atol=1e-3)
    assert np.array_equal(affine_matrix(quick_result().alignment)[:2, :2], np.eye(2))


def test_no_steps_are_no_refinement() -> None:
    case = plain_case()
    none, no_steps = (
        register(case.fixed, case.moving, align=("centre",), **given) for given in ({"refine": "none"}, {"steps": 0})
    )
    assert (none.facts["refine"], no_steps.facts["refine"]) == ("none", "none")
    assert np.array_equal(field_of(none), field_of(no_steps))
    assert not field_of(none).any()


def test_a_step_more_is_told_in_the_report() -> None:
    case = plain_case()
    told, usual = (
        dict(one.facts["inputs"]) for one in (register(case.fixed, case.moving, align=(), steps=4, seed=7), quick_result())
    )
    told["similarity"] = {**told["similarity"], "chosen_because": usual["similarity"]["chosen_because"]}  # of another alignment
    assert told == {**usual, "align": [], "steps": 4, "seed": 7}


@pytest.mark.parametrize("dim", [2, 3])
def test_the_same_call_gives_the_same_result_bit_for_bit(dim: int) -> None:
    case = plain_case(dim)
    options = {**QUICK, "align": ("rigid",) if dim == 2 else ("centre",)}
    torch.manual_seed(1)
    first = register(case.fixed, case.moving, seed=5, **options)
    torch.manual_seed(2)
    second = register(case.fixed, case.moving, seed=5, **options)
    assert np.array_equal(field_of(first), field_of(second))
    assert first.alignment.GetParameters() == second.alignment.GetParameters()
    assert state(first.warped) == state(second.warped)
    assert state(first.jacobian) == state(second.jacobian)
    assert first.quality == second.quality
    points = landmarks(dim)
    assert np.array_equal(mapped(first.fixed_from_moving, points), mapped(second.fixed_from_moving, points))


# what is not seen in both


def test_what_moving_does_not_cover_pulls_at_nothing() -> None:
    case = plain_case()
    # Moving ends in the middle of the head; beyond, its border must not be taken for anatomy.
    cropped = case.moving[: case.moving.GetSize()[0] // 2 - 4]
    result = register(case.fixed, cropped, align=(), similarity="ncc")
    covered = sitk.Resample(cropped * 0 + 1, case.fixed, case.known.moving_from_fixed, sitk.sitkNearestNeighbor, 0.0)
    seen = sitk.Mask(case.fixed_labels, sitk.Cast(covered, sitk.sitkUInt8))
    before = error_mm(sitk.Transform(2, sitk.sitkIdentity), case.known, seen).mean
    assert error_mm(result.moving_from_fixed, case.known, seen).mean < 0.5 * before
    elsewhere = voxels(result.jacobian)[voxels(covered) == 0]
    assert abs(np.log(elsewhere)).max() < 0.4


def test_the_field_of_the_inverse_covers_moving_no_finer_than_fixed() -> None:
    case = case_on(grid_over_head((9.0, 9.0)), grid_over_head((3.0, 12.0)))
    result = register(case.fixed, case.moving, **QUICK)
    grid = field_grid(result.fixed_from_moving)
    corners = grid_of(case.moving).world_from_unit @ np.array([[0, 0, 1], [1, 1, 1]]).T
    unit = (grid.unit_from_world @ corners)[:-1]
    assert ((unit >= -1e-9) & (unit <= 1 + 1e-9)).all()
    assert 8.0 < grid.spacing_mm[0] <= 9.0
    assert grid.spacing_mm[1] == pytest.approx(12.0)


# progress and cancelling


def test_progress_rises_through_the_stages_to_one() -> None:
    seen: list[Progress] = []
    register(plain_case().fixed, plain_case().moving, steps=3, progress=seen.append)
    assert list(dict.fromkeys(one.stage for one in seen)) == ["prepare", "align", "refine", "repeats", "finish"]
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(fractions) > 50


@pytest.mark.parametrize("at", ["first", "last"])
@pytest.mark.parametrize("stage", ["prepare", "align", "refine", "repeats", "finish"])
def test_a_callback_stops_the_work_in_any_stage_and_nothing_is_left(stage: str, at: str, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        calls = counted.get(now.stage, 0) + 1
        counted[now.stage] = calls
        if now.stage == stage and (at == "first" or calls == last[stage]):
            raise Cancelled("stopped")

    counted: dict[str, int] = {}
    last = {"prepare": 1, "align": 50, "refine": 3, "repeats": 2, "finish": 2}
    torch.set_num_threads(2)
    with pytest.raises(Cancelled, match="stopped"):
        align = ("rigid",) if stage == "align" else ("centre",)
        register(plain_case().fixed, plain_case().moving, steps=3, align=align, progress=stop).save(tmp_path / "out")
    assert names_in(tmp_path) == set()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.is_grad_enabled()


# what it leaves alone


def test_a_call_leaves_the_world_as_it_was() -> None:
    case = plain_case()
    initial = sitk.Euler2DTransform((0.0, 0.0), 0.02, (1.0, 2.0))
    inputs = [case.fixed, case.moving, left_half(case.fixed), left_half(case.moving), case.fixed_labels, case.moving_labels]
    before = [state(one) for one in inputs], initial.GetParameters()
    world = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads()
    modes = torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    register(
        case.fixed,
        case.moving,
        fixed_mask=inputs[2],
        moving_mask=inputs[3],
        initial=initial,
        steps=3,
        **both_labels(),
        **both_landmarks(0.0),
    )
    assert ([state(one) for one in inputs], initial.GetParameters()) == before
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads()) == world
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()) == modes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_of_torch_does_not_matter(mode: Callable[[], Any]) -> None:
    with mode():
        result = register(plain_case().fixed, plain_case().moving, **QUICK)
        assert not torch.is_grad_enabled()
    assert np.array_equal(field_of(result), field_of(quick_result()))


def test_the_default_dtype_of_torch_does_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        result = register(plain_case().fixed, plain_case().moving, **QUICK)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(field_of(result), field_of(quick_result()))


# other ways in


def test_files_give_the_same_and_are_named_in_the_report(tmp_path: Path) -> None:
    case = plain_case()
    sitk.WriteImage(case.fixed, str(tmp_path / "fixed.mha"))
    sitk.WriteImage(case.moving, str(tmp_path / "moving.nrrd"))
    sitk.WriteImage(case.fixed_labels, str(tmp_path / "mask.nrrd"))
    result = register(str(tmp_path / "fixed.mha"), tmp_path / "moving.nrrd", **QUICK)
    np.testing.assert_allclose(field_of(result), field_of(quick_result()), atol=1e-6)
    found = [result.facts["inputs"][side]["file"] for side in ("fixed", "moving")]
    assert found == [str(tmp_path / "fixed.mha"), str(tmp_path / "moving.nrrd")]
    assert quick_result().facts["inputs"]["fixed"]["file"] is None
    masked = register(case.fixed, case.moving, fixed_mask=tmp_path / "mask.nrrd", **QUICK).facts["inputs"]
    assert (masked["fixed"]["mask"], masked["moving"]["mask"]) == (True, False)


def test_itk_images_give_the_same() -> None:
    pytest.importorskip("itk")
    case = plain_case()
    result = register(itk_from_simpleitk(case.fixed), itk_from_simpleitk(case.moving), **QUICK)
    assert np.array_equal(field_of(result), field_of(quick_result()))


# what is refused, and when


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "unknown"}, "no model 'unknown'; the models are .*direct"),
    "weights": ({"weights": "w.pt"}, "direct has no weights, but a weights file was given"),
    "refine": ({"refine": "all"}, "no refinement 'all'; the refinements are none, field, network"),
    "network": ({"refine": "network"}, "direct has no network to refine"),
    "steps": ({"steps": -1}, "steps is -1; it must be 0"),
    "similarity": ({"similarity": "best"}, "no similarity measure 'best'.*lncc"),
    "modality": ({"fixed_modality": "pet"}, "no modality 'pet'"),
    "smoothness": ({"smoothness": 0.0}, "smoothness must be a number above 0; got 0.0"),
    "align": ({"align": ("rigid", "warp")}, "no alignment stage 'warp'"),
    "device": ({"device": "tpu"}, "no device 'tpu'; the devices are auto, cpu, cuda, mps"),
    "fixed landmarks alone": ({"fixed_landmarks": [[0.0, 0.0]]}, "Landmarks came for one image only"),
    "moving landmarks alone": ({"moving_landmarks": [[0.0, 0.0]]}, "Landmarks came for one image only"),
    "landmarks of 3-D": (
        {"fixed_landmarks": np.zeros((2, 3)), "moving_landmarks": np.zeros((2, 3))},
        "landmarks cannot be compared",
    ),
    "unequal landmarks": (
        {"fixed_landmarks": np.zeros((2, 2)), "moving_landmarks": np.zeros((3, 2))},
        "landmarks cannot be compared",
    ),
    "initial": ({"initial": "no.h5"}, "no transform file no.h5"),
    "initial 3-D": ({"initial": sitk.Euler3DTransform()}, "initial transform has 3 dimensions and the images 2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_option_is_refused_before_the_work(what: str) -> None:
    options, message = REFUSED[what]
    seen: list[Progress] = []
    with pytest.raises(InputError, match=message):
        register(plain_case().fixed, plain_case().moving, progress=seen.append, **options)
    assert {one.stage for one in seen} <= {"prepare"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no cuda device. Choose auto or cpu"):
        register(plain_case().fixed, plain_case().moving, device="cuda")
    assert quick_result().facts["device"] == "cpu"


def shifted(image: sitk.Image, shift_mm: float) -> sitk.Image:
    moved = sitk.Image(image)
    moved.SetOrigin([origin + shift_mm for origin in image.GetOrigin()])
    return moved


def test_images_that_do_not_overlap_are_refused_unless_the_alignment_may_centre_them() -> None:
    case = plain_case()
    away = shifted(case.moving, 1000.0)
    with pytest.raises(GeometryError, match="fixed and moving do not overlap.*Align the centres"):
        register(case.fixed, away, align=(), steps=1)
    assert register(case.fixed, away, **QUICK).quality.similarity.after > 0.2


def test_a_mask_where_moving_has_no_voxels_is_refused() -> None:
    case = plain_case()
    width = case.fixed.GetSize()[0] * case.fixed.GetSpacing()[0]
    to_the_right = sitk.Image(case.moving)
    to_the_right.SetOrigin([case.moving.GetOrigin()[0] + 0.6 * width, case.moving.GetOrigin()[1]])
    with pytest.raises(GeometryError, match="fixed mask lies where moving has no voxels"):
        register(case.fixed, to_the_right, align=(), steps=1, fixed_mask=left_half(case.fixed))
    assert register(case.fixed, to_the_right, align=(), steps=1).quality.jacobian.folded_percent == 0


@pytest.mark.parametrize("large", ["fixed", "moving"])
def test_a_pair_too_large_for_the_memory_is_refused_before_the_work(large: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((160, 160, 160), dtype=np.uint8)
    array[80:] = 1
    small = np.zeros((16, 16, 16), dtype=np.uint8)
    small[8:] = 1
    pair = {"fixed": sitk.GetImageFromArray(small), "moving": sitk.GetImageFromArray(small), large: sitk.GetImageFromArray(array)}
    seen: list[Progress] = []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * 2**20))
    with pytest.raises(ResourceError, match=r"needs about \d\.\d GB on cpu; 0\.2 GB are free\. Crop the images"):
        register(**pair, device="cpu", progress=seen.append)
    assert {one.stage for one in seen} == {"prepare"}


def test_a_direction_slightly_out_of_square_comes_out_as_it_came_in() -> None:
    case = plain_case()
    fixed = sitk.Image(case.fixed)
    fixed.SetDirection((1.0, 9e-4, 0.0, 1.0))
    result = register(fixed, case.moving, **QUICK)
    assert result.warped.GetDirection() == pytest.approx(fixed.GetDirection())


def test_turned_by_a_right_angle_in_the_world_needs_a_start() -> None:
    case = plain_case()
    quarter = np.eye(3)
    quarter[:2, :2] = rotation(2, (90.0,))
    grid = grid_of(case.moving).moved(quarter)
    turned = image_on(grid, voxels(case.moving))
    start = sitk.Euler2DTransform((0.0, 0.0), math.radians(85.0))
    result = register(case.fixed, turned, initial=start)
    truth = sitk.CompositeTransform([sitk.Euler2DTransform((0.0, 0.0), math.radians(90.0)), case.known.moving_from_fixed])
    points = landmarks(2)
    assert np.linalg.norm(mapped(result.moving_from_fixed, points) - mapped(truth, points), axis=1).mean() < 4.0
