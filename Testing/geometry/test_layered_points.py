"""A moved lattice made a few layers at a time gives values and gradients of the whole one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.geometry import layered_points as module
from RegistrationNetLib.geometry.deformation import Outside, identity_points, jacobian_determinant, sample
from RegistrationNetLib.geometry.layered_points import Layered, LayeredPoints
from RegistrationNetLib.geometry.separable import apply_along_axes, bspline_matrix, interpolation_matrix, on

SHAPES = [(19, 14), (18, 12, 15), (20, 24, 22)]


def matrices(shape: tuple[int, ...], like: Tensor) -> list[Tensor]:
    return on([bspline_matrix(size, max(1, size // 4)) for size in shape], like)


def case(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients, a displacement to begin with on a lattice of its own, and an image."""
    random = torch.Generator().manual_seed(len(shape))
    coefficients = 0.05 * torch.randn(1, len(shape), *(max(1, size // 4) + 3 for size in shape), generator=random)
    begun = 0.03 * torch.randn(1, len(shape), *(size // 3 for size in shape), generator=random)
    return coefficients.double().requires_grad_(), begun.double(), torch.rand(1, 2, *shape, generator=random).double()


def both(shape: tuple[int, ...], coefficients: Tensor, begun: Tensor | None) -> tuple[LayeredPoints, Tensor]:
    """The lattice moved in layers, and its points."""
    displacement = apply_along_axes(coefficients, matrices(shape, coefficients))
    layered = None
    if begun is not None:
        finer = on([interpolation_matrix(new, old) for new, old in zip(shape, begun.shape[2:], strict=True)], begun)
        displacement, layered = displacement + apply_along_axes(begun, finer), Layered.of(begun, finer)
    added = Layered.of(coefficients, matrices(shape, coefficients))
    return LayeredPoints(shape, added, layered), identity_points(shape, displacement) + displacement


@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize("layers", [1, 5, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_their_gradient_are_those_of_the_whole_lattice(
    shape: tuple[int, ...], layers: int, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POINTS_AT_A_TIME", layers * int(torch.tensor(shape[1:]).prod()))
    coefficients, begun, image = case(shape)
    moved, points = both(shape, coefficients, begun)
    found, expected = moved.sampled(image, outside), sample(image, points, outside=outside)
    torch.testing.assert_close(found, expected)
    upstream = torch.rand_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, coefficients, upstream)[0] for one in (found, expected)))


@pytest.mark.parametrize("layers", [1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_determinant_and_its_gradient_are_those_of_the_whole_lattice(
    shape: tuple[int, ...], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POINTS_AT_A_TIME", layers * int(torch.tensor(shape[1:]).prod()))
    coefficients, _, _ = case(shape)
    moved, points = both(shape, coefficients, None)
    found, expected = moved.determinant(), jacobian_determinant(points)
    torch.testing.assert_close(found, expected)
    upstream = torch.rand_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, coefficients, upstream)[0] for one in (found, expected)))
