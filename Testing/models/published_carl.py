"""The published CARL and uniCARL, made to run on the CPU and without what only their training imports."""

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import nn

from Testing.models.layers.published import randomize

MAKERS = {
    "final": "make_network_final",
    "final_final": "make_network_final_final",
    "final_rotation": "make_network_final_rotation",
    "final_smolatt": "make_network_final_smolatt",
}
UNUSED = ("torchvision", "torchvision.utils", "footsteps")


def available(name: str) -> Any:
    """The module `name` of the published package, with empty ones in place of what it imports for pictures and records."""
    stubs = {unused: types.ModuleType(unused) for unused in UNUSED if unused not in sys.modules}
    if importlib.util.find_spec("itk") is None:
        stubs["itk"] = types.ModuleType("itk")
        stubs["itk"].Image = object  # type: ignore[attr-defined]
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        for stub in stubs:
            del sys.modules[stub]


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Within, `.cuda()` does nothing, nor does the deprecated choice of a CUDA kernel; the padding of even kernels is no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")
        with (
            mock.patch.object(nn.Module, "cuda", lambda self: self),
            mock.patch("torch.backends.cuda.sdp_kernel", return_value=contextlib.nullcontext()),
        ):
            yield


def published(composition: str, shape: Sequence[int], *, has_fourth_step: bool = False, seed: int = 0) -> nn.Module:
    """The published network with its loss, at random weights, as it is used after training; `regis_net` is the network."""
    size, dim = [1, 1, *shape], len(shape)
    with on_the_cpu():
        if composition in MAKERS:
            net = getattr(available("icon_registration.carl"), MAKERS[composition])(size, dim)
        else:
            train = available("icon_registration.unicarl.unigradicon_train_parallel")
            net = train.make_net(dim, size, equivariantize=composition == "unicarl_equivariant")
            net.regis_net = net.regis_net.netPsi.netPsi
    if has_fourth_step:
        icon = available("icon_registration")
        unet = icon.FunctionFromVectorField(icon.networks.tallUNet2(dimension=dim))
        net.regis_net = icon.TwoStepRegistration(net.regis_net, unet)
    net.assign_identity_map(size)
    randomize(net.regis_net, seed=seed, displacement=0.004 if dim == 2 else 0.01)
    module: nn.Module = net.eval()
    return module


def state_of(oracle: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of the published network, as its file holds them."""
    inner: nn.Module = oracle.regis_net  # type: ignore[assignment]
    return inner.state_dict()
