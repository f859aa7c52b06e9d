"""The velocities inside a registration by `constricon`: all of them, to be penalized, and the innermost one, to be changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..geometry.deformation import Composition
from .composition import BothWays
from .layers.exponential import Flow, flows


def velocities_of(maps: BothWays) -> tuple[Tensor, ...]:
    """The velocities [B, dim, *shape] of `maps`, each once, in the order of their first use in moving_from_fixed."""
    flows_of = (one for one in maps.moving_from_fixed.maps if isinstance(one, Flow))
    return tuple({id(one.velocity): one.velocity for one in flows_of}.values())


@dataclass(frozen=True)
class Middle:
    """A registration seen from its middle: moving_from_fixed is φ∘exp(v)∘φ and its inverse φ⁻¹∘exp(-v)∘φ⁻¹.

    φ is all steps but the innermost, whose velocity is v. It carries moving, and φ⁻¹ fixed, to the middle, where exp(v) is what
    is left between them (Greer et al., MICCAI 2023, arXiv 2305.00087, on two steps). With another v the maps stay inverse to
    each other, and -v still belongs to the exchanged images.

    Args:
        maps: of a network whose innermost step is a velocity; the last step of `constricon_network` is.
    """

    maps: BothWays

    @property
    def flow(self) -> Flow:
        """exp(v)."""
        innermost = self.maps.moving_from_fixed.maps[self._place]
        assert isinstance(innermost, Flow)
        return innermost

    @property
    def moving_from_middle(self) -> Composition:
        """φ."""
        return Composition(self.maps.moving_from_fixed.maps[: self._place])

    @property
    def fixed_from_middle(self) -> Composition:
        """φ⁻¹."""
        return Composition(self.maps.fixed_from_moving.maps[: self._place])

    def both_ways(self, velocity: Tensor) -> BothWays:
        """The maps with another v [B, dim, *any]; differentiable in it."""
        forward, backward = flows(velocity, squarings=self.flow.squarings)
        return BothWays(self._around(forward, self.maps.moving_from_fixed), self._around(backward, self.maps.fixed_from_moving))

    def _around(self, innermost: Flow, composition: Composition) -> Composition:
        return Composition((*composition.maps[: self._place], innermost, *composition.maps[self._place + 1 :]))

    @property
    def _place(self) -> int:
        return len(self.maps.moving_from_fixed.maps) // 2
