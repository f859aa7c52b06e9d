"""What every method of registration is: what must be known of it before it works, and one call that solves a pair.

docs/a-method-of-your-own.md tells how to add one. A method's file is read by the panel, in whose process there is no torch: what
needs torch is imported inside `network`, `settings` and `solve`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..models.catalogue import Card
from .size import Size, delivered_shape, field_shape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..geometry.deformation import Map
    from ..geometry.field_pair import FieldPair
    from ..geometry.space import Array, Grid
    from ..losses.measure import Measure
    from ..progress import Stages
    from .prepare import Prepared

# Seconds on two cores, measured, from which the progress bar knows each stage's share.
FIELD_SECONDS_PER_VOXEL_AND_STEP = {
    "lncc": 0.13e-6,
    "lncc2": 0.13e-6,
    "mind": 0.9e-6,
    "mi": 0.5e-6,
    "ncc": 0.1e-6,
    "ssd": 0.1e-6,
}
# As measured: megabytes of the program; bytes for each voxel that is worked on, by the measure, and for its label; bytes for each point
# of the inverse; megabytes of the slabs in which the results are made; and of alignment and evidence, whose lattices are the same for all volumes.
FIELD_BASE_MB, FIELD_BYTES_PER_VOXEL, LABEL_BYTES_PER_VOXEL, INVERSE_BYTES_PER_POINT = 350, 130, 40, 250
FIELD_BYTES_OF_MEASURE = {"mind": 400, "mi": 200}
# Of those measures that compare images block by block on the CPU.
BLOCKWISE_BYTES_PER_VOXEL, BLOCKWISE = 60, ("lncc", "lncc2", "ssd")
SLAB_BYTES_PER_VOXEL, MOST_SLAB_MB = 100, 400
COARSE_STAGES_MB = 310


class Settings(Protocol):
    """How a method refines."""

    @property
    def measure(self) -> Measure:
        """The similarity of the refinement that is done, or would be."""

    @property
    def steps(self) -> int:
        """The number of refinement steps; 0 where none is done."""


@dataclass(frozen=True)
class Asked:
    """What a method makes its settings from.

    Attributes:
        refine: one of the method's refinements, or "none".
        steps: None leaves them to the method.
        measure: the similarity at the resolution of the images, by which the result is judged.
        network_similarity: the name of the one at the resolution of a network.
        smoothness: factor on the regularity; 1 is the default, larger is smoother.
        conserve_mass: values are densities, which fall where tissue grows (CT of lungs).
    """

    card: Card
    refine: str
    steps: int | None
    measure: Measure
    network_similarity: str
    smoothness: float = 1.0
    conserve_mass: bool = False

    def steps_of(self, refinement: str) -> int | None:
        """The steps of this refinement: 0 where it is not done, None where the method decides."""
        return self.steps if self.refine == refinement else 0


@dataclass(frozen=True)
class Task:
    """A pair to solve: prepared images, the world matrix that aligns them, and the network with its weights, if there is one.

    `is_aligned` is False where nothing was aligned and nothing given to start from: `alignment` is the identity then.
    """

    fixed: Prepared
    moving: Prepared
    alignment: Array
    is_aligned: bool
    network: nn.Module | None
    card: Card
    settings: Settings
    device: torch.device
    stages: Stages
    mirrored: bool = False
    seed: int = 0

    @property
    def network_shape(self) -> tuple[int, ...]:
        """The shape of the network's lattice, for a card that has one."""
        return network_shape(self.card)


@dataclass(frozen=True)
class Solution:
    """What a method found: a world matrix `alignment` after a deformation of fixed, both ways.

    `inverse` is that of the deformation, in the unit cube of the fields, where the method knows it by construction. `notes` say
    for the report how the work was done, `warnings` what the user should know of it. Fields that are `as_delivered` lie on the
    lattice of a result already.
    """

    alignment: Array
    fields: FieldPair
    inverse: Map | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    as_delivered: bool = False

    @property
    def delivered_grid(self) -> Grid:
        """The lattice on which the deformation of fixed is delivered, besides its margin."""
        grid = self.fields.grid
        return grid if self.as_delivered else grid.spanned(delivered_shape(grid.shape))

    def to(self, device: torch.device) -> Solution:
        """The same on another device, of one that has no `inverse`."""
        assert self.inverse is None
        return replace(self, fields=self.fields.to(device))


class Method(ABC):
    """One way to register a pair. Cards name it by `name`.

    Attributes:
        refinements: what can be refined, beside "none".
        has_network: weights can be given; whether they must be is said by the card.
        uses_labels: labels guide the work; otherwise they only judge it.
        repeats: how often a pair is registered again to see how far the result can be trusted; together no longer than once.
        across_contrasts: the similarities from which one is chosen for two contrasts; mind among them.
        works_blockwise: its field is found block by block where the similarity allows that, so that many voxels take little.
        diffusion_steps: so many first steps of a training from nothing have diffusion as regularity.
    """

    name: ClassVar[str]
    refinements: ClassVar[tuple[str, ...]]
    has_network: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True
    repeats: ClassVar[int] = 1
    across_contrasts: ClassVar[tuple[str, ...]] = ("mind",)
    works_blockwise: ClassVar[bool] = False
    diffusion_steps: ClassVar[int] = 0

    def memory_mb(self, size: Size) -> float:
        """About what registering takes, the program included; of a graphics card where that is asked for."""
        return field_mb(size)

    def held_shape(self, card: Card, refine: str, shape: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002, for networks, which have lattices
        """Of the lattice that holds the deformation of images of `shape`."""
        return field_shape(shape)

    def judged_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the lattice on which the similarity before and after is found, for a fixed image of `shape`."""
        return field_shape(shape)

    @abstractmethod
    def seconds(self, size: Size, settings: Settings) -> dict[str, float]:
        """About what the stages "network" and "refine" take."""

    def network(self, card: Card) -> nn.Module:
        """The network of a card, with random weights; under `torch.device("meta")` with none at all."""
        raise AssertionError(f"{self.name} has no network for {card.name}")

    @abstractmethod
    def settings(self, asked: Asked) -> Settings:
        """How it refines.

        Raises:
            InputError: smoothness or steps break their rules.
        """

    def worked_side_vox(self, card: Card, side: int) -> int:  # noqa: ARG002, for those that have a lattice of their own
        """Along the longest side of the lattice on which it works, for an image with `side` voxels there."""
        return side

    def repeat_side_vox(self, card: Card, coarse: int) -> int:  # noqa: ARG002, for those that have a lattice of their own
        """Along the longest side of the lattice on which a repeat works (see `repeats.py`), where `coarse` would be enough."""
        return coarse

    def repeat_settings(self, settings: Settings) -> Settings:
        """How a repeat refines; it takes no longer than the registration does."""
        return settings

    @abstractmethod
    def solve(self, task: Task) -> Solution:
        """The deformation of a pair.

        Raises:
            GeometryError: the images do not overlap.
            RefinementError: the loss is not finite.
        """


def field_mb(size: Size) -> float:
    """What refining a field takes, and after that its inverse and the results."""
    each = FIELD_BYTES_OF_MEASURE.get(size.measure, FIELD_BYTES_PER_VOXEL)
    if size.measure in BLOCKWISE and not (size.is_whole or size.on_graphics):
        each = BLOCKWISE_BYTES_PER_VOXEL
    each += size.labels * LABEL_BYTES_PER_VOXEL
    coarse = COARSE_STAGES_MB if len(size.fixed) == 3 else 0
    return FIELD_BASE_MB + max(size.worked / 2 * each / 2**20, finishing_mb(size), coarse)


def finishing_mb(size: Size) -> float:
    """What inverse and results take when all else is gone."""
    slab = min(MOST_SLAB_MB, size.fixed_voxels * SLAB_BYTES_PER_VOXEL / 2**20)
    return size.result_mb + slab + math.prod(size.inverse) * INVERSE_BYTES_PER_POINT / 2**20


def field_seconds(shape: Sequence[int], settings: Settings) -> float:
    """What refining a field on the lattice of `shape` takes."""
    return 0.05 + FIELD_SECONDS_PER_VOXEL_AND_STEP[settings.measure.name] * math.prod(shape) * settings.steps


def network_shape(card: Card) -> tuple[int, ...]:
    """The shape of the lattice of the network of a card, which must name one."""
    assert card.input_shape is not None, f"the card {card.name} must give the lattice of its network"
    return card.input_shape
