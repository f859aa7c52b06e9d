"""The conversion between millimetres (SimpleITK, LPS) and the unit cube (torch).

Only this file knows that SimpleITK counts axes x, y, z while arrays count them z, y, x, how an image is oriented,
how a lattice is resized, and how a map of the unit cube becomes a transform in millimetres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import GeometryError
from .deformation import Affine, Composition, DisplacementField, Map, Outside, identity_points, invert, sample
from .pyramid import in_layers
from .separable import Matrix, antialiasing_matrix, apply_along_axes, linear_matrix, on

Array = NDArray[np.floating]

# Wider than what `prepare` lets in, so that no image that came in is refused on its way out.
ORTHOGONAL_WITHIN = 2e-3
# Of the longest edge: 0.01 mm of a head.
INVERSION_TOLERANCE = 5e-5
# By so much of a voxel, over the whole lattice, axes that run along each other may drift apart.
PARALLEL_WITHIN_VOX = 1e-3
# Voxels of a large lattice that are looked at at a time on the CPU.
SLAB_VOXELS = 2**20


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxel centres in the world.

    `shape` counts voxels per array axis (D, H, W); `world_from_voxel` [dim + 1, dim + 1] maps homogeneous array indices to
    LPS millimetres (x, y, z). It may be oblique, and sheared where an affine transform has been folded into it.
    """

    shape: tuple[int, ...]
    world_from_voxel: Array

    @property
    def dim(self) -> int:
        """Number of axes: 2 or 3."""
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxel centres per array axis."""
        return tuple(float(length) for length in np.linalg.norm(self.world_from_voxel[:-1, :-1], axis=0))

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Distance from the first to the last voxel centre per array axis: the length of the unit cube's edges."""
        return tuple(step * (size - 1) for step, size in zip(self.spacing_mm, self.shape, strict=True))

    @property
    def world_from_unit(self) -> Array:
        """Homogeneous matrix from unit-cube coordinates to LPS millimetres."""
        return self.world_from_voxel @ np.diag([*(size - 1.0 for size in self.shape), 1.0])

    @property
    def unit_from_world(self) -> Array:
        """Homogeneous matrix from LPS millimetres to unit-cube coordinates."""
        return np.linalg.inv(self.world_from_unit)

    @property
    def centre_mm(self) -> Array:
        """World coordinates of the middle of the lattice."""
        return (self.world_from_unit @ np.array([0.5] * self.dim + [1.0]))[:-1]

    def resized(self, shape: Sequence[int]) -> Grid:
        """The lattice of `shape` over the same extent, voxel edge to voxel edge."""
        ratio = [old / new for old, new in zip(self.shape, shape, strict=True)]
        voxel_from_new = np.diag([*ratio, 1.0])
        voxel_from_new[:-1, -1] = [0.5 * r - 0.5 for r in ratio]
        return Grid(tuple(shape), self.world_from_voxel @ voxel_from_new)

    def spanned(self, shape: Sequence[int]) -> Grid:
        """The lattice of `shape` with the same first and last voxel centres, that is, the same unit cube."""
        voxel_from_new = np.diag([*((old - 1) / (new - 1) for old, new in zip(self.shape, shape, strict=True)), 1.0])
        return Grid(tuple(shape), self.world_from_voxel @ voxel_from_new)

    def mirrored(self, axis: int) -> Grid:
        """The same voxels counted backwards along one array axis."""
        voxel_from_new = np.eye(self.dim + 1)
        voxel_from_new[axis, axis], voxel_from_new[axis, -1] = -1, self.shape[axis] - 1
        return Grid(self.shape, self.world_from_voxel @ voxel_from_new)

    def cropped(self, ranges: Sequence[slice]) -> Grid:
        """The part of the lattice within `ranges`, one slice with both ends and step 1 per array axis."""
        voxel_from_new = np.eye(self.dim + 1)
        voxel_from_new[:-1, -1] = [one.start for one in ranges]
        return Grid(tuple(one.stop - one.start for one in ranges), self.world_from_voxel @ voxel_from_new)

    def rearranged(self, order: Sequence[int], flipped: Sequence[bool]) -> Grid:
        """The same voxels with their array axes in another order, and those that are `flipped` (in the new order) backwards."""
        voxel_from_new = np.eye(self.dim + 1)[:, [*order, self.dim]]
        rearranged = Grid(tuple(self.shape[axis] for axis in order), self.world_from_voxel @ voxel_from_new)
        for axis, is_flipped in enumerate(flipped):
            rearranged = rearranged.mirrored(axis) if is_flipped else rearranged
        return rearranged

    def moved(self, world_from_world: Array) -> Grid:
        """The same lattice carried through an affine map of the world."""
        return Grid(self.shape, world_from_world @ self.world_from_voxel)


def grid_of(image: sitk.Image) -> Grid:
    """The lattice of `image`."""
    dim = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dim, dim)
    world_from_index = np.eye(dim + 1)
    world_from_index[:-1, :-1] = direction * np.array(image.GetSpacing())
    world_from_index[:-1, -1] = image.GetOrigin()
    return Grid(image.GetSize()[::-1], world_from_index @ _index_from_voxel(dim))


def _index_from_voxel(dim: int) -> Array:
    """SimpleITK's index is the array's, backwards."""
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = np.eye(dim)[::-1]
    return matrix


def image_on(grid: Grid, array: NDArray[np.generic], *, is_vector: bool = False) -> sitk.Image:
    """`array` [*shape] (or [*shape, C] with `is_vector`) as an image on `grid`.

    Raises:
        GeometryError: the grid is sheared.
    """
    origin, spacing, direction = _itk_geometry(grid)
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _itk_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction as SimpleITK wants them."""
    spacing = np.array(grid.spacing_mm)
    direction = (grid.world_from_voxel[:-1, :-1] / spacing)[:, ::-1]
    if not np.allclose(direction.T @ direction, np.eye(grid.dim), atol=ORTHOGONAL_WITHIN):
        raise GeometryError("The lattice is sheared; an image needs orthogonal axes. Resample it to an orthogonal lattice first.")
    return grid.world_from_voxel[:-1, -1].tolist(), spacing[::-1].tolist(), direction.flatten().tolist()


def tensor_of(image: sitk.Image, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The voxels of a scalar image as [1, 1, *shape] on the CPU."""
    array = sitk.GetArrayViewFromImage(image)
    return torch.as_tensor(array.astype(_numpy_dtype(dtype)))[None, None]


def _numpy_dtype(dtype: torch.dtype) -> type[np.generic]:
    types: dict[torch.dtype, type[np.generic]] = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}
    return types[dtype]


def axes_towards(moving: Grid, fixed: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which axis of moving lies nearest to each axis of fixed, and whether it must be flipped.

    The assignment maximizes the sum of the cosines' magnitudes, so that every axis is used once also when oblique.
    """
    cosine = _unit_columns(fixed).T @ _unit_columns(moving)
    dim = fixed.dim
    order = max(itertools.permutations(range(dim)), key=lambda p: sum(abs(cosine[d, p[d]]) for d in range(dim)))
    return order, tuple(bool(cosine[d, order[d]] < 0) for d in range(dim))


def anatomical_grid(orientation: str) -> Grid:
    """A lattice of 2×2×2 voxels, 1 mm apart, in anatomical axes.

    Args:
        orientation: for the axes x, y and z (the last, middle and first of an array) the side of the body where each begins,
            as ITK's older codes have it: "RAS" begins at the right, at the front and at the top.
    """
    steps = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "I": (0, 0, 1), "S": (0, 0, -1)}
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = np.array([steps[letter] for letter in reversed(orientation)]).T
    return Grid((2, 2, 2), world_from_voxel)


def bring_to_axes_of(moving: sitk.Image, fixed: Grid) -> sitk.Image:
    """`moving` with its axes permuted and flipped to lie nearest to those of `fixed`; no voxel is interpolated or moved in the world."""
    order, flipped = axes_towards(grid_of(moving), fixed)
    dim = fixed.dim
    # SimpleITK counts the axes the other way round.
    order_itk = [dim - 1 - order[dim - 1 - axis] for axis in range(dim)]
    if order_itk != list(range(dim)):
        moving = sitk.PermuteAxes(moving, order_itk)
    if any(flipped):
        moving = sitk.Flip(moving, list(flipped[::-1]))
    return moving


def _unit_columns(grid: Grid) -> Array:
    columns: Array = grid.world_from_voxel[:-1, :-1]
    return columns / np.linalg.norm(columns, axis=0)


def unit_from_unit(target: Grid, source: Grid) -> Array:
    """Matrix from the unit cube of `source` to that of `target`, both seen as parts of one world."""
    return target.unit_from_world @ source.world_from_unit


def affine_transform(matrix: Array) -> sitk.AffineTransform:
    """The homogeneous world matrix as a SimpleITK transform."""
    dim = matrix.shape[0] - 1
    transform = sitk.AffineTransform(dim)
    transform.SetMatrix(matrix[:dim, :dim].flatten().tolist())
    transform.SetTranslation(matrix[:dim, dim].tolist())
    return transform


def affine_matrix(transform: sitk.Transform) -> Array:
    """The homogeneous world matrix of a linear SimpleITK transform of any class.

    Raises:
        GeometryError: the transform is not linear.
    """
    if not transform.IsLinear():
        raise GeometryError("The transform is not linear; a matrix can only be read from rigid and affine ones.")
    dim = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * dim))
    # A large step keeps the rounding of TransformPoint far below the entries.
    step = 1000.0
    columns = [np.array(transform.TransformPoint((step * np.eye(dim)[axis]).tolist())) - origin for axis in range(dim)]
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = np.stack(columns, axis=1) / step
    matrix[:dim, dim] = origin
    return matrix


def field_transform(displacement_mm: NDArray[np.floating], grid: Grid) -> sitk.DisplacementFieldTransform:
    """World displacements [*shape, dim] (x, y, z) on `grid` as a transform: x ↦ x + u(x), nothing outside the lattice."""
    field = image_on(grid, np.asarray(displacement_mm, dtype=np.float64), is_vector=True)
    return sitk.DisplacementFieldTransform(field)


def displacements_mm(transform: sitk.Transform, grid: Grid) -> NDArray[np.float64]:
    """World displacements [*shape, dim] (x, y, z) of a transform at the lattice of `grid`.

    Raises:
        GeometryError: the grid is sheared.
    """
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, grid.shape[::-1], *_itk_geometry(grid))
    return sitk.GetArrayFromImage(field)


def world_displacement(mapped: Tensor, grid: Grid) -> NDArray[np.floating]:
    """World displacements [*shape, dim] (x, y, z) of the lattice of `grid`, mapped to `mapped` [1, dim, *shape] of its unit cube."""
    displacement = mapped - identity_points(mapped.shape[2:], mapped)
    matrix = torch.as_tensor(grid.world_from_unit[:-1, :-1], dtype=mapped.dtype, device=mapped.device)
    return torch.einsum("wd,d...->...w", matrix, displacement[0]).cpu().numpy()


def points_of_transform(transform: sitk.Transform, fixed: Grid, moving: Grid) -> Tensor:
    """The lattice of `fixed` mapped by a world transform, in the unit cube of `moving`: [1, dim, *shape], float64 on the CPU."""
    moving_from_fixed = Affine(torch.as_tensor(unit_from_unit(moving, fixed)[:-1]))
    unit_from_world = torch.as_tensor(moving.unit_from_world[:-1, :-1])
    displacement = torch.einsum("dw,...w->d...", unit_from_world, torch.as_tensor(displacements_mm(transform, fixed)))[None]
    return moving_from_fixed(identity_points(fixed.shape, displacement)) + displacement


def resampled(image: sitk.Image, grid: Grid, *, nearest: bool = False, outside: float = 0.0) -> Tensor:
    """`image` at the lattice of `grid` (sheared ones too) as [1, 1, *shape] float32; `outside` where the image has no voxel.

    An image finer than the lattice must be blurred first, or it aliases.
    """
    dim = grid.dim
    # The lattice of indices as reference, and the whole geometry in the transform: a reference image cannot be sheared.
    world_from_index = affine_transform(grid.world_from_voxel @ _index_from_voxel(dim))
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    identity = np.eye(dim).flatten().tolist()
    moved = sitk.Resample(
        image, grid.shape[::-1], world_from_index, interpolator, [0.0] * dim, [1.0] * dim, identity, outside, sitk.sitkFloat32
    )
    return tensor_of(moved)


def values_on(values: Tensor, source: Grid, target: Grid, *, nearest: bool = False, outside: Outside = "border") -> Tensor:
    """`values` [1, C, *source.shape] at the lattice of `target`, both seen as parts of one world: [1, C, *target.shape].

    Where the target is coarser, a Gaussian blur adapted to the ratio comes first (not for `nearest`), so that nothing aliases.
    Beside both only a few layers are held.
    """
    source_from_target = np.linalg.inv(source.world_from_voxel) @ target.world_from_voxel
    steps_vox = [float(step) for step in np.linalg.norm(source_from_target[:-1, :-1], axis=1)]
    if not nearest and outside == "border" and runs_along(source_from_target, target.shape):
        matrices = _matrices_along(source_from_target, steps_vox, source.shape, target.shape)
        return in_layers(lambda layers: values[:, :, layers], matrices)
    blurred = values if nearest else _blurred(values, steps_vox)
    return _in_slabs(
        target, values, lambda slab: sample(blurred, _points_of(source, slab, values), outside=outside, nearest=nearest)
    )


def runs_along(source_from_target: Array, shape: Sequence[int]) -> bool:
    """Whether a lattice of `shape` has its axes along those, in this order, of the voxels to which the matrix leads."""
    across = source_from_target[:-1, :-1] * (1 - np.eye(len(shape)))
    return bool(np.abs(across).max() * max(shape) <= PARALLEL_WITHIN_VOX)


def _matrices_along(
    source_from_target: Array, steps_vox: Sequence[float], shape_in: Sequence[int], shape_out: Sequence[int]
) -> list[Matrix]:
    return [
        linear_matrix(source_from_target[axis, axis] * np.arange(new) + source_from_target[axis, -1], old)
        @ antialiasing_matrix(old, steps_vox[axis])
        for axis, (new, old) in enumerate(zip(shape_out, shape_in, strict=True))
    ]


def values_at(
    values: Tensor, points: Tensor, steps_vox: Sequence[float], *, nearest: bool = False, outside: Outside = "border"
) -> Tensor:
    """`values` [1, C, *any] at the lattice that a map has taken to `points` [1, dim, *shape] of their unit cube: [1, C, *shape].

    Where its points are more than a voxel apart (by `steps_vox`, along each axis of the values) a Gaussian blur adapted to that
    comes first (not for `nearest`), so that nothing aliases.
    """
    blurred = values if nearest else _blurred(values, steps_vox)
    return sample(blurred, points, outside=outside, nearest=nearest)


def _blurred(values: Tensor, steps_vox: Sequence[float]) -> Tensor:
    """Against aliasing where every `steps_vox` voxels along each axis are read."""
    if max(steps_vox) <= 1:
        return values
    blurs = [antialiasing_matrix(size, step) for size, step in zip(values.shape[2:], steps_vox, strict=True)]
    return apply_along_axes(values, on(blurs, values))


def is_inside(source: Grid, target: Grid, like: Tensor) -> Tensor:
    """Which points of the lattice of `target` lie within `source`: boolean [1, 1, *target.shape], half a voxel around counted in."""
    return _in_slabs(target, like, lambda slab: lies_inside(source, _points_of(source, slab, like)))


def _points_of(source: Grid, target: Grid, like: Tensor) -> Tensor:
    """The lattice of `target` as points of the unit cube of `source`, with dtype and device of `like`: [1, dim, *target.shape]."""
    unit = torch.as_tensor(unit_from_unit(source, target)[:-1], dtype=like.dtype, device=like.device)
    return Affine(unit)(identity_points(target.shape, like))


def _in_slabs(target: Grid, like: Tensor, made: Callable[[Grid], Tensor]) -> Tensor:
    """What is `made` of a lattice, [1, C, *target.shape]; of a large one on the CPU a slab at a time."""
    if math.prod(target.shape) <= SLAB_VOXELS or like.device.type != "cpu":
        return made(target)
    whole: Tensor | None = None
    for layers in slabs(target, SLAB_VOXELS):
        part = made(slab_of(target, layers))
        if whole is None:
            whole = part.new_empty(*part.shape[:2], *target.shape)
        whole[:, :, layers] = part
    assert whole is not None
    return whole


def slabs(grid: Grid, voxels: int) -> Iterator[slice]:
    """Layers of the first axis, so many at a time that they hold about `voxels` voxels, and two of them at least."""
    layers = max(2, voxels // math.prod(grid.shape[1:]))
    for start in range(0, grid.shape[0], layers):
        yield slice(start, min(start + layers, grid.shape[0]))


def slab_of(grid: Grid, layers: slice) -> Grid:
    """Some layers of the first axis."""
    return grid.cropped((layers, *(slice(0, size) for size in grid.shape[1:])))


def lies_inside(source: Grid, points: Tensor) -> Tensor:
    """Which `points` [1, dim, *any] of the unit cube of `source` lie within it: [1, 1, *any], half a voxel around counted in."""
    margin = torch.tensor([0.5 / (size - 1) for size in source.shape], dtype=points.dtype, device=points.device)
    margin = margin.view(1, -1, *(1,) * (points.dim() - 2))
    return ((points >= -margin) & (points <= 1 + margin)).all(dim=1, keepdim=True)


@torch.no_grad()
def transform_from_map(map_: Map, fixed: Grid, moving: Grid, *, like: Tensor | None = None) -> sitk.CompositeTransform:
    """A map from the unit cube of `fixed` to that of `moving` as a transform of the world, points of fixed → points of moving.

    It is the affine between the two cubes after a displacement field on the lattice of `fixed`, so that both parts
    can be had alone. Outside `fixed` only the affine part acts.

    `like` gives the dtype and device in which the map works; default float32 on the CPU, whose rounding moves points by
    about 1e-7 of the cube.
    """
    lattice = identity_points(fixed.shape, torch.zeros(()) if like is None else like)
    displacement = world_displacement(map_(lattice), fixed)
    affine = affine_transform(moving.world_from_unit @ fixed.unit_from_world)
    composite = sitk.CompositeTransform(fixed.dim)
    composite.AddTransform(affine)
    composite.AddTransform(field_transform(displacement, fixed))
    return composite


def inverse_transform_from_map(
    field: DisplacementField, fixed: Grid, moving: Grid, alignment: Array, *, start: Map | None = None, is_exact: bool = False
) -> sitk.CompositeTransform:
    """The inverse of alignment ∘ field as a transform of the world, points of moving → points of fixed.

    It is the inverted `alignment` after a displacement field on `moving` (see `inverse_field`), so that it holds wherever moving
    has voxels.
    """
    inverse = inverse_field(field, fixed, moving, alignment, start=start, is_exact=is_exact)
    return transform_from_map(inverse, moving, moving.moved(np.linalg.inv(alignment)), like=field.displacement)


@torch.no_grad()
def inverse_field(
    field: DisplacementField, fixed: Grid, moving: Grid, alignment: Array, *, start: Map | None = None, is_exact: bool = False
) -> DisplacementField:
    """The displacements of `moving` that, followed by the inverted `alignment`, are the inverse of alignment ∘ field.

    Found by `invert` on the lattice of `moving`. `field` maps the unit cube of `fixed`; `alignment` is the world matrix that follows;
    `start` is an estimate of the field's inverse, or that inverse itself where it `is_exact`.
    """
    back = np.linalg.inv(alignment)
    like = field.displacement
    fixed_from_moving = Affine(torch.as_tensor(unit_from_unit(fixed, moving.moved(back))[:-1]).to(like))
    moving_from_fixed = fixed_from_moving.inverse()
    estimate = None
    if start is not None:
        estimate = Composition((moving_from_fixed, start, fixed_from_moving))(identity_points(moving.shape, like))
        if is_exact:
            return DisplacementField(estimate - identity_points(moving.shape, like))
    conjugate = Composition((moving_from_fixed, field, fixed_from_moving))
    tolerance = INVERSION_TOLERANCE * max(moving.extent_mm)
    return invert(conjugate, moving.shape, like=like, start=estimate, scale=moving.extent_mm, tolerance=tolerance).field
