"""Latent codes of a deformation: one for the whole pair, and a lattice of local ones, read at any point.

Between nodes the published codes are linear; smooth ones, which are not published, are cubic B-splines, so that the map has no
kinks (`geometry.interpolation` reads both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...geometry.interpolation import interpolated, reading_matrix
from ...geometry.separable import apply_along_axes, bspline_change_matrix, interpolation_matrix, on


@dataclass(frozen=True, eq=False)
class LatentCodes:
    """What a pair of images says to the network that maps points.

    Attributes:
        of_pair: one code for all points, [B, G].
        local: codes on a lattice over the unit cube, [B, L, *shape].
        smooth: between the nodes they are cubic B-splines, rather than linear.
    """

    of_pair: Tensor
    local: Tensor
    smooth: bool = False

    @property
    def channels(self) -> int:
        """Channels of the code at a point: G + L."""
        return self.of_pair.shape[1] + self.local.shape[1]

    def at(self, points: Tensor) -> Tensor:
        """The code of each of `points` [B, dim, *any], that of the pair first: [B, *any, G + L]."""
        return self._with_pair(interpolated(self.local, points, smooth=self.smooth))

    def on_lines(self, lines: Sequence[Tensor]) -> Tensor:
        """The codes where lines along the axes cross, as `at` gives them: [P, *counts, G + L].

        Axis by axis, which for a lattice of points is much less work. `lines` are coordinates [P, count] for each axis; they
        get no gradient. For a batch of 1.
        """
        values = self.local
        for axis, line in enumerate(lines):
            values = values.movedim(2 + axis, 2)
            rest = values.shape[3:]
            values = reading_matrix(line, values.shape[2], self.smooth)[:, None] @ values.flatten(3)
            values = values.unflatten(3, rest).movedim(2, 2 + axis)
        return self._with_pair(values.movedim(1, -1))

    def _with_pair(self, local: Tensor) -> Tensor:
        shared = self.of_pair.view(self.of_pair.shape[0], *(1,) * (local.dim() - 2), -1)
        return torch.cat([shared.expand(*local.shape[:-1], -1), local], dim=-1)

    def norm(self) -> Tensor:
        """Mean length of the code of the pair plus mean length of the local codes, a scalar: the prior of NePhi."""
        pair, local = (torch.linalg.vector_norm(code, dim=1).mean() for code in (self.of_pair, self.local))
        return pair + local

    def on(self, shape: Sequence[int]) -> LatentCodes:
        """The same codes on a lattice of `shape`; the same map where every old node (within the cube) is a node of it."""
        pairs = list(zip(shape, self.local.shape[2:], strict=True))
        if self.smooth:
            matrices = [bspline_change_matrix(new - 3, old - 3) for new, old in pairs]
        else:
            matrices = [interpolation_matrix(new, old) for new, old in pairs]
        return replace(self, local=apply_along_axes(self.local, on(matrices, self.local)))


def random_codes(
    channels: tuple[int, int], shape: Sequence[int], generator: torch.Generator, *, like: Tensor, smooth: bool = False
) -> LatentCodes:
    """Codes drawn from N(0, 1 / channels) each, of the pair and local, for a pair without an encoder (NePhi's table of codes)."""
    of_pair = torch.randn(1, channels[0], generator=generator) / channels[0] ** 0.5
    local = torch.randn(1, channels[1], *shape, generator=generator) / channels[1] ** 0.5
    return LatentCodes(of_pair.to(like), local.to(like), smooth)
