"""Deep image registration that a clinician can trust.

`register` is the one call; importing this package alone loads neither torch nor SimpleITK, its names load on first use.

What is being done is told to the logger of each file, all below "RegistrationNetLib": stages and their times, and what was chosen and why.
Nobody hears of it until the program that uses this library asks: `logging.basicConfig(level="INFO")`. No file is named there.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cohort.series import SeriesRegistration, register_series
    from .errors import Cancelled, InputError, RegistrationNetError
    from .progress_bars import progress_bar
    from .registration.pipeline import Registration, register
    from .version import __version__

__all__ = [
    "Cancelled",
    "InputError",
    "Registration",
    "RegistrationNetError",
    "SeriesRegistration",
    "__version__",
    "progress_bar",
    "register",
    "register_series",
]

# A library leaves to the program who hears.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_MODULES = {
    "__version__": "version",
    "Cancelled": "errors",
    "InputError": "errors",
    "RegistrationNetError": "errors",
    "Registration": "registration.pipeline",
    "SeriesRegistration": "cohort.series",
    "progress_bar": "progress_bars",
    "register": "registration.pipeline",
    "register_series": "cohort.series",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
