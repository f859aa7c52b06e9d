"""Pieces of a lattice: where they lie, what of them counts, and images read at them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from RegistrationNetLib.geometry.deformation import Affine, identity_points, sample
from RegistrationNetLib.losses.patches import MARGIN_VOX, PatchDraw, Patches, View

CPU = torch.device("cpu")


def unmoved(dim: int) -> Affine:
    return Affine(torch.eye(dim, dim + 1))


@given(
    shape=st.lists(st.integers(8, 60), min_size=2, max_size=3),
    side=st.integers(9, 33),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_pieces_lie_on_voxels_of_the_lattice(shape: list[int], side: int, count: int, seed: int) -> None:
    draw = PatchDraw(tuple(shape), count, side)
    pieces = draw.draw(torch.Generator().manual_seed(seed), CPU)
    assert 1 <= len(pieces.corners) == draw.pieces <= count
    points = pieces.points()
    assert points.shape == (draw.pieces, len(shape), *draw.side)
    lattice = identity_points(shape, torch.zeros(()))[0]
    for corner, piece in zip(pieces.corners.tolist(), points, strict=True):
        where = tuple(slice(first, first + length) for first, length in zip(corner, draw.side, strict=True))
        torch.testing.assert_close(piece, lattice[(slice(None), *where)])


def test_a_lattice_that_fits_is_one_piece_which_counts_everywhere() -> None:
    draw = PatchDraw((20, 33, 8), 8, 33)
    pieces = draw.draw(torch.Generator().manual_seed(0), CPU)
    assert pieces.corners.tolist() == [[0, 0, 0]]
    assert bool(pieces.inner().all())


def test_near_its_faces_a_piece_does_not_count_but_at_the_border_of_the_image() -> None:
    inner = Patches(torch.tensor([[0, 10]]), (9, 12), (30, 22)).inner()[0, 0]
    rows, columns = inner.any(dim=1).nonzero().flatten(), inner.any(dim=0).nonzero().flatten()
    assert (rows[0], rows[-1]) == (0, 9 - MARGIN_VOX - 1)
    assert (columns[0], columns[-1]) == (MARGIN_VOX, 11)
    assert int(inner.sum()) == len(rows) * len(columns)


def test_fewer_points_span_the_same_piece() -> None:
    pieces = Patches(torch.tensor([[3, 5]]), (9, 13), (30, 30))
    few, all_lines = pieces.lines((3, 4)), pieces.lines((9, 13))
    for line, whole in zip(few, all_lines, strict=True):
        torch.testing.assert_close(line, whole[:, ::4])


def test_every_voxel_is_seen_in_the_long_run() -> None:
    draw, generator = PatchDraw((30, 26), 4, 12), torch.Generator().manual_seed(0)
    seen = torch.zeros(30, 26)
    for _ in range(60):
        pieces = draw.draw(generator, CPU)
        for (row, column), inner in zip(pieces.corners.tolist(), pieces.inner(), strict=True):
            seen[row : row + 12, column : column + 12] += inner[0]
    assert float(seen.min()) >= 3


def test_pieces_are_drawn_around_the_centres_that_are_given() -> None:
    draw = PatchDraw((90, 90), 8, 12, centres=torch.tensor([[0.25, 0.5]]))
    corners = draw.draw(torch.Generator().manual_seed(0), CPU).corners
    distance = corners + 6 - torch.tensor([22, 44])
    assert int(distance.abs().max()) <= 5
    assert len(torch.unique(corners, dim=0)) > 1


def test_an_image_is_seen_through_its_affine_map() -> None:
    image, shift = torch.rand(1, 1, 9, 9), Affine(torch.tensor([[1.0, 0.0, 0.125], [0.0, 1.0, 0.0]]))
    points = identity_points((9, 9), image)
    torch.testing.assert_close(View(image, shift).at(points)[..., :-1, :], image[..., 1:, :])


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8])
def test_an_image_of_whole_numbers_is_read_like_one_of_floats(dtype: torch.dtype) -> None:
    image, points = torch.randint(0, 100, (1, 1, 9, 8)).to(dtype), torch.rand(3, 2, 5, 6)
    torch.testing.assert_close(View(image, unmoved(2)).at(points), sample(image.float(), points))


def test_what_lies_beyond_the_image_or_its_mask_does_not_count() -> None:
    image, mask = torch.rand(1, 1, 5, 5), torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., :2] = False
    points = torch.tensor([[-0.2, -0.1, 0.5, 0.5, 1.1, 1.2], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]])[None]
    assert View(image, unmoved(2)).counts(points).flatten().tolist() == [False, True, True, True, True, False]
    assert View(image, unmoved(2), mask).counts(points).flatten().tolist() == [False, True, True, False, True, False]
