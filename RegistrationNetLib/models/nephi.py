"""NePhi: the deformation as a function of the point, by a small network and latent codes of the pair; Tian et al., ECCV 2024."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..deformation import Composition, Map, identity_points
from ..networks.implicit import GlobalAndLocalEncoder, LocalMLP
from ..networks.latent import LatentCodes
from .steps import BothWays

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
        """u at `points` [B, dim, *any], in unit-cube coordinates: [B, dim, *any]."""
        places = 2 * points.movedim(1, -1) - 1
        displacement: Tensor = self.network(places, self.codes.at(points)) / 2
        return displacement.movedim(-1, 1)


class NePhi(nn.Module):
    """The published network, whose state dict is that of the parts of its checkpoints, untrained.

    The two directions are two networks that share the codes, so that both come from one look at the pair.

    Args:
        shape: of the images; the encoder takes no other.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.encoder = GlobalAndLocalEncoder(shape)
        self.phi = LocalMLP(len(shape))
        self.phi_inv = LocalMLP(len(shape))

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[BothWays, LatentCodes]:
        """Both maps and the codes they share, for images [B, 1, *shape].

        Raises:
            InputError: an image has another shape than the network's.
        """
        codes: LatentCodes = self.encoder(moving, fixed)
        return both_implicit(self.phi, self.phi_inv, codes), codes


def both_implicit(phi: LocalMLP, phi_inv: LocalMLP, codes: LatentCodes) -> BothWays:
    """The maps of `phi` (moving_from_fixed) and `phi_inv` with the same codes."""
    return BothWays(Composition((ImplicitMap(phi, codes),)), Composition((ImplicitMap(phi_inv, codes),)))


@torch.no_grad()
def slabs(map_: Map, shape: Sequence[int], like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The lattice of `shape` and where `map_` takes it, some layers of the first axis at a time.

    Gives which layers, their points, and those mapped, [1, dim, layers, *rest] each. The working set is that of a slab,
    however large the lattice; `like` gives dtype and device.
    """
    layer = identity_points((1, *shape[1:]), like)
    count = max(1, POINTS_AT_A_TIME // layer[0, 0].numel())
    depth = torch.linspace(0, 1, shape[0], dtype=like.dtype, device=like.device)
    for first in range(0, shape[0], count):
        layers = slice(first, min(first + count, shape[0]))
        points = layer.repeat(1, 1, layers.stop - first, *(1,) * (len(shape) - 1))
        points[:, 0] += depth[layers].view(-1, *(1,) * (len(shape) - 1))
        yield layers, points, _in_pieces(map_, points)


def _in_pieces(map_: Map, points: Tensor) -> Tensor:
    """`map_` of the points [1, dim, *any], a bounded number of them at a time."""
    pieces = [map_(piece) for piece in points.flatten(2).split(POINTS_AT_A_TIME, dim=2)]
    return torch.cat(pieces, dim=2).view(points.shape)
