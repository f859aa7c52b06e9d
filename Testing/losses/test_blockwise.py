"""Images compared block by block give loss and gradient of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.geometry.deformation import Outside, identity_points
from RegistrationNetLib.geometry.layered_points import Layered, LayeredPoints
from RegistrationNetLib.geometry.separable import bspline_matrix, on
from RegistrationNetLib.losses import blockwise as module
from RegistrationNetLib.losses.blockwise import BlockwiseComparison, blockwise
from RegistrationNetLib.losses.direction import Direction
from RegistrationNetLib.losses.measure import Measure
from RegistrationNetLib.losses.similarity import LNCC, NCC, SSD, SquaredLNCC

SHAPES = [(41, 30), (29, 34, 27)]
MEASURES = [
    LNCC(sigma_vox=1.5, epsilon=1e-3, stride_vox=2, is_balanced=True),
    SquaredLNCC(sigma_vox=1.0, epsilon=1e-3, stride_vox=3),
    LNCC(sigma_vox=0.6, epsilon=1e-3),
    SSD(),
]
MASKS = ["none", "ball", "thin"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_VOXELS", 400)
    monkeypatch.setattr(module, "WIDEST_REACH", 1.0)


def images(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(len(shape))
    fixed, moving = (torch.rand(1, 1, *shape, generator=random, dtype=torch.float64) for _ in range(2))
    return fixed, moving


def mask_of(kind: str, shape: tuple[int, ...]) -> Tensor | None:
    lattice = identity_points(shape, torch.zeros(()))
    if kind == "none":
        return None
    if kind == "ball":
        return ((lattice - 0.4).square().sum(1, keepdim=True) < 0.1) & (lattice[:, :1] > 0.1)
    return (lattice[:, :1] * (shape[0] - 1)).round() == 17


def moved(shape: tuple[int, ...]) -> tuple[LayeredPoints, Tensor]:
    """The lattice moved by splines, beyond the border too, and their coefficients."""
    random = torch.Generator().manual_seed(7)
    coefficients = 0.06 * torch.randn(1, len(shape), *(size // 6 + 3 for size in shape), generator=random, dtype=torch.float64)
    coefficients.requires_grad_()
    matrices = on([bspline_matrix(size, size // 6) for size in shape], coefficients)
    begun = on([bspline_matrix(size, 1) for size in shape], coefficients)
    start = Layered.of(0.02 * torch.ones(1, len(shape), *(4,) * len(shape), dtype=torch.float64), begun)
    return LayeredPoints(shape, Layered.of(coefficients, matrices), start), coefficients


@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("measure", MEASURES, ids=lambda one: f"{one.name}-{one.every_vox}")
@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_loss_and_gradient_are_those_of_the_whole(shape: tuple[int, ...], measure: Measure, kind: str, outside: Outside) -> None:
    fixed, moving = images(shape)
    mask = mask_of(kind, shape)
    in_blocks = blockwise(measure, fixed, mask)
    assert in_blocks is not None
    assert len(in_blocks.blocks) > 1
    points, coefficients = moved(shape)
    held = points.points(points.added.rest, points.box_of(slice(0, shape[0])))
    losses = [
        Direction(in_blocks, moving, outside=outside).loss(points),
        Direction(in_blocks, moving, outside=outside).loss(held),
        Direction(measure.against(fixed, mask), moving, outside=outside).loss(points),
    ]
    gradients = [torch.autograd.grad(loss, coefficients, retain_graph=True)[0] for loss in losses]
    for loss, gradient in zip(losses[:2], gradients[:2], strict=True):
        torch.testing.assert_close(loss, losses[2])
        torch.testing.assert_close(gradient, gradients[2])


def test_blocks_in_which_nothing_counts_are_left_out() -> None:
    shape = SHAPES[1]
    fixed, _ = images(shape)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 3:5, 4:6, 5:7] = True
    found = blockwise(MEASURES[2], fixed, mask)
    assert isinstance(found, BlockwiseComparison)
    (block,) = found.blocks
    assert block.share == 1
    assert block.box == (slice(2, 6), slice(3, 7), slice(4, 8))


def test_without_a_gradient_the_loss_is_the_same() -> None:
    shape, measure = SHAPES[1], MEASURES[0]
    fixed, moving = images(shape)
    found = blockwise(measure, fixed, None)
    assert found is not None
    points, _ = moved(shape)
    with torch.no_grad():
        torch.testing.assert_close(Direction(found, moving).loss(points), Direction(measure.against(fixed), moving).loss(points))


@pytest.mark.parametrize("case", ["a measure of the whole", "a small image", "a wide window", "a mask of nothing", "two pairs"])
def test_what_must_be_seen_as_a_whole_is(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, _ = images(SHAPES[1])
    measure: Measure = MEASURES[0]
    mask = None
    if case == "a measure of the whole":
        measure = NCC()
    elif case == "a small image":
        fixed = fixed[..., :3, :3, :3]
    elif case == "a wide window":
        monkeypatch.setattr(module, "WIDEST_REACH", 0.2)
    elif case == "a mask of nothing":
        mask = torch.zeros_like(fixed, dtype=torch.bool)
    else:
        fixed = torch.cat([fixed, fixed])
    assert blockwise(measure, fixed, mask) is None
