"""How a command starts: only what it needs is imported, and the process ends when it is done."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from RegistrationNetLib.cli import main as command_line
from RegistrationNetLib.cli.main import COMMANDS, loaded, parser, program

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs one command after the other in a single process, and says for each which of the heavy packages are there.
PROGRAM = """
import json, sys
from RegistrationNetLib.cli.main import main
heavy, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for command in commands:
    try:
        status = main(command)
    except SystemExit as leaving:
        status = leaving.code
    print(json.dumps([command[0], status, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""


def test_commands_that_need_no_network_import_none(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(3, (2.0, 0.0, 0.0)), str(tmp_path / "shift.h5"))
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    commands = [
        ["--help"],
        ["register", "--help"],
        ["models", "list"],
        ["models", "show", "direct"],
        ["points", str(tmp_path / "points.csv"), str(tmp_path / "moved.csv"), "--transform", str(tmp_path / "shift.h5")],
    ]
    heavy = ["torch", "scipy", "pydicom", "matplotlib", "itk", "jinja2", "PIL", "requests"]
    run = [sys.executable, "-c", PROGRAM, json.dumps(heavy), json.dumps(commands)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert [json.loads(line) for line in done.stderr.splitlines()] == [[command[0], 0, []] for command in commands]
    assert (tmp_path / "moved.csv").read_text().splitlines()[1] == "3.000000,2.000000,3.000000"


def test_a_registration_imports_no_more_than_it_uses() -> None:
    unused = [
        "pydicom",
        "matplotlib",
        "scipy",
        "distributed",
        "dask",
        "itk",
        "nibabel",
        "nitransforms",
        "requests",
        "vtk",
        "pandas",
    ]
    unused += ["RegistrationNetLib.training.run", "RegistrationNetLib.cohort.run"]
    script = f"import RegistrationNetLib.cli.registration_commands, sys; print([one for one in {unused} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function(name: str) -> None:
    file, function = COMMANDS[name]
    command = loaded(name)
    assert (command.__module__, command.__name__) == (f"RegistrationNetLib.cli.{file}", function)
    words = {"models list": ["models"]}.get(name, name.split())
    with pytest.raises(SystemExit):
        parser().parse_args([*words, "--help"])


def test_the_collection_of_garbage_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is imported for the first time is imported without it; afterwards all is as it was, also where the import fails."""
    monkeypatch.setitem(COMMANDS, "missing", ("no_such_file", "run"))
    seen: list[bool] = []
    monkeypatch.setattr(command_line.importlib, "import_module", lambda *_: seen.append(gc.isenabled()) or command_line)
    with pytest.raises(AttributeError):
        loaded("missing")
    assert (seen, gc.isenabled()) == ([False], True)
    gc.disable()
    try:
        with pytest.raises(AttributeError):
            loaded("missing")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_program_ends_with_the_status_of_the_command_after_exit_handlers() -> None:
    script = "import atexit, sys; from RegistrationNetLib.cli.main import program; atexit.register(print, 'handled'); program()"
    done = subprocess.run(
        [sys.executable, "-c", script, "models", "show", "nothing"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout) == (2, "handled\n")
    assert "nothing" in done.stderr


def test_the_program_does_not_wait_for_modules_to_be_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(command_line, "main", lambda: 3)
    monkeypatch.setattr(command_line.atexit, "_run_exitfuncs", lambda: ended.append(-1))
    program()
    assert ended == [-1, 3]
