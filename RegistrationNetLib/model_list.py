"""The models as Slicer lists them: cards, and whether their weights are there. Light: no torch."""

from __future__ import annotations

from typing import Any

from .catalogue import cards
from .weights import weights_state


def listed_models() -> list[dict[str, Any]]:
    """Every model card as its JSON file holds it, and the "state" of its weights: `WeightsState` as a dict."""
    return [{**card.as_dict(), "state": weights_state(card).as_dict()} for card in cards().values()]
