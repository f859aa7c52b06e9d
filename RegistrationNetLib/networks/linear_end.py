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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.01
CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
        voxels = torch.stack([_outer([unit[bit] for bit in bits], self.spread) for bits in _phases(dim)])
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
    dim, shape = weights.dim, images.shape[2:]
    kernel = weights.spreading_kernel()
    around = _surroundings(coarse, skip, images, kept=weights.normalized)
    gather = weights.gather[:, : weights.normalized]
    bias = weights.bias + gather.flatten(2).sum(2) @ weights.shift
    composed = channels_last(_composed(kernel, weights.gather))
    fine = CONV[dim](around, composed, bias.repeat_interleave(2**dim))  # [B, dim · 2^dim, n…]
    displacement = _voxels_from_phases(fine, shape)
    features = kernel.shape[0] - images.shape[1] * 2**dim
    beyond = _Beyond(around[:, :features], kernel[:features, : weights.normalized], weights.shift, gather, tuple(shape))
    for axis, is_last in itertools.product(range(dim), (False, True)):
        displacement.select(2 + axis, -1 if is_last else 0).sub_(beyond.overhang(axis, is_last=is_last))
    return displacement


@dataclass(frozen=True)
class _Beyond:
    """What the composed convolution sees outside the lattice of `shape`; fields as in `linear_end`, without the images."""

    around: Tensor
    kernel: Tensor
    shift: Tensor
    gather: Tensor
    shape: tuple[int, ...]

    def overhang(self, axis: int, *, is_last: bool) -> Tensor:
        """What the layer of points just outside adds to the first (or last) one inside, [B, dim, N… without axis].

        Points outside along several axes count for the lowest of them.
        """
        across = len(self.shape) - 1
        near = self.around.shape[2 + axis] - 2 if is_last else 0  # the first of the two coarse layers that reach the points
        tap = self.shape[axis] + 3 - 2 * near if is_last else 2
        layers = torch.cat([self.around.select(2 + axis, near), self.around.select(2 + axis, near + 1)], dim=1)
        spread = torch.cat([self.kernel.select(2 + axis, tap), self.kernel.select(2 + axis, tap - 2)])
        outside = CONV_TRANSPOSE[across](layers, spread, self.shift, stride=2, padding=2)
        others = [size for other, size in enumerate(self.shape) if other != axis]
        for place, size in enumerate(others):
            outside = outside.narrow(2 + place, 1, size) if place < axis else outside.narrow(2 + place, 0, size + 2)
        padding = [1 if place < axis else 0 for place in range(across)]
        return CONV[across](outside, self.gather.select(2 + axis, 2 if is_last else 0), padding=padding)


def channels_last(values: Tensor) -> Tensor:
    """`values` [B, C, *shape] with the channels of a voxel side by side in memory."""
    return values.contiguous(memory_format=_format(values))


def cropped(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The first voxels along each axis of `values` [B, C, …]: [B, C, *shape]."""
    for axis, size in enumerate(shape):
        values = values.narrow(2 + axis, 0, size)
    return values


def _format(values: Tensor) -> torch.memory_format:
    return torch.channels_last if values.dim() == 4 else torch.channels_last_3d


def _surroundings(coarse: Tensor, skip: Tensor, images: Tensor, *, kept: int) -> Tensor:
    """Input of the composed convolution, [B, C, (n + 2)…]: one more point on each side.

    There are zeros, but the `kept` features of the shortcut go on as interpolation has them do.
    """
    dim = images.dim() - 2
    channels = [coarse.shape[1], skip.shape[1], kept, images.shape[1] * 2**dim]
    size = (coarse.shape[0], sum(channels), *(length + 2 for length in coarse.shape[2:]))
    around = torch.empty(size, dtype=coarse.dtype, device=coarse.device, memory_format=_format(coarse)).zero_()
    inside = around
    for axis in range(dim):
        inside = inside.narrow(2 + axis, 1, coarse.shape[2 + axis])
    place = 0
    for values in (F.leaky_relu(coarse, SLOPE), skip, coarse[:, :kept]):
        inside.narrow(1, place, values.shape[1]).copy_(values)
        place += values.shape[1]
    _write_phases(inside.narrow(1, place, channels[3]), images)
    shortcut = around.narrow(1, sum(channels[:2]), kept)
    for axis in range(dim):
        shortcut.select(2 + axis, 0).copy_(shortcut.select(2 + axis, 1))
        shortcut.select(2 + axis, -1).copy_(shortcut.select(2 + axis, -2))
    return around


def _phases(dim: int) -> list[tuple[int, ...]]:
    """The fine voxels of a coarse one, last axis fastest: (0, …, 0), (0, …, 1), …"""
    return list(itertools.product((0, 1), repeat=dim))


def _write_phases(coarse: Tensor, images: Tensor) -> None:
    """`images` [B, C, N…] into `coarse` [B, C · 2^dim, n…], whose channels are the fine voxels; it holds zeros before."""
    phases = _phases(images.dim() - 2)
    for place, bits in enumerate(phases):
        every_second = (slice(None), slice(None), *(slice(bit, None, 2) for bit in bits))
        fine = images[every_second]
        cropped(coarse[:, place :: len(phases)], fine.shape[2:]).copy_(fine)


def _voxels_from_phases(phases: Tensor, shape: Sequence[int]) -> Tensor:
    """[B, C · 2^dim, n…], the fine voxels as channels, to [B, C, *shape]."""
    dim = len(shape)
    channels = phases.shape[1] // 2**dim
    split = phases.reshape(phases.shape[0], channels, *(2,) * dim, *phases.shape[2:])
    order = [0, 1, *(place for axis in range(dim) for place in (2 + dim + axis, 2 + axis))]
    fine = split.permute(order).reshape(phases.shape[0], channels, *(2 * size for size in phases.shape[2:]))
    return cropped(fine, shape).contiguous()


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
