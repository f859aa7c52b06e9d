"""What a training gives: weights in the reference's layout, and the card of a model of its own beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..io.outputs import staged
from ..models.catalogue import OWN_SUFFIX, Card
from ..models.checkpoint import save_as_published
from ..models.weights import sha256


def own_card(base: Card, name: str, *, shape: Sequence[int], refine: dict[str, Any], trained_on: str) -> Card:
    """The card of a model that was trained as `base` is, for images on a lattice of `shape`.

    Args:
        refine: what replaces entries of the section `refine.network`, such as another similarity.
        trained_on: in words.
    """
    network = {**base.refine["network"], **refine}
    weights = {
        "url": None, "file": f"{name}.trch", "bytes": 0, "sha256": None, "state_dict_prefix": "",
        "licence": "Whatever you decide; that of the weights it started from, and of the images, may bind you.",
        "trained_on": trained_on,
    }  # fmt: skip
    parameters = dict(base.parameters)
    if "encoder_shape" in parameters:
        parameters["encoder_shape"] = list(shape)
    return replace(
        base,
        name=name,
        title=f"{name} (own training)",
        summary=f"A model of this user's own, of the kind of {base.name}. It was trained here and judged by nobody else.",
        parameters=parameters,
        input_shape=tuple(shape),
        refine={**base.refine, "network": network},
        weights=weights,
        intended_use="Research, on images like those that it was trained on.",
        not_for="Decisions about a patient that rest on it alone; images of another kind than those that it was trained on.",
    )


def write_model(network: nn.Module, card: Card, folder: Path, *, in_half: bool = False) -> Path:
    """Write `NAME.trch` and `NAME.card.json` into `folder`; `registrationnet models import NAME FILE` takes both.

    Args:
        in_half: the weights in half precision.

    Raises:
        OutputError: they could not be written.
    """
    file = folder / f"{card.name}.trch"
    save_as_published(network, card, file, in_half=in_half)
    told = {**(card.weights or {}), "bytes": file.stat().st_size, "sha256": sha256(file)}
    with staged(folder / f"{card.name}{OWN_SUFFIX}") as temporary:
        content = replace(card, weights=told).as_dict()
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file
