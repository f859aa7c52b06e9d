"""Prepared images on disk, so that the next epoch, start or process need not decode and prepare them again."""

from __future__ import annotations

import os
import re
import tempfile
import time
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import OutputError
from .pairs import Example

SUFFIX = ".prepared.npz"
# The folder may hold files of the user: only those of these names are measured and removed, entries and what is being written.
BEING_WRITTEN = ".writing-"
_OWN = re.compile(rf"([0-9a-f]+|{re.escape(BEING_WRITTEN)}\w+){re.escape(SUFFIX)}")
GIGABYTE = 1e9
HEADER_BYTES = 512  # of an array in a file, at most
# After so many new entries of this process the folder is measured again: others write there, too.
MEASURED_EVERY = 64
# A file that is being written for longer was left by a process that was killed.
LEFTOVER_SECONDS = 3600

# What reading a damaged entry raises; RuntimeError where it says that it is encrypted, or packed as nothing is.
DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclass
class ImageCache:
    """A folder of prepared images by key (hexadecimal digits). Several processes may use it: an entry appears whole or not at all.

    Args:
        folder: is made when the first entry comes.
        most_gb: what the entries may take; those that were not read for longest make room.
    """

    folder: Path
    most_gb: float
    _bytes: float = 0.0
    _unmeasured: int = field(default=MEASURED_EVERY)

    def get(self, key: str) -> Example | None:
        """The image of that key; None where there is none, or a damaged one, which is removed."""
        path = self.folder / f"{key}{SUFFIX}"
        try:
            # Each array has a checksum, which reading it compares. `np.load` would take a lone array, too.
            with path.open("rb") as file, np.lib.npyio.NpzFile(file) as found:
                example = Example(_tensor(found["values"]), _mask(found), _labels(found))
        except FileNotFoundError:
            return None
        except DAMAGE:
            _remove(path)
            return None
        with suppress(OSError):  # another process may have removed it
            os.utime(path)
        return example

    def put(self, key: str, example: Example) -> None:
        """Keep an image, if the cache may be as large as it.

        Raises:
            OutputError: it could not be written.
        """
        arrays = _arrays(example)
        needed = sum(one.nbytes + HEADER_BYTES for one in arrays.values())
        if needed > self.most_gb * GIGABYTE:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(needed)
            handle, written = tempfile.mkstemp(prefix=BEING_WRITTEN, suffix=SUFFIX, dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                Path(written).replace(self.folder / f"{key}{SUFFIX}")
            finally:
                _remove(Path(written))
        except OSError as error:
            raise OutputError(
                f"Cannot write the cache of prepared images {self.folder}: {error.strerror or error}. "
                "Free some space, give a smaller `cache_gb` or another folder, or leave `cache` out."
            ) from error

    def _make_room(self, needed: float) -> None:
        if self._unmeasured >= MEASURED_EVERY or self._bytes + needed > self.most_gb * GIGABYTE:
            self._bytes, self._unmeasured = self._trimmed(needed), 0
        self._bytes += needed
        self._unmeasured += 1

    def _trimmed(self, needed: float) -> float:
        """Remove entries until `needed` bytes fit; what is left, in bytes."""
        states = []
        for path in self.folder.iterdir():
            if not _OWN.fullmatch(path.name):
                continue
            with suppress(OSError):
                state = path.stat()
                if not path.name.startswith(BEING_WRITTEN) or time.time() - state.st_mtime > LEFTOVER_SECONDS:
                    states.append((state.st_mtime, state.st_size, path))
        total = float(sum(size for _, size, _ in states))
        for _, size, path in sorted(states):
            if total + needed <= self.most_gb * GIGABYTE:
                break
            _remove(path)
            total -= size
        return total


def _arrays(example: Example) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    arrays = {"values": example.values.numpy()}
    if example.mask is not None:
        arrays["mask"] = example.mask.numpy()
    if example.labels is not None:
        labels = example.labels.numpy()
        small = np.result_type(*(np.min_scalar_type(int(end)) for end in (labels.min(), labels.max())))
        arrays["labels"] = labels.astype(small)
    return arrays


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    return torch.from_numpy(array)


def _mask(found: np.lib.npyio.NpzFile) -> Tensor | None:
    return _tensor(found["mask"]) if "mask" in found else None


def _labels(found: np.lib.npyio.NpzFile) -> Tensor | None:
    return _tensor(found["labels"].astype(np.int64)) if "labels" in found else None


def _remove(path: Path) -> None:
    with suppress(OSError):  # another process may have removed it, or holds it open
        path.unlink()
