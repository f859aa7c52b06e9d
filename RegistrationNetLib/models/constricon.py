"""ConstrICON: maps that are inverse to each other by construction; and the loss it is trained with.

Greer et al., MICCAI 2023, "Inverse consistency by construction for multistep deep registration". Every step is a module that
takes moving and fixed, [B, C, *shape] each, and gives `BothWays`: the exponentials of a matrix or of a velocity, and of minus
it, where exchanging the images changes the sign. `TwoStepInverseConsistent` keeps that property at any depth, and
`composition.Downsample` puts a step at half resolution. Children bear the names of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry.deformation import Affine, Composition, Map, Outside
from ..losses.similarity import LNCC, Measure
from .composition import BothWays, warped
from .constricon_velocities import velocities_of
from .layers.exponential import SQUARINGS, FunctionFlow, Perceptron, flows, matrix_exponentials
from .layers.matrix import ConvolutionalMatrixNet
from .layers.unet import TallUNet
from .training_loss import ImageLoss

HIDDEN_UNITS = 64


class MatrixExponential(nn.Module):
    """exp(M) and exp(-M) of M = net(moving, fixed) - net(fixed, moving); `net` gives homogeneous matrices, as in `matrix`.

    Published as `ConsistentFromMatrix`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """Both maps, each one `Affine`."""
        return _both(matrix_exponentials(_antisymmetric(self.net, moving, fixed)))


class RigidGenerator(nn.Module):
    """The matrix of `net` with its linear part S replaced by S - Sᵀ: the generator of a rotation and a shift.

    The rotation is one of the unit cube; in mm it is rigid where the image's edges are equally long. Published as `AntiDiagonalize`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The homogeneous matrix [B, dim + 1, dim + 1] for `MatrixExponential`; its last entry is that of `net`."""
        matrix: Tensor = self.net(moving, fixed)
        dim = matrix.shape[-1] - 1
        linear = matrix[:, :dim, :dim]
        return torch.cat([F.pad(linear - linear.mT, (0, 0, 0, 1)), matrix[:, :, dim:]], dim=2)


class VelocityExponential(nn.Module):
    """exp(v) and exp(-v) of the velocity v = net(moving, fixed) - net(fixed, moving), which `net` gives on the images' lattice.

    Published as `ICONSquaringVelocityField`, with 7 squarings. More of them resolve larger velocities.
    """

    def __init__(self, net: nn.Module, *, squarings: int = SQUARINGS) -> None:
        super().__init__()
        self.net = net
        self.squarings = squarings

    def forward(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """Both maps, each one `Flow`."""
        return _both(flows(_antisymmetric(self.net, moving, fixed), squarings=self.squarings))


class PerceptronFromWeights(nn.Module):
    """A velocity that is a function of place: a perceptron with two hidden layers, whose weights [B, count] `net` gives.

    Published as `FunctionFromMLPWeights`, in 2-D.

    Args:
        dim: of the points.
    """

    def __init__(self, net: nn.Module, *, dim: int = 2) -> None:
        super().__init__()
        self.net = net
        self.dim = dim

    @staticmethod
    def weight_count(dim: int) -> int:
        """Numbers that `net` must give for each entry of the batch."""
        return sum(two * (one + 1) for one, two in pairwise(_units(dim)))

    def forward(self, moving: Tensor, fixed: Tensor) -> Perceptron:
        """The velocity as a function of points [B, dim, *any]."""
        weights: Tensor = self.net(moving, fixed)
        layers, place = [], 0
        for one, two in pairwise(_units(self.dim)):
            bias = place + one * two
            layers.append((weights[:, place:bias].view(-1, two, one), weights[:, bias : bias + two, None]))
            place = bias + two
        return Perceptron(tuple(layers))


class FunctionExponential(nn.Module):
    """The flows of the velocity net(moving, fixed) - net(fixed, moving) forth and back, where `net` gives functions of points.

    By `steps` of classical Runge-Kutta. Published as `IntegrateMLP`.
    """

    def __init__(self, net: nn.Module, *, steps: int = 6) -> None:
        super().__init__()
        self.net = net
        self.steps = steps

    def forward(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """Both maps, each one `FunctionFlow`."""
        one, other = self.net(moving, fixed), self.net(fixed, moving)
        return _both((FunctionFlow(one, other, self.steps), FunctionFlow(other, one, self.steps)))


class TwoStepInverseConsistent(nn.Module):
    """`netPhi` registers the images, `netPsi` what both, warped by it, still differ in; the maps are φ∘ψ∘φ of theirs.

    The inverse of φ∘ψ∘φ is φ⁻¹∘ψ⁻¹∘φ⁻¹, which is what exchanging the images gives.
    """

    def __init__(self, netPhi: nn.Module, netPsi: nn.Module) -> None:  # noqa: N803 - published names
        super().__init__()
        self.netPhi = netPhi
        self.netPsi = netPsi

    def forward(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """Both maps."""
        phi: BothWays = self.netPhi(moving, fixed)
        psi: BothWays = self.netPsi(warped(moving, phi.moving_from_fixed), warped(fixed, phi.fixed_from_moving))
        return BothWays(
            _around(psi.moving_from_fixed, phi.moving_from_fixed), _around(psi.fixed_from_moving, phi.fixed_from_moving)
        )


class InverseConsistent(nn.Module):
    """The outermost module of a network whose steps give both ways, which `steps.both_ways` asks for them.

    Published as `FirstTransform`, which gives one of them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """Both maps for images [B, C, *shape] of one shape."""
        maps: BothWays = self.net(moving, fixed)
        return maps

    def both_ways(self, moving: Tensor, fixed: Tensor) -> BothWays:
        """The same, for `steps.both_ways`."""
        return self(moving, fixed)


def constricon_network(dim: int = 3, *, input_channels: int = 1, squarings: int = SQUARINGS) -> InverseConsistent:
    """The network, untrained: two affine steps, then two of velocities, all at the images' resolution.

    In 3-D its state dict is that of the published files (126 keys).

    Args:
        dim: 2 or 3.
        input_channels: of each image.
        squarings: of each velocity; 7 is published.

    Returns:
        A module that takes moving and fixed, [B, input_channels, *shape] of any shape, and gives `BothWays`.
    """

    def affine() -> MatrixExponential:
        return MatrixExponential(ConvolutionalMatrixNet(dim, input_channels=input_channels))

    def velocity() -> VelocityExponential:
        return VelocityExponential(TallUNet(dim, input_channels=input_channels), squarings=squarings)

    velocities = TwoStepInverseConsistent(velocity(), velocity())
    return InverseConsistent(TwoStepInverseConsistent(affine(), TwoStepInverseConsistent(affine(), velocities)))


def affine_part(maps: BothWays) -> BothWays:
    """The affine steps alone, as one `Affine` each way; the two are inverse to each other as the whole maps are.

    The identity where there are none.
    """

    def alone(composition: Composition) -> Composition:
        matrices = [one.matrix for one in composition.maps if isinstance(one, Affine)]
        return Composition((_product(matrices),) if matrices else ())

    return BothWays(alone(maps.moving_from_fixed), alone(maps.fixed_from_moving))


def velocity_diffusion(velocity: Tensor) -> Tensor:
    """Squared differences of neighbours in `velocity` [B, dim, *shape]: mean along each axis, added, times the first size squared.

    As published, and so without regard to the other sizes; `regularity.diffusion` takes all into account.
    """
    axes = range(2, velocity.dim())
    means = [
        F.mse_loss(velocity.narrow(axis, 1, velocity.shape[axis] - 1), velocity.narrow(axis, 0, velocity.shape[axis] - 1))
        for axis in axes
    ]
    return torch.stack(means).sum() * velocity.shape[2] ** 2


@dataclass(frozen=True)
class VelocityDiffusionLoss(ImageLoss):
    """Similarity both ways and `weight` times the diffusion of every velocity.

    Greer et al., MICCAI 2023. The reference package's `VelocityFieldDiffusion` takes the similarity of one way twice instead.

    Args:
        similarity: LNCC.
        weight: the λ of the paper; 5 for most, 0.5 for the lung.
        outside: what images are warped with beyond their border: its own values, or zeros.

    Raises:
        InputError: weight is negative or not a number.
    """

    similarity: Measure = field(default_factory=LNCC)
    weight: float = 5.0
    outside: Outside = "border"

    def regularity(self, maps: BothWays, fixed: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - as others
        """`velocity_diffusion` of all velocities of `maps`, added; 0 where there are none."""
        velocities = velocities_of(maps)
        return torch.stack([fixed.new_zeros(()), *map(velocity_diffusion, velocities)]).sum()


def _antisymmetric(net: nn.Module, moving: Tensor, fixed: Tensor) -> Tensor:
    """net(moving, fixed) - net(fixed, moving): exchanging the images changes the sign, to the last bit."""
    antisymmetric: Tensor = net(moving, fixed) - net(fixed, moving)
    return antisymmetric


def _both(pair: tuple[Map, Map]) -> BothWays:
    moving_from_fixed, fixed_from_moving = pair
    return BothWays(Composition((moving_from_fixed,)), Composition((fixed_from_moving,)))


def _around(inner: Composition, outer: Composition) -> Composition:
    return Composition((*outer.maps, *inner.maps, *outer.maps))


def _units(dim: int) -> tuple[int, ...]:
    return (dim, HIDDEN_UNITS, HIDDEN_UNITS, dim)


def _product(matrices: Sequence[Tensor]) -> Affine:
    """The first of the affine `matrices` [B, dim, dim + 1] after all others."""
    product = matrices[-1]
    for matrix in reversed(matrices[:-1]):
        dim = matrix.shape[1]
        product = matrix[..., :dim] @ product + F.pad(matrix[..., dim:], (dim, 0))
    return Affine(product)
