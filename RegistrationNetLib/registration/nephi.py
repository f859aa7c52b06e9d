"""NePhi on the road: what its encoder predicts, if it has weights; the fit to the pair; and its map on the lattice delivered."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..geometry.field_pair import Fields
from ..geometry.pyramid import coarsened
from ..geometry.separable import coarsening_matrix, on
from ..geometry.space import Array
from ..models.layers.implicit import LocalMLP
from ..models.loading import watched
from ..models.nephi import NePhi
from ..progress import Stages
from .field_refinement import COARSEST_SIDE_VOX
from .needs import bounded_shape
from .nephi_fit import ImplicitOptions, ImplicitStart, levels_for, refine_implicit
from .network_pair import network_pair
from .options import Options
from .prepare import Prepared, coarse_mask

# Of the steps that a random start takes: published networks are four times as wide, and so move farther with each.
TRAINED_STEP_SHARE = 0.1
# Of the stage; the rest of it is writing down the map.
FIT_SHARE = 0.9
SECONDS_PER_STEP, SECONDS_PER_DELIVERED_VOXEL = 0.06, 3e-6


@dataclass(frozen=True)
class ImplicitFit:
    """A world matrix `alignment` after a deformation of fixed, both ways; and notes for the report."""

    alignment: Array
    fields: Fields
    notes: dict[str, Any]


def bounded(image: Prepared) -> Prepared:
    """The image and its mask on the lattice on which the map is delivered, which has the same unit cube."""
    shape = bounded_shape(image.grid.shape)
    if shape == image.grid.shape:
        return image
    matrices = on([coarsening_matrix(new, old) for new, old in zip(shape, image.grid.shape, strict=True)], image.values)
    mask = None if image.mask is None else coarse_mask(image.mask, matrices)
    return Prepared(coarsened(image.values, shape), image.grid.spanned(shape), mask)


def implicit_seconds(shape: Sequence[int], options: ImplicitOptions) -> float:
    """About what the fit takes and writing down its map, on two cores."""
    levels = max(1, math.ceil(math.log2(max(shape) / COARSEST_SIDE_VOX)) + 1)
    return levels * options.steps * SECONDS_PER_STEP + math.prod(bounded_shape(shape)) * SECONDS_PER_DELIVERED_VOXEL


def fit_pair(
    fixed: Prepared,
    moving: Prepared,
    trained: nn.Module | None,
    options: Options,
    stages: Stages,
    *,
    alignment: Array,
    is_aligned: bool,
) -> ImplicitFit:
    """The fit of NePhi to the pair, which begins at what `trained` predicts (None: at the identity).

    Without an alignment each image fills the encoder's lattice with its own extent, as published.

    Raises:
        GeometryError: there is nothing to compare.
        InputError: the images have another number of dimensions than the encoder's.
        RefinementError: the loss is not finite.
    """
    assert options.implicit is not None
    start, chosen = None, options.implicit
    if isinstance(trained, NePhi):
        start, alignment = _predicted(trained, fixed, moving, options, stages, alignment if is_aligned else None)
        chosen = replace(
            chosen, first_step=TRAINED_STEP_SHARE * chosen.first_step, code_step=TRAINED_STEP_SHARE * chosen.code_step
        )
    report = stages.begin("refine")
    maps = refine_implicit(
        fixed,
        moving,
        chosen,
        lambda done: report(FIT_SHARE * done),
        alignment=alignment,
        start=start,
        seed=options.seed,
    )
    target = fixed.grid.spanned(bounded_shape(fixed.grid.shape))
    fields = maps.fields(target, lambda done: report(FIT_SHARE + (1 - FIT_SHARE) * done))
    steps = sum(level.steps for level in levels_for(fixed.grid, chosen))
    return ImplicitFit(alignment, fields, {"steps_done": steps, "delivered_spacing_mm": list(target.spacing_mm[::-1])})


def _predicted(
    trained: NePhi, fixed: Prepared, moving: Prepared, options: Options, stages: Stages, alignment: Array | None
) -> tuple[ImplicitStart, Array]:
    """What the encoder makes of the pair, and the world matrix that follows its map."""
    report = stages.begin("network")
    pair = network_pair(fixed, moving, trained.encoder.shape, orientation=options.preparation.orientation, alignment=alignment)
    with torch.no_grad(), watched(trained, report):
        codes = trained.both_ways(pair.moving.values, pair.fixed.values).codes
    matrix = pair.moving.grid.world_from_unit @ np.linalg.inv(pair.fixed.grid.world_from_unit)
    return ImplicitStart(_changeable(trained.phi), _changeable(trained.phi_inv), codes, pair.fixed.grid), matrix


def _changeable(network: LocalMLP) -> LocalMLP:
    """A copy whose weights, but for its frequencies, can be fitted; the one that is kept for the next call is frozen."""
    changed = copy.deepcopy(network).requires_grad_(True)
    changed.embed.B.requires_grad_(False)
    return changed
