"""The models as Slicer lists them: cards, and whether their weights are there. Light: no torch."""

from __future__ import annotations

from typing import Any

from .catalogue import Card, cards
from .weights import WeightsState, weights_state


def listed_models() -> list[dict[str, Any]]:
    """Every model card as its JSON file holds it, and the "state" of its weights: `WeightsState` as a dict."""
    return [{**card.as_dict(), "state": _state(card).as_dict()} for card in cards().values()]


def _state(card: Card) -> WeightsState:
    try:
        return weights_state(card)
    except ModuleNotFoundError:
        # platformdirs comes with what registration needs; before that is installed no weights can have come.
        return WeightsState("missing", None, int((card.weights or {})["bytes"]))
