"""Initial alignment: centre of mass, rigid, affine. What it finds is one matrix of the world, moving_from_fixed.

Each stage can be left out; the first optimizing stage explores rotations and translations around its start, so that it finds
its way from ±15° and ±30 mm (of a head; all lengths scale with the image) without the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..devices import threads_for
from ..errors import InputError
from ..geometry.deformation import Affine, identity_points, sample
from ..geometry.space import Array
from ..losses.similarity import Comparison, Measure
from ..progress import StageReport
from .optimizer import descend
from .prepare import Prepared, resized

STAGES = ("centre", "rigid", "affine")
COARSE_SIDE_VOX, FINE_SIDE_VOX = 24, 48
EXPLORED_DEGREES = 15.0
EXPLORED_FRACTION_OF_EXTENT = 1 / 7
STARTS_FOLLOWED = 4
COARSE_STEPS, FINE_STEPS = 40, 50


def checked_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """The stages in their order.

    Raises:
        InputError: an unknown stage.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise InputError(f"There is no alignment stage {unknown[0]!r}; the stages are {', '.join(STAGES)}. Choose among them.")
    return tuple(stage for stage in STAGES if stage in stages)


def align(
    fixed: Prepared, moving: Prepared, *, start: Array, stages: Sequence[str], measure: Measure, report: StageReport
) -> Array:
    """Homogeneous world matrix moving_from_fixed [dim + 1, dim + 1], from `start` through the `stages`.

    `measure` judges the overlap on lattices of at most 24 and 48 voxels a side; where moving has no voxels it counts as 0.
    """
    stages = checked_stages(stages)
    starts = [start]
    if "centre" in stages:
        centred = _centred(fixed, moving, start)
        starts = [centred, start]
    optimizing = [stage for stage in stages if stage != "centre"]
    if not optimizing:
        return starts[0]
    with threads_for(COARSE_SIDE_VOX**fixed.grid.dim):
        return _followed(fixed, moving, starts, optimizing, measure=measure, report=report)


def _followed(
    fixed: Prepared, moving: Prepared, starts: Sequence[Array], stages: Sequence[str], *, measure: Measure, report: StageReport
) -> Array:
    """The best of `starts` and of what the optimizing `stages` make of the best places around them."""
    coarse, fine = (_Overlap.of(fixed, moving, side, measure) for side in (COARSE_SIDE_VOX, FINE_SIDE_VOX))
    total = (STARTS_FOLLOWED + len(stages) - 1) * COARSE_STEPS + FINE_STEPS
    counter = itertools.count(1)

    def tick() -> None:
        report(next(counter) / total)

    # The first stage explores on the coarse lattice, where every other follows, and the last one sharpens on the fine one.
    followed = _most_alike(coarse, [moved for one in starts for moved in _explored(coarse, one)])[:STARTS_FOLLOWED]
    found = [_optimized(coarse, one, is_rigid=stages[0] == "rigid", steps=COARSE_STEPS, tick=tick) for one in followed]
    best = _most_alike(coarse, found)[0]
    for stage in stages[1:]:
        best = _optimized(coarse, best, is_rigid=stage == "rigid", steps=COARSE_STEPS, tick=tick)
    best = _optimized(fine, best, is_rigid=stages[-1] == "rigid", steps=FINE_STEPS, tick=tick)
    # Images that lie well already stay where they are.
    return _most_alike(fine, [*starts, best])[0]


def centre_of_mass_mm(prepared: Prepared) -> Array:
    """World coordinates of the intensities' centre of mass, within the mask where there is one.

    Raises:
        InputError: all of it is at the dark end of the intensity window.
    """
    weight = prepared.values[0, 0].cpu().double()
    if prepared.mask is not None:
        weight = weight * prepared.mask[0, 0].cpu()
    if not bool(weight.any()):
        raise InputError(
            "An image is black within its mask; its centre of mass needs something brighter. "
            "Check the mask, or leave out the stage centre."
        )
    lattice = identity_points(prepared.grid.shape, weight)[0]
    unit = (lattice * weight).flatten(1).sum(1) / weight.sum()
    return (prepared.grid.world_from_unit @ np.append(unit.numpy(), 1.0))[:-1]


def _centred(fixed: Prepared, moving: Prepared, start: Array) -> Array:
    centred = start.copy()
    centre = np.append(centre_of_mass_mm(fixed), 1.0)
    centred[:-1, -1] += centre_of_mass_mm(moving) - (start @ centre)[:-1]
    return centred


@dataclass(frozen=True)
class _Overlap:
    """Both images on coarse lattices, ready to be compared under many matrices."""

    fixed: Prepared
    moving: Prepared
    comparison: Comparison
    points: Tensor

    @staticmethod
    def of(fixed: Prepared, moving: Prepared, side_vox: int, measure: Measure) -> _Overlap:
        spacing = max(fixed.grid.extent_mm) / (side_vox - 1)
        fixed, moving = resized(fixed, spacing), resized(moving, spacing)
        return _Overlap(fixed, moving, measure.against(fixed.values, fixed.mask), identity_points(fixed.grid.shape, fixed.values))

    def loss(self, moving_from_fixed: Tensor) -> Tensor:
        """Loss under a homogeneous world matrix [dim + 1, dim + 1], float64 on the CPU, where all matrices stay."""
        unit_from_world, world_from_unit = (
            torch.as_tensor(m) for m in (self.moving.grid.unit_from_world, self.fixed.grid.world_from_unit)
        )
        unit = (unit_from_world @ moving_from_fixed @ world_from_unit)[:-1].to(self.points)
        return self.comparison.loss(sample(self.moving.values, Affine(unit)(self.points), outside="zeros"))


def _most_alike(overlap: _Overlap, matrices: Sequence[Array]) -> list[Array]:
    """The matrices, those with the least loss first."""
    with torch.no_grad():
        losses = [float(overlap.loss(torch.as_tensor(matrix))) for matrix in matrices]
    return [matrices[k] for k in np.argsort(losses, kind="stable")]


def _explored(overlap: _Overlap, start: Array) -> list[Array]:
    """`start` with every combination of a rotation about and a shift along one axis of the world."""
    dim = overlap.fixed.grid.dim
    planes = list(itertools.combinations(range(dim), 2))
    angles = [np.zeros(len(planes))] + [
        sign * math.radians(EXPLORED_DEGREES) * axis for axis in np.eye(len(planes)) for sign in (-1, 1)
    ]
    step_mm = EXPLORED_FRACTION_OF_EXTENT * max(overlap.fixed.grid.extent_mm)
    shifts = [np.zeros(dim)] + [sign * step_mm * axis for axis in np.eye(dim) for sign in (-1, 1)]
    centre = overlap.fixed.grid.centre_mm
    explored = []
    for angle, shift in itertools.product(angles, shifts):
        parameters = torch.as_tensor(np.concatenate([angle, shift]))
        explored.append(_moved(start, centre, parameters, dim, is_rigid=True).numpy())
    return explored


def _moved(start: Array, centre: Array, parameters: Tensor, dim: int, *, is_rigid: bool) -> Tensor:
    """`start` followed by exp(generator) about the image of `centre` and a shift in mm.

    Rigid parameters are the entries of the generator above the diagonal (it is skew), affine ones all its entries; the last
    `dim` parameters are the shift.
    """
    generator = torch.zeros(dim, dim, dtype=parameters.dtype)
    if is_rigid:
        rows, columns = torch.triu_indices(dim, dim, 1)
        generator = generator.index_put((rows, columns), parameters[:-dim])
        generator = generator - generator.T
    else:
        generator = parameters[:-dim].reshape(dim, dim)
    linear = torch.linalg.matrix_exp(generator)
    before = torch.as_tensor(start)
    pivot = (before @ torch.as_tensor(np.append(centre, 1.0)))[:-1]
    top = torch.cat([linear @ before[:-1, :-1], (linear @ (before[:-1, -1] - pivot) + pivot + parameters[-dim:])[:, None]], dim=1)
    return torch.cat([top, before[-1:]])


def _optimized(overlap: _Overlap, start: Array, *, is_rigid: bool, steps: int, tick: Callable[[], None]) -> Array:
    """`start` improved by Adam; a step of the generator moves the image's rim as far as a step of the shift."""
    dim = overlap.fixed.grid.dim
    count = dim * (dim - 1) // 2 if is_rigid else dim * dim
    radius_mm = 0.5 * max(overlap.fixed.grid.extent_mm)
    spacing_mm = max(overlap.fixed.grid.spacing_mm)
    scale = torch.tensor([1.0 / radius_mm] * count + [1.0] * dim, dtype=torch.float64)
    parameters = torch.zeros(count + dim, dtype=torch.float64, requires_grad=True)
    centre = overlap.fixed.grid.centre_mm

    def loss() -> Tensor:
        return overlap.loss(_moved(start, centre, parameters * scale, dim, is_rigid=is_rigid))

    for _ in descend(parameters, [loss], steps=steps, first_step=0.2 * spacing_mm):
        tick()
    return _moved(start, centre, (parameters * scale).detach(), dim, is_rigid=is_rigid).numpy()
