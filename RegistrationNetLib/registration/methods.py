"""The methods, by the name that cards give them. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from ..models.catalogue import Card
from .constricon import ConstrICON
from .direct import Direct
from .method import Method
from .nephi import NePhi
from .network_methods import CARL, GradICON, ICONKnee

if TYPE_CHECKING:
    from torch import nn

METHODS: dict[str, Method] = {one.name: one for one in (Direct(), GradICON(), ICONKnee(), CARL(), ConstrICON(), NePhi())}


def method_of(card: Card) -> Method:
    """The method that a card names.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    if card.method not in METHODS:
        raise InputError(
            f"The card {card.name} names the method {card.method!r}; the methods are {', '.join(METHODS)}. Correct the card."
        )
    return METHODS[card.method]


def untrained_network(card: Card) -> nn.Module:
    """The network of `card`, which must have one, with random weights; under `torch.device("meta")` with none at all.

    Raises:
        InputError: the card describes none.
    """
    method = method_of(card)
    try:
        return method.network(card)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"The card of {card.name} describes no network of the method {card.method} ({type(error).__name__}: {error}). "
            "Correct its `parameters` and `input_shape`."
        ) from error
