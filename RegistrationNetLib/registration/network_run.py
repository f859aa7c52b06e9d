"""What a network says of a pair, after its weights were fitted to the pair if that is the refinement; and how that is set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..devices import memory_kept
from ..geometry.space import Array, Grid
from ..losses.direction import both_directions
from ..losses.measure import Measure
from ..memory import prediction_ways, refinement_ways, sparingly
from ..models.composition import BothWays, both_ways
from ..models.loading import watched
from ..progress import StageReport
from .field_refinement import FieldOptions, field_options
from .method import Asked, Settings, Task
from .network_lattice import NetworkPair, Placed, as_seen, network_pair, placed
from .network_refinement import NetworkOptions, NetworkRefined, network_options, refine_network
from .prepare import Preparation, Prepared


@dataclass(frozen=True)
class NetworkSettings:
    """How a network's answer is refined: its field, or its weights; `is_of_weights` says which."""

    field: FieldOptions
    network: NetworkOptions
    is_of_weights: bool

    @property
    def measure(self) -> Measure:
        """The similarity of the refinement that is done, or would be."""
        return self.network.measure if self.is_of_weights else self.field.measure

    @property
    def steps(self) -> int:
        """The number of refinement steps."""
        return self.network.steps if self.is_of_weights else self.field.steps


def network_settings(asked: Asked) -> NetworkSettings:
    """The settings of a method with a network.

    Raises:
        InputError: smoothness or steps break their rules.
    """
    is_of_weights = asked.refine == "network"
    network = network_options(
        asked.card, asked.network_similarity, smoothness=asked.smoothness, conserve_mass=asked.conserve_mass,
        steps=asked.steps if is_of_weights else None,
    )  # fmt: skip
    return NetworkSettings(field_options(asked), network, is_of_weights)


def prediction_only(settings: Settings) -> NetworkSettings:
    """The same without any refinement."""
    assert isinstance(settings, NetworkSettings)
    return NetworkSettings(replace(settings.field, steps=0), settings.network, is_of_weights=False)


@dataclass(frozen=True)
class Prediction:
    """Both directions of a pair, as a network maps its lattices; `notes` tell the report how they were found."""

    maps: BothWays
    pair: NetworkPair
    notes: dict[str, Any]

    def with_maps(self, maps: BothWays) -> Prediction:
        """The same of other maps."""
        return replace(self, maps=maps)

    def placed(self, grid: Grid, *, affine: Array | None = None, is_refined: bool = False) -> Placed:
        """The maps in the world; see `network_lattice.placed`."""
        return placed(self.maps, self.pair, grid, affine=affine, is_refined=is_refined)


def predicted(task: Task) -> Prediction:
    """What the network of `task` says of its pair.

    Raises:
        RefinementError: the loss is not finite.
        ResourceError: the memory is not enough in any way.
    """
    assert task.network is not None
    preparation = Preparation.of(task.card)
    report = task.stages.begin("network")
    pair = network_pair(
        task.fixed, task.moving, task.network_shape,
        orientation=preparation.orientation,
        mirror_axis=preparation.mirror_axis if task.mirrored else None,
        alignment=task.alignment if task.is_aligned else None,
    )  # fmt: skip
    assert isinstance(task.settings, NetworkSettings)
    if task.settings.is_of_weights:
        maps, notes = _refined(task.network, pair, task, task.settings.network)
    else:
        maps, notes = _answered(task.network, pair, task.device, report)
    return Prediction(maps, pair, notes)


def seen_by_network(task: Task) -> tuple[Prepared, Prepared]:
    """Fixed and moving in the axes that the network knows, at their own resolution."""
    orientation = Preparation.of(task.card).orientation
    return as_seen(task.fixed, orientation), as_seen(task.moving, orientation)


def _answered(
    network: nn.Module, pair: NetworkPair, device: torch.device, report: StageReport
) -> tuple[BothWays, dict[str, Any]]:
    def work() -> BothWays:
        with torch.no_grad(), watched(network, report), memory_kept():
            return both_ways(network, pair.moving.values, pair.fixed.values)

    maps, way = sparingly(prediction_ways(device), device, work, remedy="Choose the device cpu.")
    return maps, {"execution": way.name}


def _refined(network: nn.Module, pair: NetworkPair, task: Task, settings: NetworkOptions) -> tuple[BothWays, dict[str, Any]]:
    device, report = task.device, task.stages.begin("refine")

    def work() -> NetworkRefined:
        directions = both_directions(*pair.numbered_sides(), settings.directions(pair.moving_volume))
        return refine_network(network, directions, settings, seed=task.seed, report=report)

    refined, way = sparingly(
        refinement_ways(device), device, work, remedy="Choose the refinement field or none, or the device cpu."
    )
    return refined.maps, {"execution": way.name, "steps_done": refined.steps}
