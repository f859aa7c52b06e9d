"""The pair registered again, from the other side and from inputs changed by known maps, to see how far the results lie apart.

A method that deserves trust is equivariant: of F∘U and M∘W it must give W⁻¹∘φ∘U (Greer et al., CARL, 2024; Tian et al., 2025). What
it gives instead, taken back through U and W, lies around φ. Repeats work on a coarse lattice, so that all of them together cost no
more than the registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled, RegistrationNetError
from ..geometry.deformation import DisplacementField, identity_points, sample, vector_length
from ..geometry.field_pair import affine_of
from ..geometry.space import Array, Grid, lies_inside
from ..memory import is_out_of_memory
from ..progress import Progress, StageReport, Stages
from ..quality.evidence import Evidence, Repeats, Seen, edge_mm, evidence_of, lattice_for
from ..quality.likeness import SHIFTED, body
from .alignment import align, improved_nearby
from .contrast import in_the_contrast_of
from .correction import corrected
from .landmark_pairs import LandmarkPairs
from .measures import OF_ONE_CONTRAST
from .method import Solution, Task
from .options import Options
from .perturbation import Perturbation, random_perturbation
from .prepare import Prepared, resized
from .solving import Solved, correction_of

# No repeat works on more voxels than this along the longest side, as far as the method leaves it open.
REPEAT_SIDE_VOX = 40
# As many are enough to find a pose again.
POSE_SIDE_VOX = 32
STAGES = ("align", "network", "refine")
CPU = torch.device("cpu")


def gathered(solved: Solved, options: Options, count: int, report: StageReport) -> Evidence:
    """The evidence about a solved pair, from `count` repeats among other things.

    Raises:
        Cancelled: by `report`.
    """
    lattice = lattice_for(solved.fixed.grid)
    with torch.no_grad():
        return evidence_of(seen_on(solved, lattice, repeated(solved, options, count, lattice, report)))


def forward_mm(solution: Solution, points_mm: Tensor) -> Tensor:
    """Points of fixed [1, dim, *any] where the solution takes them in moving, LPS mm."""
    grid, field = solution.fields.grid, solution.fields.moving_from_fixed
    unit = affine_of(grid.unit_from_world, points_mm)(points_mm)
    return affine_of(solution.alignment @ grid.world_from_unit, points_mm)(_mapped(field, unit))


def backward_mm(solution: Solution, points_mm: Tensor) -> Tensor:
    """Points of moving [1, dim, *any] where the solution takes them in fixed, LPS mm."""
    grid, field = solution.fields.grid, solution.fields.fixed_from_moving
    unit = affine_of(grid.unit_from_world @ np.linalg.inv(solution.alignment), points_mm)(points_mm)
    return affine_of(grid.world_from_unit, points_mm)(_mapped(field, unit))


def _mapped(field: DisplacementField, points: Tensor) -> Tensor:
    """A field in single precision, on any device, at points in double precision on the CPU."""
    return points + sample(field.displacement.cpu(), points.float()).to(points)


def lattice_mm(grid: Grid) -> Tensor:
    """The voxel centres of `grid` in LPS mm: [1, dim, *shape], float64."""
    like = torch.zeros((), dtype=torch.float64)
    return affine_of(grid.world_from_unit, like)(identity_points(grid.shape, like))


def repeated(solved: Solved, options: Options, count: int, lattice: Grid, report: StageReport) -> Repeats:
    """The pair registered `count` times more, in turn from the other side and from the same.

    The first finds its alignment by itself, where one was asked for; the others begin at the one that was found. A repeat that
    fails is left out.

    Raises:
        Cancelled: by `report`.
    """
    points_mm, failure = lattice_mm(lattice), ""
    found: list[Tensor] = []
    for number in range(count):
        with _excused() as failed, torch.enable_grad():
            found.append(_once(solved, options, number, _part(report, number, count))(points_mm))
        failure = failure or "; ".join(failed)
    report(1.0)
    together = torch.cat(found) if found else points_mm[:0]
    return Repeats(together, count, edge_mm(_coarse(solved.fixed, options).grid), failure)


@contextmanager
def _excused() -> Iterator[list[str]]:
    """Inside, a failure that this library explains, or a want of memory, ends the block and no more; what it says is put on the list."""
    failed: list[str] = []
    try:
        yield failed
    except Cancelled:
        raise
    except (RegistrationNetError, RuntimeError, MemoryError) as error:
        if not (isinstance(error, RegistrationNetError) or is_out_of_memory(error)):
            raise
        failed.append(str(error) or "out of memory")


def _part(report: StageReport, number: int, count: int) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        report((number + progress.fraction) / count)

    return tell


def _once(solved: Solved, options: Options, number: int, tell: Callable[[Progress], None]) -> Callable[[Tensor], Tensor]:
    """One repeat, as a map from points of fixed to points of moving, LPS mm."""
    fixed, moving = (_coarse(one, options) for one in (solved.fixed, solved.moving))
    of_fixed, of_moving = (random_perturbation(one.grid, 2 * number + which) for which, one in enumerate((fixed, moving)))
    found = np.linalg.inv(of_moving.affine) @ solved.solution.alignment @ of_fixed.affine
    is_reversed = number % 2 == 0
    sides = of_fixed.apply(fixed), of_moving.apply(moving)
    stages = Stages(tell, dict.fromkeys(STAGES, 1.0))
    start, known = (np.asarray(np.linalg.inv(one) if is_reversed else one) for one in (solved.start, found))
    if is_reversed:
        sides = sides[1], sides[0]
    if number == 0 and options.align:
        coarser = [resized(one, max(one.grid.extent_mm) / (POSE_SIDE_VOX - 1)) for one in sides]
        measure, begun = options.wide_measure, stages.begin("align")
        known = align(*coarser, start=start, stages=options.align, measure=measure, report=begun)
    solution = _solution(sides, known, solved, options, stages)
    if solved.pairs is not None:
        pairs = _seen_pairs(solved.pairs, of_fixed, of_moving)
        pairs = pairs.exchanged() if is_reversed else pairs
        quick = correction_of(options, with_left_out=False)
        solution = corrected(*sides, solution, pairs, quick, lambda _: None).solution
    return _carried_back(solution, of_fixed, of_moving, is_reversed=is_reversed)


def _seen_pairs(pairs: LandmarkPairs, of_fixed: Perturbation, of_moving: Perturbation) -> LandmarkPairs:
    """The pairs of landmarks where the changed images show them."""
    sides = ((of_fixed, pairs.fixed_mm), (of_moving, pairs.moving_mm))
    fixed, moving = (one.undone_mm(torch.from_numpy(points.T.copy())[None])[0].numpy().T for one, points in sides)
    return pairs.moved(fixed, moving)


def _coarse(image: Prepared, options: Options) -> Prepared:
    side = options.method.repeat_side_vox(options.card, REPEAT_SIDE_VOX)
    return resized(image.cropped(), max(image.grid.extent_mm) / (side - 1))


def _solution(sides: tuple[Prepared, Prepared], alignment: Array, solved: Solved, options: Options, stages: Stages) -> Solution:
    task = Task(
        *sides, alignment, bool(options.align) or not np.allclose(alignment, np.eye(len(alignment))), solved.network, options.card,
        options.method.repeat_settings(options.settings), options.device, stages, mirrored=options.mirrored, seed=options.seed,
    )  # fmt: skip
    return options.method.solve(task)


def _carried_back(
    solution: Solution, of_fixed: Perturbation, of_moving: Perturbation, *, is_reversed: bool
) -> Callable[[Tensor], Tensor]:
    """The solution of the changed pair, taken back through the changes of its two images."""
    way = backward_mm if is_reversed else forward_mm

    def carried(points_mm: Tensor) -> Tensor:
        return of_moving.moved_mm(way(solution, of_fixed.undone_mm(points_mm)))

    return carried


def seen_on(solved: Solved, lattice: Grid, repeats: Repeats) -> Seen:
    """The registered pair on the coarse `lattice` of fixed, with what the repeats found."""
    points_mm = lattice_mm(lattice)
    solution = solved.solution
    mapped_mm, aligned_mm = forward_mm(solution, points_mm), affine_of(solution.alignment, points_mm)(points_mm)
    fixed = solved.fixed.to(CPU).carried(lattice)
    moving = resized(solved.moving, max(lattice.spacing_mm)).to(CPU)
    warped, aligned = (_at(moving, mm, lattice) for mm in (mapped_mm, aligned_mm))
    counted = torch.ones_like(fixed.values, dtype=torch.bool) if fixed.mask is None else fixed.mask

    def inside(one: Prepared) -> Tensor:
        return counted if one.mask is None else counted & one.mask

    def in_fixed_contrast(one: Prepared, by: Prepared) -> Tensor:
        if solved.options.judge.name in OF_ONE_CONTRAST:
            return one.values
        return in_the_contrast_of(fixed.values, one.values, inside(by), by=by.values)

    def near_pose(pose: Array) -> tuple[Tensor, Tensor] | None:
        placed = improved_nearby(solved.fixed, solved.moving, solution.alignment @ pose, solved.options.wide_measure)
        placed_mm = affine_of(placed, points_mm)(points_mm)
        if float(vector_length(placed_mm - aligned_mm).mean()) < 0.5 * SHIFTED * max(lattice.extent_mm):
            return None
        seen = _at(moving, placed_mm, lattice)
        return in_fixed_contrast(seen, by=seen), inside(seen)

    return Seen(
        grid=lattice, fixed=fixed.values,
        # By the curve that the whole registration shows: that of the affine part alone is blurred.
        aligned=in_fixed_contrast(aligned, by=warped), warped=in_fixed_contrast(warped, by=warped),
        inside=inside(warped), inside_aligned=inside(aligned), counted=counted,
        points_mm=mapped_mm, aligned_mm=aligned_mm, repeats=repeats,
        moving_overlap=_reached(solution, moving, lattice),
        volume_factor=float(np.linalg.det(solution.alignment)),
        voxel_mm=_worked_mm(solved), near_pose=near_pose,
    )  # fmt: skip


def _worked_mm(solved: Solved) -> float:
    """Edge of the voxels on which the method worked: those of the image, or coarser ones of its own."""
    grid, side = solved.fixed.grid, max(solved.fixed.grid.shape)
    return edge_mm(grid) * side / solved.options.method.worked_side_vox(solved.options.card, side)


def _at(moving: Prepared, points_mm: Tensor, lattice: Grid) -> Prepared:
    """Moving at points of its world that a map has taken the lattice to."""
    unit = affine_of(moving.grid.unit_from_world, points_mm)(points_mm).float()
    return moving.at(unit, lattice, [1.0] * lattice.dim)


def _reached(solution: Solution, moving: Prepared, fixed: Grid) -> float:
    """Share of moving's body that lies in fixed's field of view."""
    tissue = body(moving.values) if moving.mask is None else moving.mask
    back = backward_mm(solution, lattice_mm(moving.grid))
    inside = lies_inside(fixed, affine_of(fixed.unit_from_world, back)(back))
    return float((tissue & inside).sum()) / max(float(tissue.sum()), 1.0)
