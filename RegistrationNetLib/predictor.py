"""From a model card to its network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .catalogue import Card
from .models.gradicon import gradicon_network
from .models.icon import KneeNetwork

_NETWORKS: dict[str, Callable[[Card], nn.Module]] = {
    "gradicon": lambda card: gradicon_network(len(card.input_shape or ()), **card.parameters),
    "icon-knee": lambda _: KneeNetwork(),
}


def untrained_network(card: Card) -> nn.Module:
    """The network of `card`, which must be one that has weights, with random ones; under `torch.device("meta")` with none at all."""
    return _NETWORKS[card.method](card)
