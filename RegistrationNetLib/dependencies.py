"""What Slicer must install before the worker can run, and how it is asked for: at the first registration, never on opening.

torch comes by the PyTorch extension, which knows the right build; SimpleITK and numpy are Slicer's own and stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import ResourceError

TORCH = "torch>=2.2"
_MODULE = "RegistrationNet"
_PYTORCH_UTILS = "PyTorchUtils"


def requirements(path: Path) -> list[str]:
    """The requirements of a file, comments left out."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def missing(wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` ("name>=1.2") that are not installed, or too old. Nothing is imported."""
    return [one for one in wanted if not _is_installed(one)]


def ensure(path: Path, slicer: Any) -> None:
    """Have Slicer install what is missing, after asking the user.

    Args:
        path: the file of requirements beside the module.
        slicer: the package of the running application.

    Raises:
        ResourceError: the user declined, the PyTorch extension is missing, or the installation failed.
    """
    if missing([TORCH]):
        _install_torch(slicer)
    if lacking := missing(requirements(path)):
        _install(lacking, slicer)
    if still := missing([TORCH, *requirements(path)]):
        raise ResourceError(
            f"{', '.join(still)} could not be installed; registration needs it. Look at Slicer's log, and restart Slicer."
        )


def _is_installed(requirement: str) -> bool:
    name, _, minimum = requirement.partition(">=")
    try:
        return _numbers(importlib.metadata.version(name.strip())) >= _numbers(minimum)
    except importlib.metadata.PackageNotFoundError:
        return False


def _numbers(version: str) -> list[int]:
    """[2, 13] of "2.13.0+cpu"."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:2]]


def _install_torch(slicer: Any) -> None:
    if not hasattr(slicer.modules, _PYTORCH_UTILS.lower()):
        raise ResourceError(
            "PyTorch is not installed; Slicer gets it by the PyTorch extension. Install that in the Extensions Manager."
        )
    # The module of another extension, there only when it is installed.
    logic = importlib.import_module(_PYTORCH_UTILS).PyTorchUtilsLogic()
    if logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH.removeprefix("torch")) is None:
        raise ResourceError("PyTorch was not installed; registration needs it. Register again to be asked again.")


def _install(lacking: list[str], slicer: Any) -> None:
    """By Slicer's own tool, from 5.12 on; before, by asking here and its pip."""
    question = f"Registration needs {', '.join(lacking)}. Install into Slicer's Python?"
    try:
        if hasattr(slicer, "packaging"):
            slicer.packaging.pip_ensure(lacking, requester=_MODULE)
        elif slicer.util.confirmOkCancelDisplay(question):
            slicer.util.pip_install(lacking)
    except RuntimeError as error:
        raise ResourceError(
            f"{', '.join(lacking)} was not installed ({error}); registration needs it. Register again to be asked again."
        ) from error
