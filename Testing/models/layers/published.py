"""Random values for every parameter of a published network, so that nothing in it is zero, one or hidden."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def randomize(net: nn.Module, *, displacement: float = 0.004, seed: int = 0) -> None:
    """All parameters and batch-norm statistics at random; the networks then give displacements of about `displacement`."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif name.endswith("running_var") or ("batchNorms" in name and name.endswith(".weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (1.5 / value[0].numel()) ** 0.5)
        else:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
        if "lastConv" in name:
            value.mul_(displacement * 10)


def smooth_pair(shape: Sequence[int], *, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Two images [batch, 1, *shape] in [0, 1] with features some voxels wide, as anatomy has them."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    first, second = (
        F.interpolate(torch.rand(batch, 1, *(max(2, size // 6) for size in shape)), size=tuple(shape), mode=mode)
        for _ in range(2)
    )
    return first, second
