"""Independent evidence of whether a registration is right: what its own loss and the smoothness of its map cannot tell.

Everything is found on one coarse lattice over fixed, so that it costs little beside the registration. Lengths are in mm; those
that the map of errors works with are in voxels of that lattice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.deformation import vector_length
from ..geometry.separable import apply_along_axes, blur_matrix, on
from ..geometry.space import Array as Matrix
from ..geometry.space import Grid
from .likeness import Pose, best_other_pose, body, local_correlation, score_as_they_lie

Array = NDArray[np.floating]

# The lattice has at most so many voxels in all.
LATTICE_VOXELS = 64_000
# Standard deviations of Gaussians: over which the spread of the repeats is averaged, as there are few; for the structure tensor,
# before its gradients and over them; and for the rim of the body.
SPREAD_VOX, GRADIENT_VOX, TENSOR_VOX, RIM_VOX = 2.0, 0.7, 2.0, 4.0
# Mismatch that a symmetric body may have in either pose.
SYMMETRIC = 0.03
# Squared gradient per voxel that counts as none, at intensities in [0, 1].
FLAT = 1e-4


@dataclass(frozen=True)
class Repeats:
    """Where repeats of a registration take the points of a lattice of fixed, in mm of moving: [repeats, dim, *shape], float64.

    `asked` tells how many were asked for; those that are missing failed, and `failure` is what the first of them said. They worked
    on voxels with an edge of `voxel_mm`.
    """

    points_mm: Tensor
    asked: int
    voxel_mm: float
    failure: str = ""


@dataclass(frozen=True)
class Seen:
    """A registered pair on the lattice `grid` of fixed, on the CPU.

    Attributes:
        fixed, aligned, warped: values [1, 1, *shape] in [0, 1]: fixed; moving through the affine part alone; and wholly.
        inside: boolean, where fixed counts and has a counterpart in moving's field of view.
        inside_aligned: the same through the affine part alone.
        counted: boolean, where fixed counts.
        points_mm: where the registration takes the lattice, [1, dim, *shape], float64.
        aligned_mm: where its affine part does.
        repeats: where repeats do.
        moving_overlap: share of moving's body that the registration reaches from fixed.
        volume_factor: determinant of the affine part.
        voxel_mm: edge of the voxels on which the registration was found.
        near_pose: moving through the affine part that is best near another pose, where it is known there, as [1, 1, *shape] each;
            the pose is a world matrix that comes before the affine part. None where that leads back to what was found.
    """

    grid: Grid
    fixed: Tensor
    aligned: Tensor
    warped: Tensor
    inside: Tensor
    inside_aligned: Tensor
    counted: Tensor
    points_mm: Tensor
    aligned_mm: Tensor
    repeats: Repeats
    moving_overlap: float
    volume_factor: float
    voxel_mm: float
    near_pose: Callable[[Matrix], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class Evidence:
    """What speaks for a registration and what against it.

    Attributes:
        grid: the lattice of the maps below, each `[*shape]`.
        body: where fixed shows a body.
        likeness: mean squared local correlation within the body, 0 to 1.
        pose_score: how alike the images are after the affine part, and `other_pose`, the best other one.
        overlap: share of the smaller body that lies in the other image's field of view.
        volume_factor: how many times its volume in fixed tissue takes up in moving, by the affine part.
        agreement: local correlation at each voxel, squared.
        ambiguity: how little the contrast around a voxel of fixed says of its place, in every direction: the trace of the inverse
            of the structure tensor, which bounds the variance of any estimate of the place (Cramér and Rao).
        rim: share of what surrounds a voxel that is not body.
        bending_vox: displacement beside the affine part.
        beyond_vox: how far a voxel is from the nearest one with a counterpart in moving's field of view; 0 where it has one.
        spread_vox: root mean square distance of the repeats from the result; None without repeats.
        repeats_asked: how many repeats were asked for, and `repeat_failure` why one failed.
        repeats_off_mm: of each repeat that was done, how far from the result it ends, in the median over the body.
        repeats_fineness: edge of the voxels on which the registration was found, as a share of those on which the repeats worked;
            1 without repeats.
        body_mm: diameter of a ball of the body's volume (disc, in 2-D).
    """

    grid: Grid
    body: NDArray[np.bool_]
    likeness: float
    pose_score: float
    other_pose: Pose
    overlap: float
    volume_factor: float
    agreement: Array
    ambiguity: Array
    rim: Array
    bending_vox: Array
    beyond_vox: Array
    spread_vox: Array | None
    repeats_asked: int
    repeat_failure: str
    repeats_off_mm: tuple[float, ...]
    repeats_fineness: float
    body_mm: float

    @property
    def voxel_mm(self) -> float:
        """Edge of a cube of the volume of a voxel of the lattice."""
        return edge_mm(self.grid)

    @property
    def pose_doubt(self) -> float:
        """Mismatch as found over that in the best other pose: 0 where the images are equal, about 1 where nothing tells the two apart.

        A body that is symmetric matches in both; the small addition keeps it from doubt.
        """
        return (1 - self.pose_score) / (1 - self.other_pose.score + SYMMETRIC)

    def as_dict(self) -> dict[str, object]:
        """The part of `report.json` that is called `evidence`: what it says of the whole."""
        return {
            "overlap": self.overlap,
            "volume_factor": self.volume_factor,
            "likeness": self.likeness,
            "pose": {"score": self.pose_score, "best_other_score": self.other_pose.score},
            "repeats": {"asked": self.repeats_asked, "off_mm": list(self.repeats_off_mm), "failure": self.repeat_failure},
        }


def lattice_for(grid: Grid) -> Grid:
    """The lattice over the extent of `grid` on which evidence is found, with voxels as cubic as it can be."""
    size_mm = [step * count for step, count in zip(grid.spacing_mm, grid.shape, strict=True)]
    spacing_mm = (math.prod(size_mm) / LATTICE_VOXELS) ** (1 / grid.dim)
    shape = [min(count, max(8, round(length / spacing_mm))) for count, length in zip(grid.shape, size_mm, strict=True)]
    return grid.resized(shape)


def evidence_of(seen: Seen) -> Evidence:
    """Every kind of evidence about a registered pair."""
    tissue = body(seen.fixed) & seen.counted
    tissue = tissue if bool(tissue.any()) else seen.counted
    compared = tissue & seen.inside
    squared = local_correlation(seen.warped, seen.fixed, seen.inside).square() * seen.inside
    here, other = _poses(seen, _widened(tissue) & seen.inside_aligned)
    reached = float(compared.sum()) / max(float(tissue.sum()), 1.0)
    spread = _spread_mm(seen)
    voxel_mm = edge_mm(seen.grid)
    volume = float(tissue.sum()) * float(np.prod(seen.grid.spacing_mm))
    return Evidence(
        grid=seen.grid,
        body=tissue[0, 0].numpy(),
        likeness=float(squared[compared].mean()) if bool(compared.any()) else 0.0,
        pose_score=here,
        other_pose=other,
        overlap=max(reached, seen.moving_overlap),
        volume_factor=seen.volume_factor,
        agreement=_plain(squared),
        ambiguity=_plain(_ambiguity(seen.fixed)),
        rim=_plain(1 - _blurred(tissue.double(), RIM_VOX)),
        bending_vox=_plain(vector_length(seen.points_mm - seen.aligned_mm)) / voxel_mm,
        beyond_vox=_distance_vox(seen.inside[0, 0].numpy()),
        spread_vox=None if spread is None else _plain(_blurred(spread, SPREAD_VOX)) / voxel_mm,
        repeats_asked=seen.repeats.asked,
        repeat_failure=seen.repeats.failure,
        repeats_off_mm=tuple(_medians(seen, tissue)),
        repeats_fineness=seen.voxel_mm / seen.repeats.voxel_mm if seen.repeats.asked else 1.0,
        body_mm=2 * (volume / {2: math.pi, 3: 4 / 3 * math.pi}[seen.grid.dim]) ** (1 / seen.grid.dim),
    )


def edge_mm(grid: Grid) -> float:
    """Edge of a cube (square, in 2-D) as large as a voxel of `grid`."""
    return float(np.prod(grid.spacing_mm) ** (1 / grid.dim))


def _poses(seen: Seen, mask: Tensor) -> tuple[float, Pose]:
    """The score of the images as the affine part was found, and the best other pose with the score of the affine part that is best near it.

    What was found has had its affine part improved, so the other one must have that too: the halves of a head lie no more along
    the axes of the lattice than the head does.
    """
    here, other = best_other_pose(seen.fixed, seen.aligned, mask)
    world = seen.grid.world_from_voxel @ other.voxels(mask) @ np.linalg.inv(seen.grid.world_from_voxel)
    near = seen.near_pose(world)
    if near is None:
        return here, other
    return here, replace(other, score=max(other.score, score_as_they_lie(seen.fixed, near[0], mask, near[1])))


def _distance_vox(inside: NDArray[np.bool_]) -> Array:
    """From each voxel to the nearest one inside, in voxels; from nothing, the diagonal of the lattice."""
    if not inside.any():
        return np.full(inside.shape, np.linalg.norm(inside.shape))
    distance = sitk.SignedMaurerDistanceMap(sitk.GetImageFromArray(inside.astype(np.uint8)), False, False, False)
    found: Array = np.maximum(sitk.GetArrayFromImage(distance).astype(np.float64), 0.0)
    return found


def _widened(mask: Tensor) -> Tensor:
    """With what lies within two voxels: the outline counts too."""
    pool = F.max_pool2d if mask.dim() == 4 else F.max_pool3d
    return pool(mask.float(), 5, stride=1, padding=2) > 0


def _spread_mm(seen: Seen) -> Tensor | None:
    if not len(seen.repeats.points_mm):
        return None
    squared = (seen.repeats.points_mm - seen.points_mm).square().sum(1, keepdim=True).mean(0, keepdim=True)
    return squared.sqrt()


def _medians(seen: Seen, tissue: Tensor) -> list[float]:
    distances = vector_length(seen.repeats.points_mm - seen.points_mm)
    return [float(one[None][tissue].median()) for one in distances]


def _ambiguity(fixed: Tensor) -> Tensor:
    """Trace of the inverse of the structure tensor around each voxel of [1, 1, *shape]."""
    gradient = torch.stack(torch.gradient(_blurred(fixed.double(), GRADIENT_VOX)[0, 0]))
    dim, shape = len(gradient), gradient.shape[1:]
    products = (gradient[:, None] * gradient[None]).reshape(1, dim * dim, *shape)
    tensor = _blurred(products, TENSOR_VOX)[0].reshape(dim, dim, -1).permute(2, 0, 1)
    eigenvalues = torch.linalg.eigvalsh(tensor).clamp_min(0)
    return (1 / (eigenvalues + FLAT)).sum(1).reshape(1, 1, *shape)


def _blurred(values: Tensor, sigma_vox: float) -> Tensor:
    """The Gaussian mean around each voxel, within the lattice."""
    taps = 2 * round(3 * sigma_vox) + 1
    matrices = on([blur_matrix(size, sigma_vox, taps) for size in values.shape[2:]], values)
    return apply_along_axes(values, matrices) / apply_along_axes(torch.ones_like(values[:, :1]), matrices)


def _plain(values: Tensor) -> Array:
    plain: Array = values[0, 0].double().numpy()
    return plain
