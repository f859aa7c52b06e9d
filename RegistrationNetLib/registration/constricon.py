"""ConstrICON: both directions are inverse to each other by construction, and stay so through either refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..models.catalogue import Card
from .method import Solution, Task, network_shape
from .network_methods import TrainedNetwork

if TYPE_CHECKING:
    from torch import nn


class ConstrICON(TrainedNetwork):
    """The method of the cards `constricon-mouse` and `constricon`."""

    name = "constricon"
    works_blockwise = False  # its velocities are held on lattices of the size of the images

    def network(self, card: Card) -> nn.Module:
        from ..models.constricon import constricon_network

        return constricon_network(len(network_shape(card)), **card.parameters)

    def solve(self, task: Task) -> Solution:
        """As for every method; the maps are refused where their velocities are not resolved on the lattice."""
        from ..models.constricon_resolution import check_resolved
        from .field_refinement import lattice_of_field
        from .network_run import NetworkSettings, predicted, seen_by_network
        from .velocity_refinement import affine_matrix_of, refine_velocity

        settings = task.settings
        assert isinstance(settings, NetworkSettings)
        found = predicted(task)
        check_resolved(found.maps)
        affine = affine_matrix_of(found.maps)
        if settings.field.steps:
            images = seen_by_network(task)
            maps = refine_velocity(found.maps, found.pair, images, settings.field, task.stages.begin("refine"))
            check_resolved(maps)
            placed = found.with_maps(maps).placed(lattice_of_field(task.fixed.grid), affine=affine, is_refined=True)
        else:
            placed = found.placed(task.fixed.grid.resized(task.network_shape), affine=affine)
        return Solution(placed.alignment, placed.fields, placed.fixed_from_moving, found.notes)
