"""What is to be registered: a list of pairs, checked as a whole before anything starts.

A list is a CSV file with the columns `fixed,moving`; where wanted `name`, masks, labels, landmarks, modalities, `rigid`,
`keep_volume`, `initial`, `previous`, and every option of `register` by its name. Paths are relative to the list. An empty field leaves an option as it is for all.
"""

from __future__ import annotations

import csv
import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..choices import OPTIONS
from ..errors import InputError, PlanError
from ..io.image_sources import modality_of
from ..io.native_paths import printable
from ..models.catalogue import card_named
from ..models.weights import weights_state
from ..registration.options import checked_options
from .option_texts import option_value, without_defaults
from .pair import FILES, INVERSE_FILE, PREVIOUS_INVERSE, CohortPair, Layout

NAME = "name"
COLUMNS = (NAME, *(one for one in FILES if one != "weights"), *OPTIONS)
LONGEST_NAME = 120
PAIRS_FOLDER = "pairs"
_SEPARATOR = re.compile("sep=[,;\t]?")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SUFFIXES = re.compile(r"(\.nii|\.nrrd|\.nhdr|\.mha|\.mhd|\.hdr|\.img|\.dcm|\.png|\.tiff?)?(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """Pairs with names of their own; `source` names the plan in messages, `description` is what BIDS asks of a folder of results."""

    source: str
    pairs: tuple[CohortPair, ...]
    description: Mapping[str, Any] | None = None


def listed_plan(file: Path, defaults: Mapping[str, Any], *, is_here: bool = True) -> Plan:
    """The plan of a CSV file.

    Args:
        defaults: options for rows that say nothing else.
        is_here: the work is done on this machine, so that its devices and weights can be checked.

    Raises:
        InputError: the file cannot be read.
        PlanError: it breaks rules; all of them are told.
    """
    header, rows = _read(file)
    faults = list(_faults_of_header(header))
    if faults:
        raise PlanError.of(printable(file), faults)
    pairs = []
    for line, texts in rows:
        pair, found = _pair_of_row(file, header, line, texts, defaults)
        faults += found
        pairs += [pair] if pair is not None else []
    return checked_plan(Plan(printable(file), tuple(pairs)), faults, is_here=is_here)


def checked_plan(plan: Plan, faults: Sequence[str] = (), *, is_here: bool = True) -> Plan:
    """The plan, if it breaks no rule.

    Args:
        faults: what has been found before.
        is_here: as for `listed_plan`.

    Raises:
        PlanError: it breaks rules, or is empty; all faults are told.
    """
    found = [*faults, *_doubles(plan.pairs)]
    found += [fault for pair in plan.pairs for fault in _faults_of_pair(pair, is_here=is_here)]
    if is_here:
        found += _missing_weights(plan.pairs)
    if not (plan.pairs or found):
        found = ["there is no pair in it; add lines below the names of the columns."]
    if found:
        raise PlanError.of(plan.source, found)
    return plan


def plain_layout(name: str) -> Layout:
    """The results of a pair in a folder of its own."""
    return Layout(f"{PAIRS_FOLDER}/{name}")


def stem(path: Path) -> str:
    """The name of an image without the endings of its format."""
    return _SUFFIXES.sub("", path.name) or path.name


def _read(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and each line that is not empty with its number."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        # A line with which spreadsheets tell each other what stands between values.
        before = 1 if lines and _SEPARATOR.fullmatch(lines[0].strip().lower()) else 0
        first = lines[before] if len(lines) > before else ""
        reader = csv.reader(lines[before:], delimiter=max(",;\t", key=first.count))
        rows = [(before + reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{printable(file)} cannot be read as a list: it is no text in UTF-8 ({error}). Save it as CSV in UTF-8."
        ) from error
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{printable(file)} cannot be read as a list ({error}). Give a CSV file with a line of column names."
        ) from error
    if not rows:
        raise InputError(f"{printable(file)} is empty; a plan has a line of column names, and one for each pair. Write them.")
    return _without_empty_columns([name.strip() for name in rows[0][1]], rows[1:])


def _without_empty_columns(header: list[str], rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The table without columns at its end that have neither name nor value, as spreadsheets leave them."""
    while header and not header[-1] and not any(value.strip() for _, row in rows for value in row[len(header) - 1 :]):
        header = header[:-1]
        rows = [(line, row[: len(header)]) for line, row in rows]
    return header, rows


def _faults_of_header(header: Sequence[str]) -> Iterator[str]:
    missing = [name for name in ("fixed", "moving") if name not in header]
    if missing:
        yield f"there is no column {' and '.join(missing)}; every plan has the columns fixed and moving. Add or rename columns."
    for name in dict.fromkeys(header):
        if name not in COLUMNS:
            like = get_close_matches(name, COLUMNS, n=1)
            hint = f"Did you mean {like[0]}?" if like else f"The columns are {', '.join(COLUMNS)}."
            yield (
                f"there is no column {name!r}. {hint}"
                if name
                else "a column with values has no name; each needs one. Name or remove it."
            )
        elif header.count(name) > 1:
            yield f"the column {name} is there {header.count(name)} times; each may be there once. Remove the others."


def _pair_of_row(
    file: Path, header: Sequence[str], line: int, texts: Sequence[str], defaults: Mapping[str, Any]
) -> tuple[CohortPair | None, list[str]]:
    """The pair of a line, and what is wrong with the line."""
    if len(texts) != len(header):
        count = f"{len(texts)} value{'s' * (len(texts) != 1)} and the header {len(header)} names"
        return None, [f"line {line} has {count}; both must be as many. Check the commas."]
    row = {name: text.strip() for name, text in zip(header, texts, strict=True) if text.strip()}
    told, faults = _options_of_row(row)
    faults = [*_faults_of_row(row), *faults]
    if faults:
        return None, [f"line {line}: {fault}" for fault in faults]
    options = {**defaults, **told}
    # Absolute, as processes elsewhere work in other folders.
    folder, weights = file.absolute().parent, options.pop("weights", None)
    files = {role: folder / row[role] for role in FILES if role in row}
    if weights is not None and "weights" not in row:
        files["weights"] = Path(weights).absolute()
    if "previous" in files and (inverse := files["previous"].with_name(INVERSE_FILE)).is_file():
        files[PREVIOUS_INVERSE] = inverse
    name = row.get(NAME) or _name_of(row)
    return CohortPair(name, files, without_defaults(options), plain_layout(name), f"line {line}"), []


def _options_of_row(row: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The options that a line gives, and what is wrong with them."""
    values, faults = {}, []
    for name in (one for one in row if one in OPTIONS):
        try:
            values[name] = option_value(name, row[name])
        except ValueError as error:  # noqa: PERF203, every fault is told
            faults.append(f"{name} {error}; it is {row[name]!r}. Correct it.")
    return values, faults


def _faults_of_row(row: Mapping[str, str]) -> Iterator[str]:
    for side in ("fixed", "moving"):
        if side not in row:
            yield f"there is no {side} image; every line needs one. Complete or remove it."
    name = row.get(NAME, "")
    if name and not (_PLAIN.fullmatch(name) and len(name) <= LONGEST_NAME):
        yield (
            f"the name {name!r} cannot be a folder's on every system; letters, digits and ._+- can be in it, at most {LONGEST_NAME}. "
            "Choose another."
        )


def _name_of(row: Mapping[str, str]) -> str:
    """A name that stays the same when other lines come and go: of both images, with a checksum of their paths as they are written."""
    written = "\n".join(posixpath.normpath(row[side].replace("\\", "/")) for side in ("fixed", "moving"))
    moving, fixed = (re.sub(r"[^A-Za-z0-9._+-]", "-", stem(Path(row[side])))[:40] for side in ("moving", "fixed"))
    return f"{moving}_to_{fixed}_{hashlib.sha256(written.encode('utf-8', 'replace')).hexdigest()[:6]}"


def _doubles(pairs: Sequence[CohortPair]) -> Iterator[str]:
    """Pairs that would write to one place; without regard to capitals, which some systems do not tell apart."""
    places: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        places[pair.name.lower()].append(pair.place)
    for name, several in places.items():
        if len(several) > 1:
            yield f"{' and '.join(several)} are both {name!r}; each pair is there once, or has a name of its own. Remove one, or fill the column {NAME}."


def _faults_of_pair(pair: CohortPair, *, is_here: bool) -> Iterator[str]:
    missing = [role for role, path in pair.files.items() if not path.exists()]
    for role in missing:
        yield f"{pair.place}: there is no file {printable(pair.files[role])} ({role.replace('_', ' ')}). Check the path."
    for what in ("labels", "landmarks"):
        given = [side for side in ("fixed", "moving") if f"{side}_{what}" in pair.files]
        if len(given) == 1:
            yield f"{pair.place}: {what} came for {given[0]} only; they are compared in pairs. Give both or neither."
    yield from _faults_of_previous(pair)
    if {"fixed", "moving"} & set(missing):
        return
    options = dict(pair.options) | ({} if is_here else {"device": "auto"})
    stated = [options.pop(f"{side}_modality", None) for side in ("fixed", "moving")]
    modalities = (modality_of(pair.files["fixed"], stated[0]), modality_of(pair.files["moving"], stated[1]))
    try:
        checked_options(options.pop("model", "direct"), modalities=modalities, weights=pair.files.get("weights"), **options)
    except InputError as error:
        yield f"{pair.place}: {error}"


def _faults_of_previous(pair: CohortPair) -> Iterator[str]:
    """A result to go on from needs something to correct, and holds its alignment already."""
    if "previous" not in pair.files:
        return
    if "initial" in pair.files or pair.options.get("align"):
        yield (
            f"{pair.place}: previous came with initial or align; the result to go on from holds both already. Leave those fields empty."
        )
    pulls = pair.options.get("landmarks") == "pull" and "fixed_landmarks" in pair.files
    if not (pulls or {"rigid", "keep_volume"} & set(pair.files)):
        yield (
            f"{pair.place}: previous came without anything to correct; landmarks that pull say where it is wrong, rigid and keep_volume "
            "what keeps its shape. Fill one of them."
        )


def _missing_weights(pairs: Sequence[CohortPair]) -> Iterator[str]:
    """Models whose own weights are asked for and not here; each once."""
    asked = dict.fromkeys(str(pair.options["model"]) for pair in pairs if "model" in pair.options and "weights" not in pair.files)
    for name in asked:
        try:
            state = weights_state(card_named(name))
        except InputError:
            continue  # there is no such model, as its pairs tell
        if state.kind in ("missing", "damaged"):
            yield f"the weights of {name} are {state.kind}; they must be here before the work. Call registrationnet models download {name}."
