"""The numbers that say whether to trust a result.

They judge the delivered transforms (SimpleITK, LPS mm) on the lattice of fixed, whatever model made them. Determinants are
those of moving_from_fixed: 2 means that tissue takes up twice the volume in moving that it takes up in fixed, 0 or less that
the map folds. `marks.py` judges the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import GeometryError, InputError
from ..geometry.deformation import displacement_determinant, jacobian_determinant, vector_length
from ..geometry.space import Grid, grid_of, image_on, points_of_transform, slab_of, slabs
from ..geometry.transform_slabs import WorldMap
from ..io.landmarks import mapped
from ..io.warping import LABELS, warp_image

Array = NDArray[np.float64]

# Determinants are found in slabs of about so many voxels, which bounds the memory; other numbers on about so many in all.
SLAB_VOXELS = 600_000
LATTICE_VOXELS = 4_000_000


@dataclass(frozen=True)
class BeforeAfter:
    """One number before registration (images as they lie in the world) and after it."""

    before: float
    after: float


@dataclass(frozen=True)
class JacobianStatistics:
    """The determinant over a lattice; `log_sd` is the standard deviation of its logarithm where it is positive."""

    min: float
    max: float
    mean: float
    folded_percent: float
    log_sd: float


@dataclass(frozen=True)
class ErrorStatistics:
    """Distances in mm: mean, 95th percentile, largest."""

    mean: float
    p95: float
    max: float


@dataclass(frozen=True)
class Displacement:
    """How far the transform moves the voxels of fixed, in mm."""

    mean: float
    max: float


@dataclass(frozen=True)
class LabelOverlap:
    """Dice per label, 1 is full overlap. A label that only one of the two images holds counts with 0."""

    dice: Mapping[int, BeforeAfter]

    @property
    def mean(self) -> BeforeAfter:
        """The mean over labels, before and after."""
        scores = self.dice.values()
        return BeforeAfter(
            sum(score.before for score in scores) / len(scores), sum(score.after for score in scores) / len(scores)
        )


@dataclass(frozen=True)
class LandmarkError:
    """Target registration error of one pair of landmarks, in mm.

    Attributes:
        label: what the pair is called.
        before, after: as the images lie in the world, and after registration.
        unpulled: after registration by the images alone; None where no landmark pulled.
        left_out: after registration without this pair; None where it was not left out.
        is_followed: False for one that was taken for misplaced.
    """

    label: str
    before: float
    after: float
    unpulled: float | None = None
    left_out: float | None = None
    is_followed: bool = True


@dataclass(frozen=True)
class LandmarkErrors:
    """Target registration error over `count` pairs of landmarks, in mm.

    Where landmarks pulled, `after` says only that they did, as it counts those that were followed; `left_out` is what the registration
    misses a pair by when that pair is left out, with a group of others where there are many.
    """

    count: int
    before: ErrorStatistics
    after: ErrorStatistics
    points: tuple[LandmarkError, ...] = ()
    is_pulling: bool = False
    left_out: ErrorStatistics | None = None


@dataclass(frozen=True)
class Pull:
    """How pairs of landmarks pulled: [N] each.

    Attributes:
        followed: which were followed.
        missed_mm: by how much the images alone had missed each.
        left_out_mm: by how much the result without it misses each, NaN where that was not found.
    """

    followed: NDArray[np.bool_]
    missed_mm: Array
    left_out_mm: Array | None


@dataclass(frozen=True)
class Quality:
    """All that can be said about a result from its images and transforms. `voxel_mm` is the spacing of fixed."""

    voxel_mm: tuple[float, ...]
    similarity_name: str
    similarity: BeforeAfter
    jacobian: JacobianStatistics
    inverse_consistency_mm: ErrorStatistics
    displacement_mm: Displacement
    labels: LabelOverlap | None = None
    landmarks: LandmarkErrors | None = None

    def as_dict(self) -> dict[str, object]:
        """The part of `report.json` that is about quality; `labels` and `landmarks` only where there were any."""
        content: dict[str, Any] = {
            "similarity": {"name": self.similarity_name, **asdict(self.similarity)},
            "jacobian": asdict(self.jacobian),
            "inverse_consistency_mm": asdict(self.inverse_consistency_mm),
            "displacement_mm": asdict(self.displacement_mm),
        }
        if self.labels is not None:
            dice = {str(label): asdict(score) for label, score in self.labels.dice.items()}
            content["labels"] = {"dice": dice, "mean_dice": asdict(self.labels.mean)}
        if self.landmarks is not None:
            before, after = asdict(self.landmarks.before), asdict(self.landmarks.after)
            content["landmarks"] = {
                "count": self.landmarks.count,
                "use": "pull" if self.landmarks.is_pulling else "judge",
                "error_mm": {"before": before, "after": after},
                "points": [_told(point, is_pulling=self.landmarks.is_pulling) for point in self.landmarks.points],
            }
            if self.landmarks.left_out is not None:
                content["landmarks"]["error_mm"]["left_out"] = asdict(self.landmarks.left_out)
        return content


def _told(point: LandmarkError, *, is_pulling: bool) -> dict[str, object]:
    """What the report says of one landmark."""
    told: dict[str, object] = {"label": point.label, "before_mm": point.before, "after_mm": point.after}
    if is_pulling:
        told |= {"unpulled_mm": point.unpulled, "left_out_mm": point.left_out, "followed": point.is_followed}
    return told


def assess(
    *,
    fixed: sitk.Image,
    moving: sitk.Image,
    moving_from_fixed: sitk.Transform,
    fixed_from_moving: sitk.Transform,
    jacobian: sitk.Image,
    similarity_name: str,
    similarity_before: float,
    similarity_after: float,
    fixed_labels: sitk.Image | None = None,
    moving_labels: sitk.Image | None = None,
    fixed_landmarks: ArrayLike | None = None,
    moving_landmarks: ArrayLike | None = None,
    landmark_labels: Sequence[str] | None = None,
    pull: Pull | None = None,
) -> Quality:
    """Every number of one registration.

    Args:
        jacobian: what `jacobian_image(moving_from_fixed, fixed)` gives; it exists already, being part of the result.
        fixed_labels, moving_labels: label maps, both or neither; each on a grid of its own.
        fixed_landmarks, moving_landmarks: corresponding points [N, dim], LPS mm, both or neither.
        landmark_labels: what each pair is called; default: its number, from 1.
        pull: how they pulled, if they did.

    Raises:
        InputError: one of a pair is missing, labels are not whole numbers, landmarks do not correspond.
        GeometryError: no voxel of fixed falls into moving.
    """
    _both_or_neither(fixed_labels, moving_labels, "labels")
    _both_or_neither(fixed_landmarks, moving_landmarks, "landmarks")
    labels = landmarks = None
    if fixed_labels is not None and moving_labels is not None:
        labels = label_overlap(fixed_labels, moving_labels, moving_from_fixed)
    if fixed_landmarks is not None and moving_landmarks is not None:
        landmarks = landmark_errors(fixed_landmarks, moving_landmarks, moving_from_fixed, labels=landmark_labels, pull=pull)
    return Quality(
        voxel_mm=grid_of(fixed).spacing_mm,
        similarity_name=similarity_name,
        similarity=BeforeAfter(similarity_before, similarity_after),
        jacobian=jacobian_statistics(jacobian),
        inverse_consistency_mm=inverse_consistency(moving_from_fixed, fixed_from_moving, like=fixed, moving=moving),
        displacement_mm=displacement(moving_from_fixed, fixed),
        labels=labels,
        landmarks=landmarks,
    )


def jacobian_image(transform: sitk.Transform, like: sitk.Image) -> sitk.Image:
    """Determinant of the transform's derivative on the grid of `like`, float32.

    Central differences of the mapped voxel centres, one-sided at the border. In contrast to ITK's
    DisplacementFieldJacobianDeterminant it holds for oblique grids too.

    Raises:
        GeometryError: `like` is one voxel thick.
    """
    _check_dimension(transform, like)
    grid = grid_of(like)
    if min(grid.shape) < 2:
        raise GeometryError(
            f"The image is one voxel thick; volume change needs at least 2 voxels along each axis. "
            f"It has {' x '.join(map(str, like.GetSize()))}. Give the volume, or the 2-D image of the slice."
        )
    world_map, determinant = WorldMap.of(transform), np.empty(grid.shape, dtype=np.float32)
    for layers in slabs(grid, SLAB_VOXELS):
        # One slice more on each side, so that cutting into slabs changes no number.
        start = max(layers.start - 1, 0)
        slab = slab_of(grid, slice(start, min(layers.stop + 1, grid.shape[0])))
        values = _determinant(world_map, slab)[0, 0].numpy()
        determinant[layers] = values[layers.start - start : layers.stop - start]
    return image_on(grid, determinant)


def _determinant(world_map: WorldMap, slab: Grid) -> Tensor:
    displacement = world_map.displacement_on(slab)
    if world_map.affine is None or displacement is None:
        return jacobian_determinant(points_of_transform(world_map.transform, slab, slab))
    voxel_from_world = torch.as_tensor(np.linalg.inv(slab.world_from_voxel[:-1, :-1])).to(displacement)
    voxels = (voxel_from_world @ displacement.flatten(2)[0]).unflatten(1, slab.shape)[None]
    return displacement_determinant(voxels) * float(np.linalg.det(world_map.affine))


def jacobian_statistics(jacobian: sitk.Image) -> JacobianStatistics:
    """Statistics of a determinant image over all its voxels."""
    values = sitk.GetArrayViewFromImage(jacobian)
    # Mean and variance of the logarithm over slabs, as a second copy of a large image would fill the memory.
    sums, count = np.zeros(3), 0
    for layers in slabs(grid_of(jacobian), SLAB_VOXELS):
        part = values[layers].astype(np.float64)
        logarithm = np.log(part[part > 0])
        sums += part.sum(), logarithm.sum(), np.square(logarithm).sum()
        count += logarithm.size
    mean = sums[1:] / max(count, 1)
    return JacobianStatistics(
        min=float(values.min()),
        max=float(values.max()),
        mean=float(sums[0] / values.size),
        folded_percent=100.0 * (1.0 - count / values.size),
        log_sd=math.sqrt(max(0.0, mean[1] - mean[0] ** 2)),
    )


def lattice_stride(grid: Grid) -> int:
    """Every how many voxels along each axis inverse consistency and displacement are measured: 1 up to 4 million voxels."""
    return max(1, math.ceil((math.prod(grid.shape) / LATTICE_VOXELS) ** (1 / grid.dim) - 1e-9))


def inverse_consistency(
    moving_from_fixed: sitk.Transform, fixed_from_moving: sitk.Transform, *, like: sitk.Image, moving: sitk.Image
) -> ErrorStatistics:
    """How far a voxel of fixed lies from itself after going to moving and back, in mm.

    Over the voxels of `like` (every `lattice_stride` along each axis) that the transform brings into the grid of `moving`.

    Raises:
        GeometryError: there is no such voxel.
    """
    _check_dimension(moving_from_fixed, like)
    distances, inside = there_and_back_mm(moving_from_fixed, fixed_from_moving, _thinned(grid_of(like)), grid_of(moving))
    if not inside.any():
        raise GeometryError(
            "The transform brings no voxel of fixed into moving; the two must overlap. "
            "Check that both images show the same region, or give an initial transform."
        )
    return error_statistics(distances[inside])


def there_and_back_mm(
    moving_from_fixed: sitk.Transform, fixed_from_moving: sitk.Transform, grid: Grid, moving: Grid
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """How far each point of `grid` lies from itself after going to moving and back, and whether it reaches moving: both [*shape]."""
    there_map, back_map = (WorldMap.of(one, torch.float64) for one in (moving_from_fixed, fixed_from_moving))
    distances, inside = np.empty(grid.shape), np.empty(grid.shape, dtype=np.bool_)
    for layers in slabs(grid, SLAB_VOXELS):
        slab = slab_of(grid, layers)
        there = there_map.voxels(moving, slab)
        inside[layers] = _reaches(there, moving.shape)
        back = back_map.voxels_of(slab, moving, there)
        # The one added last is applied first.
        distances[layers] = (
            _distances_mm(sitk.CompositeTransform([fixed_from_moving, moving_from_fixed]), slab)
            if back is None
            else _lengths_mm(back, slab)
        )
    return distances, inside


def _reaches(places: Tensor, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which `places` [1, dim, *any], in voxels, lie between the first and the last of an image of `shape`: [*any]."""
    # Rounding must not push the border out.
    last = places.new_tensor([size - 1 for size in shape]).view(1, -1, *(1,) * (places.dim() - 2))
    found: NDArray[np.bool_] = ((places >= -1e-6 * last) & (places <= (1 + 1e-6) * last)).all(dim=1)[0].numpy()
    return found


def displacement(transform: sitk.Transform, like: sitk.Image) -> Displacement:
    """How far the transform moves the voxels of `like` (every `lattice_stride` along each axis), in mm."""
    _check_dimension(transform, like)
    distance_mm = _distances_mm(transform, _thinned(grid_of(like)))
    return Displacement(mean=float(distance_mm.mean()), max=float(distance_mm.max()))


def label_overlap(fixed_labels: sitk.Image, moving_labels: sitk.Image, moving_from_fixed: sitk.Transform) -> LabelOverlap:
    """Dice of each label before and after, moving's labels being taken to the grid of fixed's by nearest neighbour.

    Raises:
        InputError: a label map holds other than whole numbers, or both hold only background (0).
    """
    fixed, moving = (_label_array(one, f"{name} labels") for one, name in ((fixed_labels, "Fixed"), (moving_labels, "Moving")))
    labels = np.union1d(np.unique(fixed), np.unique(moving)).astype(np.int64)
    labels = labels[labels != 0]
    if not labels.size:
        raise InputError("The label maps hold no label; overlap needs values other than 0. Check the files.")
    dice = []
    for transform in (sitk.Transform(fixed_labels.GetDimension(), sitk.sitkIdentity), moving_from_fixed):
        warped = warp_image(moving_labels, fixed_labels, transform, LABELS)
        dice.append(_dice(fixed, _label_array(warped, "Moving labels"), labels))
    return LabelOverlap({int(label): BeforeAfter(*map(float, both)) for label, *both in zip(labels, *dice, strict=True)})


def landmark_errors(
    fixed_landmarks: ArrayLike,
    moving_landmarks: ArrayLike,
    moving_from_fixed: sitk.Transform,
    *,
    labels: Sequence[str] | None = None,
    pull: Pull | None = None,
) -> LandmarkErrors:
    """Target registration error: distance of each mapped fixed landmark from its moving one; points [N, dim] in LPS mm.

    Args:
        labels: what each pair is called; default: its number, from 1.
        pull: how they pulled, if they did.

    Raises:
        InputError: the two lists differ in length, are empty, of another dimension, or not finite, or there are not as many labels.
    """
    fixed, moving = np.asarray(fixed_landmarks, dtype=np.float64), np.asarray(moving_landmarks, dtype=np.float64)
    rule = f"[N, {moving_from_fixed.GetDimension()}], N at least 1, finite, one moving landmark for each fixed one"
    usable = fixed.ndim == 2 and fixed.shape == moving.shape and fixed.shape[1] == moving_from_fixed.GetDimension()
    if not (usable and fixed.size and np.isfinite(fixed).all() and np.isfinite(moving).all()):
        raise InputError(
            f"The landmarks cannot be compared; they must be {rule}. "
            f"Fixed has {list(fixed.shape)}, moving {list(moving.shape)}. Check the two lists."
        )
    names = [str(number + 1) for number in range(len(fixed))] if labels is None else list(labels)
    if len(names) != len(fixed):
        raise InputError(
            f"There are {len(names)} labels for {len(fixed)} pairs of landmarks; each pair has one label. Give as many, or none."
        )
    before, after = (np.linalg.norm(moving - points, axis=1) for points in (fixed, mapped(fixed, moving_from_fixed)))
    if pull is None:
        points = tuple(LandmarkError(*one) for one in zip(names, before.tolist(), after.tolist(), strict=True))
        return LandmarkErrors(len(fixed), error_statistics(before), error_statistics(after), points)
    left_out = np.full(len(fixed), np.nan) if pull.left_out_mm is None else pull.left_out_mm
    known = left_out[np.isfinite(left_out)]
    rows = zip(
        names, before.tolist(), after.tolist(), pull.missed_mm.tolist(), left_out.tolist(), pull.followed.tolist(), strict=True
    )
    points = tuple(
        LandmarkError(name, start, end, missed, None if math.isnan(out) else out, is_followed)
        for name, start, end, missed, out, is_followed in rows
    )
    taken = pull.followed if pull.followed.any() else np.ones(len(fixed), dtype=bool)
    return LandmarkErrors(
        len(fixed), error_statistics(before), error_statistics(after[taken]), points, True,
        error_statistics(known) if known.size else None,
    )  # fmt: skip


def _both_or_neither(fixed: object, moving: object, what: str) -> None:
    if (fixed is None) != (moving is None):
        missing = "fixed" if fixed is None else "moving"
        raise InputError(f"The {what} of {missing} are missing; {what} are compared in pairs. Give both or neither.")


def _check_dimension(transform: sitk.Transform, like: sitk.Image) -> None:
    if transform.GetDimension() != like.GetDimension():
        raise InputError(
            f"Transform and image differ in dimension; both must be 2-D or both 3-D. The transform is "
            f"{transform.GetDimension()}-D, the image {like.GetDimension()}-D. Check that they belong together."
        )


def _thinned(grid: Grid) -> Grid:
    """Every `lattice_stride`-th voxel along each axis."""
    stride = lattice_stride(grid)
    shape = tuple((size - 1) // stride + 1 for size in grid.shape)
    return Grid(shape, grid.world_from_voxel @ np.diag([*[float(stride)] * grid.dim, 1.0]))


def _distances_mm(transform: sitk.Transform, grid: Grid) -> NDArray[np.floating]:
    """How far each voxel moves, [*shape]."""
    world_map, distances = WorldMap.of(transform, torch.float64), np.empty(grid.shape)
    for layers in slabs(grid, SLAB_VOXELS):
        slab = slab_of(grid, layers)
        distances[layers] = _lengths_mm(world_map.voxels(slab, slab), slab)
    return distances


def _lengths_mm(places: Tensor, grid: Grid) -> NDArray[np.floating]:
    """How far `places` [1, dim, *shape], in voxels of `grid`, lie from its voxels: [*shape]."""
    moved = places[0].clone()
    for axis, size in enumerate(grid.shape):
        moved[axis] -= torch.arange(size).view(-1, *(1,) * (grid.dim - 1 - axis))
    world = torch.as_tensor(grid.world_from_voxel[:-1, :-1]).to(moved)
    lengths: NDArray[np.floating] = vector_length(world @ moved.flatten(1), axis=0).view(grid.shape).numpy()
    return lengths


def error_statistics(distances_mm: NDArray[np.floating]) -> ErrorStatistics:
    """Mean, 95th percentile and largest of distances."""
    return ErrorStatistics(
        mean=float(distances_mm.mean()), p95=float(np.percentile(distances_mm, 95)), max=float(distances_mm.max())
    )


def _label_array(image: sitk.Image, name: str) -> NDArray[Any]:
    values: NDArray[Any] = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(values.dtype, np.floating) and any((part != np.round(part)).any() for part in values):
        raise InputError(f"{name} hold values that are not whole numbers; a label map counts its labels. Check the file.")
    return values


def _dice(fixed: NDArray[Any], warped: NDArray[Any], labels: NDArray[np.int64]) -> Array:
    """Dice per label."""

    def counts(values: NDArray[np.int64]) -> NDArray[np.intp]:
        position = np.searchsorted(labels, values).clip(max=len(labels) - 1)
        return np.bincount(position[labels[position] == values], minlength=len(labels))

    shared, either = (np.zeros(len(labels)) for _ in range(2))
    for one, other in zip(fixed, warped, strict=True):
        plane, moved = one.astype(np.int64), other.astype(np.int64)
        shared += counts(plane[plane == moved])
        either += counts(plane) + counts(moved)
    overlap: Array = 2.0 * shared / either.clip(min=1)
    return overlap
