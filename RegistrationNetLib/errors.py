"""The family of errors that a user may meet.

Every message has four parts: what is wrong, the rule, what came, what to do. Catch `RegistrationNetError` to catch them all.

    RegistrationNetError
    ├── InputError (also a ValueError)
    │   ├── GeometryError
    │   ├── PlanError
    │   └── WeightsError
    ├── ResourceError
    ├── DownloadError
    ├── OutputError
    ├── RefinementError
    ├── WorkerError
    └── Cancelled
"""

from __future__ import annotations

from collections.abc import Sequence


class RegistrationNetError(Exception):
    """Any failure that this library explains; `exit_status` is what the command line returns for it."""

    exit_status = 1


class InputError(RegistrationNetError, ValueError):
    """What came in breaks a rule: a file, an image, a mask, an option. Nothing was written."""

    exit_status = 2


class GeometryError(InputError):
    """The geometry of an image or a transform cannot be used: singular direction, thin or too large volume, no overlap."""


class PlanError(InputError):
    """A plan of many registrations breaks rules; `faults` tells each in a line. Nothing was started."""

    source: str = ""
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: str, faults: Sequence[str]) -> PlanError:
        """The error of the plan that was read from `source`."""
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        error = cls(f"{source} has {count}; a plan must have none before the work starts. {' '.join(faults)}")
        error.source, error.faults = source, tuple(faults)
        return error


class WeightsError(InputError):
    """Weights are missing, damaged, or not those of the model; the message says how to get the right ones."""


class ResourceError(RegistrationNetError):
    """The machine cannot do it: memory, disk or device. The message names a smaller setting that fits."""


class DownloadError(RegistrationNetError):
    """A file could not be fetched, or the server gave another one; nothing of it is kept."""


class OutputError(RegistrationNetError):
    """A result could not be written; what was half-written has been removed."""


class RefinementError(RegistrationNetError):
    """The optimization produced numbers that are not finite."""


class WorkerError(RegistrationNetError):
    """The background process failed inside, ended before it answered, or could not be started. The next request starts a new one."""


class Cancelled(RegistrationNetError):
    """The user stopped the work; nothing was written."""

    exit_status = 130


# How torch, ITK and C++ say that memory ran out.
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad alloc", "bad_alloc", "enforce fail at alloc")


def is_out_of_memory_text(text: str) -> bool:
    """Whether the text of an error says that memory ran out."""
    return any(words in text.lower() for words in _OUT_OF_MEMORY)
