"""A cohort on disk: which files it has, and which of them form pairs.

A cohort is a folder (any two images of one subfolder form a pair), pairs of files, or a list: a CSV file with the columns
`fixed,moving`, and `fixed_mask`, `moving_mask`, `fixed_labels`, `moving_labels`, `fixed_modality`, `moving_modality` if wanted, or
with the column `image`, and `mask`, `labels`, `modality`, `group` if wanted (any two images of one group form a pair).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..choices import MODALITIES
from ..errors import InputError

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True)
class Source:
    """The files of one image. `like` is the image whose axes it is brought to, which those of a pair or group have in common."""

    image: Path
    mask: Path | None = None
    labels: Path | None = None
    modality: str = "other"
    like: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """Listed pairs (fixed first), or groups of which any two images form a pair; one of the two is empty."""

    pairs: tuple[tuple[Source, Source], ...] = ()
    groups: tuple[tuple[Source, ...], ...] = ()

    def sources(self) -> Iterator[Source]:
        """Every image, in order; one that is in many pairs comes many times."""
        for several in (*self.pairs, *self.groups):
            yield from several

    def without(self, left_out: frozenset[Source]) -> Cohort:
        """The cohort without these images, and without pairs that need them."""
        pairs = tuple(pair for pair in self.pairs if left_out.isdisjoint(pair))
        groups = (tuple(one for one in group if one not in left_out) for group in self.groups)
        return Cohort(pairs, tuple(group for group in groups if len(group) > 1))


def folder_cohort(folder: Path, *, masks: Path | None = None, labels: Path | None = None, modality: str = "other") -> Cohort:
    """Any two images of `folder`, or of one of its subfolders; `masks` and `labels` hold files of the same names and subfolders.

    Raises:
        InputError: there is no such folder, it holds no two images, or an image lacks its mask or labels.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; a cohort is a folder of images, or a list of them. Check the path.")
    files = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(SUFFIXES) and path.is_file())
    groups: dict[Path, list[Source]] = defaultdict(list)
    for path in files:
        mask, outlined = (_beside(path, folder, other) for other in (masks, labels))
        groups[path.parent].append(Source(path, mask, outlined, modality))
    return _of_groups(groups.values(), f"The folder {folder}")


def _beside(path: Path, folder: Path, other: Path | None) -> Path | None:
    if other is None:
        return None
    found = other / path.relative_to(folder)
    if not found.is_file():
        raise InputError(f"{path} has no {found}; every image of the cohort needs one of the same name there. Add it.")
    return found


def paired_cohort(pairs: Sequence[Sequence[Path]], *, modality: str = "other") -> Cohort:
    """Pairs of files, fixed first.

    Raises:
        InputError: there are none, or one does not have two files.
    """
    for pair in pairs:
        if len(pair) != 2:
            raise InputError(f"A pair must have two files, fixed and moving; got {', '.join(map(str, pair))}. Give both.")
    listed = tuple((Source(fixed, modality=modality), Source(moving, modality=modality)) for fixed, moving in pairs)
    return _of_pairs(listed, "The list of pairs")


def listed_cohort(file: Path, *, modality: str = "other") -> Cohort:
    """The cohort of a CSV file, whose paths are relative to it; see the top of this file.

    Raises:
        InputError: the file cannot be read, has other columns, or lists no pair.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a list ({error}). Give a CSV file with a line of column names.") from error
    columns = [name for name in (rows[0] if rows else {}) if name is not None]
    for kind, optional in _COLUMNS.items():
        if set(kind) <= set(columns) <= {*kind, *optional}:
            return _READERS[kind](file, rows, modality)
    known = " or ".join(f"{', '.join(kind)} (and {', '.join(optional)})" for kind, optional in _COLUMNS.items())
    raise InputError(f"{file} has the columns {', '.join(columns) or 'of none'}; a cohort needs {known}. Rename its columns.")


def _listed_pairs(file: Path, rows: Sequence[Mapping[str, str]], modality: str) -> Cohort:
    sides = ("fixed", "moving")
    listed = [tuple(_source(file, row, side, f"{side}_", modality) for side in sides) for row in rows]
    return _of_pairs(tuple((fixed, moving) for fixed, moving in listed), str(file))


def _listed_images(file: Path, rows: Sequence[Mapping[str, str]], modality: str) -> Cohort:
    groups: dict[str, list[Source]] = defaultdict(list)
    for row in rows:
        groups[row.get("group", "")].append(_source(file, row, "image", "", modality))
    return _of_groups(groups.values(), str(file))


def _source(file: Path, row: Mapping[str, str], image: str, prefix: str, modality: str) -> Source:
    def path(column: str) -> Path | None:
        return file.parent / row[column] if row.get(column) else None

    found = path(image)
    if found is None:
        raise InputError(f"A line of {file} has no {image}; every line needs one. Complete or remove it.")
    return Source(found, path(f"{prefix}mask"), path(f"{prefix}labels"), row.get(f"{prefix}modality") or modality)


_COLUMNS = {
    ("fixed", "moving"): tuple(f"{side}_{what}" for what in ("mask", "labels", "modality") for side in ("fixed", "moving")),
    ("image",): ("mask", "labels", "modality", "group"),
}
_READERS: dict[tuple[str, ...], Callable[[Path, Sequence[Mapping[str, str]], str], Cohort]] = {
    ("fixed", "moving"): _listed_pairs,
    ("image",): _listed_images,
}


def _of_pairs(pairs: tuple[tuple[Source, Source], ...], what: str) -> Cohort:
    return _checked(Cohort(pairs=tuple((fixed, replace(moving, like=fixed.image)) for fixed, moving in pairs)), what)


def _of_groups(groups: Iterable[Sequence[Source]], what: str) -> Cohort:
    alike = (tuple(replace(one, like=group[0].image) for one in group) for group in groups if len(group) > 1)
    return _checked(Cohort(groups=tuple(alike)), what)


def _checked(cohort: Cohort, what: str) -> Cohort:
    if not (cohort.pairs or cohort.groups):
        raise InputError(f"{what} has no two images to register; learning needs pairs. Add images ({', '.join(SUFFIXES)}).")
    for source in cohort.sources():
        if source.modality not in MODALITIES:
            raise InputError(
                f"There is no modality {source.modality!r} ({source.image}); the modalities are {', '.join(MODALITIES)}. "
                "Choose one of them."
            )
    return cohort
