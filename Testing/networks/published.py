"""Random values for every parameter of a published network, so that nothing in it is zero, one or hidden."""

import torch
from torch import nn


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
