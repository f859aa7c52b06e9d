"""How registration networks combine: a displacement as a map, one network after another, one at half resolution.

Every step is a module that takes moving and fixed, [B, C, *shape] each, and gives the map moving_from_fixed as a `Composition`.
The children bear the names of the published files (`net`, `netPhi`, `netPsi`), and nothing but the networks' parameters is
stored. No step knows the shape of its images beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..geometry.deformation import Composition, DisplacementField, Map, identity_points, sample
from ..memory import IS_RECOMPUTED, within
from .layers.linear_end import for_gradient_alone
from .layers.unet import halved

# Points that are mapped at a time where no gradient is asked for: their temporaries stay in the processor's cache.
POINTS_AT_A_TIME = 2**17

_LAST_STEP_KEPT: ContextVar[bool] = ContextVar("last_step_kept", default=False)


def _is_recomputing() -> bool:
    return IS_RECOMPUTED.get() and torch.is_grad_enabled()


def _kept_or_recomputed(function: Callable[[], Tensor]) -> Tensor:
    """`function()`; within `recomputed` what is made on the way is not kept, but for the last step."""
    if not _is_recomputing() or _LAST_STEP_KEPT.get():
        return function()
    made: Tensor = checkpoint(
        function, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: (nullcontext(), for_gradient_alone())
    )
    return made


class FunctionFromVectorField(nn.Module):
    """The map x ↦ x + u(x) of the displacement u that `net` gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed."""
        return Composition((DisplacementField(_kept_or_recomputed(lambda: self.net(moving, fixed))),))


class TwoStep(nn.Module):
    """`netPhi` registers the images, `netPsi` what is left between moving, warped by the first, and fixed."""

    def __init__(self, netPhi: nn.Module, netPsi: nn.Module) -> None:  # noqa: N803 - published names
        super().__init__()
        self.netPhi = netPhi
        self.netPsi = netPsi

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed: the map of `netPhi` after that of `netPsi`."""
        with within(_LAST_STEP_KEPT, False):
            phi: Composition = self.netPhi(moving, fixed)
        psi: Composition = self.netPsi(warped(moving, phi), fixed)
        return Composition((*phi.maps, *psi.maps))


class Downsample(nn.Module):
    """`net` at half resolution: of both images, averaged over 2 voxels per axis."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed, over the same unit cube."""
        with within(IS_RECOMPUTED, False):
            composition: Composition = self.net(halved(moving), halved(fixed))
        return composition


@dataclass(frozen=True)
class BothWays:
    """The maps that a network gives for a pair and for its reverse; inverse to each other as far as it learnt, or by construction."""

    moving_from_fixed: Composition
    fixed_from_moving: Composition


@runtime_checkable
class GivesBothWays(Protocol):
    """A network that works out both directions together; they may be inverse to each other by construction (`constricon`)."""

    def both_ways(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """The maps of the pair and of its reverse, from images [B, C, *shape] each."""


def both_ways(net: nn.Module, moving: Tensor, fixed: Tensor) -> BothWays:
    """The maps of `net` for the pair and for its reverse.

    A network that `GivesBothWays` is asked for them. Else the two directions are one batch, which is faster. In training mode
    they are not, so that the statistics of batch normalization are those of each direction, as published; nor within
    `recomputed`, to spare memory.

    Args:
        net: a step of this file, or a network made of them.
        moving: image [B, C, *shape], as the network's preparation leaves it; under `torch.no_grad` nothing is kept for gradients,
            and under `torch.autocast(device, torch.bfloat16)` the convolutions work in half precision.
        fixed: image of the same shape.

    Raises:
        InputError: the images differ in shape.
    """
    if moving.shape != fixed.shape:
        raise InputError(
            f"moving and fixed must have one shape here; got {list(moving.shape)} and {list(fixed.shape)}. Resize them to the network's."
        )
    if isinstance(net, GivesBothWays):
        return net.both_ways(moving, fixed)
    if net.training or _is_recomputing():
        moving_from_fixed = net(moving, fixed)
        with within(_LAST_STEP_KEPT, True):
            return BothWays(moving_from_fixed, net(fixed, moving))
    count = moving.shape[0]
    images = torch.cat([moving, fixed, moving])  # moving is once the first and once the second half of a batch
    together: Composition = net(images[: 2 * count], images[count:])
    return BothWays(_entries(together, slice(count)), _entries(together, slice(count, None)))


def _entries(composition: Composition, which: slice) -> Composition:
    """The maps of some entries of the batch."""
    return Composition(tuple(_field_entries(field, which) for field in composition.maps))


def _field_entries(field: Map, which: slice) -> Map:
    assert isinstance(field, DisplacementField)
    return replace(field, displacement=field.displacement[which])


def mapped_lattice(composition: Composition, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """The lattice of `shape` mapped by `composition`, [B, dim, *shape]; `like` gives dtype and device.

    The map that comes first is not sampled: its displacement is that of the lattice, or interpolated to it axis by axis.
    """
    return _kept_or_recomputed(lambda: _mapped_lattice(composition, shape, like))


def _mapped_lattice(composition: Composition, shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    first = composition.maps[-1] if composition.maps else None
    if not isinstance(first, DisplacementField):
        return _by_slabs(composition, identity_points(shape, like))
    others = Composition(tuple(_rounded(one) for one in composition.maps[:-1]))
    return _by_slabs(others, _displaced_lattice(first.displacement, shape))


def _rounded(one: Map) -> Map:
    """The map, which may move points by 0.000125 voxels of its lattice before it looks up their displacements."""
    if not isinstance(one, DisplacementField) or type(one).__call__ is not DisplacementField.__call__:
        return one
    displacement = one.displacement
    return lambda points: points + sample(displacement, points, rounded=True)


def warped(moving: Tensor, composition: Composition) -> Tensor:
    """`moving` [B, C, *shape] at its lattice mapped by `composition`; outside it is as at the nearest border point."""

    def sampled() -> Tensor:
        points = _mapped_lattice(composition, moving.shape[2:], moving)
        return _by_slabs(lambda slab: sample(moving, slab, rounded=True), points)

    return _kept_or_recomputed(sampled)


def _displaced_lattice(displacement: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """x + u(x) on the lattice of `shape`, in memory of its own."""
    if displacement.shape[2:] == torch.Size(shape):
        points = displacement.clone()
    else:
        mode = "bilinear" if displacement.dim() == 4 else "trilinear"
        points = F.interpolate(displacement, size=tuple(shape), mode=mode, align_corners=True)
    for axis, size in enumerate(shape):
        line = torch.linspace(0, 1, size, dtype=points.dtype, device=points.device)
        points[:, axis] += line.view(-1, *(1,) * (len(shape) - 1 - axis))
    return points


def _by_slabs(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """`function` of the points [B, dim, *shape], a few layers of the first axis at a time where no gradient is asked for."""
    if torch.is_grad_enabled() or points.device.type != "cpu":
        return function(points)
    layers = max(1, POINTS_AT_A_TIME // points[0, 0, 0].numel())
    slabs = points.split(layers, dim=2)
    first = function(slabs[0])
    values = first.new_empty(*first.shape[:2], *points.shape[2:])
    for place, slab in zip(values.split(layers, dim=2), slabs, strict=True):
        place.copy_(function(slab))
    return values
