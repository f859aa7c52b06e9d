"""Every rotation and every shift, on a coarse lattice: where moving may lie.

For each of some hundred rotations, spread evenly, the correlation of the images within their overlap is worked out for all shifts
at once by Fourier transforms (Padfield, IEEE TIP 2012: masked normalized cross-correlation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..geometry.deformation import Affine, derivatives, identity_points, sample
from ..geometry.space import Array, Grid
from .overlap_score import View

ROTATIONS = {2: 36, 3: 240}
# Shifts at which less than this share of the smaller object lies in the other are no pose.
SMALLEST_SHARE = 0.2
AT_A_TIME = 16
# A correlation above this is no better than this one; a few voxels may correlate by chance.
HIGHEST_CORRELATION = 0.95
# Voxels of a search; more would take minutes.
LARGEST_SEARCH_VOXELS = 100**3


def rotations(dim: int) -> Array:
    """Rotation matrices spread evenly over all rotations: [count, dim, dim]; the first is none.

    In 3-D the super-Fibonacci spiral of quaternions (Alexa, CVPR 2022), turned so that it begins at the identity.
    """
    count = ROTATIONS[dim]
    if dim == 2:
        angles = 2 * np.pi * np.arange(count) / count
        return np.stack([np.stack([np.cos(angles), -np.sin(angles)], 1), np.stack([np.sin(angles), np.cos(angles)], 1)], 1)
    place = np.arange(count) + 0.5
    inner, outer = np.sqrt(place / count), np.sqrt(1 - place / count)
    # The constants of the paper: sqrt(2), and the positive root of x^4 = x + 4.
    alpha, beta = 2 * np.pi * place / math.sqrt(2), 2 * np.pi * place / 1.533751168755204288118041
    quaternions = np.stack([inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=1)
    spread = np.stack([_matrix(one) for one in quaternions])
    return spread[0].T @ spread


def batches(dim: int) -> int:
    """How many lots of rotations a search gives."""
    return math.ceil(ROTATIONS[dim] / AT_A_TIME)


def _matrix(quaternion: Array) -> Array:
    x, y, z, w = quaternion
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """A world matrix moving_from_fixed that may be right; higher scores are likelier."""

    matrix: Array
    score: float


def edges_of(values: Tensor) -> Tensor:
    """Length of the gradient, [1, 1, *shape], which is alike in all contrasts; per voxel."""
    steps = [derivatives(values, axis) / (values.shape[2 + axis] - 1) for axis in range(values.dim() - 2)]
    return torch.stack([step.square() for step in steps]).sum(0).sqrt()


class PoseSearch:
    """All poses of `moving` to `fixed`, by correlation of the `channels` of each: [1, channels, *shape], on the views' lattices."""

    def __init__(self, fixed: View, moving: View, channels: Callable[[View], Tensor], linear: Array) -> None:
        fixed, moving = (_cropped(one) for one in (fixed, moving))
        self._fixed, self._moving, self._linear = fixed, moving, linear
        self._middle, radius_mm = _ball_around(moving)
        self._sides = [2 * math.ceil(radius_mm / _scale(linear) / step) + 3 for step in fixed.grid.spacing_mm]
        self._shape = [
            _fast_length(size + math.ceil(0.7 * side)) for size, side in zip(fixed.grid.shape, self._sides, strict=True)
        ]
        self._channels = channels

    @property
    def is_affordable(self) -> bool:
        """Whether the two are near enough in size: a part in a whole of many times its length is no matter of minutes."""
        return math.prod(self._shape) <= LARGEST_SEARCH_VOXELS

    def _spectrum(self, values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, s=self._shape, dim=tuple(range(2, values.dim())))

    def _lattice(self, rotation: Array) -> tuple[Array, Grid]:
        """The cube about the middle of moving, seen through `rotation`, with the axes and spacing of fixed."""
        grid = self._fixed.grid
        matrix = grid.world_from_voxel.copy()
        matrix[:-1, -1] = -matrix[:-1, :-1] @ (0.5 * (np.array(self._sides) - 1))
        turn = np.eye(grid.dim + 1)
        turn[:-1, :-1] = rotation @ self._linear
        turn[:-1, -1] = self._middle
        return turn, Grid(tuple(self._sides), matrix)

    def best(self, keep: int) -> Iterator[list[Pose]]:
        """The `keep` best shifts of each rotation, a few rotations at a time; each pose once for all channels and for each alone."""
        self._values = self._channels(self._moving) * self._moving.counted
        own = self._channels(self._fixed) * self._fixed.counted
        counted = self._fixed.counted.to(own)
        self._own = [self._spectrum(one) for one in (counted, own, own * own)]
        self._objects = self._spectrum((self._fixed.foreground & self._fixed.counted).to(own))
        self._own_sum = float((self._fixed.foreground & self._fixed.counted).sum())
        every = rotations(self._fixed.grid.dim)
        for start in range(0, len(every), AT_A_TIME):
            yield self._best_of(every[start : start + AT_A_TIME], keep)

    def _best_of(self, some: Array, keep: int) -> list[Pose]:
        turns, lattices = zip(*(self._lattice(rotation) for rotation in some), strict=True)
        lattice = lattices[0]
        points = identity_points(lattice.shape, self._values)
        unit_from_lattice = np.stack([self._moving.grid.unit_from_world @ turn @ lattice.world_from_unit for turn in turns])
        unit = torch.as_tensor(unit_from_lattice[:, :-1]).to(points)
        masks = [one.to(self._values) for one in (self._moving.counted, self._moving.foreground)]
        both = torch.cat([*masks, self._values], dim=1)
        seen = sample(both, Affine(unit)(points.expand(len(unit), *points.shape[1:])), outside="zeros")
        counted, objects = (seen[:, :2] > 0.5).to(seen).split(1, dim=1)
        scores = self._scores(seen[:, 2:] * counted, counted, objects * counted)
        poses = []
        for turn, score in zip(turns, scores, strict=True):
            for place, value in _peaks(score, keep):
                poses.append(Pose(self._pose(turn, place), value))
        return poses

    def _pose(self, turn: Array, place: Sequence[int]) -> Array:
        """The matrix under which voxel x of fixed meets voxel x - place of the lattice of moving."""
        dim = self._fixed.grid.dim
        shift = np.array(
            [one if one < self._fixed.grid.shape[axis] else one - self._shape[axis] for axis, one in enumerate(place)]
        )
        lattice_from_fixed_voxel = np.eye(dim + 1)
        lattice_from_fixed_voxel[:-1, -1] = -shift
        _, lattice = self._lattice(np.eye(dim))
        return turn @ lattice.world_from_voxel @ lattice_from_fixed_voxel @ np.linalg.inv(self._fixed.grid.world_from_voxel)

    def _scores(self, values: Tensor, counted: Tensor, objects: Tensor) -> Tensor:
        """[rotations, *shape of the shifts]: correlation within the overlap, rising with the square root of the share of the objects in it.

        Of the objects, as a scan of nothing but body fits well into the air beside another one's.
        """
        mask, once, twice = self._own
        m, o, v, vv = (self._spectrum(one).conj() for one in (counted, objects, values, values * values))
        axes = tuple(range(2, values.dim()))
        count, shared, f, ff, w, ww, wf = (
            torch.fft.irfftn(product, s=self._shape, dim=axes)
            for product in (mask * m, self._objects * o, once * m, twice * m, mask * v, mask * vv, once * v)
        )
        smaller = torch.minimum(objects.flatten(1).sum(1), torch.tensor(self._own_sum)).view(-1, *(1,) * (values.dim() - 1))
        share = shared / smaller.clamp_min(1)
        count = count.clamp_min(1.0)
        own, other = (ff - f * f / count).clamp_min(0), (ww - w * w / count).clamp_min(0)
        least = 1e-4 * count
        correlation = (wf - w * f / count) / ((own + least) * (other + least)).sqrt()
        likeness = torch.atanh(correlation.clamp(0, HIGHEST_CORRELATION)).mean(1)
        share = share[:, 0]
        return torch.where(share >= SMALLEST_SHARE, likeness * share.clamp(0, 1).sqrt(), torch.zeros_like(likeness))


def _cropped(view: View) -> View:
    """The view around its object, with one voxel of what lies about it."""
    places = view.foreground[0, 0].nonzero()
    first, last = (places.amin(0) - 1).clamp_min(0).tolist(), (places.amax(0) + 2).tolist()
    ranges = [slice(one, min(two, size)) for one, two, size in zip(first, last, view.grid.shape, strict=True)]
    every = (slice(None), slice(None), *ranges)
    return View(view.values[every], view.counted[every], view.foreground[every], view.grid.cropped(ranges))


def _ball_around(view: View) -> tuple[Array, float]:
    """Middle and radius in mm of a ball that holds the object."""
    places = view.foreground[0, 0].nonzero().double().numpy()
    points = places @ view.grid.world_from_voxel[:-1, :-1].T + view.grid.world_from_voxel[:-1, -1]
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    return middle, float(np.linalg.norm(points - middle, axis=1).max())


def _scale(linear: Array) -> float:
    return float(abs(np.linalg.det(linear)) ** (1 / len(linear)))


def _fast_length(size: int) -> int:
    """The next length whose only prime factors are 2, 3 and 5."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _peaks(score: Tensor, keep: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """The highest places of `score` that are not neighbours of a higher one."""
    score = score.clone()
    for _ in range(keep):
        place = tuple(int(one) for one in np.unravel_index(int(score.argmax()), score.shape))
        yield place, float(score[place])
        score[tuple(slice(max(0, one - 2), one + 3) for one in place)] = 0.0
