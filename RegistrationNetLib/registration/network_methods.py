"""Networks that predict both directions in one pass: ICON, GradICON and their successors, CARL.

What they predict is where the refinement begins: of the field, up to the resolution of the images, or of the network's weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..models.catalogue import Card
from .method import Asked, Method, Settings, Solution, Task, field_mb, field_seconds, network_shape
from .size import Size

if TYPE_CHECKING:
    from torch import nn

# As measured: seconds on two cores; megabytes of the program, and bytes for each voxel of the network's lattice.
PREDICTION_SECONDS_PER_VOXEL, NETWORK_SECONDS_PER_VOXEL_AND_STEP = 1.5e-6, 6e-6
NETWORK_BASE_MB, NETWORK_BYTES_PER_VOXEL, NETWORK_BYTES_PER_VOXEL_STEP = 1000, 300, 800


class TrainedNetwork(Method):
    """What the methods have in common that work with a network on the lattice `input_shape` of their card."""

    refinements = ("field", "network")
    works_blockwise = True

    def memory_mb(self, size: Size) -> float:
        bytes_per_voxel = NETWORK_BYTES_PER_VOXEL_STEP if size.refine == "network" else NETWORK_BYTES_PER_VOXEL
        network = NETWORK_BASE_MB + math.prod(network_shape(size.card)) * bytes_per_voxel / 2**20
        return max(field_mb(size), network)

    def held_shape(self, card: Card, refine: str, shape: Sequence[int]) -> tuple[int, ...]:
        return super().held_shape(card, refine, shape) if refine == "field" else network_shape(card)

    def seconds(self, size: Size, settings: Settings) -> dict[str, float]:
        predicted = math.prod(network_shape(size.card))
        refine = (
            NETWORK_SECONDS_PER_VOXEL_AND_STEP * predicted * settings.steps
            if size.refine == "network"
            else field_seconds(size.fixed, settings)
        )
        return {"network": 0.5 + PREDICTION_SECONDS_PER_VOXEL * predicted, "refine": refine}

    def settings(self, asked: Asked) -> Settings:
        from .network_run import network_settings

        return network_settings(asked)

    def worked_side_vox(self, card: Card, side: int) -> int:
        return min(side, max(network_shape(card)))

    def repeat_side_vox(self, card: Card, coarse: int) -> int:
        return max(coarse, *network_shape(card))

    def repeat_settings(self, settings: Settings) -> Settings:
        """The network's answer alone."""
        from .network_run import prediction_only

        return prediction_only(settings)

    def solve(self, task: Task) -> Solution:
        from .field_refinement import refine_aligned
        from .network_run import NetworkSettings, predicted

        settings = task.settings
        assert isinstance(settings, NetworkSettings)
        found = predicted(task)
        placed = found.placed(task.fixed.grid.resized(task.network_shape))
        if not settings.field.steps:
            return Solution(placed.alignment, placed.fields, notes=found.notes)
        report = task.stages.begin("refine")
        fields = refine_aligned(task.fixed, task.moving, placed.alignment, settings.field, report, start=placed.fields)
        return Solution(placed.alignment, fields, notes=found.notes)


class GradICON(TrainedNetwork):
    """GradICON, uniGradICON and multiGradICON: one network, trained on other images."""

    name = "gradicon"

    def network(self, card: Card) -> nn.Module:
        from ..models.gradicon import gradicon_network

        return gradicon_network(len(network_shape(card)), **card.parameters)


class ICONKnee(TrainedNetwork):
    """ICON, as published for the knee."""

    name = "icon-knee"

    def network(self, card: Card) -> nn.Module:
        from ..models.icon import KneeNetwork

        return KneeNetwork(**card.parameters)


class CARL(TrainedNetwork):
    """CARL and uniCARL; their training from nothing begins with diffusion, as published."""

    name = "carl"
    diffusion_steps = 1500  # as published, before 100,000 steps of GradICON's loss

    def network(self, card: Card) -> nn.Module:
        from ..models.carl import carl_network

        return carl_network(dim=len(network_shape(card)), **card.parameters)
