"""The end of the U-net, which is linear, as one convolution on the coarse lattice.

The last transposed convolution, its interpolated shortcut, the normalization and the output convolution are composed: the
widest features at full resolution are never made, and the arithmetic is less. Input channels are the activated features of
the coarse lattice, those of the shortcut, and the images, with the 2^dim fine voxels of each coarse one as channels; output
channels are the displacement, with fine voxels as channels likewise.

The published network sees zeros outside the image, where the composed convolution sees features that go on. The difference
touches the outermost voxels only, and `_overhang` is what there is too much.

# B batch, C channel; N… the shape of the images, n… that of the next coarser lattice, n = ceil(N / 2)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .surroundings import Surroundings, channels_last, phases, phases_from_voxels, voxels_from_phases

# Points of the coarse lattice that are convolved at a time on the CPU: what is read for them stays in the processor's cache.
POINTS_AT_A_TIME = 2**17
CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

_IS_FOR_GRADIENT_ALONE: ContextVar[bool] = ContextVar("is_for_gradient_alone", default=False)


@contextmanager
def for_gradient_alone() -> Iterator[None]:
    """Inside, what `linear_end` gives has its gradient but no values: for a pass that is made anew, whose values are known."""
    token = _IS_FOR_GRADIENT_ALONE.set(True)
    try:
        yield
    finally:
        _IS_FOR_GRADIENT_ALONE.reset(token)


@dataclass(frozen=True)
class EndWeights:
    """Parameters of the end, with the normalization and the final division multiplied in.

    `spread` [C in, C, 4…] is the transposed convolution, `shortcut` [C] the weight of the interpolated features, `shift` [C]
    what is added to both; `gather` [dim, C + images, 3…] and `bias` [dim] are the output convolution.
    """

    spread: Tensor
    shortcut: Tensor
    shift: Tensor
    gather: Tensor
    bias: Tensor

    @property
    def dim(self) -> int:
        return self.gather.dim() - 2

    @property
    def normalized(self) -> int:
        """Channels that are made from features, not images."""
        return self.spread.shape[1]

    def spreading_kernel(self) -> Tensor:
        """The step to the fine lattice as one transposed convolution, from `_surroundings` to what `gather` reads: [C in, C out, 4…]."""
        dim, images = self.dim, self.gather.shape[1] - self.normalized
        learnt = _with_channels_behind(self.spread, images)
        linear = _outer([(0.25, 0.75, 0.75, 0.25)] * dim, self.spread)
        diagonal = torch.diag(self.shortcut)
        interpolated = _with_channels_behind(diagonal.view(*diagonal.shape, *(1,) * dim) * linear, images)
        unit = [(0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)]
        voxels = torch.stack([_outer([unit[bit] for bit in bits], self.spread) for bits in phases(dim)])
        unshuffled = self.spread.new_zeros(images, len(voxels), self.normalized + images, *voxels.shape[1:])
        for channel in range(images):
            unshuffled[channel, :, self.normalized + channel] = voxels
        return torch.cat([learnt, interpolated, unshuffled.flatten(0, 1)])


def linear_end(coarse: Tensor, skip: Tensor, images: Tensor, weights: EndWeights) -> Tensor:
    """The displacement [B, dim, N…].

    Args:
        coarse: features [B, C, n…], not yet activated.
        skip: activated features [B, C, n…] that join them.
        images: both of them, [B, C, N…].
        weights: of this end.
    """
    dim = weights.dim
    kernel = weights.spreading_kernel()
    gather = weights.gather[:, : weights.normalized]
    bias = (weights.bias + gather.flatten(2).sum(2) @ weights.shift).repeat_interleave(2**dim)
    composed = channels_last(_composed(kernel, weights.gather))
    features = kernel.shape[0] - images.shape[1] * 2**dim
    displacement: Tensor = _LinearEnd.apply(
        coarse, skip, images, composed, bias, kernel[:features, : weights.normalized], weights.shift, gather
    )  # type: ignore[no-untyped-call]
    return displacement


class _LinearEnd(torch.autograd.Function):
    """The displacement [B, dim, N…] from the features and images of `linear_end`; once differentiable.

    By the composed convolution and its bias, less the overhang, which is made of `kernel`, `shift` and `gather`. On the CPU some
    layers at a time, so that what the convolution reads is made and used in the processor's cache; for the gradient it is made
    once more.
    """

    @staticmethod
    def forward(
        ctx: Any, coarse: Tensor, skip: Tensor, images: Tensor, composed: Tensor, bias: Tensor, *beyond: Tensor
    ) -> Tensor:
        ctx.save_for_backward(coarse, skip, images, composed, bias, *beyond)
        lattice = Surroundings.of_lattice(coarse, skip, images, kept=len(beyond[1]))
        displacement = images.new_empty(len(images), lattice.dim, *images.shape[2:])
        if _IS_FOR_GRADIENT_ALONE.get():
            return displacement.zero_()
        for part, which in _slabs(lattice):
            voxels = displacement[:, :, which]
            voxels.copy_(voxels_from_phases(CONV[lattice.dim](part.tensor(), composed, bias), voxels.shape[2:]))
        for face in _faces(lattice):
            face.of(displacement).sub_(face.overhang(face.part.tensor(), *beyond))
        return displacement

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        coarse, skip, images, composed, bias, *beyond = ctx.saved_tensors
        lattice = Surroundings.of_lattice(coarse, skip, images, kept=len(beyond[1]))
        wanted = ctx.needs_input_grad[:3]
        by_inputs = [
            torch.zeros_like(one) if is_wanted else None for one, is_wanted in zip((coarse, skip, images), wanted, strict=True)
        ]
        by_weights = [torch.zeros_like(weight) for weight in (composed, bias, *beyond)]
        ones, zeros, needed = [1] * lattice.dim, [0] * lattice.dim, [any(wanted), True, True]
        for part, which in _slabs(lattice):
            by_around, *by_convolution = torch.ops.aten.convolution_backward(
                phases_from_voxels(pull[:, :, which]),
                part.tensor(),
                composed,
                [len(composed)],
                ones,
                zeros,
                ones,
                False,
                zeros,
                1,
                needed,
            )
            _accumulate(by_weights[:2], by_convolution)
            if any(wanted):
                part.pull_back(by_around, *by_inputs)
        for face in _faces(lattice):
            around, *weights = (values.detach().requires_grad_() for values in (face.part.tensor(), *beyond))
            with torch.enable_grad():
                overhang = face.overhang(around, *weights)
            by_around, *by_beyond = torch.autograd.grad(overhang, (around, *weights), -face.of(pull))
            _accumulate(by_weights[2:], by_beyond)
            face.part.pull_back(by_around, *by_inputs)
        return (*by_inputs, *by_weights)


def _accumulate(totals: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for total, value in zip(totals, values, strict=True):
        total += value


def _slabs(lattice: Surroundings) -> Iterator[tuple[Surroundings, slice]]:
    """What is read for some layers of the images, and which layers these are."""
    count, points = lattice.coarse.shape[2], lattice.coarse[:, 0].numel()
    layers = max(1, POINTS_AT_A_TIME * count // points) if lattice.coarse.device.type == "cpu" else count
    for start in range(0, count, layers):
        stop = min(start + layers, count)
        yield lattice.layers(0, start - 1, stop + 1), slice(2 * start, 2 * stop)


def _faces(lattice: Surroundings) -> Iterator[_Face]:
    for axis, is_last in itertools.product(range(lattice.dim), (False, True)):
        end = lattice.coarse.shape[2 + axis] - 1 if is_last else 0
        yield _Face(lattice.layers(axis, end, end + 1), is_last)


@dataclass(frozen=True)
class _Face:
    """A face of the lattice: `part` is its last layer (or its first) along an axis, and the one beyond."""

    part: Surroundings
    is_last: bool

    def of(self, values: Tensor) -> Tensor:
        """The voxels of `values` [B, C, N…] that touch this face: a view [B, C, N… without axis]."""
        return values.select(2 + self.part.axis, -1 if self.is_last else 0)

    def overhang(self, around: Tensor, kernel: Tensor, shift: Tensor, gather: Tensor) -> Tensor:
        """What the composed convolution has seen outside the lattice, and added to the voxels at this face.

        Points outside along several axes count for the lowest of them.
        """
        axis, shape, across = self.part.axis, self.part.images.shape[2:], self.part.dim - 1
        near, tap = (-2, shape[axis] + 1 - 2 * self.part.low) if self.is_last else (0, 2)
        features = around[:, : len(kernel)]
        layers = torch.cat([features.select(2 + axis, near), features.select(2 + axis, near + 1)], dim=1)
        spread = torch.cat([kernel.select(2 + axis, tap), kernel.select(2 + axis, tap - 2)])
        outside = CONV_TRANSPOSE[across](layers, spread, shift, stride=2, padding=2)
        others = [size for other, size in enumerate(shape) if other != axis]
        for place, size in enumerate(others):
            outside = outside.narrow(2 + place, 1, size) if place < axis else outside.narrow(2 + place, 0, size + 2)
        padding = [1 if place < axis else 0 for place in range(across)]
        return CONV[across](outside, gather.select(2 + axis, 2 if self.is_last else 0), padding=padding)


def _composed(spread: Tensor, gather: Tensor) -> Tensor:
    """A transposed convolution (kernel 4, stride 2, padding 1) and then a convolution (kernel 3, padding 1), in one.

    `spread` [C in, C between, 4…] and `gather` [C out, C between, 3…] give [C out · 2^dim, C in, 3…] on the coarse lattice,
    whose output channels are the fine voxels.
    """
    dim = gather.dim() - 2
    inner, out = spread.shape[0], gather.shape[0]
    both = CONV[dim](spread, gather, padding=2).view(inner, out, *(3, 2) * dim)  # kernel 6 = 3 coarse taps × 2 fine voxels
    taps, voxels = [2 + 2 * axis for axis in range(dim)], [3 + 2 * axis for axis in range(dim)]
    return both.flip(taps).permute([1, *voxels, 0, *taps]).reshape(out * 2**dim, inner, *(3,) * dim)


def _outer(lines: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The tensor whose entries are products of one entry of each line."""
    product = like.new_ones(())
    for line in lines:
        product = product[..., None] * like.new_tensor(line)
    return product


def _with_channels_behind(kernel: Tensor, count: int) -> Tensor:
    """`kernel` [C in, C out, …] with `count` output channels of zeros after its own."""
    return torch.cat([kernel, kernel.new_zeros(kernel.shape[0], count, *kernel.shape[2:])], dim=1)
