"""Importing a file of the library does nothing but define: no file, process or connection, and no change anywhere else."""

import json
import subprocess
import sys
from pathlib import Path

from .test_layers import LIBRARY, order

# Imports the files one after the other, lowest first, and tells what each has done beside.
PROGRAM = '''
import importlib, json, os, signal, sys, warnings
import numpy, pydicom, torch, SimpleITK  # what they do when they are imported is theirs

library, names = sys.argv[1], sys.argv[2:]
touched = []
ACTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.listdir", "os.scandir", "subprocess.Popen", "socket.connect", "os.putenv"}

def watch(event, arguments):
    """Notes what a file of the library does itself; what the import of a file reads has the import system between."""
    if event not in ACTS:
        return
    frame = sys._getframe(1)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith(library):
            touched.append(f"{event} {arguments[0]!r}")
            return
        frame = frame.f_back

def content(value):
    if isinstance(value, dict):
        return [(str(key), id(one)) for key, one in value.items()]
    return [id(one) for one in value] if isinstance(value, (list, tuple, set)) else None

def elsewhere():
    """Values of the loaded files of the library, without the packages' references to their files; and the process's settings."""
    state = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "RegistrationNetLib":
            values = {key: one for key, one in vars(module).items() if not key.startswith("__") and f"{name}.{key}" not in sys.modules}
            state[name] = {key: (id(one), content(one)) for key, one in values.items()}
    process = {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path), "filters": list(map(str, warnings.filters)),
        "signal": str(signal.getsignal(signal.SIGINT)), "threads": torch.get_num_threads(), "type": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(), "random": torch.random.get_rng_state().tolist(), "numpy": str(numpy.geterr()),
    }
    return state, process

sys.addaudithook(watch)
found = {}
for name in names:
    before, process = elsewhere()
    touched.clear()
    try:
        importlib.import_module(f"RegistrationNetLib.{name}")
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("slicer", "vtk", "qt", "ctk"):
            continue  # for Slicer alone, and Slicer is not here
        raise
    after, process_after = elsewhere()
    done = list(touched)
    done += [f"{module}.{key} is another" for module in before for key in before[module] if after[module].get(key) != before[module][key]]
    done += [f"{module}.{key} is new" for module in before for key in after[module].keys() - before[module].keys()]
    done += [f"the process's {key}" for key in process if process[key] != process_after[key]]
    found[name] = done
print(json.dumps(found))
'''


def done_at_import(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """What each of the files `names` of the library in `folder` does when it is imported."""
    command = [sys.executable, "-c", PROGRAM, str(folder / LIBRARY.name), *names]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_importing_a_file_of_the_library_does_nothing_but_define() -> None:
    found = done_at_import(LIBRARY.parent, order())
    assert {name: done for name, done in found.items() if done} == {}
    assert len(found) > 80


# Lines of files, and what each does.
LINES = {
    "from . import first; first.TABLE['b'] = 2": "RegistrationNetLib.first.TABLE is another",
    "from . import first; first.more = 2": "RegistrationNetLib.first.more is new",
    "import torch; torch.set_num_threads(torch.get_num_threads() + 1)": "the process's threads",
    "import torch; torch.manual_seed(3)": "the process's random",
    "from pathlib import Path; Path(__file__).read_text()": "open",
    "import subprocess; subprocess.run(['true'])": "subprocess.Popen",
    "import os; os.environ['ONE'] = '1'": "the process's environment",
}


def test_what_a_file_does_when_it_is_imported_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / LIBRARY.name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "first.py").write_text("TABLE = {'a': 1}\n")
    names = [f"file_{number}" for number in range(len(LINES))]
    for name, line in zip(names, LINES, strict=True):
        (package / f"{name}.py").write_text(line + "\n")
    found = done_at_import(tmp_path, ["first", *names])
    assert found.pop("first") == []
    for done, noticed in zip(found.values(), LINES.values(), strict=True):
        assert any(one.startswith(noticed) for one in done), f"{noticed}: {done}"
