"""ICON: the network for knee MR of the OAI, and the loss it is trained with. Greer et al., ICCV 2021."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..geometry.deformation import Composition, Outside
from ..geometry.regularity import icon_loss_both_ways, jittered_lattice
from ..losses.similarity import SSD, Measure
from .composition import BothWays, Downsample, FunctionFromVectorField, TwoStep
from .layers.unet import DenseMiddleUNet, TallUNet
from .training_loss import ImageLoss


class KneeNetwork(nn.Module):
    """The network, untrained: two U-nets at half resolution, the first with a dense middle, and two at the full one.

    Its state dict is that of the file `OAI_knees_ICON_model.pth`. For images of 80×192×192, to which the dense middle ties it.
    """

    def __init__(self) -> None:
        super().__init__()
        half = TwoStep(FunctionFromVectorField(DenseMiddleUNet()), FunctionFromVectorField(TallUNet(3)))
        three = TwoStep(Downsample(half), FunctionFromVectorField(TallUNet(3)))
        self.regis_net = TwoStep(three, FunctionFromVectorField(TallUNet(3)))

    def forward(self, moving: Tensor, fixed: Tensor) -> Composition:
        """moving_from_fixed of the images [B, 1, *shape]; `both_ways` gives both directions.

        Raises:
            InputError: the images have a shape that the dense middle cannot take.
        """
        composition: Composition = self.regis_net(moving, fixed)
        return composition


@dataclass(frozen=True)
class ICONLoss(ImageLoss):
    """Similarity both ways and `weight` times the inverse-consistency error both ways, at random points around all voxels.

    Greer et al., ICCV 2021, equation 3. As published, images are warped with the values of their
    border beyond it (`outside`).

    Raises:
        InputError: weight is negative or not a number.
    """

    similarity: Measure = field(default_factory=SSD)
    weight: float = 3600.0
    outside: Outside = "border"

    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Squared inverse-consistency error both ways at random points over the lattice of `fixed`."""
        points = jittered_lattice(fixed.shape[2:], fixed, generator=generator, stride=1)
        points = points.expand(fixed.shape[0], *points.shape[1:])
        return icon_loss_both_ways(maps.moving_from_fixed, maps.fixed_from_moving, points)
