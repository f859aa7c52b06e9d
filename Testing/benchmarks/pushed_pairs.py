"""Pairs with a known map on which a registration by images fails in one place: an organ taken for its neighbour, or no texture.

Fixed is a generated head. In moving it is bent by a smooth map, and in one place pushed by the flow of a bump of velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from RegistrationNetLib.geometry.deformation import VelocityField
from RegistrationNetLib.geometry.space import Grid, field_transform, grid_of, image_on, world_displacement
from RegistrationNetLib.io.landmarks import mapped
from RegistrationNetLib.quality.known_warp import KnownMap, WarpOptions, random_map
from RegistrationNetLib.quality.phantom import head_phantom

Points = NDArray[np.float64]

# Tissue within the first distance of the way is pushed by all of it, and none of it beyond the second.
PUSH_MM, WHOLE_MM, NOTHING_MM = 25.0, 15.0, 48.0
ORGAN_MM, ORGAN_VALUE = 11.0, 1.0
BLANK_MM = 52.0
NOISE = 0.02
LEAST_APART_MM = 6.0
KINDS = ("organ", "blank")


@dataclass(frozen=True, eq=False)
class PushedPair:
    """One pair.

    Attributes:
        known: the true map.
        centre_mm: of the place in fixed that is pushed.
        mask: 1 where fixed shows the head.
    """

    fixed: sitk.Image
    moving: sitk.Image
    known: KnownMap
    centre_mm: Points
    mask: sitk.Image

    def partners(self, points_mm: Points) -> Points:
        """The true places in moving of points of fixed [N, dim]."""
        return mapped(points_mm, self.known.moving_from_fixed)

    def around(self, count: int, seed: int, *, radius_mm: float = 15.0) -> Points:
        """Random points of fixed within a distance of the centre, no two of them near each other: [count, dim]."""
        return _spread(np.random.default_rng(seed), count, self.centre_mm, radius_mm)

    def elsewhere(self, count: int, seed: int) -> Points:
        """Random points of the head that moving shows as well, no two of them near each other: [count, dim]."""
        random, grid = np.random.default_rng(seed), grid_of(self.mask)
        voxels = np.argwhere(sitk.GetArrayViewFromImage(self.mask) > 0)
        points = voxels @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
        points = points[_inside(grid_of(self.moving), self.partners(points))]
        chosen = [points[random.integers(len(points))]]
        while len(chosen) < count:  # each time that of some which is farthest from those before
            some = points[random.integers(len(points), size=20)]
            apart = np.linalg.norm(some[:, None] - np.array(chosen), axis=-1).min(axis=1)
            chosen.append(some[apart.argmax()])
        return np.array(chosen)

    def errors_mm(self, transform: sitk.Transform) -> tuple[Points, Points]:
        """How far the head's voxels are taken from their true places, and how far each lies from the centre: [voxels] each."""
        grid = grid_of(self.mask)
        inside = sitk.GetArrayViewFromImage(self.mask) > 0
        points = np.argwhere(inside) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
        size, spacing = self.mask.GetSize(), self.mask.GetSpacing()
        fields = [
            sitk.GetArrayFromImage(
                sitk.TransformToDisplacementField(
                    one, sitk.sitkVectorFloat64, size, self.mask.GetOrigin(), spacing, self.mask.GetDirection()
                )
            )[inside]
            for one in (transform, self.known.moving_from_fixed)
        ]
        return np.linalg.norm(fields[0] - fields[1], axis=-1), np.linalg.norm(points - self.centre_mm, axis=1)


def _inside(grid: Grid, points_mm: Points) -> NDArray[np.bool_]:
    voxels = (points_mm - grid.world_from_voxel[:-1, -1]) @ np.linalg.inv(grid.world_from_voxel[:-1, :-1]).T
    return np.array(((voxels >= 0) & (voxels <= np.array(grid.shape) - 1)).all(axis=1))


def _spread(random: np.random.Generator, count: int, centre_mm: Points, radius_mm: float) -> Points:
    while True:
        offsets = random.uniform(-radius_mm, radius_mm, (count, len(centre_mm)))
        apart = np.linalg.norm(offsets[:, None] - offsets, axis=-1) + 1e9 * np.eye(count)
        if apart.min() > LEAST_APART_MM and np.linalg.norm(offsets, axis=1).max() < radius_mm:
            return centre_mm + offsets


def pushed_pair(
    kind: str, seed: int, *, shape: tuple[int, ...] = (64, 76, 64), spacing_mm: float = 3.0, warp_mm: float = 6.0
) -> PushedPair:
    """A head of one of the `KINDS`; another seed is another head, map, place and direction."""
    dim = len(shape)
    head = head_phantom(shape, [spacing_mm] * dim, seed)
    grid, random = grid_of(head.image), np.random.default_rng(seed)
    extent = np.array(grid.extent_mm[::-1])
    side = random.choice([-1.0, 1.0], size=dim) * random.uniform(0.05, 0.12, dim)
    centre = grid.centre_mm + extent * side
    inward = grid.centre_mm - centre + 8 * random.standard_normal(dim)
    push = PUSH_MM * inward / np.linalg.norm(inward)
    values = sitk.GetArrayFromImage(head.image)
    blend = np.clip((BLANK_MM - np.linalg.norm(_places_mm(grid) - (centre + 0.5 * push), axis=-1)) / 6.0, 0, 1)
    values = values * (1 - blend) + 0.6 * blend
    if (
        kind == "organ"
    ):  # an organ, and another one just like it where the first is pushed to: as vertebrae, ribs and lymph nodes are
        for one in (centre, centre + push):
            near = np.linalg.norm(_places_mm(grid) - one, axis=-1)
            values = np.where(near < ORGAN_MM, ORGAN_VALUE, values)
    source = image_on(grid, values.astype(np.float32))
    known = _pushed(grid, seed, centre, push, warp_mm)
    moving = sitk.Resample(source, source, known.fixed_from_moving, sitk.sitkBSpline, 0.0, sitk.sitkFloat32)
    noisy = [
        image_on(grid, (sitk.GetArrayViewFromImage(one) + NOISE * random.standard_normal(shape)).astype(np.float32))
        for one in (source, moving)
    ]
    mask = sitk.Cast(head.labels > 0, sitk.sitkUInt8)
    return PushedPair(noisy[0], noisy[1], known, centre, mask)


def _places_mm(grid: Grid) -> Points:
    """[*shape, dim]"""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    return index @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]


def _pushed(grid: Grid, seed: int, centre: Points, push: Points, warp_mm: float) -> KnownMap:
    """The push, and after it a smooth random map."""
    smooth = random_map(grid, seed, WarpOptions(2.0, 4.0, displacement_mm=warp_mm, correlation_mm=30.0, lattice_mm=3.0))
    finer = grid.spanned([2 * size - 1 for size in grid.shape]) if min(grid.spacing_mm) > 2 else grid
    # The organ moves as a whole, and what lies around it the less the farther away it is: so all along its way.
    places = _places_mm(finer) - centre
    along = np.clip(places @ push / PUSH_MM, 0, PUSH_MM)[..., None] * push / PUSH_MM
    away = np.clip((np.linalg.norm(places - along, axis=-1) - WHOLE_MM) / (NOTHING_MM - WHOLE_MM), 0, 1)
    bump = (1 - away**2 * (3 - 2 * away))[..., None] * push
    unit = np.moveaxis(bump @ finer.unit_from_world[:-1, :-1].T, -1, 0)[None]
    velocity = torch.from_numpy(unit)
    there, back = (
        field_transform(world_displacement(VelocityField(sign * velocity, 8).displacement_field().on_lattice(), finer), finer)
        for sign in (1, -1)
    )
    return KnownMap(_chained(smooth.moving_from_fixed, there), _chained(back, smooth.fixed_from_moving))


def _chained(outer: sitk.Transform, inner: sitk.Transform) -> sitk.CompositeTransform:
    """The second one acts first."""
    chain = sitk.CompositeTransform([outer, inner])
    chain.FlattenTransform()
    return chain
