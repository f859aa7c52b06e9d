"""Which Python runs the worker, in which environment."""

import os
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from RegistrationNetLib.errors import InputError, WorkerError
from RegistrationNetLib.slicer_bridge import interpreter
from RegistrationNetLib.slicer_bridge.interpreter import (
    examination,
    named_python,
    started,
    startup_environment,
    worker_environment,
    worker_python,
)

ROOT = str(Path(__file__).resolve().parents[2])


def test_a_plain_python_uses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "slicer", raising=False)
    assert worker_python() == sys.executable


def test_slicer_uses_its_pythonslicer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    launcher = tmp_path / name
    launcher.write_text("")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "slicer", raising=False)  # tests of the scene may have brought it
    assert worker_python() == sys.executable
    slicer = ModuleType("slicer")
    slicer.app = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    assert worker_python() == str(launcher)


@pytest.mark.parametrize("program", ["/opt/Slicer/bin/SlicerApp-real", ""])
def test_a_program_that_is_no_python_is_never_started_again(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "slicer", raising=False)
    monkeypatch.setattr(interpreter.sys, "executable", program)
    with pytest.raises(WorkerError, match="No Python was found"):
        worker_python()


def test_the_environment_finds_this_library_first_and_is_clean() -> None:
    given = {
        "PYTHONPATH": "/else",
        "PYTHONHOME": "/odd",
        "PYTHONSTARTUP": "/x.py",
        "ITK_AUTOLOAD_PATH": "/opt/Slicer/ITK",
        "HOME": "/home/me",
    }
    environment = worker_environment(given)
    assert environment["PYTHONPATH"] == os.pathsep.join([ROOT, "/else"])
    assert not {"PYTHONHOME", "PYTHONSTARTUP", "ITK_AUTOLOAD_PATH"} & set(environment)
    assert environment["HOME"] == "/home/me"
    assert environment["PYTHONUTF8"] == "1"
    assert given["PYTHONHOME"] == "/odd"


def test_in_slicer_the_environment_is_the_one_before_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "slicer", raising=False)
    assert startup_environment() is None
    slicer = ModuleType("slicer")
    slicer.app = object()  # type: ignore[attr-defined]
    slicer.util = SimpleNamespace(startupEnvironment=lambda: {"PATH": "/usr/bin", "HOME": "/old"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    startup = startup_environment()
    assert startup is not None
    given = {"PATH": "/opt/Slicer/bin:/usr/bin", "LD_LIBRARY_PATH": "/opt/Slicer/lib", "PYTHONPATH": "/opt", "HOME": "/home/me"}
    environment = worker_environment(given, startup)
    assert environment["PATH"] == "/usr/bin"
    assert "LD_LIBRARY_PATH" not in environment
    assert environment["PYTHONPATH"] == ROOT
    assert environment["HOME"] == "/home/me"


def test_without_one_the_environment_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_PROBE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert worker_environment()["REGISTRATIONNET_PROBE"] == "1"
    assert worker_environment()["PYTHONPATH"] == ROOT


def test_a_python_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be started with"):
        started(str(tmp_path / "python"), tmp_path, worker_environment())


def test_a_python_is_named_by_its_program_its_environment_or_a_folder_of_packages(tmp_path: Path) -> None:
    program = tmp_path / "environment" / "bin" / "python3"
    program.parent.mkdir(parents=True)
    program.write_text("")
    assert named_python(program) == (str(program), None)
    assert named_python(tmp_path / "environment") == (str(program), None)
    packages = tmp_path / "packages"
    (packages / "torch").mkdir(parents=True)
    assert named_python(packages) == (None, str(packages))
    for neither in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="holds neither a Python nor PyTorch"):
            named_python(neither)


def test_doctor_runs_where_a_folder_of_packages_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nprint('seen', flush=True)\nos._exit(0)\n")
    process = examination(sys.executable, str(tmp_path), {**os.environ, "PYTHONPATH": ROOT})
    said, _ = process.communicate(timeout=60)
    assert said.decode().strip() == "seen"


def test_a_program_that_cannot_be_run_is_told_before_its_examination(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be run .*Name another Python"):
        examination(str(tmp_path / "nowhere"), None, dict(os.environ))
