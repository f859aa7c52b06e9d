"""The images of a cohort on the network's lattice, read when they are wanted."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, RegistrationNetError
from ..geometry.space import Grid, grid_of
from ..io.checksums import stamp_of
from ..io.image_files import read_image
from ..io.inputs import checked_image
from ..io.label_images import checked_labels, checked_mask
from ..registration.network_lattice import as_seen
from ..registration.prepare import Preparation, on_lattice, prepared
from ..version import __version__
from .cohort_files import Cohort, Source
from .image_cache import ImageCache
from .pairs import Example, Pair

KEEP_MB = 4000
UNREADABLE = ("stop", "skip")
# Grows when images are prepared otherwise than before within one version of the library.
PREPARED_AS = 1


@dataclass
class Reader:
    """Images on the network's lattice, prepared as the model wants them; the last ones are kept in memory.

    Args:
        shape: of the lattice.
        preparation: of the model.
        keep_mb: what they may take.
        cache: where prepared images are kept on disk, if they are.
    """

    shape: Sequence[int]
    preparation: Preparation
    keep_mb: float = KEEP_MB
    cache: ImageCache | None = None
    _kept: OrderedDict[Source, Example] = field(default_factory=OrderedDict)
    _grids: dict[Path, Grid] = field(default_factory=dict)
    _kept_mb: float = 0.0

    def example(self, source: Source) -> Example:
        """The image of `source` with its mask and labels.

        Raises:
            InputError: a file cannot be read, or breaks a rule; the message names it.
        """
        if source not in self._kept:
            self._kept[source] = self._read(source) if self.cache is None else self._cached(source, self.cache)
            self._kept_mb += _megabytes(self._kept[source])
        self._kept.move_to_end(source)
        while self._kept_mb > self.keep_mb and len(self._kept) > 1:
            self._kept_mb -= _megabytes(self._kept.popitem(last=False)[1])
        return self._kept[source]

    def key(self, source: Source) -> str:
        """A name for the prepared image as it is now: it is another one when a file, or how it is prepared, has changed.

        Raises:
            OSError: a file is missing, or cannot be read.
        """
        paths = {name: getattr(source, name) for name in ("image", "mask", "labels", "like")}
        made_of = {
            "version": [__version__, PREPARED_AS],
            "files": {name: [str(path.absolute()), stamp_of(path)] for name, path in paths.items() if path is not None},
            "modality": source.modality,
            "shape": list(self.shape),
            "preparation": asdict(self.preparation),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:40]

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the images that this one holds."""
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_mb": 0.0}

    def forget(self) -> None:
        """Free the images that are in memory; they are read again when they are wanted."""
        self._kept.clear()
        self._kept_mb = 0.0

    def _cached(self, source: Source, cache: ImageCache) -> Example:
        try:
            key = self.key(source)
        except OSError:
            return self._read(source)  # which says what is wrong
        found = cache.get(key)
        if found is None:
            found = self._read(source)
            cache.put(key, found)
        return found

    def _read(self, source: Source) -> Example:
        what = str(source.image)
        if source.modality not in self.preparation.intensity:
            raise InputError(
                f"{what} has the modality {source.modality!r}; this model takes {', '.join(self.preparation.intensity)}. "
                "Say so by `modality` if that is what it is, or choose another model."
            )
        if source.mask is None and self.preparation.needs_mask:
            raise InputError(f"{what} has no mask; this model needs one of every image. Give masks, or choose another model.")
        image = checked_image(source.image, what)
        if image.GetDimension() != len(self.shape):
            raise InputError(
                f"{what} has {image.GetDimension()} dimensions, and the network {len(self.shape)}; both need the same. "
                "Leave it out, or give another `shape`."
            )
        mask = None if source.mask is None else checked_mask(source.mask, image, str(source.mask))
        labels = None if source.labels is None else checked_labels(source.labels, image, str(source.labels))
        towards = None if source.like is None else self._grid(source.like)
        ready = prepared(
            image, self.preparation.intensity[source.modality], mask, labels,
            what=what, towards=towards,
            zero_outside_mask=self.preparation.zero_outside_mask, crops_border=self.preparation.crops_border,
        )  # fmt: skip
        ready = on_lattice(as_seen(ready, self.preparation.orientation), self.shape)
        return Example(ready.values, ready.mask, ready.labels)

    def _grid(self, like: Path) -> Grid:
        if like not in self._grids:
            self._grids[like] = grid_of(read_image(like))
        return self._grids[like]


def _megabytes(example: Example) -> float:
    tensors = (example.values, example.mask, example.labels)
    return sum(one.numel() * one.element_size() for one in tensors if one is not None) / 1e6


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    image: Path
    reason: str


@dataclass(frozen=True)
class CohortPairs:
    """The pairs of a cohort, read when they are drawn."""

    cohort: Cohort
    reader: Reader

    def draw(self, random: torch.Generator) -> Pair:
        """A pair of the list; or any two images of a group, all groups being equally likely, whichever of the two is fixed."""

        def chosen(count: int) -> int:
            return int(torch.randint(count, (), generator=random))

        if self.cohort.pairs:
            return self._read(self.cohort.pairs[chosen(len(self.cohort.pairs))])
        group = self.cohort.groups[chosen(len(self.cohort.groups))]
        first = chosen(len(group))
        second = (first + 1 + chosen(len(group) - 1)) % len(group)
        return self._read((group[first], group[second]))

    def first(self, count: int) -> list[Pair]:
        """The first pairs of the list; or neighbours within each group, the groups taking turns."""
        if self.cohort.pairs:
            return [self._read(pair) for pair in self.cohort.pairs[:count]]
        most = max(map(len, self.cohort.groups)) - 1
        turns = [group[place : place + 2] for place in range(most) for group in self.cohort.groups if place + 1 < len(group)]
        return [self._read((pair[0], pair[1])) for pair in turns[:count]]

    def _read(self, pair: tuple[Source, Source]) -> Pair:
        fixed, moving = (self.reader.example(one) for one in pair)
        return Pair(fixed, moving)


def check_unreadable(unreadable: str) -> None:
    """What becomes of files that cannot be used: "stop" or "skip".

    Raises:
        InputError: it is something else.
    """
    if unreadable not in UNREADABLE:
        raise InputError(f"`unreadable` must be {' or '.join(UNREADABLE)}; got {unreadable!r}. Choose one of them.")


def surveyed(
    cohort: Cohort,
    reader: Reader,
    *,
    unreadable: str = "stop",
    usable: set[str] | None = None,
    report: Callable[[float], None] = lambda _: None,
) -> tuple[CohortPairs, tuple[Skipped, ...]]:
    """The pairs of `cohort`, every file of which was read once, so that none fails in the middle of the training.

    Args:
        usable: keys of images (`Reader.key`) that were read before and need not be again; those of the others are added.
        unreadable: "stop" at the first file that cannot be used, or "skip" such files.
        report: hears the fraction that is read, and may stop it by raising `Cancelled`.

    Raises:
        InputError: the file and what is wrong with it; or that nothing is left.
    """
    check_unreadable(unreadable)
    usable = set() if usable is None else usable
    skipped: dict[Source, Skipped] = {}
    sources = list(dict.fromkeys(cohort.sources()))
    for place, source in enumerate(sources):
        report(place / len(sources))
        try:
            _look_at(source, reader, usable)
        except RegistrationNetError as error:
            if unreadable == "stop":
                raise InputError(f'{error} To go on without such files, set unreadable = "skip".') from error
            skipped[source] = Skipped(source.image, str(error))
    left = cohort.without(frozenset(skipped))
    if not (left.pairs or left.groups):
        raise InputError(
            f"No pair of the cohort can be read; at least one is needed. The first: {next(iter(skipped.values())).reason}"
        )
    return CohortPairs(left, reader), tuple(skipped.values())


def _look_at(source: Source, reader: Reader, usable: set[str]) -> None:
    """Read the image of `source`, unless it is among those `usable`; then it is one of them."""
    try:
        key = reader.key(source)
    except OSError:
        reader.example(source)  # which says what is wrong
        return
    if key not in usable:
        reader.example(source)
        usable.add(key)
