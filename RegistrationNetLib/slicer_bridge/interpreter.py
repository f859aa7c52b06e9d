"""The process of the worker: which Python, in which environment, and how it ends together with its children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, WorkerError

WORKER = "RegistrationNetLib.worker"
# What would change how the child's Python starts, or hold it back; and Slicer's plugins for ITK, which are not for SimpleITK's own ITK.
_UNWANTED = (
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PYTHONBREAKPOINT",
    "PYTHONOPTIMIZE",
    "PYTHONWARNINGS",
    "ITK_AUTOLOAD_PATH",
)

# Where an environment has its Python.
_BELOW_NORMAL = int(getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0))
_PYTHONS = ("bin/python3", "bin/python", "python.exe", "Scripts/python.exe")

# What Slicer's launcher sets so that Slicer finds its own: PythonSlicer sets it again, and any other Python would be led astray.
_LAUNCHERS = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "QT_PLUGIN_PATH")


def worker_python() -> str:
    """The Python to run the worker with: PythonSlicer inside Slicer, else the one that runs now.

    Raises:
        WorkerError: there is none; the program that runs now is not a Python.
    """
    found = shutil.which("PythonSlicer") if hasattr(sys.modules.get("slicer"), "app") else None
    found = found or sys.executable
    # Slicer's own executable would open a second Slicer.
    if not found or not Path(found).stem.lower().startswith("python"):
        raise WorkerError(
            f"No Python was found to run the worker with; in Slicer it is PythonSlicer on the PATH. "
            f"The program that runs is {found or 'unknown'}. Name the Python when making the client."
        )
    return found


def named_python(path: Path) -> tuple[str | None, str | None]:
    """The Python program, or the folder of packages for this program's own Python, that a user means by `path`.

    Raises:
        InputError: it is neither a program nor a folder with a Python or with PyTorch in it.
    """
    if path.is_file():
        return str(path), None
    for inside in _PYTHONS:
        if (path / inside).is_file():
            return str(path / inside), None
    if (path / "torch").is_dir():
        return None, str(path)
    raise InputError(
        f"{path} holds neither a Python nor PyTorch; a Python program, an environment (venv, conda) or a folder of packages with torch "
        "in it is needed. Choose another."
    )


def examination(python: str | None, packages: str | None, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The start of `doctor` by a Python: it says in JSON whether a worker could run there.

    Raises:
        WorkerError: the Python cannot be run.
    """
    command = [python or worker_python(), "-m", "RegistrationNetLib", "doctor", "--json"]
    return piped(command, _with_packages(environment, packages))


def piped(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The start of a program whose output comes by one pipe, in a process group of its own.

    Raises:
        WorkerError: it cannot be run.
    """
    flags = {"creationflags": _windows_flags()} if os.name == "nt" else {"start_new_session": True}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        return subprocess.Popen(command, env=dict(environment), **pipes, **flags)  # type: ignore[call-overload]
    except OSError as error:
        raise WorkerError(f"{command[0]} cannot be run ({error.strerror}). Name another Python.") from error


def _with_packages(environment: Mapping[str, str], packages: str | None) -> dict[str, str]:
    """`environment` in which a Python finds a folder of packages too."""
    paths = [environment.get("PYTHONPATH", ""), packages or ""]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def startup_environment() -> dict[str, str] | None:
    """In Slicer the environment that it was started in, before its launcher; elsewhere None. For the main thread only."""
    slicer = sys.modules.get("slicer")
    return dict(slicer.util.startupEnvironment()) if slicer is not None and hasattr(slicer, "app") else None


def worker_environment(environment: Mapping[str, str] | None = None, startup: Mapping[str, str] | None = None) -> dict[str, str]:
    """`environment` (default: this process's) for the worker: it finds this library and speaks UTF-8.

    With `startup` (from `startup_environment`), what Slicer's launcher has set is as it was there.
    """
    clean = {name: value for name, value in (os.environ if environment is None else environment).items() if name not in _UNWANTED}
    if startup is not None:
        clean = {name: value for name, value in clean.items() if name not in _LAUNCHERS}
        clean |= {name: startup[name] for name in _LAUNCHERS if name in startup}
    library = str(Path(__file__).resolve().parents[2])
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [library, clean.get("PYTHONPATH")]))
    return {**clean, "PYTHONUTF8": "1"}


def started(python: str, folder: Path, environment: Mapping[str, str], packages: str | None = None) -> subprocess.Popen[bytes]:
    """The worker, in a process group of its own: PythonSlicer is a launcher, and killing it alone would leave its child.

    Raises:
        WorkerError: the Python cannot be run.
    """
    # On Windows it begins below the application; elsewhere it steps back by itself.
    group = {"creationflags": _windows_flags() | _BELOW_NORMAL} if os.name == "nt" else {"start_new_session": True}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    try:
        return subprocess.Popen(
            [python, "-m", WORKER, str(folder)], cwd=folder, env=_with_packages(environment, packages), **pipes, **group
        )  # type: ignore[call-overload]
    except OSError as error:
        raise WorkerError(f"The worker cannot be started with {python} ({error.strerror}). Name another Python.") from error


def killed(process: subprocess.Popen[bytes]) -> None:
    """End the worker and its children at once. Returns without waiting."""
    if os.name == "nt":
        if process.poll() is None:
            kill = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
            subprocess.Popen(kill, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, creationflags=_windows_flags())
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()


def _windows_flags() -> int:
    return int(getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)) | int(getattr(subprocess, "CREATE_NO_WINDOW", 0))
