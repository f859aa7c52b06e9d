"""What Slicer must install before the worker can run, and how it is asked for: at the first registration, never on opening.

torch comes by the PyTorch extension, which knows the right build; SimpleITK and numpy are Slicer's own and stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ResourceError

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


def ensure(path: Path, slicer: Any, *, ask: bool = True) -> None:
    """Have Slicer install what is missing, after asking the user.

    Args:
        path: the file of requirements beside the module.
        slicer: the package of the running application.
        ask: False where the user has agreed already.

    Raises:
        ResourceError: the user declined, the PyTorch extension is missing, or the installation failed.
    """
    if missing([TORCH]):
        _install_torch(slicer, ask=ask)
    if lacking := missing(requirements(path)):
        _install(lacking, slicer, ask=ask)
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


def _install_torch(slicer: Any, *, ask: bool) -> None:
    if not hasattr(slicer.modules, _PYTORCH_UTILS.lower()):
        raise ResourceError(
            "PyTorch is not installed; Slicer gets it by the PyTorch extension. Install that in the Extensions Manager."
        )
    # The module of another extension, there only when it is installed.
    logic = importlib.import_module(_PYTORCH_UTILS).PyTorchUtilsLogic()
    with _failures_told([TORCH]):
        torch = logic.installTorch(askConfirmation=ask, torchVersionRequirement=TORCH.removeprefix("torch"))
    if torch is None:
        raise ResourceError("PyTorch was not installed; registration needs it. Register again to be asked again.")


def _install(lacking: list[str], slicer: Any, *, ask: bool) -> None:
    """By Slicer's own tool, from 5.12 on; before, by asking here and its pip."""
    question = f"Registration needs {', '.join(lacking)}. Install into Slicer's Python?"
    with _failures_told(lacking):
        if packaging := _packaging():
            packaging.pip_ensure(lacking, requester=_MODULE, **({} if ask else {"prompt_install": False}))
        elif not ask or slicer.util.confirmOkCancelDisplay(question):
            slicer.util.pip_install(lacking)


def _packaging() -> Any:
    """Slicer's own tool; None before 5.12. The application does not import it by itself."""
    try:
        return importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:
        return None


@contextmanager
def _failures_told(lacking: Iterable[str]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise ResourceError(
            f"{', '.join(lacking)} was not installed ({error}); registration needs it. Register again to be asked again."
        ) from error
