"""What `models download` and `models import` do: weights come in and are tried. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from pathlib import Path

from ..models.catalogue import OWN_SUFFIX, Card, card_named, cards, read_own_card
from ..models.checkpoint import check
from ..models.weights import Check, download, import_file, import_own, weights_state
from ..registration.methods import untrained_network
from .console import progress_bar, wants_json
from .interruption import Interruption


def run_models_download(options: Namespace, interruption: Interruption) -> int:
    """Fetch the weights of a model."""
    card = card_named(options.name)
    with progress_bar(is_wanted=not options.quiet) as callback:
        path = download(card, _check_of(card), sha256=options.sha256, progress=interruption.checked(callback))
    interruption.too_late()
    _print_ready(card, path, options)
    return 0


def run_models_import(options: Namespace, interruption: Interruption) -> int:
    """Take the weights of a model from a file."""
    beside = options.file.with_name(f"{options.name}{OWN_SUFFIX}")
    if options.name not in cards() and beside.is_file():
        card = read_own_card(beside)
        path = import_own(card, options.file, _check_of(card), sha256=options.sha256)
    else:
        card = card_named(options.name)
        path = import_file(card, options.file, _check_of(card), sha256=options.sha256)
    interruption.too_late()
    _print_ready(card, path, options)
    return 0


def _print_ready(card: Card, path: Path, options: Namespace) -> None:
    if wants_json(options):
        print(json.dumps({"name": card.name, "file": str(path), "sha256": weights_state(card).sha256}, indent=2))
    elif not options.quiet:
        print(f"{card.name} is ready: {path}")
        print(f"SHA-256 {weights_state(card).sha256}; whatever comes later under this name must have it too.")


def _check_of(card: Card) -> Check:
    return partial(check, card=card, network_of=untrained_network)
