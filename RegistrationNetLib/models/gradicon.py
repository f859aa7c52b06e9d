"""GradICON, uniGradICON and multiGradICON: one network, trained on other images; and the loss it is trained with.

Tian et al., CVPR 2023 (GradICON); Tian et al., MICCAI 2024 (uniGradICON); Demir et al., WBIR 2024 (multiGradICON).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..geometry.deformation import Outside
from ..geometry.regularity import gradicon_loss, jittered_lattice
from ..losses.similarity import LNCC, Measure
from .composition import BothWays, Downsample, FunctionFromVectorField, TwoStep
from .layers.unet import TallUNet
from .training_loss import ImageLoss


def gradicon_network(dim: int = 3, *, has_last_step: bool = True, input_channels: int = 1) -> TwoStep:
    """The network, untrained: U-nets at a quarter, a half and the full resolution, and a second one at full resolution.

    Its state dict is that of the files `Step_2_final.trch`; without `has_last_step`, that of the first stage of training.

    Args:
        dim: 2 or 3.
        has_last_step: whether there is a second U-net at full resolution.
        input_channels: of each image.

    Returns:
        A module that takes moving and fixed, [B, input_channels, *shape] of any shape, and gives moving_from_fixed;
        `both_ways` gives both directions.
    """

    def step() -> FunctionFromVectorField:
        return FunctionFromVectorField(TallUNet(dim, input_channels=input_channels))

    quarter_and_half = TwoStep(Downsample(step()), step())
    network = TwoStep(Downsample(quarter_and_half), step())
    return TwoStep(network, step()) if has_last_step else network


@dataclass(frozen=True)
class GradICONLoss(ImageLoss):
    """Similarity both ways and `weight` times the gradient of the inverse-consistency error at random points.

    Tian et al., CVPR 2023, equation 5, in the sparse form of uniGradICON: the points are those of every second voxel per axis.

    Args:
        similarity: LNCC for most, squared LNCC for multiGradICON.
        weight: the λ of the paper.
        outside: what images are warped with beyond their border: zeros in uniGradICON and multiGradICON, the border's own
            values in the lung, knee and brain networks of GradICON.
        stride: 2 is the sparse form, 1 the one of the paper.

    Raises:
        InputError: weight is negative or not a number.
    """

    similarity: Measure = field(default_factory=LNCC)
    weight: float = 1.5
    outside: Outside = "zeros"
    stride: int = 2

    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Squared gradient of the inverse-consistency error at random points over the lattice of `fixed`."""
        points = jittered_lattice(fixed.shape[2:], fixed, generator=generator, stride=self.stride)
        return gradicon_loss(maps.moving_from_fixed, maps.fixed_from_moving, points)
