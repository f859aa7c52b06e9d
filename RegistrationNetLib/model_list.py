"""The models as Slicer lists them: cards, and whether their weights are there. Light: no torch."""

from __future__ import annotations

from typing import Any

from .catalogue import Card, cards
from .errors import InputError
from .progress import ProgressCallback


def listed_models() -> list[dict[str, Any]]:
    """Every model card as its JSON file holds it, and the "state" of its weights."""
    return [{**card.as_dict(), "state": weights_state(card)} for card in cards().values()]


def weights_state(card: Card) -> str:
    """What is there of the weights: "not needed", "missing" or "ready"."""
    return "not needed" if card.weights is None else "missing"


def download_weights(card: Card, progress: ProgressCallback) -> None:  # noqa: ARG001
    """Fetch the weights of `card`.

    Raises:
        InputError: it has none.
    """
    raise InputError(f"The model {card.name} has no weights to download; it works without. Choose another model.")
