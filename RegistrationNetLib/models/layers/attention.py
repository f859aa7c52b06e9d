"""Coordinate attention: each cell of fixed looks for its like in moving, and takes the mean place of what it finds.

Greer et al., CVPR 2025 (CARL). Features of both images are compared by their scalar product, and the answer is the mean of the
coordinates of moving's cells under the exponential of it as weight. No place is preferred, so that the map follows when an
image is shifted.

The table of all weights would not fit: 85,184 cells of fixed against 238,328 of moving at 175³ are 81 GB. On a CUDA device
torch's fused kernel never makes it; elsewhere it is made in tiles that stay in the processor's cache.

# B batch, C channel of the features; N… the shape of the images; n… the lattice of the cells of fixed, Q of them; m… that of
# moving, padded, K of them
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...devices import check_memory
from ...errors import InputError
from ...geometry.deformation import vector_length
from ...memory import full_precision
from .features import CoarseFeatures, DilatedFeatures, Equivariantize

# Length of every feature vector, so that scalar products lie in [-16, 16] and their exponentials need no shift against overflow.
FEATURE_LENGTH = 4.0
QUERIES_AT_A_TIME = 512
KEYS_AT_A_TIME = 2048

Features = DilatedFeatures | CoarseFeatures | Equivariantize


class CoordinateAttention(nn.Module):
    """The displacement of CARL's first step, one vector for each cell of fixed; it has no parameters but those of `net`.

    Published as `AttentionRegistration`, with 9 voxels of padding and features of one voxel.

    Args:
        net: gives the features.
        padding_vox, cell_vox: as for `attended_displacement`.
    """

    def __init__(self, net: Features, *, padding_vox: int = 9, cell_vox: int = 1) -> None:
        super().__init__()
        self.net = net
        self.padding_vox = padding_vox
        self.cell_vox = cell_vox

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement, one vector for each cell, that maps points of `fixed` to points of `moving`, [B, 1, N…] each.

        Raises:
            InputError: an image is one cell thin.
            ResourceError: the features do not fit in memory.
        """
        return attended_displacement(self.net, moving, fixed, padding_vox=self.padding_vox, cell_vox=self.cell_vox)


def attended_displacement(net: Features, moving: Tensor, fixed: Tensor, *, padding_vox: int, cell_vox: int = 1) -> Tensor:
    """The displacement [B, dim, n…], n = ceil(N / cell_vox), that maps points of `fixed` to points of `moving`, [B, 1, N…] each.

    Args:
        net: gives the features.
        padding_vox: zeros that are put around the images first; a multiple of `cell_vox`. Moving's cells in there take part.
        cell_vox: voxels per axis for which there is one vector of features.

    Raises:
        InputError: there is but one cell along an axis.
        ResourceError: the features do not fit in memory.
    """
    shape = [-(-size // cell_vox) for size in fixed.shape[2:]]
    if min(shape) < 2:
        raise InputError(
            f"Coordinate attention needs at least 2 cells of {cell_vox} voxels along each axis; got images of "
            f"{list(fixed.shape[2:])} voxels where it works. Resize them, or choose a network without attention."
        )
    margin = padding_vox // cell_vox
    _check_fit(net, fixed, padding_vox)
    keys, queries = _features_of_both(net, moving, fixed, padding_vox)
    places = padded_lattice(shape, margin, fixed)
    inside = (slice(None), slice(None), *(slice(margin, margin + size) for size in shape))
    found = [coordinate_attention(query[inside], key, places) for query, key in zip(queries, keys, strict=True)]
    return torch.cat(found).sub_(places[inside[1:]])


def coordinate_attention(queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
    """The mean of `places`, for each query under the weights exp(query · key): [B, dim, n…].

    Args:
        queries: features [B, C, n…], of length 4 at most.
        keys: features [B, C, m…], of length 4 at most.
        places: coordinates of the keys, [dim, m…].
    """
    attended = attended_fused if queries.device.type == "cuda" else attended_by_tiles
    with full_precision(queries.device):
        return attended(queries.flatten(2), keys.flatten(2), places.flatten(1)).unflatten(2, queries.shape[2:])


def attended_fused(queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
    """`coordinate_attention` by torch's own, from [B, C, Q], [B, C, K] and [dim, K] to [B, dim, Q].

    In single precision, with values narrower than the keys, the memory-efficient kernel is the only fused one that takes them;
    it wants values by fours.
    """
    dim = places.shape[0]
    values = F.pad(places, (0, 0, 0, -dim % 4)).T.expand(queries.shape[0], 1, -1, -1).contiguous()
    query_rows, key_rows = (features.transpose(1, 2)[:, None].contiguous() for features in (queries, keys))
    found = F.scaled_dot_product_attention(query_rows, key_rows, values, scale=1.0)
    return found[:, 0, :, :dim].transpose(1, 2)


def attended_by_tiles(queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
    """`coordinate_attention` a few queries and keys at a time, from [B, C, Q], [B, C, K] and [dim, K] to [B, dim, Q]."""
    values = torch.cat([places, torch.ones_like(places[:1])])
    entries = []
    for entry, entry_keys in zip(queries, keys, strict=True):
        key_rows = entry_keys.T.contiguous()
        totals = [_summed(some, key_rows, values) for some in entry.split(QUERIES_AT_A_TIME, dim=1)]
        entries.append(torch.cat(totals, dim=1))
    total = torch.stack(entries)
    return total[:, :-1] / total[:, -1:]


def _summed(queries: Tensor, key_rows: Tensor, values: Tensor) -> Tensor:
    """Sums of `values` [dim + 1, K] with the weights of queries [C, q] and keys [K, C]: [dim + 1, q].

    For gradients the weights are computed a second time and not kept.
    """
    if torch.is_grad_enabled() and (queries.requires_grad or key_rows.requires_grad):
        total: Tensor = checkpoint(_summed_over_tiles, queries, key_rows, values, use_reentrant=False)
        return total
    return _summed_over_tiles(queries, key_rows, values)


def _summed_over_tiles(queries: Tensor, key_rows: Tensor, values: Tensor) -> Tensor:
    total = values.new_zeros(values.shape[0], queries.shape[1])
    for some_keys, some_values in zip(key_rows.split(KEYS_AT_A_TIME), values.split(KEYS_AT_A_TIME, dim=1), strict=True):
        total = total + some_values @ (some_keys @ queries).exp_()
    return total


def padded_lattice(shape: Sequence[int], margin: int, like: Tensor) -> Tensor:
    """Coordinates [dim, (n + 2 margin)…] of a lattice of `shape` over the unit cube, gone on with over `margin` cells around it."""
    axes = [torch.arange(-margin, size + margin, dtype=torch.float64, device="cpu").div(size - 1).to(like) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _features_of_both(net: Features, moving: Tensor, fixed: Tensor, padding_vox: int) -> tuple[list[Tensor], list[Tensor]]:
    """Features of the padded images, of length 4, for each entry of the batch.

    Where batch normalization has its statistics already, the images go through the network one by one, which takes less memory,
    and none goes twice: a batch that holds both directions holds each image as moving and as fixed.
    """
    if net.training:
        moving_features, fixed_features = (_features(net, images, padding_vox).split(1) for images in (moving, fixed))
        return list(moving_features), list(fixed_features)
    images = [*moving.split(1), *fixed.split(1)]
    found: list[Tensor] = []
    for place, image in enumerate(images):
        same = next((one for one in range(place) if not image.requires_grad and torch.equal(images[one], image)), None)
        found.append(_features(net, image, padding_vox) if same is None else found[same])
    return found[: len(moving)], found[len(moving) :]


def _features(net: Features, image: Tensor, padding_vox: int) -> Tensor:
    features = net(F.pad(image, (padding_vox,) * 2 * (image.dim() - 2))).to(image)
    # 0.001 keeps a cell without features at 0.
    return features * (FEATURE_LENGTH / (0.001 + vector_length(features)))


def features_memory_mb(net: Features, shape: Sequence[int], *, images: int = 2, keeps_gradients: bool = False) -> float:
    """About what the features of so many images take at most, while the last of them are computed, in MiB.

    Args:
        net: gives the features.
        shape: of the images with their padding.
        images: different ones; 2 for a pair, in one direction or in both.
        keeps_gradients: whether what the network computes on the way is kept for its gradients.
    """
    voxels = math.prod(shape)
    finished, working = net.values_out(voxels), net.values_working(voxels, keeps_gradients=keeps_gradients)
    return (images * finished + (images if keeps_gradients else 1) * working) * 4 / 2**20


def _check_fit(net: Features, moving: Tensor, padding_vox: int) -> None:
    keeps_gradients = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in net.parameters())
    shape = [size + 2 * padding_vox for size in moving.shape[2:]]
    needed_mb = features_memory_mb(net, shape, images=max(2, moving.shape[0]), keeps_gradients=keeps_gradients)
    remedy = (
        f"Most of it is for {net.channels} features per cell of images of {'×'.join(map(str, shape))} voxels with their padding: "
        "resize the images, or choose a network that compares them at a coarser resolution."
    )
    check_memory(needed_mb, moving.device, remedy)
