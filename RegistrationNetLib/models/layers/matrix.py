"""Networks whose output is a matrix: an affine map, or the generator of one.

Parameters bear the names of the published files. The arithmetic is that of the published network, but each convolution and the
averaging after it are one: the features at the finer resolution are never made.

# B batch, C channel
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...memory import full_precision
from .linear_end import CONV

CHANNELS = (16, 32, 64, 128, 256, 512)
DENSE_CHANNELS = 300


class ConvolutionalMatrixNet(nn.Module):
    """Homogeneous matrix [B, dim + 1, dim + 1] of an affine map of the unit cube, its numbers acting about the centre 0.5.

    Published under this name by Greer et al., MICCAI 2023 (ConstrICON). Six convolutions of ReLU, each averaged over 2 voxels
    per axis; the mean over all places; two dense layers. The last one starts at zero, so that an untrained network gives the
    identity. Takes lattices of any size, even or odd.

    Args:
        dim: 2 or 3.
        input_channels: of each of the two images.
    """

    def __init__(self, dim: int, *, input_channels: int = 1) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.dim = dim
        channels = (2 * input_channels, *CHANNELS)
        self.convs = nn.ModuleList(conv(one, two, kernel_size=3, padding=1) for one, two in itertools.pairwise(channels))
        self.dense2 = nn.Linear(CHANNELS[-1], DENSE_CHANNELS)
        self.dense3 = nn.Linear(DENSE_CHANNELS, dim * (dim + 1))
        for parameter in self.dense3.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The matrix for `moving` and `fixed`, [B, input_channels, *shape] each; always in full precision, as it places every voxel."""
        with full_precision(moving.device):
            return self._matrix(torch.cat([moving, fixed], dim=1))

    def _matrix(self, features: Tensor) -> Tensor:
        for layer in self.convs:
            features = convolved_and_halved(F.relu(features), layer.get_parameter("weight"), layer.get_parameter("bias"))
        features = F.relu(self.dense2(features.flatten(2).mean(2)))
        return _about_the_centre(self.dense3(features).view(-1, self.dim, self.dim + 1))


def convolved_and_halved(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution (kernel 3, padding 1) and then means over 2 voxels per axis, as one convolution (kernel 4, stride 2).

    A last voxel without a neighbour stays as it is. `values` [B, C in, *shape] give [B, C out, *ceil(shape / 2)].
    """
    return _halved_from(0, F.pad(values, (1, 1) * (values.dim() - 2)), weight, bias, strides=())


def _halved_from(axis: int, padded: Tensor, weight: Tensor, bias: Tensor, *, strides: Sequence[int]) -> Tensor:
    """`convolved_and_halved` along `axis` and those behind it, of values that have one more voxel on each side."""
    dim = padded.dim() - 2
    if axis == dim:
        return CONV[dim](padded, weight, bias, stride=strides)
    size, place = padded.shape[2 + axis] - 2, 2 + axis
    paired, parts = size // 2 * 2, []
    if paired:
        ends = [0, 0] * (dim - 1 - axis)
        pair = (F.pad(weight, [*ends, 0, 1]) + F.pad(weight, [*ends, 1, 0])) / 2
        parts.append(_halved_from(axis + 1, padded.narrow(place, 0, paired + 2), pair, bias, strides=(*strides, 2)))
    if size % 2:
        parts.append(_halved_from(axis + 1, padded.narrow(place, paired, 3), weight, bias, strides=(*strides, 1)))
    return torch.cat(parts, dim=place) if len(parts) > 1 else parts[0]


def _about_the_centre(offsets: Tensor) -> Tensor:
    """[B, dim, dim + 1], what is added to the identity, as the homogeneous matrix x ↦ A (x - 0.5) + b + 0.5."""
    batch, dim = offsets.shape[:2]
    linear = offsets[:, :, :dim] + torch.eye(dim, dtype=offsets.dtype, device=offsets.device)
    shift = offsets[:, :, dim:] + 0.5 - 0.5 * linear.sum(dim=2, keepdim=True)
    last = offsets.new_tensor([0.0] * dim + [1.0]).expand(batch, 1, -1)
    return torch.cat([torch.cat([linear, shift], dim=2), last], dim=1)
