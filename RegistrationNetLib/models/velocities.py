"""The velocities inside a registration by `constricon`, to be penalized, or changed: the maps stay inverse to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..deformation import Composition, Map
from .lie import Flow
from .steps import BothWays


def velocities_of(maps: BothWays) -> tuple[Tensor, ...]:
    """The velocities [B, dim, *shape] of `maps`, each once, in the order of their first use in moving_from_fixed."""
    flows_of = (one for one in maps.moving_from_fixed.maps if isinstance(one, Flow))
    return tuple({id(one.velocity): one.velocity for one in flows_of}.values())


@dataclass(frozen=True)
class Velocities:
    """The maps of a registration as functions of the velocities of their steps, for refining these.

    Whatever the velocities, the maps stay inverse to each other. They may lie on any lattices, such as coarse ones.

    Args:
        maps: of a network; the affine steps stay as they are.
    """

    maps: BothWays

    def initial(self) -> tuple[Tensor, ...]:
        """Those of `maps`, in the order of `velocities_of`."""
        return velocities_of(self.maps)

    def moving_from_fixed(self, velocities: Sequence[Tensor]) -> Composition:
        """That map with other `velocities`, one for each of `initial`; differentiable in them."""
        return self._with(velocities, self.maps.moving_from_fixed)

    def fixed_from_moving(self, velocities: Sequence[Tensor]) -> Composition:
        """That map with other `velocities`, one for each of `initial`; differentiable in them."""
        return self._with(velocities, self.maps.fixed_from_moving)

    def both_ways(self, velocities: Sequence[Tensor]) -> BothWays:
        """Both maps with other `velocities`, one for each of `initial`; differentiable in them."""
        return BothWays(self.moving_from_fixed(velocities), self.fixed_from_moving(velocities))

    def _with(self, velocities: Sequence[Tensor], composition: Composition) -> Composition:
        exchanged = {id(old): new for old, new in zip(self.initial(), velocities, strict=True)}
        known: dict[int, Flow] = {}

        def changed(one: Map) -> Map:
            if not isinstance(one, Flow):
                return one
            key = id(one.velocity)
            if key not in known:
                known[key] = one.of(exchanged[key])
            return known[key]

        return Composition(tuple(changed(one) for one in composition.maps))
