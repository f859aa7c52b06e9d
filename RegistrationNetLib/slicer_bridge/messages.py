"""What client and worker say to each other: JSON, one message per line.

Requests are `{"id", "do", …}`, events `{"id", "event", …}`. Errors travel as `{"kind", "message"}` and become the same class again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InputError, RegistrationNetError, ResourceError, WorkerError

Message = Mapping[str, Any]

WORK = ("register", "devices", "models", "download", "import")
REQUESTS = (*WORK, "cancel", "quit")


def encoded(message: Message) -> bytes:
    """The message as one line; paths go as text, numbers and arrays of numpy as plain ones.

    Raises:
        InputError: it holds something that does not travel.
    """
    return json.dumps(message, default=_plain).encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InputError(f"{value!r} cannot be sent to the worker; numbers, text and lists of them can. Correct the options.")


def decoded(line: bytes) -> Message:
    """The message of one line.

    Raises:
        InputError: not a JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_shown(line)} is not JSON; a message is one JSON object per line. ({error})") from error
    if not isinstance(message, dict):
        raise InputError(f"{_shown(line)} is not a JSON object; a message is one per line.")
    return message


def checked_request(message: Message) -> Message:
    """The message, if it is a request that the worker knows.

    Raises:
        InputError: without an id, or for something unknown.
    """
    if not isinstance(message.get("id"), int):
        raise InputError(f"A request needs an id, a whole number; this one has {message.get('id')!r}. Number the requests.")
    if message.get("do") not in REQUESTS:
        raise InputError(f"There is no request {message.get('do')!r}; the requests are {', '.join(REQUESTS)}. Send one of them.")
    return message


def described_error(error: BaseException) -> dict[str, str]:
    """`error` as it travels. What is none of ours is told as a failure inside."""
    if isinstance(error, RegistrationNetError):
        return {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, MemoryError):
        return {"kind": ResourceError.__name__, "message": "Out of memory; close other programs or use smaller images."}
    return {"kind": WorkerError.__name__, "message": f"The worker failed inside: {type(error).__name__}: {error}"}


def error_from(description: Message) -> RegistrationNetError:
    """The error that `described_error` described."""
    kinds = {kind.__name__: kind for kind in _family(RegistrationNetError)}
    kind = kinds.get(str(description.get("kind")), WorkerError)
    return kind(str(description.get("message")))


def _family(parent: type[RegistrationNetError]) -> Iterator[type[RegistrationNetError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from _family(child)


def _shown(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", "replace"))
