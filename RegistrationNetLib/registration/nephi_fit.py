"""Instance optimization of the deformation as a function: NePhi's networks and latent codes, fitted to one pair.

Without an encoder they start at random, with the identity as their map (the pairwise variant of Tian et al., ECCV 2024); with
one they start at its prediction. From level to level images and codes become finer. Images are only read where random pieces
of the lattice fall, and stay as they are, so that what is held beside them does not grow with their size.

Here beyond the paper: measures that look at neighbourhoods, on pieces of the images, where the paper's correlates values at
single points; the map is evaluated at every third voxel of a piece or so and linear between; codes that start at random are
cubic B-splines between their nodes, so that the map has no kinks; steps shorten as the images become finer; the squared gradient of the inconsistency is estimated from its
product with one random vector per point, whose expectation it is, so that one derivative is taken instead of one per axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import GeometryError, InputError
from ..geometry.deformation import Affine, Composition, DisplacementField, Map, identity_points, jacobian_determinant
from ..geometry.field_pair import FieldPair, affine_of
from ..geometry.pyramid import pyramid
from ..geometry.separable import apply_along_axes, interpolation_matrix, on, replicating_blur_matrix
from ..geometry.space import Array, Grid, unit_from_unit
from ..losses.measure import Measure
from ..losses.patches import PatchDraw, Patches, View
from ..models.layers.implicit import LocalMLP
from ..models.layers.latent import LatentCodes, random_codes
from ..models.nephi import ImplicitMap, slabs
from ..models.nephi_loss import check_points, gradient_inconsistency
from ..models.nephi_parameters import ParameterRow
from ..models.training_loss import check_weight
from ..progress import StageReport
from .field_refinement import SMALLEST_SIDE_VOX
from .optimizer import descend
from .prepare import Prepared
from .size import COARSEST_SIDE_VOX

# Gradients below this are not stretched to a full step of Adam, so that images in place stay there.
FLAT_GRADIENT = 1e-7
# Measures that compare single values, not neighbourhoods, and so take random points, as published.
GLOBAL = ("ncc", "ssd", "mi")
# Of the largest local standard deviation: below it is air, where pieces are not drawn.
LEAST_CONTRAST = 0.05


@dataclass(frozen=True)
class ImplicitOptions:
    """How the networks and codes are optimized; lengths in voxels are those of the level.

    Attributes:
        measure: the similarity, judged in both directions on pieces of the images.
        smoothness: factor on the regularity; 1 is the default, larger is smoother.
        steps: steps at each level.
        width, frequencies, code_channels: size of the networks that start at random, and of the codes (of the pair, local).
        node_vox: distance of the local codes.
        most_nodes: local codes per axis at most, however fine the images.
        inconsistency_weight: λ of the gradient of the inverse-consistency error.
        regularity_points: random points at which that is taken, in each direction at each step.
        prior: weight of the mean length of the codes.
        similarity_points: random points at which measures that know no neighbourhoods compare the images, as published; where
            mass is conserved these too take pieces, whose change of volume is known.
        patches, patch_side_vox: number of pieces at most, and their size.
        map_stride_vox: from one voxel of a piece at which the map is evaluated to the next.
        first_step: of Adam, on the weights.
        code_step: of Adam, on the codes.
        conserve_mass: values are densities, which fall where tissue grows (CT of lungs).
    """

    measure: Measure
    smoothness: float = 1.0
    steps: int = 80
    width: int = 32
    frequencies: int = 16
    code_channels: tuple[int, int] = (8, 16)
    node_vox: float = 3.0
    most_nodes: int = 48
    inconsistency_weight: float = 3.0
    regularity_points: int = 1000
    prior: float = 0.01
    similarity_points: int = 20_000
    patches: int = 8
    patch_side_vox: int = 33
    map_stride_vox: int = 3
    first_step: float = 1e-3
    code_step: float = 1e-2
    conserve_mass: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smoothness) and self.smoothness > 0):
            raise InputError(
                f"smoothness is {self.smoothness:g}; it must be above 0 (1 is the default, larger is smoother). Choose another."
            )
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}; it must be 0 (no refinement) or more. Choose another.")
        check_weight(self.inconsistency_weight)
        check_weight(self.prior)
        check_points("regularity_points", self.regularity_points)
        check_points("similarity_points", self.similarity_points)


def implicit_options(
    card_refine: Mapping[str, Any],
    measure: Measure,
    *,
    smoothness: float = 1.0,
    steps: int | None = None,
    conserve_mass: bool = False,
) -> ImplicitOptions:
    """The options that a card's section `refine` names under "implicit".

    Raises:
        InputError: smoothness or steps break their rules.
    """
    named = dict(card_refine["implicit"])
    named["code_channels"] = tuple(named["code_channels"])
    if steps is not None:
        named["steps"] = steps
    return ImplicitOptions(measure, smoothness=smoothness, conserve_mass=conserve_mass, **named)


@dataclass(frozen=True)
class Level:
    """One stage: lattice of the pieces, lattice of the codes, distance of the images' voxels in mm, and steps."""

    shape: tuple[int, ...]
    nodes: tuple[int, ...]
    spacing_mm: float
    steps: int


def levels_for(grid: Grid, options: ImplicitOptions) -> list[Level]:
    """From at most 28 voxels a side to the image's own, halving the distance each time; the coarsest first."""
    finest_mm, longest_mm = min(grid.spacing_mm), max(grid.extent_mm)
    doublings = max(0, math.ceil(math.log2(longest_mm / finest_mm / COARSEST_SIDE_VOX)))
    levels = []
    for doubling in range(doublings, -1, -1):
        spacing = finest_mm * 2**doubling
        nodes = tuple(
            min(options.most_nodes, 1 + max(1, round(extent / (options.node_vox * spacing)))) for extent in grid.extent_mm
        )
        levels.append(Level(_lattice(grid, spacing), nodes, spacing, options.steps))
    return levels


def _lattice(grid: Grid, spacing_mm: float) -> tuple[int, ...]:
    """Voxels of about `spacing_mm` over the cube of `grid`, but none finer than its own."""
    return tuple(
        min(size, max(SMALLEST_SIDE_VOX, round(extent / spacing_mm) + 1))
        for size, extent in zip(grid.shape, grid.extent_mm, strict=True)
    )


@dataclass(frozen=True, eq=False)
class ImplicitStart:
    """Networks and codes to start from, and the grid in whose unit cube they map."""

    phi: LocalMLP
    phi_inv: LocalMLP
    codes: LatentCodes
    grid: Grid


@dataclass(frozen=True, eq=False)
class ImplicitMaps:
    """Both directions as maps of the unit cube of `grid`: functions of the point, to be asked wherever they are needed."""

    grid: Grid
    moving_from_fixed: ImplicitMap
    fixed_from_moving: ImplicitMap

    def fields(self, grid: Grid | None = None, report: StageReport = lambda _: None) -> FieldPair:
        """Both as displacement fields on a lattice of the world (default: the own one), worked out slab by slab.

        Beside the two fields themselves only a slab is held. `report` hears of every slab.
        """
        target = grid or self.grid
        forward, backward = (
            _field(self._map_on(target, one), target.shape, partial(_half, report, half), like=one.codes.local)
            for half, one in enumerate((self.moving_from_fixed, self.fixed_from_moving))
        )
        return FieldPair(target, forward, backward)

    def _map_on(self, grid: Grid, map_: ImplicitMap) -> Map:
        """The same map of the world in the unit cube of another grid."""
        like = map_.codes.local
        target_from_own = grid.unit_from_world @ self.grid.world_from_unit
        if np.allclose(target_from_own, np.eye(grid.dim + 1), atol=1e-9):
            return map_
        return Composition((affine_of(target_from_own, like), map_, affine_of(np.linalg.inv(target_from_own), like)))


def _half(report: StageReport, half: int, fraction: float) -> None:
    report((half + fraction) / 2)


def _field(map_: Map, shape: Sequence[int], report: StageReport, *, like: Tensor) -> DisplacementField:
    displacement = torch.empty(1, len(shape), *shape, dtype=like.dtype, device=like.device)
    for layers, points, mapped in slabs(map_, shape, like):
        torch.sub(mapped, points, out=displacement[:, :, layers])
        report(layers.stop / shape[0])
    return DisplacementField(displacement)


def refine_implicit(
    fixed: Prepared,
    moving: Prepared,
    options: ImplicitOptions,
    report: StageReport,
    *,
    alignment: Array | None = None,
    start: ImplicitStart | None = None,
    seed: int = 0,
) -> ImplicitMaps:
    """The deformation of fixed that goes before `alignment`, both ways.

    Args:
        fixed, moving: each on its own grid; moving is seen through the alignment, and nothing is resampled. Values may be of
            any dtype.
        alignment: world matrix moving_from_fixed; None is the identity.
        start: what to begin with; None is the identity, with random codes. Its networks stay as they are.
        seed: of what is drawn: networks and codes, pieces, points.

    Raises:
        GeometryError: there is nothing to compare: no voxel counts in both images.
        RefinementError: the loss is not finite.
    """
    matrix = np.eye(fixed.grid.dim + 1) if alignment is None else alignment
    generator = torch.Generator().manual_seed(seed)
    levels = levels_for(fixed.grid, options)
    begun = start or _random_start(fixed, _nodes(levels[0], smooth=True), options, generator)
    phi, phi_inv, codes = begun.phi, begun.phi_inv, begun.codes
    pairs = _views(fixed, moving, begun.grid.moved(matrix), begun.grid, levels)
    centres = _centres(pairs[0], levels)
    done, total = 0, sum(level.steps for level in levels) or 1
    for level, views in zip(levels, pairs, strict=True):
        codes = codes.on([max(new, old) for new, old in zip(_nodes(level, codes.smooth), codes.local.shape[2:], strict=True)])
        row = ParameterRow(phi, phi_inv, codes, code_ratio=options.code_step / options.first_step)
        draw = PatchDraw(level.shape, options.patches, options.patch_side_vox, centres)
        volume = abs(float(np.linalg.det(matrix)))
        losses = [
            _DirectionLoss(row, way, views, draw, volume, begun.grid.extent_mm, options, _seeded(generator)) for way in (0, 1)
        ]
        # As images become finer so do the steps, which are else a voxel and more where a quarter of one would do.
        first_step = options.first_step * level.spacing_mm / levels[0].spacing_mm
        for step in descend(row.values, losses, steps=level.steps, first_step=first_step, flat=FLAT_GRADIENT):
            report((done + step) / total)
        done += level.steps
        phi, phi_inv, codes = row.finished()
    return ImplicitMaps(begun.grid, ImplicitMap(phi, codes), ImplicitMap(phi_inv, codes))


def _nodes(level: Level, smooth: bool) -> tuple[int, ...]:
    """The shape of the lattice of the codes, with those beyond the cube."""
    return tuple(count + 2 * smooth for count in level.nodes)


def _seeded(generator: torch.Generator) -> torch.Generator:
    """Another one, for another thread."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def _random_start(fixed: Prepared, nodes: Sequence[int], options: ImplicitOptions, generator: torch.Generator) -> ImplicitStart:
    """Networks and codes drawn with `generator`; the map is the identity."""
    device = fixed.values.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        phi, phi_inv = (
            LocalMLP(
                fixed.grid.dim, latent_channels=sum(options.code_channels), width=options.width, frequencies=options.frequencies
            ).to(device)
            for _ in range(2)
        )
    codes = random_codes(options.code_channels, nodes, generator, like=torch.zeros((), device=device), smooth=True)
    return ImplicitStart(phi, phi_inv, codes, fixed.grid)


def _views(fixed: Prepared, moving: Prepared, moved: Grid, cube: Grid, levels: Sequence[Level]) -> list[tuple[View, View]]:
    """Fixed and moving at each level, seen from the unit cube of `cube`, which `moved` is where moving is seen."""
    sides = []
    for image, seen_from in ((fixed, cube), (moving, moved)):
        own_from_cube = Affine(torch.as_tensor(unit_from_unit(image.grid, seen_from)[:-1]).float().to(image.values.device))
        finest_first = pyramid(image.values, [_lattice(image.grid, level.spacing_mm) for level in reversed(levels)])
        sides.append([View(values, own_from_cube, image.mask) for values in reversed(finest_first)])
    return list(zip(*sides, strict=True))


def _centres(views: tuple[View, View], levels: Sequence[Level]) -> Tensor:
    """Points [N, dim] around which pieces are worth comparing: they count, and there is something to see.

    Those of the coarsest lattice; where masks are too thin for it, all that count on the first one that meets them.

    Raises:
        GeometryError: no point counts in both images.
    """
    like = torch.zeros((), device=views[0].values.device)
    points = identity_points(levels[0].shape, like)
    seen = _has_contrast(views[0].at(points)) | _has_contrast(views[1].at(points))
    worth = seen & views[0].counts(points) & views[1].counts(points)
    if bool(worth.any()):
        return points[0].flatten(1).T[worth.flatten()].cpu()
    for level in levels:
        counted = [
            points[0].flatten(1).T[(views[0].counts(points) & views[1].counts(points)).flatten()]
            for _, points, _ in slabs(lambda points: points, level.shape, like)
        ]
        if any(len(one) for one in counted):
            return torch.cat(counted).cpu()
    raise GeometryError(
        "fixed and moving have no voxels to compare; some of fixed's, in its mask, must fall onto moving's, in its mask. "
        "Widen the masks, or give an initial transform."
    )


def _has_contrast(image: Tensor) -> Tensor:
    """Where values differ from their neighbours' mean, by a share of what they do at most: boolean, shape of `image`."""
    blurs = [replicating_blur_matrix(size, 1.0) for size in image.shape[2:]]
    mean, square = (apply_along_axes(one, on(blurs, image)) for one in (image, image.square()))
    variance = (square - mean.square()).clamp(min=0)
    return variance > LEAST_CONTRAST**2 * variance.max()


@dataclass(frozen=True, eq=False)
class _DirectionLoss:
    """The loss of one direction (0: moving_from_fixed, 1: its inverse) on pieces and points drawn anew each time."""

    row: ParameterRow
    way: int
    views: tuple[View, View]
    draw: PatchDraw
    volume: float
    extent_mm: tuple[float, ...]
    options: ImplicitOptions
    generator: torch.Generator

    def __call__(self) -> Tensor:
        options, maps = self.options, self.row.maps(self.way)
        this, other = maps[self.way], maps[1 - self.way]
        shape = (1, len(self.extent_mm), options.regularity_points)
        points = torch.rand(shape, generator=self.generator).to(self.row.values.device)
        signs = (2 * torch.randint(2, shape, generator=self.generator) - 1).to(points)
        inconsistency = len(self.extent_mm) * gradient_inconsistency(other, this, points, extent=self.extent_mm, signs=signs)
        regularity = options.smoothness * options.inconsistency_weight * inconsistency
        return self._dissimilarity(this) + regularity + 0.5 * options.prior * this.codes.norm()

    def _dissimilarity(self, map_: ImplicitMap) -> Tensor:
        if self.options.measure.name in GLOBAL and not self.options.conserve_mass:
            return self._dissimilarity_at_points(map_)
        pieces = self.draw.draw(self.generator, self.row.values.device)
        points = pieces.points()
        mapped = self._mapped(map_, pieces, points)
        compared, sampled = self.views[self.way], self.views[1 - self.way]
        warped = sampled.at(mapped)
        if self.options.conserve_mass:
            warped = warped * self._density(mapped, pieces)
        counted = pieces.inner() & self.views[0].counts(points) & self.views[1].counts(points)
        return self.options.measure.loss(warped, compared.at(points), counted)

    def _dissimilarity_at_points(self, map_: ImplicitMap) -> Tensor:
        """Over random points of the whole cube, no more than there are voxels."""
        dim = len(self.draw.shape)
        count = min(self.options.similarity_points, math.prod(self.draw.shape))
        points = torch.rand(1, dim, count, *(1,) * (dim - 1), generator=self.generator).to(self.row.values.device)
        counted = self.views[0].counts(points) & self.views[1].counts(points)
        warped = self.views[1 - self.way].at(map_(points))
        return self.options.measure.loss(warped, self.views[self.way].at(points), counted)

    def _mapped(self, map_: ImplicitMap, pieces: Patches, points: Tensor) -> Tensor:
        """`points` of the pieces mapped: every few voxels by the network, linear between."""
        counts = [math.ceil((side - 1) / self.options.map_stride_vox) + 1 for side in pieces.side]
        matrices = [interpolation_matrix(side, count) for side, count in zip(pieces.side, counts, strict=True)]
        displacement = map_.displacement_on_lines(pieces.lines(counts))
        return points + apply_along_axes(displacement, on(matrices, displacement))

    def _density(self, mapped: Tensor, pieces: Patches) -> Tensor:
        """How many times as much space tissue takes where it is sampled: the determinant of the map in mm."""
        share = math.prod((size - 1) / (side - 1) for size, side in zip(pieces.shape, pieces.side, strict=True))
        return jacobian_determinant(mapped) * (share * (self.volume if self.way == 0 else 1 / self.volume))
