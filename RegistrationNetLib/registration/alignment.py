"""Alignment before the deformation: centre, pose, rigid, similarity, affine. What it finds is one matrix, moving_from_fixed.

Each stage can be left out, and each is kept only where it gains: an image that lies in place stays. Everything is judged where both
images have voxels (`overlap_score`). Exchanged images give the inverse matrix, as one order of the two is always the one worked in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..choices import ALIGNMENT_STAGES as STAGES
from ..devices import in_double, threads_for, without_mps
from ..errors import GeometryError, InputError
from ..geometry.space import Array
from ..losses.measure import Measure
from ..progress import StageReport
from .affine_fits import rigid_fit
from .affine_steps import NO_PULL, PairPull, Placement, improved, losses
from .contrast import contrast_of
from .landmark_pairs import LandmarkPairs
from .measures import OF_ONE_CONTRAST
from .overlap_score import SMALLEST_SHARE, By, Overlap, View, spacing_for
from .pose_search import Pose, PoseSearch, batches, edges_of
from .prepare import Prepared

OPTIMIZING = ("rigid", "similarity", "affine")
SEARCH_SIDE_VOX, COARSE_SIDE_VOX, FINE_SIDE_VOX = 16, 24, 40
# Candidates of the search that are followed, and how many of them on the finer lattice.
FOLLOWED, FOLLOWED_FINER = 12, 3
SEARCH_STEPS, COARSE_STEPS, FINE_STEPS = 18, 24, 24
# Without the stage pose: how far around its start an alignment looks, a share being of the longest edge, and what it follows.
EXPLORED_DEGREES, EXPLORED_SHARE, EXPLORED_FOLLOWED = 15.0, 1 / 7, 6
# By how much of the loss that is left another pose must be better than the images as they lie, and a stage than the one before.
CLEAR_GAIN, STAGE_GAIN = 0.1, 0.02
# Bodies that differ by this share along each axis are compared in one size, too.
NOTABLE_GROWTH = 0.08
# How often a stage goes on where it left off, as one of heads that differ much in size must.
MOST_ROUNDS = 5
# Pairs of landmarks: missed by this share of the longest edge they count half; so many subsets are tried, and so many fits follow.
PULL_SHARE, MOST_SUBSETS, WEIGHED_FITS = 0.05, 200, 5
# A loss so low that no other pose needs to be looked for.
FITS = 0.05
# Where intensities find no pose with a lower loss than this, edges are asked too.
FOUND = 0.5
# Voxels that are taken into double precision at a time.
VALUES_AT_A_TIME = 2**20


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
    fixed: Prepared,
    moving: Prepared,
    *,
    start: Array,
    stages: Sequence[str],
    measure: Measure,
    report: StageReport,
    pairs: LandmarkPairs | None = None,
) -> Array:
    """Homogeneous world matrix moving_from_fixed [dim + 1, dim + 1], from `start` through the `stages`.

    `measure` says whether both images have one contrast ("lncc", "ncc", "ssd"); with every other one, the pose is found by what
    holds between any two contrasts, and made better by what suits these two. `pairs` of landmarks are one more place to begin at, and
    count beside the images.

    Raises:
        InputError: an unknown stage, or nothing to take the centre of.
        GeometryError: no pose was found in which enough of the images overlap.
    """
    stages = checked_stages(stages)
    if not stages:
        return start
    if is_exchanged(fixed, moving):
        found = align(
            moving, fixed, start=np.linalg.inv(start), stages=stages, measure=measure, report=report,
            pairs=None if pairs is None else pairs.exchanged(),
        )  # fmt: skip
        return np.linalg.inv(found)
    starts = [start, _centred(fixed, moving, start)] if "centre" in stages else [start]
    if stages == ("centre",):
        return starts[-1]
    ticks, is_one_contrast = _Ticks(report, stages, fixed.grid.dim), measure.name in OF_ONE_CONTRAST
    with threads_for(COARSE_SIDE_VOX**fixed.grid.dim):
        if pairs is None:
            return _Aligning(fixed, moving, is_one_contrast, ticks).found(starts, stages)
        pull = _pull(fixed, moving, pairs)
        return _Aligning(fixed, moving, is_one_contrast, ticks, pull).found([*starts, _through(pairs, start, pull)], stages)


def improved_nearby(fixed: Prepared, moving: Prepared, start: Array, measure: Measure) -> Array:
    """The affine place nearest to the world matrix `start` (moving_from_fixed, a mirrored one too), on a coarse lattice and without a search."""
    by: By = "correlation" if measure.name in OF_ONE_CONTRAST else "statistics"
    overlap, view = _coarse(fixed, moving, COARSE_SIDE_VOX, by)
    with threads_for(COARSE_SIDE_VOX**fixed.grid.dim):
        placement = _placed([start], view)
        for stage in ("rigid", "affine"):
            placement = improved(overlap, placement, stage, steps=COARSE_STEPS, first_step=0.3, tick=lambda: None)
    return np.asarray(placement.matrices()[0].numpy())


def is_exchanged(fixed: Prepared, moving: Prepared) -> bool:
    """Whether the two are worked in the other order; of two images one always comes first, whichever is fixed."""
    return _rank(fixed) > _rank(moving)


def _rank(image: Prepared) -> tuple[float, ...]:
    """A number of an image that neither the order of its axes nor the place of the other image changes."""
    sums = in_double(image.values.new_zeros(2))
    for part in image.values.flatten().split(VALUES_AT_A_TIME):
        values = in_double(part)
        sums += torch.stack([values.sum(), values.square().sum()])
    count = image.values.numel()
    return (float(count), *(round(one / count, 9) for one in sums.tolist()))


def check_direction(fixed: Prepared, moving: Prepared, start: Array) -> None:
    """Refuse an initial transform whose inverse fits while it does not fit itself.

    Raises:
        GeometryError: fewer than the smallest share of the objects overlap as it is, and more the other way round.
    """
    if np.allclose(start, np.eye(len(start))):
        return
    overlap, _ = _coarse(fixed, moving, SEARCH_SIDE_VOX, "statistics")
    there, back = overlap.score(torch.as_tensor(np.stack([start, np.linalg.inv(start)]))).share.tolist()
    if there < SMALLEST_SHARE <= back:
        raise GeometryError(
            f"The initial transform fits the other way round; it must map points of fixed to points of moving. {there:.0%} of the "
            f"smaller object overlap as it is, and {back:.0%} under its inverse. Give its inverse."
        )


def _coarse(fixed: Prepared, moving: Prepared, side_vox: int, by: By) -> tuple[Overlap, View]:
    """Both images on a coarse lattice, ready to be compared, and fixed there."""
    views = [View.of(one, spacing_for((fixed, moving), side_vox)) for one in (fixed, moving)]
    return Overlap(views[0], views[1], by), views[0]


def centre_of_mass_mm(prepared: Prepared) -> Array:
    """World coordinates of the intensities' centre of mass, within the mask where there is one.

    Raises:
        InputError: all of it is at the dark end of the intensity window.
    """
    weight = prepared.values[0, 0] if prepared.mask is None else prepared.values[0, 0] * prepared.mask[0, 0]
    if not bool(weight.any()):
        raise InputError(
            "An image is black within its mask; its centre of mass needs something brighter. "
            "Check the mask, or leave out the stage centre."
        )
    axes = range(weight.dim())
    weight = without_mps(weight)
    lines = [weight.sum(dim=[other for other in axes if other != axis], dtype=torch.float64).cpu() for axis in axes]
    unit = [float(torch.linspace(0, 1, len(line), dtype=torch.float64) @ line / line.sum()) for line in lines]
    return (prepared.grid.world_from_unit @ np.append(unit, 1.0))[:-1]


def _centred(fixed: Prepared, moving: Prepared, start: Array) -> Array:
    centred = start.copy()
    centre = np.append(centre_of_mass_mm(fixed), 1.0)
    centred[:-1, -1] += centre_of_mass_mm(moving) - (start @ centre)[:-1]
    return centred


def _pull(fixed: Prepared, moving: Prepared, pairs: LandmarkPairs) -> PairPull:
    reach_mm = max(PULL_SHARE * min(max(one.grid.extent_mm) for one in (fixed, moving)), 3 * pairs.tolerance_mm)
    return PairPull(torch.from_numpy(pairs.fixed_mm), torch.from_numpy(pairs.moving_mm), reach_mm)


def _through(pairs: LandmarkPairs, start: Array, pull: PairPull) -> Array:
    """The rigid place, from `start`, at which most pairs lie well: by few of them at a time, so that no misplaced one has a part in it."""
    there = pairs.fixed_mm @ start[:-1, :-1].T + start[:-1, -1]
    count, dim = there.shape
    least = min(count, dim)
    some = list(itertools.islice(itertools.combinations(range(count), least), MOST_SUBSETS * 50))
    chosen = some[:: max(1, len(some) // MOST_SUBSETS)]
    found = [rigid_fit(there[list(one)], pairs.moving_mm[list(one)]) @ start for one in chosen]
    best = found[int(pull.loss(torch.as_tensor(np.stack(found))).argmin())]
    for _ in range(WEIGHED_FITS):
        off = np.linalg.norm(pairs.fixed_mm @ best[:-1, :-1].T + best[:-1, -1] - pairs.moving_mm, axis=1)
        best = rigid_fit(there, pairs.moving_mm, 1 / (1 + (off / pull.reach_mm) ** 2) ** 2) @ start
    return best


def _placed(matrices: Sequence[Array], view: View) -> Placement:
    """Some places of an image, to be improved."""
    middle, radius_mm = view.spread()
    return Placement.at(np.stack(matrices), middle, unit_mm=float(np.mean(view.grid.spacing_mm)), radius_mm=radius_mm)


class _Ticks:
    """Counts the steps of the work and reports their share."""

    def __init__(self, report: StageReport, stages: Sequence[str], dim: int) -> None:
        searching = 2 * batches(dim) if "pose" in stages else 0
        self._total = searching + SEARCH_STEPS + COARSE_STEPS * (2 + len(stages)) + FINE_STEPS
        self._report, self._done = report, 0

    def __call__(self) -> None:
        self._done = min(self._done + 1, self._total)
        self._report(self._done / self._total)

    def finish(self) -> None:
        self._report(1.0)


@dataclass(frozen=True)
class _Aligning:
    """One alignment at work, in the order in which it is done."""

    fixed: Prepared
    moving: Prepared
    is_one_contrast: bool
    tick: _Ticks
    pull: PairPull = NO_PULL

    def found(self, starts: Sequence[Array], stages: Sequence[str]) -> Array:
        placement = self._followed(starts, stages)
        sized = self._sized(placement, stages)
        by = self._by(sized)
        coarse, _ = self._overlap(COARSE_SIDE_VOX, by)
        staged = [self._staged(coarse, one, stages) for one in ([placement] if sized is placement else [placement, sized])]
        loss = [float(losses(coarse, one)[0]) for one, _ in staged]
        placement, last = staged[-1] if loss[0] - loss[-1] > CLEAR_GAIN * loss[0] else staged[0]
        fine, view = self._overlap(FINE_SIDE_VOX, by)
        freest = [one for one in OPTIMIZING if one in stages][-1:] or ["rigid"]
        placement, is_better = self._settled(fine, placement, freest[0], FINE_STEPS, first_step=0.2)
        if not is_better:
            placement = improved(fine, placement, last, steps=FINE_STEPS, first_step=0.2, tick=self.tick)
        self.tick.finish()
        # Images that lie well already stay where they are.
        start = _placed(starts[:1], view)
        before, after = (float(losses(fine, one)[0]) for one in (start, placement))
        best = placement if before - after > STAGE_GAIN * before else start
        _check_overlap(float(fine.score(best.matrices()).share[0]))
        return np.asarray(best.matrices()[0].numpy())

    def _staged(self, overlap: Overlap, placement: Placement, stages: Sequence[str]) -> tuple[Placement, str]:
        """The placement after those of the stages that gain, and the last of these."""
        if self.pull is not NO_PULL:  # they say about where it is, and the images how it lies there
            placement = improved(overlap, placement, "rigid", steps=COARSE_STEPS, first_step=0.3, tick=self.tick)
        last = "rigid"
        for stage in (one for one in OPTIMIZING if one in stages):
            placement, is_better = self._settled(overlap, placement, stage, COARSE_STEPS, first_step=0.3)
            last = stage if is_better else last
        return placement, last

    def _sized(self, placement: Placement, stages: Sequence[str]) -> Placement:
        """The placement with bodies of one size, by what holds between any two contrasts; the placement itself where they have it about.

        How contrasts are related, and which structures match, shows only then.
        """
        if self.is_one_contrast or not {"similarity", "affine"} & set(stages):
            return placement
        overlap, _ = self._afar(COARSE_SIDE_VOX)
        sized, _ = self._settled(overlap, placement, "similarity", COARSE_STEPS, first_step=0.3)
        volumes = [float(np.linalg.det(one.matrices()[0, :-1, :-1].numpy())) for one in (placement, sized)]
        return sized if abs(math.log(volumes[1] / volumes[0])) > NOTABLE_GROWTH * len(sized.pivot) else placement

    def _settled(
        self, overlap: Overlap, placement: Placement, stage: str, steps: int, first_step: float
    ) -> tuple[Placement, bool]:
        """The placement after a stage, which goes on as long as it gains clearly; and whether it has gained at all."""
        for done in range(MOST_ROUNDS):
            moved = improved(overlap, placement, stage, steps=steps, first_step=first_step, tick=self.tick)
            before, after = (float(losses(overlap, one)[0]) for one in (placement, moved))
            if before - after <= STAGE_GAIN * before:
                return placement, done > 0
            placement = moved
        return placement, True

    def _by(self, placement: Placement) -> By:
        """What tells a good match from a better one, once the images lie about where they belong."""
        matrix = np.asarray(placement.matrices()[0].numpy())
        return "correlation" if self.is_one_contrast or contrast_of(self.fixed, self.moving, matrix).is_one else "structure"

    def _overlap(self, side_vox: int, by: By) -> tuple[Overlap, View]:
        return _coarse(self.fixed, self.moving, side_vox, by)

    def _afar(self, side_vox: int) -> tuple[Overlap, View]:
        """What tells a match from none."""
        return self._overlap(side_vox, "correlation" if self.is_one_contrast else "statistics")

    def _followed(self, starts: Sequence[Array], stages: Sequence[str]) -> Placement:
        """The best rigid place near one of the `starts`, or near what the search finds."""
        search = "pose" in stages
        overlap, view = self._afar(COARSE_SIDE_VOX)
        near = starts if search else [*starts, *self._explored(starts)]
        placement = improved(
            overlap, _placed(near, view), "rigid", steps=COARSE_STEPS, first_step=0.4, tick=self.tick, pull=self.pull
        )
        found = losses(overlap, placement, self.pull)
        best = placement.only([int(found.argmin())])
        if not search or found.min() < FITS:
            return best
        far = _placed(self._searched(starts[0]), view)
        far = improved(overlap, far, "rigid", steps=COARSE_STEPS, first_step=0.4, tick=self.tick, pull=self.pull)
        farther = losses(overlap, far, self.pull)
        chosen = far.only([int(farther.argmin())])
        # Of bodies that differ in size the right place is no better than a wrong one, before they have one size.
        loss, other = (self._loss_in_one_size(overlap, one, stages) for one in (best, chosen))
        return chosen if loss - other >= CLEAR_GAIN * loss else best

    def _loss_in_one_size(self, overlap: Overlap, placement: Placement, stages: Sequence[str]) -> float:
        if {"similarity", "affine"} & set(stages):
            placement = improved(
                overlap, placement, "similarity", steps=COARSE_STEPS, first_step=0.4, tick=self.tick, pull=self.pull
            )
        return float(losses(overlap, placement, self.pull)[0])

    def _explored(self, starts: Sequence[Array]) -> list[Array]:
        """The best of every combination of a rotation about and a shift along one axis, from each of the `starts`."""
        overlap, view = self._afar(SEARCH_SIDE_VOX)
        dim = len(starts[0]) - 1
        planes = dim * (dim - 1) // 2
        turns = EXPLORED_DEGREES * np.pi / 180 * np.concatenate([np.zeros((1, planes)), np.eye(planes), -np.eye(planes)])
        shifts = EXPLORED_SHARE * max(view.grid.extent_mm) * np.concatenate([np.zeros((1, dim)), np.eye(dim), -np.eye(dim)])
        placement = _placed([one for one in starts for _ in turns for _ in shifts], view)
        parameters = torch.zeros_like(placement.parameters)
        parameters[:, :planes] = torch.as_tensor(np.tile(np.repeat(turns, len(shifts), 0), (len(starts), 1)))
        parameters[:, :planes] *= placement.radius_mm / placement.unit_mm
        parameters[:, dim * dim :] = torch.as_tensor(np.tile(shifts, (len(starts) * len(turns), 1))) / placement.unit_mm
        explored = placement.with_parameters(parameters)
        order = losses(overlap, explored, self.pull).argsort(kind="stable")[:EXPLORED_FOLLOWED]
        return list(explored.only(order.tolist()).matrices().numpy())

    def _searched(self, start: Array) -> list[Array]:
        """Places that the search over all poses finds, improved on its lattice, the best ones; those about `start` where it takes too long."""
        overlap, view = self._afar(SEARCH_SIDE_VOX)
        moving = overlap.moving
        best: list[tuple[float, Array]] = []
        for channels in (lambda one: one.values, lambda one: edges_of(one.values)):
            poses: list[Pose] = []
            search = PoseSearch(view, moving, channels, start[:-1, :-1])
            if not search.is_affordable:
                return self._explored([start])
            for some in search.best(keep=2):
                poses += some
                self.tick()
            candidates = [pose.matrix for pose in sorted(poses, key=lambda pose: -pose.score)[:FOLLOWED]]
            placement = _placed(candidates, view)
            placement = improved(overlap, placement, "rigid", steps=SEARCH_STEPS, first_step=0.5, tick=self.tick, pull=self.pull)
            found = losses(overlap, placement, self.pull)
            best += zip(found.tolist(), placement.matrices().numpy(), strict=True)
            if found.min() < FOUND:
                break
        best.sort(key=lambda pair: pair[0])
        return [matrix for _, matrix in best[:FOLLOWED_FINER]]


def _check_overlap(share: float) -> None:
    if share < SMALLEST_SHARE:
        raise GeometryError(
            f"fixed and moving overlap too little; at least {SMALLEST_SHARE:.0%} of the smaller object must lie in both images. "
            f"The best alignment has {share:.0%}. Check that the images show one part of the body, use the stage pose, "
            "or give an initial transform."
        )
