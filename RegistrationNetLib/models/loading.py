"""From a model card to its network, with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..progress import StageReport
from .catalogue import Card, card_named
from .checkpoint import NetworkOf, load_into
from .weights import weights_file


def trained_network(card: Card, weights: Path | None, device: torch.device, *, network_of: NetworkOf) -> nn.Module:
    """The network of `card`, ready to predict; not to be changed, as it is kept for the next call.

    Args:
        weights: a file in place of the card's own.
        network_of: makes the network of a card, with random weights.

    Raises:
        WeightsError: there is no such file, or it does not hold weights of this network.
    """
    file = weights_file(card) if weights is None else weights
    stamp = file.stat().st_mtime_ns if file.exists() else 0
    return _kept(card.name, file, stamp, device, network_of)


@lru_cache(maxsize=1)
def _kept(name: str, file: Path, stamp: int, device: torch.device, network_of: NetworkOf) -> nn.Module:  # noqa: ARG001, a changed file is another one
    card = card_named(name)
    with torch.device("meta"):
        network = network_of(card)
    load_into(network, card, file, network_of=network_of)
    return network.requires_grad_(False).eval().to(device)


@contextmanager
def watched(network: nn.Module, report: StageReport) -> Iterator[None]:
    """Inside, `report` hears of every convolution that `network` begins, and may stop it by raising `Cancelled`.

    The fraction is that of one pass over both directions.
    """
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Conv3d)]
    done = 0

    def begins(_: nn.Module, __: Any) -> None:
        nonlocal done
        done += 1
        report(min(1.0, done / (2 * len(convolutions))))

    hooks = [one.register_forward_pre_hook(begins) for one in convolutions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
