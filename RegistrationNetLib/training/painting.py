"""Images painted from label maps: any contrast, resolution, field of view, shading, noise and pose, with the map between them known.

What a network learns from them depends on shapes alone, and so it takes any contrast. After Billot et al., Medical Image Analysis 2023
(SynthSeg), and Hoffmann et al., IEEE TMI 2022 (SynthMorph); here the map is known in both directions, by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Affine, Composition, DisplacementField, VelocityField, sample
from ..geometry.separable import apply_along_axes, on, resize_matrix
from ..quality.known_warp import require_in_range
from .label_maps import LabelMaps
from .pairs import Example, Pair
from .synthetic import KnownExamples, random_labels, random_velocity, shaded, uniform

# Of so many different resolutions each axis takes one.
RESOLUTIONS = 8


@dataclass(frozen=True)
class PaintingOptions:
    """What is drawn anew for every pair, or every image.

    Args:
        shapes: share of the pairs that show random shapes instead of a label map; where there are no label maps, all do.
        classes: tissues of random shapes.
        two_maps: share of the pairs of label maps whose images show two different ones, rather than one that is deformed; they share
            labels, and the map between them is not known.
        displacement: 95th percentile of the velocity that deforms, in lengths of the cube.
        roughness: standard deviation of the Gaussian that smooths the velocity, in lengths of the cube; small is wriggly.
        turn_degrees: largest turn of each image about its centre, about any axis.
        shift: largest shift of each image along each axis, in lengths of the cube.
        scale: each image is larger or smaller by up to this share.
        one_contrast: both images give each label the same intensity, rather than each its own.
        resolution: longest edge of a voxel that was measured, in voxels of the lattice, along one axis (slices) or all.
        cut: largest share of the length along one axis that the field of view of an image leaves out. Labels go on there, and a mask
            says that the values do not count.
        bias: largest deviation from 1 of the smooth factor that shades an image.
        noise: largest standard deviation of the noise.

    Raises:
        InputError: an option is out of range.
    """

    shapes: float = 0.5
    classes: int = 8
    two_maps: float = 0.0
    displacement: float = 0.12
    roughness: float = 0.2
    turn_degrees: float = 15.0
    shift: float = 0.05
    scale: float = 0.1
    one_contrast: bool = False
    resolution: float = 3.0
    cut: float = 0.0
    bias: float = 0.3
    noise: float = 0.05

    def __post_init__(self) -> None:
        require_in_range("classes", self.classes, minimum=2, is_minimum_allowed=True)
        require_in_range("roughness", self.roughness, minimum=0)
        require_in_range("resolution", self.resolution, minimum=1, is_minimum_allowed=True)
        for name in ("displacement", "shift", "bias", "noise"):
            require_in_range(name, getattr(self, name), minimum=0, is_minimum_allowed=True)
        for name, most in (("shapes", 1), ("two_maps", 1), ("turn_degrees", 180), ("scale", 0.5), ("cut", 0.8)):
            require_in_range(name, getattr(self, name), minimum=0, maximum=most, is_minimum_allowed=True)


@dataclass(frozen=True)
class PaintedPairs:
    """Pairs of painted images.

    Args:
        shape: of the images.
        options: what is drawn.
        maps: the label maps, of that shape; None paints random shapes alone.

    Raises:
        InputError: the shape is not of 2 or 3 axes of 8 voxels or more.
    """

    shape: tuple[int, ...]
    options: PaintingOptions = PaintingOptions()
    maps: LabelMaps | None = None

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 8:
            raise InputError(
                f"shape must be two or three sizes of at least 8 voxels; got {list(self.shape)}. Choose such a shape."
            )

    def draw(self, random: torch.Generator) -> Pair:
        """A pair of one label map, or of two; labels number those of all maps (or are the tissues of random shapes)."""
        if self.maps is None or uniform(0, 1, random) < self.options.shapes:
            return self._of_one(random_labels(self.shape, self.options.classes, random), random).pair
        if len(self.maps.maps) > 1 and uniform(0, 1, random) < self.options.two_maps:
            first, second = torch.randperm(len(self.maps.maps), generator=random)[:2].tolist()
            return self._of_two(self.maps.maps[first].long(), self.maps.maps[second].long(), random)
        return self._of_one(self._chosen(self.maps, random), random).pair

    def first(self, count: int) -> list[Pair]:
        """The pairs of the seeds 0, 1, …"""
        return [self.draw(torch.Generator().manual_seed(seed)) for seed in range(count)]

    def known(self, random: torch.Generator) -> KnownExamples:
        """A pair of one label map (of random shapes, where there are none) with its truth.

        Fixed is the label map seen through P exp(v / 2), moving through Q exp(-v / 2), with poses P and Q; so that
        exp(v / 2) Q⁻¹ P exp(v / 2) takes points of fixed to points of moving.
        """
        if self.maps is None:
            return self._of_one(random_labels(self.shape, self.options.classes, random), random)
        return self._of_one(self._chosen(self.maps, random), random)

    def _chosen(self, maps: LabelMaps, random: torch.Generator) -> Tensor:
        return maps.maps[int(torch.randint(len(maps.maps), (), generator=random))].long()

    def _of_one(self, labels: Tensor, random: torch.Generator) -> KnownExamples:
        forward, backward = self._deformations(random)
        poses = [self._pose(random) for _ in range(2)]
        fixed, moving = self._painted(
            (labels, labels), [pose(one.on_lattice()) for pose, one in zip(poses, (forward, backward), strict=True)], random
        )
        there, back = (Affine(_product(one.inverse(), other)) for one, other in ((poses[1], poses[0]), (poses[0], poses[1])))
        return KnownExamples(Pair(fixed, moving), Composition((forward, there, forward)), Composition((backward, back, backward)))

    def _of_two(self, labels: Tensor, others: Tensor, random: torch.Generator) -> Pair:
        fields = [self._deformations(random)[0] for _ in range(2)]
        points = [self._pose(random)(field.on_lattice()) for field in fields]
        return Pair(*self._painted((labels, others), points, random))

    def _deformations(self, random: torch.Generator) -> tuple[DisplacementField, DisplacementField]:
        """exp(v / 2) and its inverse."""
        half = VelocityField(0.5 * random_velocity(self.shape, self.options.displacement, self.options.roughness, random))
        return half.displacement_field(), half.inverse().displacement_field()

    def _pose(self, random: torch.Generator) -> Affine:
        """A turn, a scale and a shift about the centre, in coordinates of the unit cube, whose edges may differ in voxels."""
        options, dim = self.options, len(self.shape)
        edges = torch.tensor([size - 1.0 for size in self.shape])
        turn = random_turn(dim, math.radians(options.turn_degrees), random)
        linear = (1 + uniform(-options.scale, options.scale, random)) * turn * edges / edges[:, None]
        shift = options.shift * (2 * torch.rand(dim, 1, generator=random) - 1)
        return Affine(torch.cat([linear, 0.5 * (1 - linear.sum(1, keepdim=True)) + shift], dim=1))

    def _painted(
        self, labels: tuple[Tensor, Tensor], points: Sequence[Tensor], random: torch.Generator
    ) -> tuple[Example, Example]:
        names = 1 + max(int(one.max()) for one in labels)
        intensities = torch.rand(2, names, generator=random)
        intensities[:, 0] = 0
        if self.options.one_contrast:
            intensities[1] = intensities[0]
        fixed, moving = (self._example(one, seen, at, random) for one, seen, at in zip(labels, intensities, points, strict=True))
        return fixed, moving

    def _example(self, labels: Tensor, intensities: Tensor, points: Tensor, random: torch.Generator) -> Example:
        options = self.options
        values = self._measured(sample(intensities[labels], points, outside="zeros"), random)
        values = shaded(values, options.bias, random)
        values = values + uniform(0, options.noise, random) * torch.randn(values.shape, generator=random)
        mask = self._field_of_view(random) if options.cut else None
        values = values.clamp(0, 1) if mask is None else values.clamp(0, 1) * mask
        return Example(values, mask, sample(labels.float(), points, nearest=True, outside="zeros").long())

    def _measured(self, values: Tensor, random: torch.Generator) -> Tensor:
        """`values` as if measured with longer voxels along one axis or all, and interpolated."""
        if self.options.resolution == 1:
            return values
        dim = len(self.shape)
        step = 1 + (self.options.resolution - 1) * int(torch.randint(RESOLUTIONS + 1, (), generator=random)) / RESOLUTIONS
        axis = int(torch.randint(dim + 1, (), generator=random))  # the last stands for all
        matrices = []
        for place, size in enumerate(self.shape):
            coarse = max(2, round(size / step)) if axis in (place, dim) else size
            matrices.append(resize_matrix(size, coarse, smooth=False) @ resize_matrix(coarse, size))
        return apply_along_axes(values, on(matrices, values))

    def _field_of_view(self, random: torch.Generator) -> Tensor:
        """True where the image has been measured: [1, 1, *shape]."""
        left_out = uniform(0, self.options.cut, random)
        start = uniform(0, left_out, random)
        axis = int(torch.randint(len(self.shape), (), generator=random))
        line = torch.linspace(0, 1, self.shape[axis])
        inside = ((line >= start) & (line <= start + 1 - left_out)).view(-1, *(1,) * (len(self.shape) - 1 - axis))
        return inside.expand(1, 1, *self.shape).clone()


def random_turn(dim: int, most_radians: float, random: torch.Generator) -> Tensor:
    """A rotation [dim, dim] by up to so much about a random axis."""
    drawn = torch.randn(dim, dim, generator=random, dtype=torch.float64)
    skew = drawn - drawn.T
    angle = most_radians * uniform(-1, 1, random)
    return torch.linalg.matrix_exp(skew * (angle * math.sqrt(2) / skew.norm())).float()


def _product(one: Affine, other: Affine) -> Tensor:
    """The matrix of x ↦ one(other(x))."""
    dim = one.matrix.shape[0]
    linear, shift = one.matrix[:, :dim] @ other.matrix, one.matrix[:, dim:]
    linear[:, dim:] += shift
    return linear
