"""What `models list`, `models show` and `models remove` do: what needs no network. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from ..errors import InputError
from ..models.catalogue import Card, card_named, cards, models_folder, own_card_path
from ..models.weights import checksum_in_words, megabytes, remove, remove_unreadable, total_size, weights_state
from .console import table, wants_json
from .interruption import Interruption


def run_models_list(options: Namespace, interruption: Interruption) -> int:
    """List the models and whether their weights are here."""
    interruption.check()
    if wants_json(options):
        print(json.dumps([_card_and_state(card) for card in cards().values()], indent=2))
        return 0
    rows = [(name, str(weights_state(card)), card.title) for name, card in cards().items()]
    print(table([("NAME", "WEIGHTS", "TITLE"), *rows], indent=""))
    print(f"\nWeights lie in {models_folder()} ({megabytes(total_size())})")
    return 0


def run_models_show(options: Namespace, interruption: Interruption) -> int:
    """Print the card of a model."""
    interruption.check()
    card = card_named(options.name)
    content = _card_and_state(card)
    if wants_json(options):
        print(json.dumps(content, indent=2))
    else:
        told = [("checksum", words)] if (words := checksum_in_words(card)) else []
        print(table([(key, _in_one_line(value)) for key, value in content.items()] + told, indent=""))
    return 0


def run_models_remove(options: Namespace, interruption: Interruption) -> int:
    """Remove the weights of a model."""
    interruption.check()
    try:
        card = card_named(options.name)
    except InputError:
        if not own_card_path(options.name).is_file():
            raise
        freed = remove_unreadable(options.name)
    else:
        freed = remove(card)
    if wants_json(options):
        print(json.dumps({"name": options.name, "freed_bytes": freed}, indent=2))
    elif not options.quiet:
        print(f"{options.name}: {megabytes(freed)} freed" if freed else f"{options.name}: there was nothing to remove")
    return 0


def _card_and_state(card: Card) -> dict[str, Any]:
    return {**card.as_dict(), "state": weights_state(card).as_dict()}


def _in_one_line(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
