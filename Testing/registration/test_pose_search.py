"""The search over all rotations and shifts."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.geometry.space import grid_of
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.overlap_score import View
from RegistrationNetLib.registration.pose_search import ROTATIONS, PoseSearch, batches, edges_of, rotations
from RegistrationNetLib.registration.prepare import prepared
from Testing.benchmarks.known_warps import data_folder
from Testing.benchmarks.pose_pairs import FILES, Recipe, in_mm, pose_pair, real_source

from ..strategies import rotation
from ..volumes import QUANTILES
from .test_alignment import carried_to, rigid

pytestmark = pytest.mark.usefixtures("one_thread")


def angle(one: np.ndarray, other: np.ndarray) -> float:
    """Degrees between two rotations."""
    dim = len(one)
    cosine = 0.5 * np.trace(one.T @ other) if dim == 2 else 0.5 * (np.trace(one.T @ other) - 1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@pytest.mark.parametrize("dim", [2, 3])
def test_rotations_are_rotations_and_the_first_is_none(dim: int) -> None:
    every = rotations(dim)
    assert len(every) == ROTATIONS[dim]
    np.testing.assert_allclose(every @ every.transpose(0, 2, 1), np.broadcast_to(np.eye(dim), every.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(every), 1.0)
    np.testing.assert_allclose(every[0], np.eye(dim), atol=1e-12)


def test_no_rotation_is_far_from_all() -> None:
    every = rotations(3)
    random = np.random.default_rng(0)
    farthest = 0.0
    for _ in range(300):
        one = np.linalg.qr(random.normal(size=(3, 3)))[0]
        one *= np.sign(np.linalg.det(one))
        farthest = max(farthest, min(angle(one, other) for other in every))
    assert farthest < 42


@pytest.mark.parametrize(("dim", "degrees"), [(2, (130.0,)), (2, (-90.0,)), (3, (120.0, 20.0, -40.0))])
@pytest.mark.parametrize("is_edges", [False, True])
def test_the_true_pose_is_among_the_best(dim: int, degrees: tuple[float, ...], is_edges: bool) -> None:
    image = head_phantom(((46, 40), (40, 46, 40))[dim - 2], [6.0] * dim, 0).image
    truth = rigid(degrees, (40.0, -30.0, 20.0)[:dim])
    far = grid_of(image).moved(rigid((0.0,) * (1 if dim == 2 else 3), (40.0, -30.0, 20.0)[:dim]))
    fixed, moving = (View.of(prepared(one, QUANTILES), 15.0) for one in (image, carried_to(truth, image, far)))
    search = PoseSearch(fixed, moving, (lambda one: edges_of(one.values)) if is_edges else (lambda one: one.values), np.eye(dim))
    poses = sorted((pose for some in search.best(keep=2) for pose in some), key=lambda pose: -pose.score)[:12]
    places = fixed.foreground[0, 0].nonzero().numpy()
    points = np.concatenate([places, np.ones((len(places), 1))], axis=1) @ fixed.grid.world_from_voxel.T
    errors = [np.linalg.norm(((pose.matrix - truth) @ points.T)[:-1], axis=0).mean() for pose in poses]
    assert min(errors) < 35


def test_every_batch_is_counted() -> None:
    image = prepared(head_phantom((46, 40), [6.0, 6.0], 0).image, QUANTILES)
    view = View.of(image, 20.0)
    assert sum(1 for _ in PoseSearch(view, view, lambda one: one.values, np.eye(2)).best(keep=1)) == batches(2)


def test_edges_are_alike_in_an_inverted_contrast() -> None:
    values = torch.rand(1, 1, 8, 9)
    torch.testing.assert_close(edges_of(values), edges_of(1 - values))
    assert rotation(2, (0.0,)).shape == (2, 2)


def test_a_part_in_a_whole_of_many_times_its_length_is_not_searched_for() -> None:
    """A pair whose headers speak of millimetres and of metres would take all time and memory."""
    small = head_phantom((35, 40, 33), (6.0,) * 3, 1).image
    whole = sitk.Image(small)
    whole.SetSpacing([1000 * step for step in small.GetSpacing()])
    views = [View.of(prepared(one, QUANTILES), 15.0) for one in (small, whole)]
    assert PoseSearch(views[0], views[0], lambda one: one.values, np.eye(3)).is_affordable
    assert not PoseSearch(*views, lambda one: one.values, np.eye(3)).is_affordable


@pytest.mark.slow
@pytest.mark.skipif(not (data_folder() / FILES["thorax"]).exists(), reason="needs the image of a chest")
def test_a_chest_is_not_put_into_the_air_beside_another() -> None:
    """All of fixed is body, and half of what moving shows is air, in which a part of fixed's edge fits well by chance."""
    source = real_source("thorax", 10011, data_folder())
    pair = pose_pair(source, Recipe(degrees=(60, 90)), 10011)
    found = register(pair.fixed, pair.moving, repeats=0, steps=1).alignment
    inside = sitk.GetArrayViewFromImage(pair.counted) > 0
    truth, alignment = (in_mm(one, pair, pair.counted)[inside] for one in (pair.truth, found))
    assert np.linalg.norm(alignment - truth, axis=-1).mean() < 10
