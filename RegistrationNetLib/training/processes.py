"""Training on several devices: one process for each, started by `torchrun`, which share their gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import InputError


@dataclass(frozen=True)
class Processes:
    """The processes of a training: how many, and which of them this one is."""

    count: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """The one that writes files and talks."""
        return self.rank == 0

    def spread(self, module: nn.Module) -> nn.Module:
        """`module`, whose gradients are those of all processes; the module itself where there is one only."""
        if self.count == 1:
            return module
        # A method may have parameters that it does not use (uniCARL has).
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.count

    def together(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def is_first_process() -> bool:
    """Is this the process that talks? Known before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def launched(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that `torchrun` has started, and the device of this one; this process alone where it has not.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE, device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started {count} processes; this machine has {torch.cuda.device_count()} GPUs, and each process needs one. "
                "Give --nproc_per_node that number."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(count, dist.get_rank()), device
    finally:
        dist.destroy_process_group()
