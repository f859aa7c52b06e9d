"""The published ConstrICON, with every parameter at random."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from Testing.models.layers.published import randomize

from .published_carl import available


def module() -> Any:
    pytest.importorskip("icon_registration")
    return available("icon_registration.constricon")


def affine(dim: int, *, rigid: bool = False) -> nn.Module:
    networks = pytest.importorskip("icon_registration.networks")
    net = networks.ConvolutionalMatrixNet(dimension=dim)
    step: nn.Module = module().ConsistentFromMatrix(module().AntiDiagonalize(net) if rigid else net)
    return step


def velocity(dim: int) -> nn.Module:
    networks = pytest.importorskip("icon_registration.networks")
    step: nn.Module = module().ICONSquaringVelocityField(networks.tallUNet2(dimension=dim))
    return step


def two_step(phi: nn.Module, psi: nn.Module) -> nn.Module:
    step: nn.Module = module().TwoStepInverseConsistent(phi, psi)
    return step


def half(net: nn.Module, dim: int) -> nn.Module:
    icon = pytest.importorskip("icon_registration")
    step: nn.Module = icon.DownsampleRegistration(net, dim)
    return step


def whole(dim: int) -> nn.Module:
    """The network of the published files, inside `FirstTransform`, untrained."""
    velocities = two_step(velocity(dim), velocity(dim))
    first: nn.Module = module().FirstTransform(two_step(affine(dim), two_step(affine(dim), velocities)))
    return first


def ready(net: nn.Module, shape: Sequence[int]) -> nn.Module:
    """`net` for images of `shape`, with every parameter at random."""
    net.assign_identity_map([1, 1, *shape])  # type: ignore[operator]
    randomize_all(net, len(shape), matrix=3)
    return net.eval()


def randomize_all(net: nn.Module, dim: int, *, matrix: float = 20) -> None:
    """Every parameter at random: velocities of some voxels; matrices of some voxels (3) or of some tenths of the cube (20)."""
    randomize(net, displacement=0.004 if dim == 2 else 0.01)
    for name, value in net.state_dict().items():
        if "dense3" in name:
            value.mul_(matrix)


Maps = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


@torch.no_grad()
def maps_of(net: nn.Module, moving: Tensor, fixed: Tensor) -> Maps:
    """Both maps of `net`, a published step that gives both."""
    maps: Maps = net(moving, fixed)
    return maps
