"""From a model card to its network, with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..progress import StageReport
from .carl import carl_network
from .catalogue import Card, card_named
from .checkpoint import load_into
from .constricon import constricon_network
from .gradicon import gradicon_network
from .icon import KneeNetwork
from .nephi import NePhi
from .weights import weights_file

NETWORKS: dict[str, Callable[[Card], nn.Module]] = {
    "gradicon": lambda card: gradicon_network(len(card.input_shape or ()), **card.parameters),
    "icon-knee": lambda _: KneeNetwork(),
    "carl": lambda card: carl_network(dim=len(card.input_shape or ()), **card.parameters),
    "nephi": lambda card: NePhi(card.parameters["encoder_shape"]),
    "constricon": lambda card: constricon_network(len(card.input_shape or ()), **card.parameters),
}


def untrained_network(card: Card) -> nn.Module:
    """The network of `card`, which must be one that takes weights, with random ones; under `torch.device("meta")` with none at all."""
    return NETWORKS[card.method](card)


def trained_network(card: Card, weights: Path | None, device: torch.device) -> nn.Module:
    """The network of `card`, ready to predict; not to be changed, as it is kept for the next call.

    Args:
        weights: a file in place of the card's own.

    Raises:
        WeightsError: there is no such file, or it does not hold weights of this network.
    """
    file = weights_file(card) if weights is None else weights
    stamp = file.stat().st_mtime_ns if file.exists() else 0
    return _kept(card.name, file, stamp, device)


@lru_cache(maxsize=1)
def _kept(name: str, file: Path, stamp: int, device: torch.device) -> nn.Module:  # noqa: ARG001, a changed file is another one
    card = card_named(name)
    with torch.device("meta"):
        network = untrained_network(card)
    load_into(network, card, file, network_of=untrained_network)
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
