"""Files of weights: read without running what they hold, and matched to a network name by name and shape by shape.

A file fits a card if its tensors are those of the card's network, no more and no fewer. Tolerated, because published files have
them: an outer `regis_net.` or `module.` before every name, or none; the buffers `identity_map` and `spacing` of old files; and
half precision, which becomes single.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import OutputError, WeightsError
from ..io.outputs import staged
from .catalogue import Card, cards

NetworkOf = Callable[[Card], nn.Module]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NEPHI_PARTS = {"encoder", "phi", "phi_inv", "epochs"}
LEGACY = ("identity_map", "spacing")
NAMED = 3
_SAVE_STATE = "Save the network's state dict alone."
# How torch says what a file asks for, since version 2.4 and before.
_PROGRAM = re.compile(r"(?:GLOBAL|Unsupported class) (\S+)")
_OUTER = re.compile(r"^(module\.)?(regis_net\.)?(module\.)?")


def check(path: Path, card: Card, network_of: NetworkOf) -> None:
    """Raise unless `path` holds the weights of `card`. Only the file's own pages are held in memory, no network.

    Args:
        network_of: makes the network of a card, under `torch.device("meta")`.

    Raises:
        WeightsError: what is wrong with it, and which model its names fit, if any.
    """
    _matched(path, card, _without_memory(network_of, card), network_of)


def load_into(network: nn.Module, card: Card, path: Path, *, network_of: NetworkOf | None = None) -> None:
    """Give every parameter and buffer of `network` the value that `path` holds; if anything does not fit, none is changed.

    Args:
        network: that of `card`; one on the device "meta" is given memory on the CPU.
        network_of: lets the error name the model that the file fits.

    Raises:
        WeightsError: as for `check`.
    """
    found = _matched(path, card, network, network_of)
    if any(value.is_meta for value in network.state_dict().values()):
        network.to_empty(device="cpu")
    network.load_state_dict(found, strict=True)


def save_as_published(network: nn.Module, card: Card, path: Path, *, in_half: bool = False) -> None:
    """Write the weights of `network` with the names that the published file of `card` has, whole or not at all.

    Args:
        in_half: parameters in half precision (float16); the statistics of normalization, which may be large, stay single, and so
            does a parameter with a value that is too large for it (65504).

    Raises:
        OutputError: `path` could not be written.
    """
    prefix = _prefix(card)
    halved = {name for name, _ in network.named_parameters()} if in_half else set()
    named = {
        prefix + name: (_halved(value) if name in halved else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    content = _apart(named) if {name.partition(".")[0] for name in named} == NEPHI_PARTS - {"epochs"} else named
    with staged(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch's writer tells that the disk is full
            raise OutputError(f"Cannot write {path}: {_first_line(error)}. Free some space or choose another folder.") from error


def _halved(value: Tensor) -> Tensor:
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def _matched(path: Path, card: Card, network: nn.Module, network_of: NetworkOf | None) -> dict[str, Tensor]:
    """The tensors of `path` by the names that `network` has for them."""
    expected = network.state_dict()
    found = _by_bare_name(path, _tensors(path))
    shapes = _shapes(card, network)
    if {name: value.shape for name, value in found.items()} != shapes:
        raise WeightsError(f"{path} does not fit {card.name}: {_difference(shapes, found)}.{_advice(found, card, network_of)}")
    matched = {name: found[_bare(_prefix(card) + name)] for name in expected}
    for name, value in matched.items():
        _check_values(value, expected[name], f"{path} does not fit {card.name}: {name}")
    return matched


def _shapes(card: Card, network: nn.Module) -> dict[str, torch.Size]:
    return {_bare(_prefix(card) + name): value.shape for name, value in network.state_dict().items()}


def _difference(shapes: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> str:
    missing, unknown = [name for name in shapes if name not in found], [name for name in found if name not in shapes]
    if missing or unknown:
        came = [f"{what} {_some(names)}" for what, names in (("without", missing), ("with", unknown)) if names]
        return f"it must have this network's tensors and no others; it came {', and '.join(came)}"
    name = next(name for name in shapes if found[name].shape != shapes[name])
    return f"{name} must have the shape {list(shapes[name])}, got {list(found[name].shape)}"


def _check_values(value: Tensor, expected: Tensor, what: str) -> None:
    is_right_kind = value.dtype in FLOATS if expected.is_floating_point() else value.dtype == expected.dtype
    if not is_right_kind or value.layout != torch.strided or value.is_meta:
        came = f"{value.dtype}, {value.layout}, {value.device}"
        raise WeightsError(f"{what} must be an ordinary tensor of {expected.dtype}, got {came}. Get the file again.")
    if not all(torch.isfinite(end) for end in torch.aminmax(value)):
        raise WeightsError(f"{what} has values that are not finite; weights must be numbers. Get the file again.")


def _tensors(path: Path) -> dict[str, Tensor]:
    """What the file holds, mapped into memory where its format allows; nothing in it is run."""
    start = _start(path)
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_archive(path)
        content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=is_archive)
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise WeightsError(f"{path} is not a whole file of weights: {_what_it_is(start, error)}. Get the file again.") from error
    content = _joined(content)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} must hold tensors by name; it holds {_described(content)}. {_SAVE_STATE}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} must hold tensors by name; under {name!r} it holds {_described(value)}. {_SAVE_STATE}")
    return {name: value.detach() for name, value in content.items()}


def _joined(content: object) -> object:
    """The parts of a checkpoint of NePhi as one state dict, whose names begin with the part's; anything else as it is."""
    if not isinstance(content, Mapping) or set(content) != NEPHI_PARTS:
        return content
    parts = {part: inner for part, inner in content.items() if isinstance(inner, Mapping)}
    return {f"{part}.{name}": value for part, inner in parts.items() for name, value in inner.items()}


def _apart(named: Mapping[str, Tensor]) -> dict[str, object]:
    """What `_joined` joins, again in parts."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in named.items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = value
    return {**parts, "epochs": 0}


def _check_archive(path: Path) -> None:
    """The checksums of the archive, which torch does not look at where it maps a file; and nothing packed, which it cannot map."""
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(f"{path} is a program (TorchScript), which is never run here. {_SAVE_STATE}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError(f"{path} is a compressed archive; files of weights are not. Unpack it, and give the file inside.")
        if broken := archive.testzip():
            raise WeightsError(f"{path} is damaged: the checksum of {broken} in it is wrong. Get the file again.")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(256).lstrip().lower()
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror or error}. Check the name and its permissions.") from error


def _what_it_is(start: bytes, error: Exception) -> str:
    if not start:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, which some servers and networks send in place of a file"
    if isinstance(error, pickle.UnpicklingError) and (asked := _PROGRAM.search(str(error))):
        return f"it holds more than tensors and asks for the program {asked[1]}, which was not run"
    return "it is cut off, damaged, or of another format"


def _by_bare_name(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.rpartition(".")[2] in LEGACY:
            continue
        if _bare(name) in found:
            raise WeightsError(f"{path} must hold each tensor once; {_bare(name)} comes under two names. {_SAVE_STATE}")
        found[_bare(name)] = value
    return found


def _bare(name: str) -> str:
    return _OUTER.sub("", name)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _advice(found: Mapping[str, Tensor], card: Card, network_of: NetworkOf | None) -> str:
    came = {name: value.shape for name, value in found.items()}
    fitting = [
        other.name
        for other in cards().values()
        if network_of and other.weights and _shapes(other, _without_memory(network_of, other)) == came
    ]
    if fitting:
        return f" It fits {', '.join(fitting)}: choose that model, or another file."
    return f" Choose a file for {card.name}."


def _without_memory(network_of: NetworkOf, card: Card) -> nn.Module:
    with torch.device("meta"):
        return network_of(card)


def _prefix(card: Card) -> str:
    return str(card.weights["state_dict_prefix"]) if card.weights else ""


def _described(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {_some([repr(key) for key in content])}" if content else "nothing"
    return f"a {type(content).__name__}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
