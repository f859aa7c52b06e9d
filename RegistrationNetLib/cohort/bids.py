"""A plan from a BIDS folder and a rule, with results named as BIDS names derivatives."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.native_paths import printable
from ..io.natural_order import natural
from ..version import __version__
from .option_texts import without_defaults
from .pair import CohortPair, Layout
from .plan import Plan, checked_plan, stem

# Each session to the first of the same subject; each image to one template.
RULES = ("first-session", "template")
BIDS_VERSION = "1.10.0"
DESCRIPTION, MAKER = "dataset_description.json", "RegistrationNet"
RAW = "raw"  # how the results call the folder of the images
_SUFFIXES = (".nii.gz", ".nii")
_MODALITIES = {"CT": "ct"} | dict.fromkeys(
    ("T1w", "T2w", "T2star", "T2starw", "FLAIR", "PDw", "PDT2", "inplaneT1", "inplaneT2", "angio", "UNIT1", "MP2RAGE", "bold", "sbref", "dwi"),
    "mr",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """An image of the folder: `entities` are what its name says (sub, ses, acq, run, …)."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def session(self) -> str:
        """Its label; "" where the folder has no sessions."""
        return self.entities.get("ses", "")

    @property
    def prefix(self) -> str:
        """The entities as a name begins with them."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @property
    def visit(self) -> str:
        """Subject and session, for messages."""
        return "/".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)


@dataclass(frozen=True)
class Source:
    """Where the images are: a BIDS folder, and which of its images are meant.

    Attributes:
        suffix: the last part of their names, T1w say.
        select: entities that they have ("acq-mprage_run-1").
    """

    folder: Path
    suffix: str = "T1w"
    select: str = ""


def is_bids(folder: Path) -> bool:
    """Whether `folder` says of itself that it is one."""
    return (folder / DESCRIPTION).is_file()


def bids_plan(
    source: Source, rule: str, out: Path, defaults: Mapping[str, Any], *, template: Path | None = None, is_here: bool = True
) -> Plan:
    """The plan of a BIDS folder by one of `RULES`.

    Args:
        out: where the results will be, which name their sources from there.
        defaults: options for all pairs.
        template: the fixed image of the rule "template".
        is_here: as for `plan.listed_plan`.

    Raises:
        InputError: it is no BIDS folder, the rule lacks its template, or the results would lie in a data set that others have made.
        PlanError: no pair follows, or a file breaks a rule; all faults are told.
    """
    if rule not in RULES:
        raise InputError(f"There is no rule {rule!r}; the rules are {', '.join(RULES)}. Choose one of them.")
    if (rule == "template") != (template is not None):
        raise InputError(
            "The rule template, and it alone, needs the image that all others are registered to. Give --rule template with --template FILE."
        )
    _check_not_anothers(out)
    # Absolute, as processes elsewhere work in other folders.
    source, template = replace(source, folder=source.folder.absolute()), None if template is None else template.absolute()
    images, faults = _one_for_each_visit(source)
    if template is not None:
        matches = [(template, image, _label(stem(template))) for image in images]
    else:
        matches = [(first.path, image, _label(f"ses{first.session}{first.suffix}")) for first, image in _to_first(images)]
    pairs = tuple(_pair(source, fixed, moving, label, defaults) for fixed, moving, label in matches)
    if not (pairs or faults):
        faults = [_why_none(source, images)]
    return checked_plan(Plan(printable(source.folder), pairs, _description(source, out)), faults, is_here=is_here)


def found_images(source: Source) -> list[Image]:
    """The images that are meant, in the order of their names.

    Raises:
        InputError: it is no BIDS folder.
    """
    if not is_bids(source.folder):
        raise InputError(
            f"{printable(source.folder)} holds no {DESCRIPTION}; a BIDS folder does. Give a CSV file of pairs, or a BIDS folder."
        )
    asked = _entities(source.select) if source.select else {}
    found = []
    for path in sorted(source.folder.glob("sub-*/**/*")):
        ending = next((one for one in _SUFFIXES if path.name.endswith(f"_{source.suffix}{one}")), None)
        if ending is None or not path.is_file():
            continue
        entities = _entities(path.name.removesuffix(f"_{source.suffix}{ending}"))
        if asked.items() <= entities.items():
            found.append(Image(path, entities, source.suffix))
    return found


def _entities(name: str) -> dict[str, str]:
    return {key: value for key, _, value in (part.partition("-") for part in name.split("_"))}


def _one_for_each_visit(source: Source) -> tuple[list[Image], list[str]]:
    """One image for each subject and session, and where there are several."""
    visits: dict[str, list[Image]] = defaultdict(list)
    for image in found_images(source):
        visits[image.visit].append(image)
    faults = [
        f"{visit} has {len(several)} images {source.suffix} ({', '.join(image.path.name for image in several)}); one is needed. "
        "Choose by --select, with entities such as run-1."
        for visit, several in visits.items()
        if len(several) > 1
    ]
    return [several[0] for several in visits.values()], faults


def _to_first(images: Sequence[Image]) -> Iterator[tuple[Image, Image]]:
    """The first session of each subject, with each other."""
    subjects: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        subjects[image.entities["sub"]].append(image)
    for sessions in subjects.values():
        first, *others = sorted(sessions, key=lambda image: natural(image.session))
        yield from ((first, other) for other in others)


def _why_none(source: Source, images: Sequence[Image]) -> str:
    if not images:
        chosen = f" with {source.select}" if source.select else ""
        return f"it holds no image {source.suffix}{chosen}; at least one is needed. Choose by --suffix and --select."
    return "no subject has a second session; the rule registers each to the first. Choose another rule."


def _pair(source: Source, fixed: Path, moving: Image, label: str, defaults: Mapping[str, Any]) -> CohortPair:
    modality = _MODALITIES.get(moving.suffix, "other")
    options = {**dict.fromkeys(("fixed_modality", "moving_modality"), modality), **_said(defaults)}
    files = {"fixed": fixed, "moving": moving.path}
    if (weights := options.pop("weights", None)) is not None:
        files["weights"] = Path(weights).absolute()
    own = _label(f"ses{moving.session}{moving.suffix}" if moving.session and label.startswith("ses") else moving.suffix)
    layout = _layout(source, fixed, moving, own, label)
    name = f"{moving.prefix}_from-{own}_to-{label}"
    return CohortPair(name, files, without_defaults(options), layout, moving.visit)


def _said(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say something."""
    return {name: value for name, value in defaults.items() if value is not None}


def _layout(source: Source, fixed: Path, moving: Image, own: str, label: str) -> Layout:
    """Names as BIDS gives them to derivatives; `from` is what can be resampled by the transform, `to` onto which."""
    towards, back = f"{moving.prefix}_from-{own}_to-{label}", f"{moving.prefix}_from-{label}_to-{own}"
    on_fixed = f"{moving.prefix}_space-{label}"
    names = {
        "transform.h5": f"{towards}_mode-image_xfm.h5",
        "inverse.h5": f"{back}_mode-image_xfm.h5",
        "warped.nii.gz": f"{on_fixed}_desc-warped_{moving.suffix}.nii.gz",
        "jacobian.nii.gz": f"{on_fixed}_desc-jacobian_map.nii.gz",
        "error_mm.nii.gz": f"{on_fixed}_desc-expectederror_map.nii.gz",
        "report.json": f"{towards}_desc-registration_report.json",
        "report.html": f"{towards}_desc-registration_report.html",
        "thumbnail.jpg": f"{towards}_desc-registration_thumbnail.jpg",
    }
    sources = [_address(source, moving.path), _address(source, fixed)]
    on_grid = {"Sources": sources, "SpatialReference": sources[1]}
    record = f"{towards}_mode-image_xfm.json"
    sidecars = {
        record: {
            "Sources": sources,
            "Description": "ITK transform in LPS mm, from points of the image `to` to points of the image `from`",
        },
        f"{back}_mode-image_xfm.json": {
            "Sources": sources,
            "Description": "The inverse of the transform from the same registration",
        },
        f"{on_fixed}_desc-warped_{moving.suffix}.json": on_grid,
        f"{on_fixed}_desc-jacobian_map.json": {**on_grid, "Description": "Jacobian determinant of the transform"},
        f"{on_fixed}_desc-expectederror_map.json": {
            **on_grid,
            "Units": "mm",
            "Description": "Error to expect of the registration",
        },
    }
    folder = moving.path.parent.relative_to(source.folder).as_posix()
    return Layout(folder, names, record, is_shared=True, sidecars=sidecars)


def _address(source: Source, path: Path) -> str:
    """How results name a file: by BIDS's own address where it lies in the folder, else by its name."""
    try:
        return f"bids:{RAW}:{path.relative_to(source.folder).as_posix()}"
    except ValueError:
        return path.name


def _label(text: str) -> str:
    """Letters and digits, as labels in BIDS are."""
    return re.sub("[^A-Za-z0-9]", "", text)


def _check_not_anothers(out: Path) -> None:
    """Refuse a folder whose description tells of another data set, which ours would replace."""
    if not is_bids(out):
        return
    try:
        makers = json.loads((out / DESCRIPTION).read_text(encoding="utf-8")).get("GeneratedBy", [])
        is_ours = any(maker.get("Name") == MAKER for maker in makers)
    except (OSError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise InputError(
            f"{printable(out)} is a data set of its own, which the results would mix with; they need another folder. "
            f"Give one such as {printable(out / 'derivatives' / 'registrationnet')}."
        )


def _description(source: Source, out: Path) -> dict[str, Any]:
    where = Path(os.path.relpath(source.folder, out)).as_posix()
    return {
        "Name": "Registrations by RegistrationNet",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": MAKER, "Version": __version__}],
        "SourceDatasets": [{"URL": where}],
        "DatasetLinks": {RAW: where},
    }
