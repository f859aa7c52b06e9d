"""Where the weights of each model lie, and how they come and go: download, import, checksum, removal.

A name has one content: the checksum of the card where one is published, else that of the first file that came, which is pinned
in a small file beside it. Whatever comes later under that name must be the same, until the user removes it.

The weights lie in the user's cache folder, or in REGISTRATIONNET_CACHE. REGISTRATIONNET_WEIGHTS_URL names a mirror: the base
address under which the files of the cards lie by their own names.

This file reads no tensors, and Slicer's own process may use it: whether a file holds the right ones is asked of a `Check`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DownloadError, InputError, OutputError, ResourceError, WeightsError
from ..io.native_paths import printable
from ..progress import ProgressCallback, Stages, silent
from .catalogue import WEIGHTS_SUFFIXES, Card, cards, check_own_name, models_folder, own_card_path
from .download import Patience, transfer

# Files may hold more than the weights (old ones hold coordinates too), and say so by their size before they come.
LARGEST = 4
ARRIVING = ".arriving-"
LEFTOVER_SECONDS = 24 * 3600

Check = Callable[[Path], None]
"""Raises `InputError` unless the file holds the weights of the card: see `checkpoint.check`."""


@dataclass(frozen=True)
class WeightsState:
    """Whether a model can be used. `size` in bytes is that on disk where ready, and about what a download takes where not.

    `sha256` is the checksum that the file must have: as published, else as pinned when it first came; None before that.
    """

    kind: Literal["none needed", "ready", "missing", "damaged"]
    path: Path | None = None
    size: int = 0
    sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "path": str(self.path) if self.path else None,
            "bytes": self.size,
            "sha256": self.sha256,
        }

    def __str__(self) -> str:
        size = megabytes(self.size)
        return {"ready": f"ready, {size}", "missing": f"missing, about {size}"}.get(self.kind, self.kind)


def megabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def weights_state(card: Card) -> WeightsState:
    """Whether the weights of `card` are there, at a glance: by the file's size, where `weights_file` looks at every byte."""
    if card.weights is None:
        return WeightsState("none needed")
    path, about = _path(card), int(card.weights["bytes"])
    if not path.is_file():
        return WeightsState("missing", path, about, _expected(card))
    pin = _pin(card)
    if pin is None or path.stat().st_size != pin["bytes"]:
        return WeightsState("damaged", path, about, _expected(card))
    return WeightsState("ready", path, path.stat().st_size, _expected(card))


def checksum_in_words(card: Card) -> str:
    """The SHA-256 checksum that the weights of `card` must have, and who says so; "" for a model without weights."""
    if card.weights is None:
        return ""
    if published := card.weights["sha256"]:
        return f"{published}, as published"
    if first := _expected(card):
        return f"{first}, as the file had that came first; none is published"
    return "none is published; the first file is taken on faith, and from then on its checksum is asked for. If you know it, give --sha256"


def listed_models() -> list[dict[str, Any]]:
    """Every model card as its JSON file holds it, and the "state" of its weights: `WeightsState` as a dict."""
    return [{**card.as_dict(), "state": weights_state(card).as_dict()} for card in cards().values()]


def weights_file(card: Card) -> Path:
    """The file with the weights of `card`, its checksum verified.

    Raises:
        InputError: the card needs no weights.
        WeightsError: they are missing or damaged; the message says how to get them, with or without a network.
    """
    state = weights_state(card)
    path = _path(card)
    if state.kind == "missing":
        raise WeightsError(f"The weights of {card.name} are not on this machine (about {megabytes(state.size)}). {_remedy(card)}")
    if state.kind == "damaged" or sha256(path) != _expected(card):
        raise WeightsError(
            f"The file {path} is not what was downloaded or imported for {card.name}; it is not used. {_remedy(card)}"
        )
    return path


def download(
    card: Card,
    check: Check,
    *,
    sha256: str | None = None,
    progress: ProgressCallback = silent,
    patience: Patience = Patience(),
) -> Path:
    """The file with the weights of `card`, fetched if it is not there yet or damaged; it appears whole or not at all.

    Args:
        check: asked before the file takes its place.
        sha256: the checksum that the file must have, known from elsewhere.
        progress: hears the stages "download" and "check", and stops the work by raising `Cancelled`. What has come by then
            is kept for a day, and the next download goes on from there if the server can do that.
        patience: with a slow or breaking connection.

    Raises:
        InputError: the card needs no weights.
        WeightsError: the file that is there has another checksum than `sha256`.
        DownloadError: the file cannot be fetched, is not what the card asks for, or has changed since it was pinned.
        ResourceError: there is too little space on the disk.
        OutputError: the cache folder cannot be written.
    """
    path, url = _path(card), weights_url(card)
    if _is_intact(card):
        _check_sum(card, str(_expected(card)), sha256, path)
        return path
    with _arriving(card) as file:
        stages = Stages(progress, {"download": 0.95, "check": 0.05})
        report = stages.begin("download")
        try:
            limit = LARGEST * int(_weights(card)["bytes"])
            transfer(url, file, limit_bytes=limit, report=report, patience=patience, keep=_part_folder(card))
        except DownloadError as error:
            raise DownloadError(f"Cannot download the weights of {card.name}. {error} {_by_hand(card)}") from error
        stages.begin("check")
        try:
            _adopt(card, file, check, source=url, wanted=sha256)
        except InputError as error:
            raise DownloadError(f"What {url} sent cannot be used. {error}") from error
    return path


def import_file(card: Card, path: Path, check: Check, *, sha256: str | None = None) -> Path:
    """A copy of the file `path` as the weights of `card`; it appears whole or not at all.

    Args:
        sha256: the checksum that the file must have, known from elsewhere.

    Raises:
        InputError: the card needs no weights, or `path` cannot be read.
        WeightsError: `path` is not what the card asks for, or other weights are already pinned under its name.
        ResourceError, OutputError: as for `download`.
    """
    target = _path(card)
    try:
        with path.open("rb") as source, _arriving(card) as file:
            with file.open("xb") as copy:
                shutil.copyfileobj(source, copy, 2**20)
            try:
                _adopt(card, file, check, source=printable(path.name), wanted=sha256)
            except WeightsError as error:  # the user's own file is what it is about, not its copy
                raise WeightsError(str(error).replace(str(file), printable(path))) from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}. Check the name and its permissions.") from error
    return target


def import_own(card: Card, path: Path, check: Check, *, sha256: str | None = None) -> Path:
    """As `import_file`, for a model of the user's own, whose card comes along: from now on it is one of `catalogue.cards()`.

    Raises:
        InputError, WeightsError, ResourceError, OutputError: as for `import_file`.
    """
    target = import_file(card, path, check, sha256=sha256)
    own = own_card_path(card.name)
    try:
        arriving = own.with_suffix(".arriving")
        arriving.write_text(json.dumps(card.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        arriving.replace(own)
    except OSError as error:
        raise OutputError(f"Cannot write {own}: {error.strerror or error}. Free some space.") from error
    return target


def remove(card: Card) -> int:
    """Remove the weights of `card` and forget their checksum, and the card of an own model; how many bytes that freed.

    Raises:
        InputError: the card needs no weights.
        OutputError: the file cannot be removed.
    """
    path = _path(card)
    try:
        freed = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        _pin_path(card).unlink(missing_ok=True)
        shutil.rmtree(_part_folder(card), ignore_errors=True)
        own_card_path(card.name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot remove {path}: {error.strerror or error}. Close what uses it, or remove it by hand."
        ) from error
    return freed


def remove_unreadable(name: str) -> int:
    """Remove the own model `name` whose card cannot be used, with all that it may have; how many bytes that freed.

    Raises:
        InputError: it is no name of an own model.
        OutputError: a file cannot be removed.
    """
    check_own_name(name)
    weights = [models_folder() / f"{name}{suffix}" for suffix in WEIGHTS_SUFFIXES]
    return sum(map(_unlinked, (own_card_path(name), *weights, *(path.with_name(f"{path.name}.json") for path in weights))))


def _unlinked(path: Path) -> int:
    """Remove a file, which may be missing; its size."""
    try:
        freed = path.stat().st_size if path.is_file() else 0
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot remove {path}: {error.strerror or error}. Close what uses it, or remove it by hand."
        ) from error
    return freed


def total_size() -> int:
    """Bytes of everything in the folder of the weights."""
    return sum(path.stat().st_size for path in models_folder().rglob("*") if path.is_file())


def weights_url(card: Card) -> str:
    """Where the weights of `card` are fetched from: the address on the card, or the mirror that the environment names.

    Raises:
        InputError: the card needs no weights.
        WeightsError: none are published for it.
    """
    mirror, url = os.environ.get("REGISTRATIONNET_WEIGHTS_URL"), _weights(card)["url"]
    if mirror:
        return f"{mirror.rstrip('/')}/{_path(card).name}"
    if url is None:
        raise WeightsError(f"There is nothing to download for {card.name}. {_remedy(card)}")
    return str(url)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _weights(card: Card) -> Mapping[str, Any]:
    if card.weights is None:
        raise InputError(f"The model {card.name} needs no weights; it is ready as it is. Choose another model, or just use it.")
    return card.weights


def _path(card: Card) -> Path:
    return models_folder() / str(_weights(card)["file"])


def _part_folder(card: Card) -> Path:
    """Where a part waits whose download was cancelled; like everything that arrives, not for ever."""
    return models_folder() / f"{ARRIVING}{_path(card).name}"


def _pin_path(card: Card) -> Path:
    return _path(card).with_name(_path(card).name + ".json")


def _pin(card: Card) -> Mapping[str, Any] | None:
    """What was noted when the weights came: sha256, bytes, source; None where that is missing or unreadable."""
    try:
        pin = json.loads(_pin_path(card).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return pin if isinstance(pin, dict) and {"sha256", "bytes"} <= set(pin) else None


def _expected(card: Card) -> str | None:
    published: str | None = _weights(card)["sha256"]
    pin = _pin(card)
    return published or (str(pin["sha256"]) if pin else None)


def _is_intact(card: Card) -> bool:
    return weights_state(card).kind == "ready" and sha256(_path(card)) == _expected(card)


def _remedy(card: Card) -> str:
    """How the weights of `card` get here."""
    url = _weights(card)["url"]
    if url is None:
        return f"None are published for it: run `registrationnet models import {card.name} FILE` with a file of your own."
    return f"Run `registrationnet models download {card.name}`. {_by_hand(card)}"


def _by_hand(card: Card) -> str:
    return (
        f"Without a network: fetch {_weights(card)['url']} on another machine, "
        f"bring the file here and run `registrationnet models import {card.name} FILE`."
    )


@contextmanager
def _arriving(card: Card) -> Iterator[Path]:
    """A name for a file on the disk of the cache; the file is gone when the block ends, unless it was moved elsewhere."""
    folder, needed = models_folder(), int(_weights(card)["bytes"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ResourceError(
                f"The weights of {card.name} need about {megabytes(needed)}; {folder} has {megabytes(free)} free. "
                "Free some space, or name another folder in REGISTRATIONNET_CACHE."
            )
        with tempfile.TemporaryDirectory(prefix=ARRIVING, dir=folder) as temporary:
            yield Path(temporary) / _path(card).name
    except OSError as error:
        raise OutputError(
            f"Cannot write {folder}: {error.strerror or error}. "
            f"Free about {megabytes(needed)}, or name another folder in REGISTRATIONNET_CACHE."
        ) from error


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed has left."""
    for leftover in folder.glob(f"{ARRIVING}*"):
        with suppress(OSError):  # another process may be sweeping too
            if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _check_sum(card: Card, came: str, wanted: str | None, path: Path) -> None:
    """Refuse a file whose checksum is not the one that the user has asked for."""
    if wanted is not None and came != wanted.lower():
        raise WeightsError(
            f"The weights of {card.name} must have the checksum {wanted.lower()}, as you asked; {path} has {came}. "
            "Do not use it before you know which of the two is right."
        )


def _adopt(card: Card, file: Path, check: Check, *, source: str, wanted: str | None = None) -> None:
    """Move `file` to its place if it is what the user, the card and the pin ask for, and pin it.

    Raises:
        WeightsError: it is not.
    """
    came, expected = sha256(file), _expected(card)
    _check_sum(card, came, wanted, file)
    if expected and came != expected:
        raise WeightsError(
            f"The weights of {card.name} must have the checksum {expected[:12]}…, "
            f"{'as published' if _weights(card)['sha256'] else 'as when they first came here'}; this file has {came[:12]}…. "
            f"If it is damaged, get it again; if you trust it as it is, run `registrationnet models remove {card.name}` first."
        )
    check(file)
    pin = file.with_name("pin")
    pin.write_text(json.dumps({"sha256": came, "bytes": file.stat().st_size, "source": source}) + "\n", encoding="utf-8")
    pin.replace(_pin_path(card))
    file.replace(_path(card))
