"""Tissue that keeps its shape: within each body the map becomes rigid, or an affine one that keeps volumes, and smooth around it.

Each body moves as the registration moves it in the mean (least squares). Around it the deformation goes over smoothly to what was
found, the wider the more is changed, so that nothing folds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import GeometryError
from ..geometry.deformation import DisplacementField, identity_points, invert
from ..geometry.field_pair import FieldPair
from ..geometry.space import INVERSION_TOLERANCE, Array, Grid, grid_of
from .affine_fits import Points, rigid_fit, volume_keeping_fit
from .method import Solution

RIGID, VOLUME = "rigid", "volume"
FITS = {RIGID: rigid_fit, VOLUME: volume_keeping_fit}
# Voxels of a body that tell how it moves.
FIT_VOXELS = 20_000
# Around a body what was found comes back within this distance, or within so many times the largest change there.
BAND_MM, BAND_CHANGES = 15.0, 3.0
# Bodies that touch each other may move so differently there, in mm.
SAME_MOTION_MM = 0.5


@dataclass(frozen=True, eq=False)
class Body:
    """Voxels of fixed [N, dim], as indices of its array, that keep their shape, or their volume (`kind`); `name` is for messages."""

    kind: str
    name: str
    voxels: NDArray[np.intp]


def bodies_of(rigid: sitk.Image | None, keep_volume: sitk.Image | None) -> list[Body]:
    """The bodies of label images on the grid of fixed: each label, or of a mask with one value each part that hangs together."""
    found = []
    for kind, image in ((RIGID, rigid), (VOLUME, keep_volume)):
        if image is None:
            continue
        values = sitk.GetArrayFromImage(image)
        labels = [int(one) for one in np.unique(values) if one != 0]
        if len(labels) == 1:
            values = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.Cast(image != 0, sitk.sitkUInt8), True))
            labels = [int(one) for one in np.unique(values) if one != 0]
        found += [Body(kind, f"{label} of the {kind} mask", np.argwhere(values == label)) for label in labels]
    return found


@dataclass(frozen=True, eq=False)
class _Placed:
    """A body with the matrix that it moves by, from fixed to moving in mm, and its voxels in mm."""

    body: Body
    matrix: Array
    points_mm: Points


def keeping_shape(solution: Solution, bodies: Sequence[Body], image: Grid) -> Solution:
    """The solution with every body moved as a whole; the inverse is found anew.

    Args:
        image: the lattice of fixed in which the voxels of bodies count.

    Raises:
        GeometryError: two bodies touch each other and move differently.
    """
    if not bodies:
        return solution
    grid = solution.fields.grid
    like = solution.fields.moving_from_fixed.displacement
    core_mm = _core_mm(solution, image)
    placed = [_placed(body, solution, image) for body in bodies]
    distances = [_distance_mm(body, image, grid) for body in bodies]
    _check_contacts(placed, distances, grid, core_mm)
    lattice = identity_points(grid.shape, like.double().cpu())
    found = lattice + like.double().cpu()
    changes = [_moved(lattice, one, solution, grid) - found for one in placed]
    weights = _weights(changes, distances, core_mm, grid)
    moved = found + sum(weight * change for weight, change in zip(weights, changes, strict=True))
    forward = (moved - lattice).to(like)
    back = invert(
        DisplacementField(forward), grid.shape, like=forward,
        start=solution.fields.fixed_from_moving.on_lattice().to(forward), scale=grid.extent_mm,
        tolerance=INVERSION_TOLERANCE * max(grid.extent_mm),
    )  # fmt: skip
    return replace(solution, fields=FieldPair(grid, DisplacementField(forward), back.field), inverse=None)


def _core_mm(solution: Solution, image: Grid) -> float:
    """How far around a body the field counts for the derivative within it: a voxel along one axis, and what lies around that."""
    grid, delivered = solution.fields.grid, solution.delivered_grid
    step_mm = max(delivered.spacing_mm)
    across_mm = 0.0 if delivered.shape == grid.shape else step_mm
    return math.hypot(max(image.spacing_mm) + step_mm, math.sqrt(grid.dim - 1) * across_mm)


def _placed(body: Body, solution: Solution, image: Grid) -> _Placed:
    voxels = body.voxels[:: max(1, len(body.voxels) // FIT_VOXELS)]
    points = voxels @ image.world_from_voxel[:-1, :-1].T + image.world_from_voxel[:-1, -1]
    grid = solution.fields.grid
    unit = torch.from_numpy((points @ grid.unit_from_world[:-1, :-1].T + grid.unit_from_world[:-1, -1]).T.copy())[None]
    there = DisplacementField(solution.fields.moving_from_fixed.displacement.double().cpu())(unit)[0].numpy().T
    matrix = solution.alignment @ grid.world_from_unit
    return _Placed(body, FITS[body.kind](points, there @ matrix[:-1, :-1].T + matrix[:-1, -1]), points)


def _moved(lattice: Tensor, one: _Placed, solution: Solution, grid: Grid) -> Tensor:
    """The lattice as the body moves, in the unit cube, before the alignment."""
    matrix = torch.from_numpy(grid.unit_from_world @ np.linalg.inv(solution.alignment) @ one.matrix @ grid.world_from_unit)
    moved = matrix[:-1, :-1] @ lattice.flatten(2) + matrix[:-1, -1:]
    return moved.view_as(lattice)


def _distance_mm(body: Body, image: Grid, grid: Grid) -> Tensor:
    """From each point of `grid` to the body, which has voxels of `image`: [1, 1, *grid.shape]; 0 within it."""
    own_from_image = np.linalg.inv(grid.world_from_voxel) @ image.world_from_voxel
    places = (body.voxels @ own_from_image[:-1, :-1].T + own_from_image[:-1, -1]).round(6)
    last = np.array(grid.shape) - 1
    inside = np.zeros(grid.shape, dtype=np.uint8)
    ends = [one.astype(int).clip(0, last) for one in (np.floor(places), np.ceil(places))]
    for corner in itertools.product((0, 1), repeat=grid.dim):  # all points that a voxel of the body lies between
        inside[tuple(ends[end][:, axis] for axis, end in enumerate(corner))] = 1
    mask = sitk.GetImageFromArray(inside)
    mask.SetSpacing(grid.spacing_mm[::-1])
    outside = sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return torch.from_numpy(sitk.GetArrayFromImage(outside).clip(min=0)).double()[None, None]


def _check_contacts(placed: Sequence[_Placed], distances: Sequence[Tensor], grid: Grid, core_mm: float) -> None:
    for first, second in itertools.combinations(range(len(placed)), 2):
        contact = ((distances[first] < core_mm) & (distances[second] < core_mm))[0, 0].nonzero().numpy()
        if not len(contact):
            continue
        points = contact @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
        there = [points @ placed[one].matrix[:-1, :-1].T + placed[one].matrix[:-1, -1] for one in (first, second)]
        apart = np.linalg.norm(there[0] - there[1], axis=1)
        if apart.max() > SAME_MOTION_MM:
            where = ", ".join(f"{one:.0f}" for one in points[apart.argmax()])
            raise GeometryError(
                f"Body {placed[first].body.name} and body {placed[second].body.name} touch each other at ({where}) mm and move differently "
                f"there, by {apart.max():.1f} mm; bodies that touch must move together. Give them one label, or leave a gap of "
                f"{2 * core_mm:.0f} mm between them."
            )


def _weights(changes: Sequence[Tensor], distances: Sequence[Tensor], core_mm: float, grid: Grid) -> list[Tensor]:
    """How much each body counts at each point: wholly within itself, not at all within another, and less with the distance."""
    lengths = torch.tensor(grid.extent_mm, dtype=torch.float64).view(1, -1, *(1,) * grid.dim)
    falls, shares = [], []
    for change, distance in zip(changes, distances, strict=True):
        beyond = (distance - core_mm).clamp(min=0)
        around = (distance <= core_mm + BAND_MM).expand_as(change[:, :1])
        largest = float((change * lengths).square().sum(dim=1, keepdim=True).sqrt()[around].max())
        away = (beyond / max(BAND_MM, BAND_CHANGES * largest)).clamp(max=1)
        falls.append(1 - away.square() * (3 - 2 * away))
        shares.append(1 / beyond.clamp(min=1e-6))
    total = sum(shares)
    return [fall * share / total for fall, share in zip(falls, shares, strict=True)]


def reached(transform: sitk.Transform, jacobian: sitk.Image, bodies: Sequence[Body]) -> list[dict[str, object]]:
    """What of each body was reached by the delivered transform: how far from a rigid motion, and how much volumes change inside."""
    determinants, grid = sitk.GetArrayViewFromImage(jacobian), grid_of(jacobian)
    told = []
    for body in bodies:
        voxels = body.voxels[:: max(1, len(body.voxels) // FIT_VOXELS)]
        points = voxels @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
        there = np.array([transform.TransformPoint(point) for point in points.tolist()])
        matrix = rigid_fit(points, there)
        off = np.linalg.norm(points @ matrix[:-1, :-1].T + matrix[:-1, -1] - there, axis=1)
        inside = determinants[tuple(body.voxels.T)]
        told.append(
            {
                "kind": body.kind,
                "body": body.name,
                "voxels": len(body.voxels),
                "from_rigid_mm": float(off.max()),
                "volume_change_percent": float(100 * np.abs(inside - 1).max()),
            }
        )
    return told
