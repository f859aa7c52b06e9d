"""The Dice of numbered labels is that of memberships, with its gradient, however many there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry import layered_points
from RegistrationNetLib.geometry.deformation import identity_points, sample
from RegistrationNetLib.geometry.layered_points import Layered, LayeredPoints, summed_over
from RegistrationNetLib.geometry.separable import apply_along_axes, bspline_matrix, on
from RegistrationNetLib.losses.label_overlap import LabelPair, numbered, on_lattice_of
from RegistrationNetLib.losses.overlap import dice_loss, one_hot

SHAPES = [(13, 11), (9, 10, 8)]


def labels(shape: tuple[int, ...], seed: int) -> Tensor:
    """Blocks of a few labels, some of them in one image only, with a wide range."""
    values = np.random.default_rng(seed).choice([0, 3, -2, 10**10, 7 + seed], size=tuple((size + 1) // 2 for size in shape))
    for axis, size in enumerate(shape):
        values = values.repeat(2, axis=axis).take(range(size), axis=axis)
    return torch.as_tensor(values)[None, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_are_those_of_memberships(shape: tuple[int, ...]) -> None:
    fixed, moving = labels(shape, 0), labels(shape, 1)
    random = torch.Generator().manual_seed(0)
    lattice = identity_points(shape, torch.zeros(()))
    points = (lattice + 0.1 * torch.randn(lattice.shape, generator=random)).requires_grad_()
    one, two = one_hot(fixed, moving)
    expected = dice_loss(sample(two, points), one)
    fixed_numbers, moving_numbers, count = numbered(fixed, moving)
    found = summed_over(points, LabelPair(fixed_numbers, moving_numbers, count).sums())
    assert count == one.shape[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(3 * value, points)[0] for value in (found, expected)), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_layers_it_is_the_same(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered_points, "POINTS_AT_A_TIME", 2 * int(np.prod(shape[1:])))
    fixed, moving, count = numbered(labels(shape, 0), labels(shape, 1))
    coefficients = 0.1 * torch.randn(1, len(shape), *(5,) * len(shape), generator=torch.Generator().manual_seed(1))
    coefficients.requires_grad_()
    matrices = on([bspline_matrix(size, 2) for size in shape], coefficients)
    pair = LabelPair(fixed, moving, count)
    in_layers = LayeredPoints(shape, Layered.of(coefficients, matrices)).summed(pair.sums())
    points = identity_points(shape, coefficients) + apply_along_axes(coefficients, matrices)
    whole = summed_over(points, pair.sums())
    torch.testing.assert_close(in_layers, whole)
    torch.testing.assert_close(*(torch.autograd.grad(value, coefficients)[0] for value in (in_layers, whole)))


def test_labels_without_one_in_common_are_refused() -> None:
    with pytest.raises(InputError, match=r"no class in common.*Got \[0, 1\] and \[0, 2\]"):
        numbered(torch.tensor([0, 1]), torch.tensor([2, 0]))


def test_a_coarser_lattice_takes_the_nearest_labels() -> None:
    values = torch.arange(9)[None, None]
    assert on_lattice_of(values, (5,)).tolist() == [[[0, 2, 4, 6, 8]]]
    assert on_lattice_of(values, (9,)) is values
