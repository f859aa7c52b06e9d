"""Random changes of the images that a network learns from, so that it meets more than the cohort holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import Affine, identity_points, sample
from .pairs import Example, Pair


@dataclass(frozen=True)
class AugmentationOptions:
    """What is drawn anew for every pair; the default changes nothing.

    Args:
        affine: standard deviation of the entries of a random affine map about the centre, in lengths of the cube, for each
            image by itself; the published networks use 0.05.
        flips: mirror both images of a pair alike, along a random choice of axes. Not for bodies that must keep their sides.
        gamma: values ↦ values ** exp(±gamma), for each image by itself.
        noise: standard deviation of what is added to the values.

    Raises:
        InputError: a strength is negative or not a number.
    """

    affine: float = 0.0
    flips: bool = False
    gamma: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("affine", "gamma", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"augmentation: {name} must be 0 or more; got {getattr(self, name)}. 0 switches it off.")


def augmented(pair: Pair, options: AugmentationOptions, random: torch.Generator) -> Pair:
    """`pair` changed at random; draws are made on the CPU, so that a seed gives the same on every device."""
    dim = pair.fixed.values.dim() - 2
    signs = torch.ones(dim)
    if options.flips:
        signs = 1 - 2.0 * torch.randint(2, (dim,), generator=random)
    fixed, moving = (_augmented(one, signs, options, random) for one in (pair.fixed, pair.moving))
    return Pair(fixed, moving)


def _augmented(example: Example, signs: Tensor, options: AugmentationOptions, random: torch.Generator) -> Example:
    dim = len(signs)
    noise = options.affine * torch.randn(dim, dim + 1, generator=random)
    if options.affine or bool((signs < 0).any()):
        linear = torch.diag(signs) + noise[:, :dim]
        shift = 0.5 * (1 - linear.sum(1, keepdim=True)) + noise[:, dim:]  # about the centre of the cube
        example = _moved(example, Affine(torch.cat([linear, shift], dim=1).to(example.values)))
    values = example.values
    if options.gamma:
        exponent = math.exp(options.gamma * (2 * float(torch.rand((), generator=random)) - 1))
        values = values.clamp_min(0) ** exponent
    if options.noise:
        values = values + options.noise * torch.randn(values.shape, generator=random).to(values)
    return Example(values, example.mask, example.labels)


def _moved(example: Example, affine: Affine) -> Example:
    """`example` seen through `affine`; what comes from outside is 0, does not count and is background."""
    points = affine(identity_points(example.values.shape[2:], example.values))

    def nearest(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        names, numbers = torch.unique(values.long(), return_inverse=True)  # numbered, so that float32 holds any label
        inside = sample(torch.ones_like(example.values[:1, :1]), points, outside="zeros") > 0.5
        return (names[sample(numbers.to(points), points, nearest=True).long()] * inside).to(values.dtype)

    return Example(sample(example.values, points, outside="zeros"), nearest(example.mask), nearest(example.labels))
