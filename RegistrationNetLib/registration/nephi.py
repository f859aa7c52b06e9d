"""NePhi: the deformation as a function, whose networks and codes are fitted to the pair; with weights, from what the encoder predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..models.catalogue import Card
from .method import Asked, Method, Settings, Solution, Task
from .size import COARSEST_SIDE_VOX, Size

if TYPE_CHECKING:
    from torch import nn

# Megabytes of the program, and bytes for each voxel, as measured; those of a graphics card are counted and not measured.
BASE_MB, BYTES_PER_VOXEL, BYTES_PER_DELIVERED_VOXEL = 1100, 40, 250
GRAPHICS_BASE_MB, GRAPHICS_BYTES_PER_VOXEL, GRAPHICS_BYTES_PER_DELIVERED_VOXEL = 800, 10, 64
SECONDS_PER_STEP, SECONDS_PER_DELIVERED_VOXEL = 0.06, 3e-6
# The map is delivered, and judged, on no more voxels a side than this: it is smoother than a lattice that fine.
FINEST_SIDE_VOX = 256


class NePhi(Method):
    """The method of the card `nephi`."""

    name = "nephi"
    refinements = ("network",)
    uses_labels = False

    def memory_mb(self, size: Size) -> float:
        if size.on_graphics:  # the images with their coarser ones, and both maps; the rest is done elsewhere
            delivered = math.prod(self.judged_shape(size.fixed)) * GRAPHICS_BYTES_PER_DELIVERED_VOXEL
            return GRAPHICS_BASE_MB + (math.prod(size.fixed) * GRAPHICS_BYTES_PER_VOXEL + delivered) / 2**20
        delivered = max(math.prod(self.judged_shape(shape)) for shape in (size.fixed, size.inverse))
        return BASE_MB + (math.prod(size.fixed) * BYTES_PER_VOXEL + delivered * BYTES_PER_DELIVERED_VOXEL) / 2**20

    def judged_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the lattice on which the map is delivered, too."""
        return tuple(min(size, FINEST_SIDE_VOX) for size in shape)

    def seconds(self, size: Size, settings: Settings) -> dict[str, float]:
        levels = max(1, math.ceil(math.log2(max(size.fixed) / COARSEST_SIDE_VOX)) + 1)
        delivered = math.prod(self.judged_shape(size.fixed))
        return {"refine": levels * settings.steps * SECONDS_PER_STEP + delivered * SECONDS_PER_DELIVERED_VOXEL}

    def network(self, card: Card) -> nn.Module:
        from ..models.nephi import NePhi as Network

        return Network(card.parameters["encoder_shape"])

    def settings(self, asked: Asked) -> Settings:
        from .nephi_fit import implicit_options

        return implicit_options(
            asked.card.refine, asked.measure, smoothness=asked.smoothness, conserve_mass=asked.conserve_mass,
            steps=asked.steps_of("network"),
        )  # fmt: skip

    def solve(self, task: Task) -> Solution:
        from .nephi_pair import fit_pair

        return fit_pair(task, self.judged_shape(task.fixed.grid.shape))
