"""CARL and uniCARL: coordinate attention first, U-nets after. Greer et al., CVPR 2025, arXiv 2405.16738.

The first step compares features of every cell of both images and does not care where in its image a cell lies; what it leaves
is small and up to U-nets. So the map follows when an image is shifted or, in some compositions, turned.

The loss of training, which refinement takes too, is `GradICONLoss(outside="border", weight=1.5)` with

- `LNCC(sigma_vox=4)` and stride 1 for "final" and "final_final", stride 2 for "final_rotation" and "final_smolatt",
- `SquaredLNCC(sigma_vox=4, epsilon=1e-4)` and stride 2 for "unicarl".

Training from nothing begins with `DiffusionLoss`: features that have learnt nothing send every cell to the middle, and out of
that GradICON's loss alone does not lead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..geometry.deformation import Composition, Outside, identity_points
from ..geometry.regularity import diffusion
from ..losses.similarity import LNCC, Measure
from .carl_equivariance import Blur, ExtrapolatedField, RotationFunctionFromVectorField
from .composition import BothWays, Downsample, FunctionFromVectorField, TwoStep, mapped_lattice
from .layers.attention import CoordinateAttention, attended_displacement
from .layers.features import CoarseFeatures, DilatedFeatures, Equivariantize
from .layers.unet import TallUNet
from .training_loss import ImageLoss

# Of the composition "small": so many features a cell, and U-nets with so many times fewer features than the published ones.
SMALL_FEATURES, NARROWED = 40, 4


def carl_network(composition: str = "final_final", *, has_fourth_step: bool = False, dim: int = 3) -> TwoStep:
    """A network of the published compositions, or of one of our own, untrained.

    | composition | first step | the rest |
    |---|---|---|
    | final | attention at a quarter | U-nets at half and full resolution |
    | final_final | attention at a quarter | the same, the one at half resolution within the half |
    | final_rotation | attention at a quarter, features averaged over half turns, linear extrapolation | as final |
    | final_smolatt | attention at an eighth | as final |
    | unicarl | attention at a sixteenth, linear extrapolation | blurs and U-nets, five at a quarter and one at full resolution |
    | unicarl_equivariant | the same, features averaged over half turns | as unicarl |
    | small (ours) | attention between cells of 4 voxels, linear extrapolation | as final, but narrow |

    Args:
        composition: one of these.
        has_fourth_step: whether a second U-net at full resolution follows.
        dim: 2 or 3.

    Returns:
        A module that takes moving and fixed, [B, 1, *shape], and gives moving_from_fixed. Its state dict is that of the
        published networks (there is none for "small"), without what their training wrapped around (`netPsi.netPsi.` in the file of uniCARL).

    Raises:
        InputError: there is no such composition.
    """
    known = {**COMPOSITIONS, **OWN_COMPOSITIONS}
    if composition not in known:
        raise InputError(
            f"There is no composition {composition!r} of CARL; the published ones are {', '.join(COMPOSITIONS)}, and ours "
            f"{', '.join(OWN_COMPOSITIONS)}. Choose one of them."
        )
    network = known[composition](dim)
    narrowed = NARROWED if composition in OWN_COMPOSITIONS else 1
    return TwoStep(network, _unet(dim, narrowed)) if has_fourth_step else network


@dataclass(frozen=True)
class DiffusionLoss(ImageLoss):
    """Similarity both ways and `weight` times the diffusion of both maps' displacements: with this the training of CARL begins.

    Greer et al., CVPR 2025. The reference package's `DiffusionRegularizedNet` takes one way twice instead.

    Args:
        similarity: that of the training that follows.
        weight: 1.5 as published for "final"; 10.5 for "final_rotation" and 15 for "final_smolatt".
        outside: what images are warped with beyond their border: its own values, or zeros.

    Raises:
        InputError: weight is negative or not a number.
    """

    similarity: Measure = field(default_factory=lambda: LNCC(sigma_vox=4))
    weight: float = 1.5
    outside: Outside = "border"

    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - as others
        """Mean of the `diffusion` of both displacements over the lattice of `fixed`."""
        shape, still = fixed.shape[2:], identity_points(fixed.shape[2:], fixed)
        both = (maps.moving_from_fixed, maps.fixed_from_moving)
        return torch.stack([diffusion(mapped_lattice(one, shape, fixed) - still) for one in both]).mean()


class UniCARLAttention(nn.Module):
    """uniCARL's first step: coordinate attention between cells of 4 voxels per axis, extrapolated linearly.

    Published as `AttentionFeaturizer`. The two cross-attention blocks are in the published file, and no one calls them.
    """

    PADDING_VOX = 16
    CELL_VOX = 4

    def __init__(self, dim: int, *, is_equivariant: bool = False) -> None:
        super().__init__()
        self.net = Equivariantize(CoarseFeatures(dim)) if is_equivariant else CoarseFeatures(dim)
        self.cross1 = _uncalled_cross_attention()
        self.cross2 = _uncalled_cross_attention()

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed of the images [B, 1, *shape]; raises what `attended_displacement` does."""
        displacement = attended_displacement(self.net, moving, fixed, padding_vox=self.PADDING_VOX, cell_vox=self.CELL_VOX)
        return Composition((ExtrapolatedField(displacement),))


def _uncalled_cross_attention(features: int = 128, inner: int = 64) -> nn.ModuleDict:
    into = {name: nn.Linear(features, inner) for name in ("key_layer", "value_layer", "query_layer")}
    mlp = {name: nn.Linear(features, features) for name in ("mlp1", "mlp2")}
    return nn.ModuleDict({**into, "output_layer": nn.Linear(inner, features), **mlp})


def _final(dim: int) -> TwoStep:
    return TwoStep(Downsample(Downsample(_attention(dim))), _half_and_full(dim))


def _final_final(dim: int) -> TwoStep:
    half = TwoStep(Downsample(_attention(dim)), _unet(dim))
    return TwoStep(Downsample(half), _unet(dim))


def _final_rotation(dim: int) -> TwoStep:
    features = Equivariantize(DilatedFeatures(dim, dilations=(1, 2, 4, 8)))
    attention = RotationFunctionFromVectorField(CoordinateAttention(features))
    return TwoStep(Downsample(Downsample(attention)), _half_and_full(dim))


def _final_smolatt(dim: int) -> TwoStep:
    return TwoStep(Downsample(Downsample(Downsample(_attention(dim)))), _half_and_full(dim))


def _unicarl(dim: int, *, is_equivariant: bool = False) -> TwoStep:
    step: nn.Module = Downsample(UniCARLAttention(dim, is_equivariant=is_equivariant))
    for sigma_vox in (21, 21, 21, 11, 11):
        step = TwoStep(Blur(step, sigma_vox), Downsample(RotationFunctionFromVectorField(TallUNet(dim))))
    return TwoStep(Blur(Downsample(step), 8), RotationFunctionFromVectorField(TallUNet(dim)))


def _small(dim: int) -> TwoStep:
    attention = CoordinateAttention(CoarseFeatures(dim, channels=SMALL_FEATURES), padding_vox=8, cell_vox=4)
    return TwoStep(RotationFunctionFromVectorField(attention), _half_and_full(dim, NARROWED))


def _attention(dim: int) -> FunctionFromVectorField:
    return FunctionFromVectorField(CoordinateAttention(DilatedFeatures(dim)))


def _unet(dim: int, narrowed: int = 1) -> FunctionFromVectorField:
    return FunctionFromVectorField(TallUNet(dim, narrowed=narrowed))


def _half_and_full(dim: int, narrowed: int = 1) -> TwoStep:
    return TwoStep(Downsample(_unet(dim, narrowed)), _unet(dim, narrowed))


COMPOSITIONS: dict[str, Callable[[int], TwoStep]] = {
    "final": _final,
    "final_final": _final_final,
    "final_rotation": _final_rotation,
    "final_smolatt": _final_smolatt,
    "unicarl": _unicarl,
    "unicarl_equivariant": partial(_unicarl, is_equivariant=True),
}
# Nobody has published these.
OWN_COMPOSITIONS: dict[str, Callable[[int], TwoStep]] = {"small": _small}
