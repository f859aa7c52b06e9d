"""What a network is to learn from, as it is asked for: files of a cohort, or synthetic images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..models.catalogue import Card
from ..registration.prepare import Preparation
from .cohort_files import Cohort, folder_cohort, listed_cohort, paired_cohort
from .cohort_images import KEEP_MB, Reader, Skipped, surveyed
from .image_cache import ImageCache
from .label_maps import files_of, read_label_maps
from .painting import PaintedPairs, PaintingOptions
from .pairs import Pairs
from .synthetic import AnatomyPairs, ShapePairs

SOURCES = ("folder", "list", "pairs", "synthetic")
SYNTHETIC = ("anatomy", "painted", "shapes", "hollow-shapes")


@dataclass(frozen=True)
class DataOptions:
    """Where pairs come from: exactly one of `folder`, `list`, `pairs` and `synthetic`, which is a name of `SYNTHETIC`.

    Images "painted" may show label maps, `label_maps`: files or folders, with * for anything in a file's name.
    """

    folder: Path | None = None
    list: Path | None = None
    pairs: Sequence[Sequence[Path]] = ()
    synthetic: str = ""
    masks: Path | None = None
    labels: Path | None = None
    modality: str = "other"
    unreadable: str = "stop"
    label_maps: Sequence[Path] = ()
    painting: PaintingOptions = field(default_factory=PaintingOptions)

    def __post_init__(self) -> None:
        given = [name for name in SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise InputError(
                f"Data come from one of {', '.join(SOURCES)}; got {' and '.join(given) or 'none of them'}. Give exactly one."
            )
        if (self.masks or self.labels) and not self.folder:
            raise InputError(
                f"masks and labels are folders beside `folder`; the data come from `{given[0]}`. A list has columns for them."
            )
        if self.synthetic != "painted" and (self.label_maps or self.painting != PaintingOptions()):
            raise InputError(
                f'label_maps and painting are for synthetic = "painted"; the data come from `{self.synthetic or given[0]}`. '
                "Leave them out, or choose that."
            )


@dataclass(frozen=True)
class LoadingOptions:
    """How images come to the network; none of this changes what it learns.

    Args:
        processes: so many draw and augment pairs ahead of the steps (on each device); 0: each step waits for its own.
        cache: a folder on disk for prepared images; it may be that of several trainings, and be removed at any time.
        cache_gb: what it may take.
        memory_mb: what prepared images may take in memory, those of all loader processes (of a device) together.

    Raises:
        InputError: an option is out of range.
    """

    processes: int = 0
    cache: Path | None = None
    cache_gb: float = 50.0
    memory_mb: float = KEEP_MB

    def __post_init__(self) -> None:
        if not (isinstance(self.processes, int) and self.processes >= 0):
            raise InputError(
                f"loading: processes must be a whole number from 0 up; got {self.processes!r}. 0 loads between the steps."
            )
        if not self.cache_gb > 0:
            raise InputError(f"loading: cache_gb must be above 0; got {self.cache_gb}. Leave `cache` out for none.")
        if not self.memory_mb >= 0:
            raise InputError(f"loading: memory_mb must be 0 or more; got {self.memory_mb}. 0 keeps nothing in memory.")


def pairs_of(
    options: DataOptions,
    card: Card,
    lattice: Sequence[int],
    report: Callable[[float], None] = lambda _: None,
    *,
    loading: LoadingOptions = LoadingOptions(),
    usable: set[str] | None = None,
) -> tuple[Pairs, tuple[Skipped, ...]]:
    """The pairs that `options` describe, as `card` prepares them, and the files that were left out.

    Args:
        usable: as for `surveyed`.

    Raises:
        InputError: they cannot be read.
    """
    if options.synthetic:
        return _synthetic(options, tuple(lattice), report)
    cache = ImageCache(loading.cache, loading.cache_gb) if loading.cache else None
    reader = Reader(lattice, Preparation.of(card), loading.memory_mb / max(1, loading.processes), cache)
    found = surveyed(_cohort(options), reader, unreadable=options.unreadable, usable=usable, report=report)
    if loading.processes:
        reader.forget()  # it is the loader processes that read from now on
    return found


def _cohort(options: DataOptions) -> Cohort:
    if options.folder:
        return folder_cohort(options.folder, masks=options.masks, labels=options.labels, modality=options.modality)
    if options.list:
        return listed_cohort(options.list, modality=options.modality)
    return paired_cohort(options.pairs, modality=options.modality)


def _synthetic(
    options: DataOptions, lattice: tuple[int, ...], report: Callable[[float], None]
) -> tuple[Pairs, tuple[Skipped, ...]]:
    if options.synthetic != "painted":
        return _simple(options.synthetic, lattice), ()
    if not options.label_maps:
        return PaintedPairs(lattice, options.painting), ()
    files = files_of(options.label_maps)
    maps, skipped = read_label_maps(files, lattice, unreadable=options.unreadable, report=report)
    return PaintedPairs(lattice, options.painting, maps), skipped


def _simple(kind: str, lattice: tuple[int, ...]) -> Pairs:
    if kind not in SYNTHETIC:
        raise InputError(f"There are no synthetic data {kind!r}; there are {', '.join(SYNTHETIC)}. Choose one of them.")
    if kind == "anatomy":
        return AnatomyPairs(lattice)
    if len(lattice) != 2 or lattice[0] != lattice[1]:
        raise InputError(f"Synthetic shapes are square images; the network's shape is {list(lattice)}. Give shape = [64, 64].")
    return ShapePairs(lattice[0], hollow=kind == "hollow-shapes")
