"""Pairs that are made on the spot, with a map that is known: triangles and circles, and anatomy-like images of any contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Composition, Map, VelocityField, identity_points, sample, vector_length
from ..geometry.separable import apply_along_axes, blur_matrix, on
from ..geometry.smooth_noise import smooth_noise
from ..quality.known_warp import require_in_range
from .pairs import Example, Pair

SHAPES = ("triangle", "circle")
EDGE = 0.02  # width of a shape's edge, in lengths of the image


@dataclass(frozen=True)
class ShapePairs:
    """Triangles and circles of random size and place, as in Greer et al., ICCV 2021 (ICON): both images show the same shape.

    Args:
        size: voxels along each of the two axes.
        hollow: outlines instead of solid shapes.
        noise: standard deviation of what is added.

    Raises:
        InputError: the size is below 8, or the noise negative.
    """

    size: int = 64
    hollow: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        require_in_range("size", self.size, minimum=8, is_minimum_allowed=True)
        require_in_range("noise", self.noise, minimum=0, is_minimum_allowed=True)

    def draw(self, random: torch.Generator) -> Pair:
        """A pair; label 1 is the shape with what it encloses."""
        shape = SHAPES[int(torch.randint(len(SHAPES), (), generator=random))]
        fixed, moving = (self._example(shape, random) for _ in range(2))
        return Pair(fixed, moving)

    def first(self, count: int) -> list[Pair]:
        """The pairs of the seeds 0, 1, …"""
        return [self.draw(torch.Generator().manual_seed(seed)) for seed in range(count)]

    def _example(self, shape: str, random: torch.Generator) -> Example:
        points = identity_points((self.size, self.size), torch.zeros(()))
        radius = uniform(0.15, 0.3, random)
        centre = torch.tensor([uniform(0.35, 0.65, random) for _ in range(2)]).view(1, 2, 1, 1)
        depth = _depth(shape, points - centre, radius, angle=uniform(0, 2 * math.pi, random))
        values = _covered(depth)
        if self.hollow:
            values = values - _covered(depth + 0.35 * radius)
        if self.noise:
            values = values + self.noise * torch.randn(values.shape, generator=random)
        return Example(values, labels=(depth < 0).long())


def _depth(shape: str, points: Tensor, radius: float, *, angle: float) -> Tensor:
    """Signed distance to the shape of that (circumscribed) radius about 0, negative inside: [1, 1, *shape]."""
    if shape == "circle":
        return vector_length(points) - radius
    sides = [angle + 2 * math.pi * side / 3 for side in range(3)]
    across = [points[:, :1] * math.cos(side) + points[:, 1:] * math.sin(side) for side in sides]
    return torch.stack(across).amax(0) - 0.6 * radius  # between inscribed (0.5) and about as large as the circle


def _covered(depth: Tensor) -> Tensor:
    return (0.5 - depth / EDGE).clamp(0, 1)


def uniform(low: float, high: float, random: torch.Generator) -> float:
    """A number between the two."""
    return low + (high - low) * float(torch.rand((), generator=random))


@dataclass(frozen=True)
class AnatomyPairs:
    """Images of random label maps, in 2-D or 3-D, deformed by a known map: what makes a network indifferent to contrast.

    After Hoffmann et al., IEEE TMI 2022 (SynthMorph), with maps that are inverse to each other by construction.

    Args:
        shape: of the images.
        classes: tissues within the body; outside lies background (label 0).
        displacement: 95th percentile of the velocity that deforms, in lengths of the cube.
        roughness: standard deviation of the Gaussian that smooths the velocity, in lengths of the cube; small is wriggly.
        one_contrast: both images give each tissue the same intensity, rather than each its own.
        anatomy: seed of one label map (and of the intensities, with `one_contrast`) that all pairs share, as images of one organ of
            many people do; without it each pair has its own.
        blur_vox: largest standard deviation of a random blur, which mixes tissues in a voxel.
        bias: largest deviation from 1 of the smooth factor that shades an image.
        noise: largest standard deviation of the noise.

    Raises:
        InputError: an option is out of range.
    """

    shape: tuple[int, ...] = (48, 48, 48)
    classes: int = 8
    displacement: float = 0.12
    roughness: float = 0.2
    one_contrast: bool = False
    anatomy: int | None = None
    blur_vox: float = 1.0
    bias: float = 0.3
    noise: float = 0.05

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 8:
            raise InputError(
                f"shape must be two or three sizes of at least 8 voxels; got {list(self.shape)}. Choose such a shape."
            )
        require_in_range("classes", self.classes, minimum=2, is_minimum_allowed=True)
        require_in_range("roughness", self.roughness, minimum=0)
        for name in ("displacement", "blur_vox", "bias", "noise"):
            require_in_range(name, getattr(self, name), minimum=0, is_minimum_allowed=True)

    def draw(self, random: torch.Generator) -> Pair:
        """A pair of one anatomy, in contrasts that are drawn; labels are its classes."""
        return self.known(random).pair

    def first(self, count: int) -> list[Pair]:
        """The pairs of the seeds 0, 1, …"""
        return [self.draw(torch.Generator().manual_seed(seed)) for seed in range(count)]

    def known(self, random: torch.Generator) -> KnownExamples:
        """A pair with its truth: fixed is the label map through exp(v / 2), moving through exp(-v / 2), and so exp(v) lies between."""
        shared = random if self.anatomy is None else torch.Generator().manual_seed(self.anatomy)
        labels = random_labels(self.shape, self.classes, shared)
        half = VelocityField(0.5 * random_velocity(self.shape, self.displacement, self.roughness, random))
        forward, backward = half.displacement_field(), half.inverse().displacement_field()
        points = forward.on_lattice(), backward.on_lattice()
        intensities = torch.rand(2, self.classes + 1, generator=shared if self.one_contrast else random)
        intensities[:, 0] = 0
        if self.one_contrast:
            intensities[1] = intensities[0]
        fixed, moving = (self._example(labels, one, at, random) for one, at in zip(intensities, points, strict=True))
        return KnownExamples(Pair(fixed, moving), Composition((forward, forward)), Composition((backward, backward)))

    def _example(self, labels: Tensor, intensities: Tensor, points: Tensor, random: torch.Generator) -> Example:
        sigma_vox = round(8 * uniform(0, self.blur_vox, random)) / 8  # few different ones, as blurs are kept
        values = shaded(_blurred(sample(intensities[labels], points), sigma_vox), self.bias, random)
        values = values + uniform(0, self.noise, random) * torch.randn(values.shape, generator=random)
        return Example(values.clamp(0, 1), labels=sample(labels.float(), points, nearest=True).long())


class KnownExamples(NamedTuple):
    """A pair and the truth between its images, both ways; each is the inverse of the other up to interpolation."""

    pair: Pair
    moving_from_fixed: Map
    fixed_from_moving: Map


def _blurred(values: Tensor, sigma_vox: float) -> Tensor:
    if sigma_vox == 0:
        return values
    taps = 2 * math.ceil(3 * sigma_vox) + 1
    return apply_along_axes(values, on([blur_matrix(size, sigma_vox, taps) for size in values.shape[2:]], values))


def random_labels(shape: Sequence[int], classes: int, random: torch.Generator) -> Tensor:
    """Tissues 1 … classes within a body of random outline: [1, 1, *shape]."""
    size = min(shape)
    tissues = smooth_noise(shape, size / 8, random, channels=classes).argmax(1, keepdim=True) + 1
    from_centre = vector_length(identity_points(shape, torch.zeros(())) - 0.5)
    outline = 0.38 + 0.04 * smooth_noise(shape, size / 6, random)
    return tissues * (from_centre < outline)


def random_velocity(shape: Sequence[int], displacement: float, roughness: float, random: torch.Generator) -> Tensor:
    """[1, dim, *shape] in unit-cube coordinates per unit time.

    Args:
        displacement: 95th percentile of its length, in lengths of the cube.
        roughness: standard deviation of the Gaussian that smooths it, in lengths of the shortest edge.
    """
    noise = smooth_noise(shape, roughness * min(shape), random, channels=len(shape))
    speed = torch.quantile(vector_length(noise).flatten()[:: max(1, noise.numel() // 100_000)], 0.95)
    return noise * displacement / speed


def shaded(values: Tensor, bias: float, random: torch.Generator) -> Tensor:
    """`values` [1, 1, *shape] times a smooth factor that deviates from 1 by up to a random part of `bias`."""
    if not bias:
        return values
    shape = values.shape[2:]
    shading = smooth_noise(shape, 0.25 * min(shape), random)
    return values * (1 + bias * uniform(0, 1, random) * shading / shading.abs().max())
