"""The U-net of ICON, GradICON and their successors ("tallUNet2"), in 2-D and 3-D.

Its parameters bear the names of the published files. The arithmetic is that of the published network, ordered for speed:

- Where batch normalization uses its running statistics it is a scale and a shift, and nothing that is not linear stands
  between the last transposed convolution and the output. All of it together is then one convolution on the coarse lattice
  (`linear_end`), and the widest features at full resolution are never made.
- Residual connections touch only the channels that they carry.
- Features lie channels-last, as oneDNN likes them, and are activated in place where no gradient is asked for.

# B batch, C channel; N… the shape of a lattice, n… that of the next coarser one, n = ceil(N / 2)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from .coarse_input import SLOPE
from .layout import channels_last, cropped
from .linear_end import CONV_TRANSPOSE, EndWeights, linear_end

DOWN_CHANNELS = (16, 32, 64, 256, 512)
UP_CHANNELS = (16, 32, 64, 128, 256)
EPSILON = 1e-5

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
        narrowed: how many times fewer features there are than in the published network, which has about the square of that
            as many weights.
    """

    def __init__(self, dim: int, *, input_channels: int = 1, narrowed: int = 1) -> None:
        super().__init__()
        assert dim in _LAYERS
        conv, conv_transpose, batch_norm = _LAYERS[dim]
        self.dim = dim
        down_channels, up_channels = (
            tuple(max(1, count // narrowed) for count in counts) for counts in (DOWN_CHANNELS, UP_CHANNELS)
        )
        self.up_channels = up_channels
        down = (2 * input_channels, *down_channels)
        joined = [coarse + skip for coarse, skip in zip(down_channels, (*up_channels[1:], 0), strict=True)]
        self.downConvs = nn.ModuleList(
            conv(one, two, kernel_size=3, stride=2, padding=1) for one, two in itertools.pairwise(down)
        )
        self.upConvs = nn.ModuleList(
            conv_transpose(one, two, kernel_size=4, stride=2, padding=1) for one, two in zip(joined, up_channels, strict=True)
        )
        self.batchNorms = nn.ModuleList(batch_norm(channels, eps=EPSILON) for channels in up_channels)
        self.lastConv = conv(up_channels[0] + down[0], dim, kernel_size=3, padding=1)
        for parameter in self.lastConv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement for `moving` and `fixed`, [B, input_channels, *shape] each."""
        images = channels_last(torch.cat([moving, fixed], dim=1))
        coarse, skips = self._encode(images)
        coarse = self._bottleneck(coarse)
        for depth in reversed(range(1, len(self.upConvs))):
            below = skips[depth + 1 : depth + 2]
            coarse = cropped(self._up(depth, coarse, below), skips[depth].shape[2:])
        if self.training:
            fine = cropped(self._up(0, coarse, skips[1:2]), images.shape[2:])
            displacement: Tensor = self.lastConv(torch.cat([fine, images], dim=1)).contiguous() / 10
            return displacement
        return linear_end(coarse, skips[1], images, self._end_weights())

    def _encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The coarsest features, and what each finer level passes on to the way up: the images, then activated features."""
        features, skips = images, [images]
        for down in self.downConvs:
            pooled = halved(features)
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
        kept = coarse[:, : self.up_channels[depth]]
        if self.training:
            shortcut = _doubled(kept)
            normalized: Tensor = norm(up(_joined(coarse, below)).add_(shortcut))
            return normalized
        # In half precision all features stay in it: full-sized copies in both would take more memory than single alone.
        scale, shift = (one.to(kept.dtype) for one in self._normalization(depth))
        # The shift goes through the interpolation, which leaves a constant as it is, on an eighth of the points.
        shortcut = _doubled(kept * _per_channel(scale, self.dim) + _per_channel(shift, self.dim))
        fresh = CONV_TRANSPOSE[self.dim](_joined(coarse, below), up.get_parameter("weight"), stride=2, padding=1)
        return shortcut.addcmul_(fresh, _per_channel(scale, self.dim))

    def _normalization(self, depth: int) -> tuple[Tensor, Tensor]:
        """Batch normalization by its running statistics, of a transposed convolution without its bias: x ↦ scale · x + shift."""
        norm = self.batchNorms[depth]
        scale = norm.get_parameter("weight") * torch.rsqrt(norm.get_buffer("running_var") + EPSILON)
        mean = norm.get_buffer("running_mean") - self.upConvs[depth].get_parameter("bias")
        return scale, norm.get_parameter("bias") - mean * scale

    def _end_weights(self) -> EndWeights:
        scale, shift = self._normalization(0)
        spread = self.upConvs[0].get_parameter("weight") * _per_channel(scale, self.dim)
        last = self.lastConv
        return EndWeights(spread, scale, shift, last.get_parameter("weight") / 10, last.get_parameter("bias") / 10)


class DenseMiddleUNet(TallUNet):
    """`TallUNet` whose coarsest features are replaced by a bottleneck of two dense layers, over all places and channels.

    Published as `UNet2ChunkyMiddle`, the first stage of ICON's knee network (whose last bias starts at random there). The dense layers tie it to images of 40×96×96,
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
        return channels_last(replaced.view(features.shape))


def _per_channel(values: Tensor, dim: int) -> Tensor:
    return values.view(1, -1, *(1,) * dim)


def _activated(features: Tensor, *, keep: bool = False) -> Tensor:
    return F.leaky_relu(features, SLOPE, inplace=not (keep or features.requires_grad))


def _joined(coarse: Tensor, below: Sequence[Tensor]) -> Tensor:
    """Activated `coarse`, which is overwritten where no gradient is asked for, and the skips."""
    return torch.cat([_activated(coarse), *below], dim=1) if below else _activated(coarse)


def halved(values: Tensor) -> Tensor:
    """Means over 2 voxels per axis of `values` [B, C, *shape]; a last one without a neighbour stays as it is."""
    pool = F.avg_pool2d if values.dim() == 4 else F.avg_pool3d
    kernel = [min(2, size) for size in values.shape[2:]]
    return pool(values, kernel, stride=2, ceil_mode=True)


def _doubled(features: Tensor) -> Tensor:
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return F.interpolate(features, scale_factor=2, mode=mode, align_corners=False)
