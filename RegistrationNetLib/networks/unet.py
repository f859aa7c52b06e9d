"""The U-net of ICON, GradICON and their successors ("tallUNet2"), in 2-D and 3-D.

Its parameters bear the names of the published files. The arithmetic is that of the published network, ordered for speed:

- Where batch normalization uses its running statistics it is a scale and a shift, and nothing that is not linear stands
  between the last transposed convolution and the output. All of it together is then one convolution on the coarse lattice
  (`_finest_level`), and the widest features at full resolution are never made.
- Residual connections touch only the channels that they carry.
- Features lie channels-last, as oneDNN likes them, and are activated in place where no gradient is asked for.

# B batch, C channel; N… the shape of a lattice, n… that of the next coarser one, n = ceil(N / 2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

DOWN_CHANNELS = (16, 32, 64, 256, 512)
UP_CHANNELS = (16, 32, 64, 128, 256)
SLOPE = 0.01

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}


class TallUNet(nn.Module):
    """Displacement [B, dim, *shape], in unit-cube coordinates, that maps points of fixed to points of moving.

    Published as `tallUNet2` by Greer et al., ICCV 2021 (ICON). Five levels: each halves the lattice by a strided convolution
    of leaky ReLU, plus the average-pooled features; and doubles it again by a transposed one, plus the features interpolated,
    normalized per channel. The last convolution starts at zero and its result is divided by 10, so that an untrained network
    is the identity. Takes lattices of any size, even or odd.

    Args:
        dim: 2 or 3.
        input_channels: of each of the two images.
    """

    def __init__(self, dim: int, *, input_channels: int = 1) -> None:
        super().__init__()
        assert dim in _LAYERS
        conv, conv_transpose, batch_norm = _LAYERS[dim]
        self.dim = dim
        down = (2 * input_channels, *DOWN_CHANNELS)
        joined = [coarse + skip for coarse, skip in zip(DOWN_CHANNELS, (*UP_CHANNELS[1:], 0), strict=True)]
        self.downConvs = nn.ModuleList(
            conv(one, two, kernel_size=3, stride=2, padding=1) for one, two in zip(down, down[1:], strict=False)
        )
        self.upConvs = nn.ModuleList(
            conv_transpose(one, two, kernel_size=4, stride=2, padding=1) for one, two in zip(joined, UP_CHANNELS, strict=True)
        )
        self.batchNorms = nn.ModuleList(batch_norm(channels) for channels in UP_CHANNELS)
        self.lastConv = conv(UP_CHANNELS[0] + down[0], dim, kernel_size=3, padding=1)
        for parameter in self.lastConv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement for `moving` and `fixed`, [B, input_channels, *shape] each."""
        images = _channels_last(torch.cat([moving, fixed], dim=1))
        coarse, skips = self._encode(images)
        coarse = self._bottleneck(coarse)
        for depth in reversed(range(1, len(self.upConvs))):
            below = skips[depth + 1 : depth + 2]
            coarse = _cropped(self._up(depth, coarse, below), skips[depth].shape)
        if self.training:
            fine = _cropped(self._up(0, coarse, skips[1:2]), images.shape)
            return _contiguous(self.lastConv(torch.cat([fine, images], dim=1)) / 10)
        return self._finest_level(coarse, skips[1], images)

    def _encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The coarsest features, and what each finer level hands across: the images, then activated features."""
        features, skips = images, [images]
        for down in self.downConvs:
            pooled = _halved(features)
            activated = _activated(features, keep=features is images)
            if features is not images:
                skips.append(activated)
            features = down(activated)
            features[:, features.shape[1] - pooled.shape[1] :] += pooled
        return features, skips

    def _bottleneck(self, features: Tensor) -> Tensor:
        return features

    def _up(self, depth: int, coarse: Tensor, below: Sequence[Tensor]) -> Tensor:
        """Normalized features of level `depth` from those of the next coarser one and the skip that joins them there."""
        up, norm = self.upConvs[depth], self.batchNorms[depth]
        kept = coarse[:, : up.out_channels]
        if self.training:
            shortcut = _doubled(kept)
            return norm(up(_joined(coarse, below)).add_(shortcut))
        scale, shift = _scale_and_shift(norm)
        # The shift goes through the interpolation, which leaves a constant as it is, on an eighth of the points.
        shortcut = _doubled(kept * _per_channel(scale, self.dim) + _per_channel(shift + scale * up.bias, self.dim))
        fresh = _CONV_TRANSPOSE[self.dim](_joined(coarse, below), up.weight, stride=2, padding=1)
        return shortcut.addcmul_(fresh, _per_channel(scale, self.dim))

    def _finest_level(self, coarse: Tensor, skip: Tensor, images: Tensor) -> Tensor:
        """Last transposed convolution, shortcut, normalization and output convolution in one, [B, dim, N…].

        Its input on the coarse lattice holds the activated features, those of the shortcut, and the images with the 2^dim
        fine voxels of each coarse one as channels; its output holds the fine voxels as channels likewise. The published
        network sees zeros outside the image where this convolution sees features that go on: `_overhang` is the difference.
        """
        dim, shape = self.dim, images.shape[2:]
        kernel, constant = self._spreading_kernel()
        gather = self._gathering_kernel()
        around = self._surroundings(coarse, skip, images)
        weight = _composed(kernel, gather)
        bias = gather[:, : len(constant)].flatten(2).sum(2) @ constant + self.lastConv.bias / 10
        phases = _CONV[dim](around, _channels_last(weight), bias.repeat_interleave(2**dim))  # [B, dim · 2^dim, n…]
        displacement = _voxels_from_phases(phases, dim, shape)
        inner = around.shape[1] - images.shape[1] * 2**dim
        for axis in range(dim):
            for side in (0, 1):
                over = self._overhang(around[:, :inner], kernel[:inner, : len(constant)], constant, gather, shape, axis, side)
                displacement.select(2 + axis, -side).sub_(over)
        return displacement

    def _surroundings(self, coarse: Tensor, skip: Tensor, images: Tensor) -> Tensor:
        """Input of the composed convolution: features [B, C, (n + 2)…] and one more point on each side.

        Around the lattice there are zeros, but the shortcut's features go on as interpolation has them do.
        """
        first, kept = coarse.shape[1], self.upConvs[0].out_channels
        ends = (first + skip.shape[1], first + skip.shape[1] + kept)
        channels = ends[1] + images.shape[1] * 2**self.dim
        size = (coarse.shape[0], channels, *(length + 2 for length in coarse.shape[2:]))
        around = torch.empty(size, dtype=coarse.dtype, device=coarse.device, memory_format=_format(self.dim)).zero_()
        inside = around[(slice(None), slice(None), *(slice(1, -1),) * self.dim)]
        inside[:, ends[0] : ends[1]] = coarse[:, :kept]
        inside[:, :first] = F.leaky_relu(coarse, SLOPE)
        inside[:, first : ends[0]] = skip
        _write_phases(inside[:, ends[1] :], images)
        for axis in range(self.dim):
            shortcut = around[:, ends[0] : ends[1]]
            shortcut.select(2 + axis, 0).copy_(shortcut.select(2 + axis, 1))
            shortcut.select(2 + axis, -1).copy_(shortcut.select(2 + axis, -2))
        return around

    def _spreading_kernel(self) -> tuple[Tensor, Tensor]:
        """The step from coarse to fine lattice as one transposed convolution [C in, C out, 4…] and a constant [C normalized].

        From the channels of `_surroundings` to those that the last convolution reads.
        """
        up = self.upConvs[0]
        scale, shift = _scale_and_shift(self.batchNorms[0])
        fresh, images = up.out_channels, self.lastConv.in_channels - up.out_channels
        learnt = F.pad(up.weight * scale.view(1, -1, *(1,) * self.dim), (0, 0) * self.dim + (0, images))
        corners = torch.eye(2).tolist()
        linear = _outer([[0.25, 0.75, 0.75, 0.25]] * self.dim, up.weight)
        shortcut = torch.zeros(fresh, fresh + images, *linear.shape, dtype=linear.dtype, device=linear.device)
        for channel in range(fresh):
            shortcut[channel, channel] = linear
        shortcut = shortcut * F.pad(scale, (0, images)).view(1, -1, *(1,) * self.dim)
        phases = [_outer([[0.0, *corners[bit], 0.0] for bit in bits], up.weight) for bits in _phases(self.dim)]
        unshuffle = torch.zeros(images, len(phases), fresh + images, *linear.shape, dtype=linear.dtype, device=linear.device)
        for channel in range(images):
            unshuffle[channel, :, fresh + channel] = torch.stack(phases)
        return torch.cat([learnt, shortcut, unshuffle.flatten(0, 1)]), shift + scale * up.bias

    def _gathering_kernel(self) -> Tensor:
        return self.lastConv.weight / 10

    def _overhang(
        self,
        around: Tensor,
        kernel: Tensor,
        constant: Tensor,
        gather: Tensor,
        shape: Sequence[int],
        axis: int,
        side: int,
    ) -> Tensor:
        """What the layer of fine points just outside the lattice adds to the outermost layer inside: [B, dim, N… without axis].

        Edges that belong to two such layers count for the lower axis.
        """
        across = self.dim - 1
        first = (around.shape[2 + axis] - 2) * side  # of the two coarse layers that reach it
        tap = shape[axis] + 3 - 2 * first if side else 2
        layers = torch.cat([around.select(2 + axis, first), around.select(2 + axis, first + 1)], dim=1)
        spread = torch.cat([kernel.select(2 + axis, tap), kernel.select(2 + axis, tap - 2)])
        fine = _CONV_TRANSPOSE[across](layers, spread, constant, stride=2, padding=2)
        others = [size for other, size in enumerate(shape) if other != axis]
        for place, size in enumerate(others):
            counted = place < axis
            fine = fine.narrow(2 + place, 1 if counted else 0, size if counted else size + 2)
        padding = tuple(1 if place < axis else 0 for place in range(across))
        return _CONV[across](fine, gather[:, : len(constant)].select(2 + axis, 2 * side), padding=padding)


class DenseMiddleUNet(TallUNet):
    """`TallUNet` whose coarsest features are replaced by a bottleneck of two dense layers, over all places and channels.

    Published as `UNet2ChunkyMiddle`, the first stage of ICON's knee network. The dense layers tie it to images of 40×96×96,
    or of another shape whose coarsest lattice is 2×3×3.

    Raises:
        InputError: (when called) the images have another shape.
    """

    MIDDLE_SHAPE = (2, 3, 3)

    def __init__(self) -> None:
        super().__init__(3)
        places = math.prod(self.MIDDLE_SHAPE)
        wide, narrow = DOWN_CHANNELS[-1] * places, 128 * places
        self.middle_dense = nn.ModuleList([nn.Linear(wide, narrow), nn.Linear(narrow, wide)])

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement for `moving` and `fixed`, [B, 1, *shape] each."""
        middle = tuple(-(-size // 2 ** len(DOWN_CHANNELS)) for size in moving.shape[2:])
        if middle != self.MIDDLE_SHAPE:
            raise InputError(
                f"This network's dense middle fits images of 40×96×96 only; got {list(moving.shape[2:])}. "
                "Resize them, or choose a network without one."
            )
        return super().forward(moving, fixed)

    def _bottleneck(self, features: Tensor) -> Tensor:
        first, second = self.middle_dense
        replaced = second(F.leaky_relu(first(features.flatten(1)), SLOPE))
        return _channels_last(replaced.view(features.shape))


def _format(dim: int) -> torch.memory_format:
    return torch.channels_last if dim == 2 else torch.channels_last_3d


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=_format(values.dim() - 2))


def _contiguous(values: Tensor) -> Tensor:
    return values.contiguous()


def _per_channel(values: Tensor, dim: int) -> Tensor:
    return values.view(1, -1, *(1,) * dim)


def _activated(features: Tensor, *, keep: bool = False) -> Tensor:
    return F.leaky_relu(features, SLOPE, inplace=not (keep or features.requires_grad))


def _joined(coarse: Tensor, below: Sequence[Tensor]) -> Tensor:
    """Activated `coarse`, which is overwritten where no gradient is asked for, and the skips."""
    return torch.cat([_activated(coarse), *below], dim=1) if below else _activated(coarse)


def _halved(features: Tensor) -> Tensor:
    pool = F.avg_pool2d if features.dim() == 4 else F.avg_pool3d
    return pool(features, 2, ceil_mode=True)


def _doubled(features: Tensor) -> Tensor:
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return F.interpolate(features, scale_factor=2, mode=mode, align_corners=False)


def _cropped(features: Tensor, shape: Sequence[int]) -> Tensor:
    return features[(slice(None), slice(None), *(slice(size) for size in shape[2:]))]


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Batch normalization by its running statistics: x ↦ scale · x + shift."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _phases(dim: int) -> list[tuple[int, ...]]:
    """The fine voxels of a coarse one, last axis fastest: (0, …, 0), (0, …, 1), …"""
    return [tuple(phase >> (dim - 1 - axis) & 1 for axis in range(dim)) for phase in range(2**dim)]


def _write_phases(coarse: Tensor, images: Tensor) -> None:
    """`images` [B, C, N…] into `coarse` [B, C · 2^dim, n…], whose channels are the fine voxels; it holds zeros before."""
    phases = _phases(images.dim() - 2)
    for channel in range(images.shape[1]):
        for place, bits in enumerate(phases):
            fine = images[(slice(None), channel, *(slice(bit, None, 2) for bit in bits))]
            at = (slice(None), channel * len(phases) + place, *(slice(size) for size in fine.shape[1:]))
            coarse[at] = fine


def _voxels_from_phases(phases: Tensor, channels: int, shape: Sequence[int]) -> Tensor:
    """[B, channels · 2^dim, n…], the fine voxels as channels, to [B, channels, *shape]."""
    dim = len(shape)
    split = phases.reshape(phases.shape[0], channels, *(2,) * dim, *phases.shape[2:])
    order = [0, 1, *(place for axis in range(dim) for place in (2 + dim + axis, 2 + axis))]
    fine = split.permute(order).reshape(phases.shape[0], channels, *(2 * size for size in phases.shape[2:]))
    return _cropped(fine, (0, 0, *shape)).contiguous()


def _composed(spread: Tensor, gather: Tensor) -> Tensor:
    """A transposed convolution (kernel 4, stride 2, padding 1) followed by a convolution (kernel 3, padding 1), as one
    convolution (kernel 3) on the coarse lattice, [C out · 2^dim, C in, 3…], whose output channels are the fine voxels.

    `spread` [C in, C between, 4…], `gather` [C out, C between, 3…].
    """
    dim = gather.dim() - 2
    inner, out = spread.shape[0], gather.shape[0]
    both = _CONV[dim](spread, gather, padding=2).view(inner, out, *(3, 2) * dim)  # kernel 6 = 3 coarse taps × 2 phases
    taps, phases = [2 + 2 * axis for axis in range(dim)], [3 + 2 * axis for axis in range(dim)]
    return both.flip(taps).permute([1, *phases, 0, *taps]).reshape(out * 2**dim, inner, *(3,) * dim)


def _outer(lines: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The tensor whose entries are products of one entry of each line."""
    product = torch.ones((), dtype=like.dtype, device=like.device)
    for line in lines:
        product = product[..., None] * torch.tensor(line, dtype=like.dtype, device=like.device)
    return product
