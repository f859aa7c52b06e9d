"""How well-behaved a map is: inverse consistency (ICON, GradICON), diffusion, bending energy. All are losses: 0 is best.

Maps and points are those of `deformation`: unit-cube coordinates, points `[B, dim, *any]`. The functions that take maps
evaluate them where they are asked to, as published. Those that take a field on a lattice `[B, dim, *shape]` use differences
of neighbours instead, and evaluate no map at all. There `extent` gives the length of the cube's edges, one per axis, in any one
unit (mm, say): displacements and distances are then measured in it, so that an elongated cube is treated alike in all
directions; without it all edges have length 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .deformation import Map, identity_points


def icon_loss(first: Map, second: Map, points: Tensor) -> Tensor:
    """Mean squared inverse-consistency error, mean((x - first(second(x)))²), over the `points` x and their coordinates.

    Greer et al., ICCV 2021 (ICON), one of its two directions; `icon_loss_both_ways` is the sum.
    """
    return F.mse_loss(first(second(points)), points)


def icon_loss_both_ways(moving_from_fixed: Map, fixed_from_moving: Map, points: Tensor) -> Tensor:
    """The inverse-consistency errors of both orders of composition, added: the ICON loss as published."""
    return icon_loss(moving_from_fixed, fixed_from_moving, points) + icon_loss(fixed_from_moving, moving_from_fixed, points)


def gradicon_loss(first: Map, second: Map, points: Tensor, delta: float = 1e-3) -> Tensor:
    """Mean squared gradient of the inverse-consistency error E(x) = x - first(second(x)) at the `points`.

    Sum over the axes d of mean(((E(x) - E(x + delta e_d)) / delta)²), over points and coordinates: dim + 1 compositions.
    Tian et al., CVPR 2023 (GradICON). In float32 the rounding of E, divided by delta, leaves about 1e-8 even at the identity.
    """
    # One evaluation of all of them: its gradient passes through a map's whole lattice once, not once for each.
    starts = torch.stack([points] * (points.shape[1] + 1), dim=2)
    for axis in range(points.shape[1]):
        starts[:, axis, axis + 1] += delta
    errors = starts - first(second(starts))
    differences = (errors[:, :, 1:] - errors[:, :, :1]) / delta
    return differences.square().mean() * points.shape[1]


def jittered_lattice(shape: Sequence[int], like: Tensor, *, generator: torch.Generator | None = None, stride: int = 2) -> Tensor:
    """Random points around every `stride`-th lattice point, [1, dim, *ceil(shape / stride)], with dtype and device of `like`.

    As published: (identity + stride · randn / shape[-1])[::stride]. Stride 2 is the sparse form (uniGradICON), stride 1 the
    dense one (ICON, GradICON). Noise is drawn for the whole lattice on the generator's device (default: torch's own, on the
    CPU), so that a seed gives the points of the reference.
    """
    lattice = identity_points(shape, like)
    device = generator.device if generator else torch.device("cpu")
    noise = torch.randn(lattice.shape, dtype=like.dtype, device=device, generator=generator)
    kept = (slice(None), slice(None), *(slice(None, None, stride) for _ in shape))
    return lattice[kept] + stride * noise[kept].to(like.device) / shape[-1]


def gradicon_on_lattice(composed: Tensor, *, extent: Sequence[float] | None = None) -> Tensor:
    """GradICON of the lattice points mapped by a composition, `composed` = first(second(lattice)) [B, dim, *shape].

    A single composition: E is differentiated by differences of neighbours, one voxel apart, where `gradicon_loss` takes
    steps of `delta` around random points. Like it, the sum over axes of the mean over points and coordinates. Without unit;
    only the ratios of `extent` matter.

    Raises:
        InputError: the lattice is thinner than 2 along an axis, or extent does not fit it.
    """
    return diffusion(composed - identity_points(composed.shape[2:], composed), extent=extent)


def diffusion(displacement: Tensor, *, extent: Sequence[float] | None = None) -> Tensor:
    """Mean squared gradient of the `displacement` [B, dim, *shape]: sum over axes of the mean over points and coordinates.

    Differences of neighbours. Without unit; only the ratios of `extent` matter. The reference package's
    DiffusionRegularizedNet multiplies differences by N_0 along every axis, which is this times (N / (N - 1))² for a cube of
    N³ voxels, and weighs the axes of other shapes unequally.

    Raises:
        InputError: the lattice is thinner than 2 along an axis, or extent does not fit it.
    """
    lengths = _checked(displacement, extent, least=2)
    displacement = _in_lengths(displacement, lengths)
    losses = []
    for axis, step in enumerate(_steps(displacement, lengths)):
        size = displacement.shape[2 + axis]
        # mse_loss of two views keeps nothing but the views for the backward pass.
        difference = F.mse_loss(displacement.narrow(2 + axis, 1, size - 1), displacement.narrow(2 + axis, 0, size - 1))
        losses.append(difference / step**2)
    return torch.stack(losses).sum()


def bending_energy(displacement: Tensor, *, extent: Sequence[float] | None = None) -> Tensor:
    """Mean squared second derivatives of the `displacement` [B, dim, *shape], mixed ones counted twice; 0 for affine maps.

    Sum over pairs of axes (d, e) of the mean over points and coordinates of (∂²u / ∂x_d ∂x_e)², by central differences along
    one axis and the four corners of a cell for two. Rueckert et al., IEEE TMI 1999. In 1 / unit² of `extent`. The reference
    package's BendingEnergyNet divides by dim² and takes mixed derivatives over two voxels rather than one.

    Raises:
        InputError: the lattice is thinner than 3 along an axis, or extent does not fit it.
    """
    lengths = _checked(displacement, extent, least=3)
    displacement = _in_lengths(displacement, lengths)
    steps = _steps(displacement, lengths)
    losses = []
    for one, two in itertools.combinations_with_replacement(range(len(steps)), 2):
        second = displacement.diff(dim=2 + one).diff(dim=2 + two)
        losses.append((1 if one == two else 2) * second.square().mean() / (steps[one] * steps[two]) ** 2)
    return torch.stack(losses).sum()


def _checked(field: Tensor, extent: Sequence[float] | None, least: int) -> list[float]:
    """The edge lengths of the cube under a `field` [B, dim, *shape]."""
    shape = list(field.shape[2:])
    if min(shape) < least:
        raise InputError(
            f"The lattice is too thin to differentiate; it needs {least} points along each axis. Got {shape}. Refine it."
        )
    lengths = [1.0] * len(shape) if extent is None else [float(length) for length in extent]
    if len(lengths) != len(shape) or min(lengths) <= 0:
        raise InputError(
            f"extent must hold one positive length for each of the {len(shape)} axes; got {lengths}. Use Grid.extent_mm."
        )
    return lengths


def _in_lengths(displacement: Tensor, lengths: Sequence[float]) -> Tensor:
    """`displacement` with each coordinate in the unit of `lengths`."""
    if all(length == 1 for length in lengths):
        return displacement
    return displacement * displacement.new_tensor(lengths).view(-1, *(1,) * len(lengths))


def _steps(field: Tensor, lengths: Sequence[float]) -> list[float]:
    """Distance of neighbouring lattice points per axis."""
    return [length / (size - 1) for length, size in zip(lengths, field.shape[2:], strict=True)]
