"""Where a training stands, as one file (safetensors) from which it goes on as if it had not been interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, OutputError
from ..io.outputs import staged
from .state import Trainee


def save_checkpoint(trainee: Trainee, path: Path, made_with: Mapping[str, Any]) -> None:
    """Write where `trainee` stands to `path`, whole or not at all, with the options it was `made_with`, which must be JSON.

    Raises:
        OutputError: `path` could not be written.
    """
    save_file, _, error_type = _safetensors()
    # Parameters of a network may share memory or lie channels-last, which the format does not have.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in trainee.tensors().items()
    }
    notes = {"steps": str(trainee.steps), "made_with": json.dumps(made_with, sort_keys=True)}
    with staged(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=notes)
        except error_type as error:
            raise OutputError(f"Cannot write {path}: {error}. Free some space or choose another folder.") from error


def load_checkpoint(trainee: Trainee, path: Path, made_with: Mapping[str, Any]) -> None:
    """Put `trainee` where `path` says; nothing in the file is run.

    Raises:
        InputError: there is no such file, it is damaged, or it was made with other options.
    """
    _, safe_open, error_type = _safetensors()
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}; one is needed to go on from. Start without --resume.")
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (error_type, OSError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({error}). Start anew, without --resume.") from error
    _check_options(path, notes, made_with)
    try:
        trainee.restore(tensors, steps=int(notes["steps"]))
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{path} is the checkpoint of another network. Start anew, without --resume.") from error


def _check_options(path: Path, notes: Mapping[str, str], made_with: Mapping[str, Any]) -> None:
    if not {"steps", "made_with"} <= set(notes):
        raise InputError(f"{path} does not tell how it was made; a checkpoint of a training does. Start anew, without --resume.")
    before, now = json.loads(notes["made_with"]), json.loads(json.dumps(made_with))
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{path} was made with {name} = {before.get(name)!r}; what is resumed must stay as it was, and now it is "
                f"{now.get(name)!r}. Put it back, or start anew, without --resume."
            )


def _safetensors() -> Any:
    """`save_file`, `safe_open` and what they raise."""
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import save_file
    except ImportError as error:
        raise InputError(
            "The package safetensors is missing; checkpoints need it. Run `pip install registrationnet[train]`."
        ) from error
    return save_file, safe_open, SafetensorError
