"""What Slicer must install before the worker can run, and how it is asked for: at the first registration, never on opening.

torch comes by the PyTorch extension, which knows the right build; SimpleITK and numpy are Slicer's own and stay as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ResourceError

TORCH = "torch>=2.2"
ANOTHER_PYTHON = "or use another Python that has them"
_MODULE = "RegistrationNet"
_PYTORCH_UTILS = "PyTorchUtils"
_NEEDED_MB = 500
# What installers say, in small letters, by what it means.
_SIGNS = {
    "network": (
        "connection", "name resolution", "getaddrinfo", "timed out", "timeout", "unreachable", "proxy", "ssl", "certificate",
        "could not find a version", "no matching distribution", "light_the_torch", "light-the-torch",
    ),
    "disk": ("no space left", "not enough space", "disk full", "enospc"),
    "rights": ("permission denied", "access is denied", "read-only file system", "errno 13"),
}  # fmt: skip


def requirements(path: Path) -> list[str]:
    """The requirements of a file, comments left out."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def missing(wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` ("name>=1.2") that are not installed, or too old. Nothing is imported."""
    return [one for one in wanted if not _is_installed(one)]


def lacking(path: Path) -> list[str]:
    """What must be installed before the worker can run: torch, and what the file of requirements names."""
    return missing([TORCH, *requirements(path)])


def ensure(path: Path, slicer: Any, *, ask: bool = True) -> None:
    """Have Slicer install what is missing, after asking the user.

    Args:
        path: the file of requirements beside the module.
        slicer: the package of the running application.
        ask: False where the user has agreed already.

    Raises:
        ResourceError: the user declined, the PyTorch extension is missing, or the installation failed; it says how.
    """
    if missing([TORCH]):
        _install_torch(slicer, ask=ask)
    if others := missing(requirements(path)):
        _install(others, slicer, ask=ask)
    if still := lacking(path):
        raise still_lacking(still)


def still_lacking(wanted: Iterable[str]) -> ResourceError:
    """What is told where an installer was content, and something is missing all the same."""
    return ResourceError(
        f"{', '.join(wanted)} could not be installed; registration needs it. Look at Slicer's log and restart Slicer, "
        f"{ANOTHER_PYTHON}."
    )


def check_pytorch_extension(slicer: Any) -> None:
    """Refuse to go on without the extension by which Slicer gets PyTorch.

    Raises:
        ResourceError: it is not there.
    """
    if not hasattr(slicer.modules, _PYTORCH_UTILS.lower()):
        raise ResourceError(
            "PyTorch is not installed; Slicer gets it by the PyTorch extension. Install that in the Extensions Manager, "
            f"{ANOTHER_PYTHON}."
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
    check_pytorch_extension(slicer)
    answer: list[Any] = []
    with _failures_told([TORCH]), _torch_not_imported():
        # The module of another extension, there only when it is installed.
        logic = importlib.import_module(_PYTORCH_UTILS).PyTorchUtilsLogic()
        answer.append(logic.installTorch(askConfirmation=ask, torchVersionRequirement=TORCH.removeprefix("torch")))
    if answer == [None] and missing([TORCH]):
        raise ResourceError(
            f"PyTorch was not installed; registration needs it. Register again to be asked again, {ANOTHER_PYTHON}."
        )


@contextmanager
def _torch_not_imported() -> Iterator[None]:
    """Who imports torch meanwhile gets an ImportError: in Slicer's own process its files could not be replaced any more."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _install(others: list[str], slicer: Any, *, ask: bool) -> None:
    """By Slicer's own tool, from 5.12 on; before, by asking here and its pip."""
    question = f"Registration needs {', '.join(others)}. Install into Slicer's Python?"
    with _failures_told(others):
        if packaging := _packaging():
            packaging.pip_ensure(others, requester=_MODULE, **({} if ask else {"prompt_install": False}))
        elif not ask or slicer.util.confirmOkCancelDisplay(question):
            slicer.util.pip_install(others)


def _packaging() -> Any:
    """Slicer's own tool; None before 5.12. The application does not import it by itself."""
    try:
        return importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:
        return None


@contextmanager
def _failures_told(wanted: list[str]) -> Iterator[None]:
    """Whatever an installer raises becomes what it means, with what to do; unless what was wanted is there all the same."""
    try:
        yield
    except Exception as error:
        if not missing(wanted):
            return
        raise ResourceError(f"{', '.join(wanted)} was not installed: {meaning(error)}") from error


def meaning(error: Exception) -> str:
    """What an installer's error means, and what to do, in words."""
    words = " ".join(str(one) for one in (error, getattr(error, "output", ""), getattr(error, "stderr", "")) if one)
    if "declined" in words.lower():
        return f"{error}. Registration needs it. Register again to be asked again, {ANOTHER_PYTHON}."
    kind = next((kind for kind, signs in _SIGNS.items() if any(sign in words.lower() for sign in signs)), "") or _circumstances()
    told = f"({type(error).__name__}: {error})"
    if kind == "disk":
        return f"the disk is full {told}. Free some GB where Slicer is installed ({sys.prefix}), {ANOTHER_PYTHON}."
    if kind == "rights":
        return (
            f"Slicer's folder {sys.prefix} may not be written {told}. Let who administers this computer install it, "
            f"{ANOTHER_PYTHON}."
        )
    if kind == "network":
        return f"the package index cannot be reached {told}. Connect this computer, or set its proxy, and register again, {ANOTHER_PYTHON}."
    return (
        f"the installer failed {told}. Most often that is the network (a proxy, a firewall): Slicer's log says more. "
        f"Register again to try again, {ANOTHER_PYTHON}."
    )


def _circumstances() -> str:
    """What of this computer would keep anything from being installed, where the installer itself has not said it."""
    if shutil.disk_usage(sys.prefix).free < _NEEDED_MB * 2**20:
        return "disk"
    return "" if os.access(sys.prefix, os.W_OK) else "rights"
