"""The Dice of numbered labels is that of memberships, with its gradient, however many there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points, sample
from RegistrationNetLib.losses.label_overlap import LabelPair, numbered
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
    found = LabelPair(fixed_numbers, moving_numbers, count).loss(points)
    assert count == one.shape[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(3 * value, points)[0] for value in (found, expected)), atol=1e-5, rtol=1e-3)


def test_labels_without_one_in_common_are_refused() -> None:
    with pytest.raises(InputError, match=r"no class in common.*Got \[0, 1\] and \[0, 2\]"):
        numbered(torch.tensor([0, 1]), torch.tensor([2, 0]))
