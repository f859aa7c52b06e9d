"""Whether maps that are inverse to each other by construction are so on their lattices, and what helps where they are not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..devices import without_mps
from ..errors import InputError
from ..geometry.deformation import Affine, derivatives, identity_points, sample, vector_length
from .composition import BothWays
from .layers.exponential import Flow

LARGEST_STRETCH = 10.0


@torch.no_grad()
def check_resolved(maps: BothWays, *, tolerance_vox: float = 1.0) -> None:
    """Refuse maps of `constricon` whose exponentials were not resolved.

    Args:
        maps: affine ones and flows.
        tolerance_vox: how far a flow and then its inverse may move a point, in voxels of its lattice.

    Raises:
        InputError: a map is not finite, a matrix stretches more than tenfold, or a flow does not come back.
    """
    for forward, backward in dict(zip(maps.moving_from_fixed.maps, maps.fixed_from_moving.maps, strict=True)).items():
        if isinstance(forward, Affine):
            _check_affine(forward)
        elif isinstance(forward, Flow) and isinstance(backward, Flow):
            _check_flow(forward, backward, tolerance_vox)


@torch.no_grad()
def round_trip_vox(forward: Flow, backward: Flow, *, stride: int = 2) -> float:
    """The largest |forward(backward(x)) - x| in voxels, over every `stride`-th lattice point that `backward` keeps in the cube."""
    every = (slice(None), slice(None), *(slice(None, None, stride) for _ in backward.displacement.shape[2:]))
    start = identity_points(backward.displacement.shape[2:], backward.displacement)[every]
    there = backward.displacement[every]
    stays = ((start + there).clamp(0, 1) == start + there).all(dim=1, keepdim=True)
    moved = there + sample(forward.displacement, start + there)
    return float((vector_length(moved * _intervals(moved, forward)) * stays).max())


@torch.no_grad()
def squaring_error_vox(flow: Flow) -> float:
    """What scaling and squaring alone adds to the round trip, in voxels: about max |(v·∇)v| / 2^squarings of the velocity v.

    The first of the 2^squarings steps is x + v / 2^squarings, which misses half of it at each end. Halves with each squaring.
    """
    velocity = flow.velocity
    along = torch.stack([velocity[:, axis : axis + 1] * derivatives(velocity, axis) for axis in range(velocity.shape[1])]).sum(0)
    return float(vector_length(along * _intervals(along, flow)).max()) / 2**flow.squarings


def _check_affine(affine: Affine) -> None:
    linear = affine.matrix[..., :-1]
    if torch.isfinite(affine.matrix).all():
        stretches = torch.linalg.svdvals(without_mps(linear)).to(linear)
        lowest, highest = float(stretches.min()), float(stretches.max())
        if lowest >= 1 / LARGEST_STRETCH and highest <= LARGEST_STRETCH:
            return
        came = f"got {lowest:.3g} to {highest:.3g}"
    else:
        came = "got numbers that are not finite"
    raise InputError(
        f"The affine part is degenerate: it must stretch by {1 / LARGEST_STRETCH:g} to {LARGEST_STRETCH:g}; {came}. "
        "Check that the images are prepared as the model's card says, and that the weights are those of this model."
    )


def _check_flow(forward: Flow, backward: Flow, tolerance_vox: float) -> None:
    if not torch.isfinite(forward.velocity).all():
        raise InputError(
            "A velocity is not finite; every number must be. Got infinity or NaN. "
            "Check that the images are prepared as the model's card says, and that the weights are those of this model."
        )
    error_vox = round_trip_vox(forward, backward)
    if not error_vox <= tolerance_vox:
        raise InputError(
            f"A velocity is too large to be resolved: its flow and the inverse must meet within {tolerance_vox:g} voxel; they miss by "
            f"{error_vox:.3g}. {_remedy(forward, tolerance_vox)}"
        )


def _remedy(flow: Flow, tolerance_vox: float) -> str:
    """More squarings where they are what is missing."""
    excess = 2 * squaring_error_vox(flow) / tolerance_vox
    if excess > 1:
        more = flow.squarings + math.ceil(math.log2(excess))
        return f"Use {more} squarings instead of {flow.squarings}: they are a parameter on the card of the model."
    return "The lattice is too coarse for it: align the images better beforehand, or ask for a smoother deformation."


def _intervals(like: Tensor, flow: Flow) -> Tensor:
    """Voxels per edge of the unit cube, [1, dim, 1…]."""
    shape = flow.displacement.shape[2:]
    return like.new_tensor([size - 1.0 for size in shape]).view(1, -1, *(1,) * len(shape))
