"""A pair solved by NePhi: what its encoder predicts, if it has weights; the fit to the pair; and its map on the lattice delivered."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from ..geometry.space import Array
from ..models.layers.implicit import LocalMLP
from ..models.loading import watched
from ..models.nephi import NePhi
from .method import Solution, Task
from .nephi_fit import ImplicitOptions, ImplicitStart, levels_for, refine_implicit
from .network_lattice import network_pair
from .prepare import Preparation

# Of the steps that a random start takes: published networks are four times as wide, and so move farther with each.
TRAINED_STEP_SHARE = 0.1
# Of the stage; the rest of it is writing down the map.
FIT_SHARE = 0.9


def fit_pair(task: Task, delivered_shape: tuple[int, ...]) -> Solution:
    """The fit of NePhi to the pair of `task`, which begins at what its network predicts (None: at the identity).

    Without an alignment each image fills the encoder's lattice with its own extent, as published. The map is delivered on a
    lattice of `delivered_shape`, in the memory of the processor: a graphics card that holds the images may not hold its inversion.

    Raises:
        GeometryError: there is nothing to compare.
        InputError: the images have another number of dimensions than the encoder's.
        RefinementError: the loss is not finite.
    """
    chosen, alignment, start = task.settings, task.alignment, None
    assert isinstance(chosen, ImplicitOptions)
    if isinstance(task.network, NePhi):
        start, alignment = _predicted(task.network, task)
        chosen = replace(
            chosen, first_step=TRAINED_STEP_SHARE * chosen.first_step, code_step=TRAINED_STEP_SHARE * chosen.code_step
        )
    report = task.stages.begin("refine")
    maps = refine_implicit(
        task.fixed, task.moving, chosen, lambda done: report(FIT_SHARE * done),
        alignment=alignment, start=start, seed=task.seed,
    )  # fmt: skip
    target = task.fixed.grid.spanned(delivered_shape)
    fields = maps.fields(target, lambda done: report(FIT_SHARE + (1 - FIT_SHARE) * done)).to(torch.device("cpu"))
    steps = sum(level.steps for level in levels_for(task.fixed.grid, chosen))
    return Solution(alignment, fields, notes={"steps_done": steps})


def _predicted(trained: NePhi, task: Task) -> tuple[ImplicitStart, Array]:
    """What the encoder makes of the pair, and the world matrix that follows its map."""
    report = task.stages.begin("network")
    pair = network_pair(
        task.fixed, task.moving, trained.encoder.shape,
        orientation=Preparation.of(task.card).orientation, alignment=task.alignment if task.is_aligned else None,
    )  # fmt: skip
    with torch.no_grad(), watched(trained, report):
        codes = trained.both_ways(pair.moving.values, pair.fixed.values).codes
    matrix = pair.moving.grid.world_from_unit @ np.linalg.inv(pair.fixed.grid.world_from_unit)
    return ImplicitStart(_changeable(trained.phi), _changeable(trained.phi_inv), codes, pair.fixed.grid), matrix


def _changeable(network: LocalMLP) -> LocalMLP:
    """A copy whose weights, but for its frequencies, can be fitted; the one that is kept for the next call is frozen."""
    changed = copy.deepcopy(network).requires_grad_(True)
    changed.embed.B.requires_grad_(False)
    return changed
