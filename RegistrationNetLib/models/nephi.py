"""NePhi: the deformation as a function of the point, by a small network and latent codes of the pair; Tian et al., ECCV 2024."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..geometry.deformation import Composition, Map
from ..geometry.interpolation import crossings
from .composition import BothWays
from .layers.implicit import GlobalAndLocalEncoder, LocalMLP
from .layers.latent import LatentCodes

# Points that are mapped at a time where no gradient is asked for: their features take about 2 KB each.
POINTS_AT_A_TIME = 2**15


@dataclass(frozen=True, eq=False)
class ImplicitMap:
    """x ↦ x + u(x), where `network` gives u for the place x and what `codes` say there.

    The network's own coordinates lie in [-1, 1]; points here are those of the unit cube, as for every map.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    codes: LatentCodes

    def __call__(self, points: Tensor) -> Tensor:
        return points + self.displacement(points)

    def displacement(self, points: Tensor) -> Tensor:
        """u at `points` [B or 1, dim, *any], in unit-cube coordinates: [B, dim, *any]."""
        return self._displacement(points, self.codes.at(points))

    def displacement_on_lines(self, lines: Sequence[Tensor]) -> Tensor:
        """u where lines along the axes cross, coordinates [P, count] for each axis: [P, dim, *counts]; in less time."""
        return self._displacement(crossings(lines), self.codes.on_lines(lines))

    def _displacement(self, points: Tensor, codes: Tensor) -> Tensor:
        places = (2 * points.movedim(1, -1) - 1).expand(*codes.shape[:-1], -1)  # one set of points may do for a batch of codes
        displacement: Tensor = self.network(places, codes) / 2
        return displacement.movedim(-1, 1)


@dataclass(frozen=True)
class CodedMaps(BothWays):
    """Both maps with the codes that they share, which the loss keeps short."""

    codes: LatentCodes


class NePhi(nn.Module):
    """The published network, whose state dict is that of the parts of its checkpoints, untrained.

    The two directions are two networks that share the codes, so that both come from one look at the pair.

    Args:
        shape: of the images; the encoder takes no other.

    Raises:
        InputError: it is smaller than the encoder can halve.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.encoder = GlobalAndLocalEncoder(shape)
        self.phi = LocalMLP(len(shape))
        self.phi_inv = LocalMLP(len(shape))

    def both_ways(self, moving: Tensor, fixed: Tensor) -> CodedMaps:
        """Both maps and the codes they share, for images [B, 1, *shape].

        Raises:
            InputError: an image has another shape than the network's.
        """
        return both_implicit(self.phi, self.phi_inv, self.encoder(moving, fixed))

    forward = both_ways


def both_implicit(phi: LocalMLP, phi_inv: LocalMLP, codes: LatentCodes) -> CodedMaps:
    """The maps of `phi` (moving_from_fixed) and `phi_inv` with the same codes."""
    return CodedMaps(Composition((ImplicitMap(phi, codes),)), Composition((ImplicitMap(phi_inv, codes),)), codes)


@torch.no_grad()
def slabs(map_: Map, shape: Sequence[int], like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The lattice of `shape` and where `map_` takes it, some layers of the first axis at a time.

    Gives which layers, their points, and those mapped, [1, dim, layers, *rest] each. The working set is that of a slab,
    however large the lattice; `like` gives dtype and device.
    """
    count = max(1, POINTS_AT_A_TIME // math.prod(shape[1:]))
    lines = [torch.linspace(0, 1, size, dtype=like.dtype, device=like.device)[None] for size in shape]
    for first in range(0, shape[0], count):
        layers = slice(first, min(first + count, shape[0]))
        crossing = [lines[0][:, layers], *lines[1:]]
        points = crossings(crossing)
        yield layers, points, points + _on_lines(map_, crossing) if isinstance(map_, ImplicitMap) else _in_pieces(map_, points)


def _on_lines(map_: ImplicitMap, lines: Sequence[Tensor]) -> Tensor:
    """Displacements where the lines cross, a bounded number of them at a time."""
    first, second, *rest = lines
    rows = max(1, POINTS_AT_A_TIME // math.prod(line.shape[1] for line in (first, *rest)))
    return torch.cat([map_.displacement_on_lines([first, piece, *rest]) for piece in second.split(rows, dim=1)], dim=3)


def _in_pieces(map_: Map, points: Tensor) -> Tensor:
    """`map_` of the points [1, dim, *any], a bounded number of them at a time."""
    pieces = [map_(piece) for piece in points.flatten(2).split(POINTS_AT_A_TIME, dim=2)]
    return torch.cat(pieces, dim=2).view(points.shape)
