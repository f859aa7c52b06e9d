"""Deep image registration that a clinician can trust.

`register` is the one call; importing this package alone loads neither torch nor SimpleITK, its names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Cancelled, InputError, RegistrationNetError
    from .registration import Registration, register
    from .version import __version__

__all__ = ["Cancelled", "InputError", "Registration", "RegistrationNetError", "__version__", "register"]

# `report` comes along with `register`, so that a result can write its page.
_ROOMS = {
    "__version__": ("version",),
    "Cancelled": ("errors",),
    "InputError": ("errors",),
    "RegistrationNetError": ("errors",),
    "Registration": ("registration", "report"),
    "register": ("registration", "report"),
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    first, *_ = [importlib.import_module(f".{room}", __name__) for room in _ROOMS[name]]
    return getattr(first, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
