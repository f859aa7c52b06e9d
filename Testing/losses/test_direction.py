"""What is compared in each direction: masks, labels, borders and mass."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.geometry.deformation import Affine, DisplacementField, identity_points, jacobian_determinant, sample
from RegistrationNetLib.losses.direction import DirectionOptions, Side, both_directions
from RegistrationNetLib.losses.similarity import LNCC, SSD

SHAPE = (20, 24)
OPTIONS = DirectionOptions(SSD())


def image(seed: int = 0) -> Tensor:
    return torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def lattice() -> Tensor:
    return identity_points(SHAPE, torch.zeros(()))


def shifted(vox: float) -> Tensor:
    """The lattice moved by so many voxels along the last axis."""
    points = lattice()
    points[:, 1] += vox / (SHAPE[1] - 1)
    return points


def test_each_direction_compares_its_own_image_with_the_other_sampled() -> None:
    fixed, moving = image(0), image(1)
    to_fixed, to_moving = both_directions(Side(fixed), Side(moving), OPTIONS)
    expected = (moving[..., 2:] - fixed[..., :-2]).square()
    at_border = (moving[..., -1:] - fixed[..., -2:]).square()
    assert float(to_fixed.loss(shifted(2.0))) == pytest.approx(float(torch.cat([expected, at_border], -1).mean()), rel=1e-4)
    assert float(to_moving.loss(lattice())) == pytest.approx(float((fixed - moving).square().mean()), rel=1e-5)


def test_beyond_the_border_lie_zeros_when_asked_for() -> None:
    to_fixed, _ = both_directions(
        Side(torch.zeros(1, 1, *SHAPE)), Side(torch.ones(1, 1, *SHAPE)), replace(OPTIONS, outside="zeros")
    )
    assert float(to_fixed.loss(shifted(6.0))) == pytest.approx(1 - 6 / 24, abs=1e-4)


def test_what_lies_outside_the_mask_of_the_compared_image_does_not_count() -> None:
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., :10] = 1
    spoilt = image()
    spoilt[..., 10:] += 5
    to_fixed, to_moving = both_directions(Side(spoilt, mask), Side(image()), OPTIONS)
    assert float(to_fixed.loss(lattice())) == pytest.approx(0, abs=1e-6)
    assert float(to_moving.loss(lattice())) > 1


def test_labels_add_their_dice_loss_times_its_weight() -> None:
    square = torch.zeros(1, 1, *SHAPE)
    square[..., 5:10, 5:15] = 1
    fixed, moving = Side(image(), classes=square), Side(image(), classes=square.roll(5, -1))
    losses = [
        both_directions(fixed, moving, replace(OPTIONS, dice_weight=weight))[0].loss(lattice()) for weight in (0.0, 1.0, 3.0)
    ]
    assert float(losses[0]) == pytest.approx(0, abs=1e-6)
    assert float(losses[1]) == pytest.approx(0.5, abs=1e-4)
    assert float(losses[2]) == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_conserved_mass_is_that_of_a_cube_which_shrinks(ratio: float) -> None:
    # Moving's density is 1 everywhere; the map takes fixed to a half of moving's extent along one axis: half its mass per volume.
    scaled = Affine(torch.tensor([[0.5, 0.0, 0.25], [0.0, 1.0, 0.0]]))(lattice())
    compared = Side(torch.full((1, 1, *SHAPE), 0.5 * ratio))
    to_fixed, to_moving = both_directions(compared, Side(torch.ones(1, 1, *SHAPE)), replace(OPTIONS, moving_volume=ratio))
    assert float(to_fixed.loss(scaled)) == pytest.approx(0, abs=1e-6)
    assert to_moving.volume_ratio == pytest.approx(1 / ratio)


def test_tissue_that_grows_gets_thinner_and_conserving_mass_knows_it() -> None:
    bump = 0.06 * torch.sin(math.pi * lattice()[:, :1]) ** 2 * torch.sin(math.pi * lattice()[:, 1:]) ** 2
    points = DisplacementField(torch.cat([bump, bump], dim=1)).on_lattice()
    moving = 0.5 + 0.3 * lattice()[:, :1]
    fixed = sample(moving, points) * jacobian_determinant(points)
    conserving, plain = (
        both_directions(Side(fixed), Side(moving), replace(OPTIONS, moving_volume=volume))[0] for volume in (1.0, None)
    )
    assert float(conserving.loss(points)) == pytest.approx(0, abs=1e-9)
    assert float(plain.loss(points)) > 1e-4


@pytest.mark.parametrize("conserves", [True, False])
def test_the_loss_is_differentiable_in_the_points(conserves: bool) -> None:
    options = DirectionOptions(LNCC(2.0), moving_volume=1.5 if conserves else None)
    one, two = (image(seed).double() for seed in (0, 1))
    to_fixed, _ = both_directions(Side(one), Side(two), options)
    points = (shifted(0.3).double() + 1e-3 * torch.rand(1, 2, *SHAPE).double()).requires_grad_()
    (gradient,) = torch.autograd.grad(to_fixed.loss(points), points)
    direction = torch.rand_like(points)
    step = 1e-6
    slope = (to_fixed.loss(points + step * direction) - to_fixed.loss(points - step * direction)) / (2 * step)
    assert float(slope.detach()) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)
