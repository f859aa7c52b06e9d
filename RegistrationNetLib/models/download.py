"""One file over HTTP: with progress, resumed where it broke, and refused where it is not what was asked for.

Proxies and certificates are those of the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE); certificates are always verified.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import Cancelled, DownloadError, InputError
from ..progress import StageReport

if TYPE_CHECKING:
    import requests

PIECE_BYTES = 2**18
# What a part that waits is called, and the note of what it is a part of.
PART, OF = "part", "of.json"
BUSY = (429, 500, 502, 503, 504)
_PRINTED_OBJECT = re.compile(r"^(<[^>]*>|\w+\([^)]*\)): ")


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer or for the next piece, how often to go on after a break, and how long to pause before that.

    Raises:
        InputError: one of them is negative, or the timeout 0.
    """

    timeout_seconds: float = 20.0
    retries: int = 3
    pause_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and self.retries >= 0 and self.pause_seconds >= 0):
            raise InputError(f"Patience is a timeout above 0, and retries and a pause from 0 up; got {self}. Correct them.")


class _Break(Exception):
    """The connection broke, or the server was busy: worth another try. Its text says why."""


@dataclass
class _Transfer:
    """What has come so far lies in `file`: this `fraction` of the version of the content that `tag` names."""

    session: requests.Session
    url: str
    file: BinaryIO
    limit_bytes: int
    tag: str = ""
    fraction: float = 0.0

    def attempt(self, report: StageReport, timeout_seconds: float) -> None:
        """Receive what is still missing.

        Raises:
            _Break: it may be worth another try.
            DownloadError: it is not.
        """
        import requests

        try:
            with self.session.get(self.url, headers=self._headers(), stream=True, timeout=timeout_seconds) as response:
                self._check(response)
                self._receive(response, report)
        except requests.exceptions.SSLError as error:
            raise DownloadError(f"{self.url}: there is no secure connection ({_reason(error)}).") from error
        except requests.exceptions.ProxyError as error:
            raise DownloadError(f"{self.url}: the proxy does not work ({_reason(error)}).") from error
        except requests.exceptions.Timeout as error:
            raise _Break(f"no answer within {timeout_seconds:g} s") from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise _Break("the connection broke") from error
        except requests.exceptions.ConnectionError as error:
            raise _Break(_reason(error)) from error
        except requests.exceptions.RequestException as error:
            raise DownloadError(f"{self.url}: {_reason(error)}.") from error

    def _headers(self) -> dict[str, str]:
        plain = {"Accept-Encoding": "identity"}
        there = self.file.tell()
        return {**plain, "Range": f"bytes={there}-", "If-Range": self.tag} if there and self.tag else plain

    def _check(self, response: requests.Response) -> None:
        hops = [one.url for one in (*response.history, response)]
        if hops[0].startswith("https:") and not all(hop.startswith("https:") for hop in hops):
            raise DownloadError(f"{self.url}: the server leads to an address that is not encrypted ({hops[-1]}).")
        if response.status_code in BUSY:
            raise _Break(f"the server answered {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise DownloadError(f"{self.url}: the server answered {response.status_code} {response.reason}.")

    def _receive(self, response: requests.Response, report: StageReport) -> None:
        there = self.file.tell()
        if response.status_code == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
                raise DownloadError(f"{self.url}: the server went on at another place than asked ({there}).")
        else:
            self.file.seek(0)
            self.file.truncate()
            there = 0
        told = response.headers.get("Content-Length", "")
        length = int(told) if told.isdecimal() else 0
        self.tag = _strong_tag(response)
        self._check_size(there + length)
        for piece in response.iter_content(PIECE_BYTES):
            self.file.write(piece)
            self._check_size(self.file.tell())
            self.fraction = self.file.tell() / (there + length) if length else 0.0
            report(self.fraction)
        if length and self.file.tell() != there + length:  # an older urllib3 does not tell
            raise _Break(f"the connection broke after {self.file.tell()} of {there + length} bytes")

    def _check_size(self, size: int) -> None:
        if size > self.limit_bytes:
            raise DownloadError(f"{self.url}: the server sends more than {self.limit_bytes} bytes, which is not this file.")


def transfer(
    url: str,
    path: Path,
    *,
    limit_bytes: int,
    report: StageReport,
    patience: Patience = Patience(),
    keep: Path | None = None,
) -> None:
    """Fetch `url` into the new file `path`.

    Args:
        limit_bytes: larger content is refused as soon as that shows.
        report: hears the fraction received, and stops the transfer by raising `Cancelled`. While the server is silent
            nothing is reported, for `patience.timeout_seconds` at most.
        patience: after a break the transfer goes on where it was if the server can do that, else from the start.
        keep: a folder in which the part waits that has come when the transfer is cancelled; the next transfer with it goes on
            from there, if the server can do that and still has the same content.

    Raises:
        DownloadError: it could not be fetched; `path` may hold a part.
        OSError: `path` could not be written.
    """
    import requests

    tag = "" if keep is None else _taken_up(url, path, keep)
    try:
        with requests.Session() as session, path.open("ab" if tag else "xb") as file:
            one = _Transfer(session, url, file, limit_bytes, tag)
            for attempt in itertools.count(1):
                try:
                    one.attempt(report, patience.timeout_seconds)
                    return
                except _Break as error:
                    if attempt > patience.retries:
                        raise DownloadError(f"{url}: {error} (attempt {attempt}).") from error
                _pause(patience.pause_seconds, partial(report, one.fraction))
    except Cancelled:
        if keep is not None and one.tag and one.fraction < 1:
            keep.mkdir(exist_ok=True)
            path.replace(keep / PART)
            (keep / OF).write_text(json.dumps([url, one.tag]), encoding="utf-8")
        raise


def _taken_up(url: str, path: Path, keep: Path) -> str:
    """Put the part of `url` that waits in `keep` at `path`, and tell the tag of its content; "" where there is none."""
    try:
        of, tag = json.loads((keep / OF).read_text(encoding="utf-8"))
        if of != url:
            return ""
        (keep / PART).replace(path)
        shutil.rmtree(keep, ignore_errors=True)
    except (OSError, ValueError):
        return ""
    return str(tag)


def _pause(seconds: float, report: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        report()
        time.sleep(min(0.1, left))


def _strong_tag(response: requests.Response) -> str:
    """What names this very content, byte for byte, for a server that can go on where it broke; else nothing."""
    tag = response.headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag


def _reason(error: BaseException) -> str:
    """The innermost cause, without the objects that the libraries print around it."""
    inner: object = error
    while isinstance(inner, BaseException):
        text, inner = str(inner), getattr(inner, "reason", None) or next(iter(inner.args), None)
    return _PRINTED_OBJECT.sub("", text).rstrip(".") or type(error).__name__
