"""A card like that of a published network, at a size that tests can afford, with random weights, and with few channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from RegistrationNetLib.models import catalogue
from RegistrationNetLib.models.catalogue import Card, card_named
from RegistrationNetLib.models.layers import matrix, unet
from RegistrationNetLib.registration.methods import untrained_network

from .models.layers.published import randomize

SHAPE = (32, 36, 40)
PUBLISHED_CHANNELS = {
    (unet, "DOWN_CHANNELS"): unet.DOWN_CHANNELS,
    (unet, "UP_CHANNELS"): unet.UP_CHANNELS,
    (matrix, "CHANNELS"): matrix.CHANNELS,
}


def small_card(like: str = "unigradicon", *, shape: tuple[int, ...] = SHAPE, **changes: Any) -> Card:
    """The card `like` under the name "small", for images of `shape`; `changes` go into its sections `prepare` and `refine`."""
    card = card_named(like)
    prepare = {**card.prepare, **changes.pop("prepare", {})}
    network = {**card.refine["network"], **changes.pop("network", {})}
    return replace(card, name="small", input_shape=shape, prepare=prepare, refine={**card.refine, "network": network}, **changes)


def install(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    """For the length of a test the catalogue also knows `cards`."""
    known = {**catalogue.published_cards(), **{card.name: card for card in cards}}
    monkeypatch.setattr(catalogue, "published_cards", lambda: known)


def random_network(card: Card, *, displacement: float = 0.002, seed: int = 0) -> nn.Module:
    """The network of `card`, ready to predict displacements of about that size."""
    network = untrained_network(card).eval()
    randomize(network, displacement=displacement, seed=seed)
    return network


def random_weights(card: Card, file: Path, *, displacement: float = 0.002, seed: int = 0) -> Path:
    """A file with the weights of `random_network`."""
    torch.save(random_network(card, displacement=displacement, seed=seed).state_dict(), file)
    return file


def narrow(monkeypatch: pytest.MonkeyPatch, by: int = 16) -> None:
    """From here on networks are built as published, but with a sixteenth of the channels, for tests of what is around them."""
    for (module, name), channels in PUBLISHED_CHANNELS.items():
        monkeypatch.setattr(module, name, tuple(max(2, count // by) for count in channels))
