"""Deep image registration that a clinician can trust.

`register` is the one call; importing this package alone loads neither torch nor SimpleITK, its names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Cancelled, InputError, RegistrationNetError
    from .registration.pipeline import Registration, register
    from .version import __version__

__all__ = ["Cancelled", "InputError", "Registration", "RegistrationNetError", "__version__", "register"]

_MODULES = {
    "__version__": "version",
    "Cancelled": "errors",
    "InputError": "errors",
    "RegistrationNetError": "errors",
    "Registration": "registration.pipeline",
    "register": "registration.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
