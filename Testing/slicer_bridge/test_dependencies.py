"""What Slicer must install, and how it is asked for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from RegistrationNetLib.errors import ResourceError
from RegistrationNetLib.slicer_bridge import dependencies
from RegistrationNetLib.slicer_bridge.dependencies import ensure, missing, requirements


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("# what is needed\nno-such-package>=1.0  # for tests\n\n")
    return path


class Slicer(SimpleNamespace):
    """As much of the application as installs packages; what it is asked to install is there afterwards."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, lacks: set[str], agrees: bool = True, works: bool = True, **parts: Any
    ) -> None:
        self.lacks, self.asked, self.works = lacks, [], works
        monkeypatch.setattr(dependencies, "missing", lambda names: [one for one in names if one in self.lacks])
        super().__init__(modules=SimpleNamespace(), **parts)
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # as before 5.12
        self.util = SimpleNamespace(confirmOkCancelDisplay=lambda _: agrees, pip_install=self.install)

    def install(self, names: list[str], **_: object) -> None:
        self.asked += names
        if self.works:
            self.lacks -= set(names)


def with_tool(pip_ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """From 5.12 on; nobody has imported it."""
    module = ModuleType("slicer.packaging")
    module.pip_ensure = pip_ensure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)


def with_torch(slicer: Slicer, monkeypatch: pytest.MonkeyPatch, *, agrees: bool = True) -> None:
    class Logic:
        def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object:
            assert askConfirmation
            assert torchVersionRequirement == ">=2.2"
            if agrees:
                slicer.install([dependencies.TORCH])
            return object() if agrees else None

    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    slicer.modules.pytorchutils = object()


def test_comments_are_no_requirements(wanted: Path) -> None:
    assert requirements(wanted) == ["no-such-package>=1.0"]


def test_what_is_missing_or_too_old_is_found() -> None:
    assert missing(["pytest>=1.0", "pytest", "torch>=2.2"]) == []
    assert missing(["pytest>=999.0", "no-such-package"]) == ["pytest>=999.0", "no-such-package"]


def test_where_all_is_there_nobody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("pytest\n")
    asked: list[object] = []
    tools = SimpleNamespace(confirmOkCancelDisplay=asked.append, pip_install=asked.append)
    ensure(tmp_path / "requirements.txt", SimpleNamespace(util=tools, modules=SimpleNamespace()))
    assert not asked


def test_slicers_own_tool_installs_where_there_is_one(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slicer = Slicer(monkeypatch, lacks={"no-such-package>=1.0"}, agrees=False)
    with_tool(slicer.install, monkeypatch)
    ensure(wanted, slicer)
    assert slicer.asked == ["no-such-package>=1.0"]


def test_before_there_was_one_the_user_is_asked_here(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slicer = Slicer(monkeypatch, lacks={"no-such-package>=1.0"})
    ensure(wanted, slicer)
    assert slicer.asked == ["no-such-package>=1.0"]


def test_a_user_who_declines_is_told_what_is_missing(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slicer = Slicer(monkeypatch, lacks={"no-such-package>=1.0"}, agrees=False)
    with pytest.raises(ResourceError, match="no-such-package>=1.0 could not be installed"):
        ensure(wanted, slicer)
    assert not slicer.asked

    def declined(*_: object, **__: object) -> None:
        raise RuntimeError("User declined")

    with_tool(declined, monkeypatch)
    with pytest.raises(ResourceError, match="was not installed: User declined.*Register again to be asked again"):
        ensure(wanted, slicer)


def test_torch_comes_by_the_pytorch_extension(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slicer = Slicer(monkeypatch, lacks={dependencies.TORCH})
    with pytest.raises(ResourceError, match="Slicer gets it by the PyTorch extension"):
        ensure(wanted, slicer)
    with_torch(slicer, monkeypatch, agrees=False)
    with pytest.raises(ResourceError, match="PyTorch was not installed"):
        ensure(wanted, slicer)
    with_torch(slicer, monkeypatch)
    ensure(wanted, slicer)
    assert slicer.asked == [dependencies.TORCH]


@pytest.mark.parametrize("what", [dependencies.TORCH, "no-such-package>=1.0"])
def test_an_installation_that_fails_is_told_as_what_it_is(wanted: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    slicer = Slicer(monkeypatch, lacks={what})
    with_torch(slicer, monkeypatch)

    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, ["pip"])

    slicer.install = slicer.util.pip_install = fails
    with pytest.raises(
        ResourceError, match=f"{what} was not installed: the installer failed .*exit status 1.*try again, or use another Python"
    ):
        ensure(wanted, slicer)


@pytest.mark.parametrize("has_own_tool", [False, True])
def test_a_user_who_has_agreed_is_not_asked_again(wanted: Path, monkeypatch: pytest.MonkeyPatch, has_own_tool: bool) -> None:
    slicer = Slicer(monkeypatch, lacks={dependencies.TORCH, "no-such-package>=1.0"}, agrees=False)
    questions: list[object] = []

    class Logic:
        def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> object:  # noqa: ARG002
            questions.append(askConfirmation)
            slicer.install([dependencies.TORCH])
            return object()

    def pip_ensure(names: list[str], *, requester: str, prompt_install: bool = True) -> None:  # noqa: ARG001
        questions.append(prompt_install)
        slicer.install(names)

    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    slicer.modules.pytorchutils = object()
    if has_own_tool:
        with_tool(pip_ensure, monkeypatch)
    ensure(wanted, slicer, ask=False)
    assert slicer.asked == [dependencies.TORCH, "no-such-package>=1.0"]
    assert not any(questions)


@pytest.mark.parametrize("what", [dependencies.TORCH, "no-such-package>=1.0"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'light_the_torch'"), "package index cannot be reached .*Connect this computer"),
        (RuntimeError("Could not find a version that satisfies the requirement"), "package index cannot be reached"),
        (OSError("[Errno 101] Network is unreachable"), "package index cannot be reached"),
        (
            subprocess.CalledProcessError(1, ["pip"], stderr="SSLError: CERTIFICATE_VERIFY_FAILED"),
            "package index cannot be reached",
        ),
        (OSError(28, "No space left on device"), "the disk is full .*Free some GB"),
        (PermissionError(13, "Permission denied"), "may not be written .*administers this computer"),
        (AttributeError("module 'slicer.util' has no attribute '_executePythonModule'"), "the installer failed .AttributeError"),
    ],
)
def test_every_way_to_fail_is_told_with_its_remedy(
    wanted: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception, message: str
) -> None:
    slicer = Slicer(monkeypatch, lacks={what})
    with_torch(slicer, monkeypatch)

    def fails(*_: object, **__: object) -> None:
        raise error

    slicer.install = slicer.util.pip_install = fails
    with pytest.raises(ResourceError, match=f"{what} was not installed: .*{message}.*or use another Python"):
        ensure(wanted, slicer)


@pytest.mark.parametrize(("free", "may_write", "message"), [(2**20, True, "disk is full"), (2**40, False, "may not be written")])
def test_what_the_installer_does_not_say_is_looked_at(
    wanted: Path, monkeypatch: pytest.MonkeyPatch, free: int, may_write: bool, message: str
) -> None:
    slicer = Slicer(monkeypatch, lacks={"no-such-package>=1.0"})
    monkeypatch.setattr(dependencies.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(dependencies.os, "access", lambda *_: may_write)

    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, ["pip"])

    slicer.util.pip_install = fails
    with pytest.raises(ResourceError, match=message):
        ensure(wanted, slicer)


def test_the_installer_cannot_import_torch_into_slicer(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorchUtils does at its end; torch is installed all the same, and nothing is told."""
    slicer = Slicer(monkeypatch, lacks={dependencies.TORCH})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    tried: list[type[Exception]] = []

    class Logic:
        def installTorch(self, **_: object) -> object:
            slicer.install([dependencies.TORCH])
            try:
                import torch
            except ImportError as error:
                tried.append(type(error))
                raise
            return torch

    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    slicer.modules.pytorchutils = object()
    ensure(wanted, slicer)
    assert tried
    assert "torch" not in sys.modules
