"""A training as a TOML file describes it.

model = "unigradicon"            # the card that method, preparation and loss come from
name = "our-knees"               # of the model that comes out
out = "runs/our-knees"           # paths are relative to this file
shape = [96, 96, 96]             # of the network's lattice; default that of the card
start = "weights"                # "nothing" (default), "weights" of the model, or a file
device = "auto"

[parameters]                     # what replaces entries of the card's section of that name
has_fourth_step = true

[learning]                       # see LearningOptions
steps = 10000

[augmentation]                   # see AugmentationOptions
affine = 0.05

[schedule]                       # of the learning rate, see ScheduleOptions
kind = "constant"

[loading]                        # see LoadingOptions
processes = 0

[loss]
similarity = "lncc"              # default: the card's
smoothness = 1.0                 # a factor on the card's weight of the regularity
diffusion_steps = 0              # so many first ones with diffusion as regularity; default 1500 for CARL from "nothing"
diffusion = 1.5                  # its weight there

[data]                           # one of: folder, list, pairs, synthetic
folder = "images"
masks = "masks"                  # with folder: files of the same names; so for labels
modality = "mr"
unreadable = "skip"              # or "stop" (default)

[validation]                     # as [data]; leave it out for no early look

[record]                         # see RecordOptions
validate_every = 500
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from ..models.catalogue import Card, card_named, check_own_name
from ..registration.methods import method_of
from .augmentation import AugmentationOptions
from .data import DataOptions, LoadingOptions
from .learning import LearningOptions
from .painting import PaintingOptions
from .schedule import ScheduleOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Options = TypeVar("Options")
Read = TypeVar("Read")

# What a field of that annotation may hold, in words and in Python.
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
    "bool": ("true or false", bool),
    "str": ("text", str),
    "Mapping[str, Any]": ("a table", Mapping),
}


@dataclass(frozen=True)
class LossOptions:
    """What the loss of the card is changed by: its similarity ("" keeps it), and a factor on the weight of its regularity.

    In the first `diffusion_steps` (None: as the method wants it) the regularity is that of `DiffusionLoss`, of weight `diffusion`.
    """

    similarity: str = ""
    smoothness: float = 1.0
    diffusion_steps: int | None = None
    diffusion: float = 1.5

    def __post_init__(self) -> None:
        if not self.smoothness >= 0:
            raise InputError(f"smoothness must be 0 or more; got {self.smoothness}. 1 is as the model's card says.")
        if self.diffusion_steps is not None and not (isinstance(self.diffusion_steps, int) and self.diffusion_steps >= 0):
            raise InputError(
                f"diffusion_steps must be a whole number from 0 up; got {self.diffusion_steps!r}. 0 leaves them out."
            )
        if not self.diffusion >= 0:
            raise InputError(f"diffusion must be 0 or more; got {self.diffusion}. CARL was trained with 1.5 to 15.")


@dataclass(frozen=True)
class RecordOptions:
    """What is written on the way: a checkpoint and a look every so many steps, of so many pairs; pictures; TensorBoard.

    With `half_precision` the weights of the model that comes out are float16; the checkpoint stays single.
    """

    checkpoint_every: int = 500
    validate_every: int = 500
    validation_pairs: int = 8
    pictures: bool = True
    tensorboard: bool = False
    half_precision: bool = False

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "validate_every", "validation_pairs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more; got {getattr(self, name)}. Choose such a number.")


@dataclass(frozen=True)
class Configuration:
    """A whole training; see the top of this file.

    Raises:
        InputError: the model does not learn, or the name is taken.
    """

    model: str
    name: str
    out: Path
    data: DataOptions
    validation: DataOptions | None = None
    shape: tuple[int, ...] = ()
    start: str | Path = "nothing"
    device: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    learning: LearningOptions = field(default_factory=LearningOptions)
    loss: LossOptions = LossOptions()
    loading: LoadingOptions = field(default_factory=LoadingOptions)
    record: RecordOptions = RecordOptions()

    def __post_init__(self) -> None:
        if not method_of(card_named(self.model)).has_network:
            raise InputError(
                f"{self.model} has no network; training needs one. Choose another model: see registrationnet models."
            )
        check_own_name(self.name)

    @property
    def lattice(self) -> tuple[int, ...]:
        """The network's shape."""
        return self.shape or self.card.input_shape or tuple(self.card.parameters.get("encoder_shape", ()))

    @property
    def diffusion_steps(self) -> int:
        """With how many steps of `DiffusionLoss` the training begins."""
        if self.loss.diffusion_steps is not None:
            return self.loss.diffusion_steps
        return method_of(self.card).diffusion_steps if self.start == "nothing" else 0

    @property
    def card(self) -> Card:
        """The card of the model that method, preparation and loss come from, with this training's parameters."""
        card = card_named(self.model)
        return replace(card, parameters={**card.parameters, **self.parameters})

    def made_with(self) -> dict[str, Any]:
        """What a training must keep when it is resumed, as JSON: everything that changes the weights."""
        learning = asdict(self.learning)
        if not self.learning.schedule.depends_on_steps:
            del learning["steps"]  # more of them go on where the others ended
        data = {name: str(value) for name, value in asdict(self.data).items()}
        return {
            "model": self.model,
            "parameters": dict(self.parameters),
            "shape": list(self.lattice),
            "data": data,
            "loss": {**asdict(self.loss), "diffusion_steps": self.diffusion_steps},
            **learning,
        }


def read_configuration(file: Path) -> Configuration:
    """The training that a TOML file describes.

    Raises:
        InputError: it cannot be read, or says something that is not known, or out of range.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a description of a training ({error}). Check the file.") from error
    return configuration(content, relative_to=file.parent)


def configuration(content: Mapping[str, Any], *, relative_to: Path) -> Configuration:
    """The training that `content` describes, with its paths taken from a folder.

    Raises:
        InputError: as `read_configuration`.
    """
    content = dict(content)
    names = ("learning", "augmentation", "schedule", "loss", "loading", "record")
    sections = {name: _table(content.pop(name, {}), f"[{name}]") for name in names}
    for name, kind in (("augmentation", AugmentationOptions), ("schedule", ScheduleOptions)):
        sections["learning"][name] = _options(kind, sections.pop(name), f"[{name}]")
    if "cache" in sections["loading"]:
        sections["loading"]["cache"] = _path(sections["loading"]["cache"], "[loading] cache", relative_to)
    kinds = {"learning": LearningOptions, "loss": LossOptions, "loading": LoadingOptions, "record": RecordOptions}
    built: dict[str, Any] = {name: _options(kind, sections[name], f"[{name}]") for name, kind in kinds.items()}
    for name in ("data", "validation"):
        if name in content:
            section = _with_paths(_table(content.pop(name), f"[{name}]"), f"[{name}]", relative_to)
            if "painting" in section:
                section["painting"] = _options(PaintingOptions, section["painting"], f"[{name}.painting]")
            built[name] = _options(DataOptions, section, f"[{name}]")
    for name in ("model", "name", "out"):
        if name not in content:
            raise InputError(f"The description of a training has no {name}; it needs model, name, out and [data]. Add it.")
    if "data" not in built:
        raise InputError("The description of a training has no [data]; there is nothing to learn from. Add that section.")
    content["out"] = _path(content["out"], "out", relative_to)
    content["shape"] = _listed(content.get("shape", ()), "shape", _whole)
    if content.get("start", "nothing") not in ("nothing", "weights"):
        content["start"] = _path(content["start"], "start", relative_to)
    return _options(Configuration, {**content, **built}, "the description of a training")


def _with_paths(section: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    def path(value: object, what: str) -> Path:
        return _path(value, what, folder)

    def paths(value: object, what: str) -> tuple[Path, ...]:
        return _listed(value, what, path)

    found = dict(section)
    for name in ("folder", "list", "masks", "labels"):
        if name in found:
            found[name] = path(found[name], f"{where} {name}")
    found["label_maps"] = paths(found.get("label_maps", ()), f"{where} label_maps")
    found["pairs"] = _listed(found.get("pairs", ()), f"{where} pairs", paths)
    return found


def _path(value: object, what: str, folder: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise _wrong_kind(what, "the name of a file or folder", value)
    return folder / value


def _listed(value: object, what: str, read: Callable[[object, str], Read]) -> tuple[Read, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong_kind(what, "a list in brackets, [ ]", value)
    return tuple(read(one, f"each of {what}") for one in value)


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_kind(what, "a whole number", value)
    return value


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong_kind(where, "a table", value)
    return dict(value)


def _wrong_kind(what: str, rule: str, value: object) -> InputError:
    return InputError(f"{what} must be {rule}; got {value!r}. Correct it; docs/training.md shows every option.")


def _options(kind: type[Options], content: object, where: str) -> Options:
    content = _table(content, where)
    known = {one.name: str(one.type) for one in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise InputError(f"{where} does not know {', '.join(unknown)}; it takes {', '.join(known)}. Check the spelling.")
    for name, value in content.items():
        rule, kinds = _KINDS.get(known[name].removesuffix(" | None"), ("", object))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds not in (bool, object)):
            raise _wrong_kind(f"{where} {name}", rule, value)
    return kind(**content)
