"""The plan of the house: who may import whom, and what stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "RegistrationNetLib"

# Lowest floor first; a room imports only from floors below, or from rooms named before it on its own floor.
FLOORS = (
    (
        "version",
        "errors",
        "progress",
        "native",
        "interop",
        "colours",
        "transfer",
        "nrrd",
        "messages",
        "dependencies",
        "interpreter",
    ),
    (
        "separable",
        "pyramid",
        "noise",
        "descent",
        "layered_sampling",
        "deformation",
        "space",
        "interruption",
        "outputs",
        "terminal",
        "devices",
    ),
    ("measure", "mind", "mutual_information", "overlap", "similarity", "regularity", "target", "networks", "patches"),
    ("models",),
    (
        "catalogue",
        "weights",
        "model_list",
        "needs",
        "inputs",
        "cropping",
        "prepare",
        "warping",
        "landmarks",
        "initial",
        "alignment",
        "fields",
        "field_file",
        "refine",
        "implicit_refine",
    ),
    (
        "sparing",
        "checkpoint",
        "predictor",
        "network_pair",
        "velocity_refine",
        "network_refine",
        "options",
        "implicit_pair",
        "solution",
    ),
    ("quality", "marks", "known_map", "known_pair", "phantom", "views", "pictures", "registration"),
    ("training", "cohort", "report", "doctor"),
    (
        "services",
        "worker",
        "client",
        "sample_data",
        "scene_sampling",
        "mrml",
        "scene_inputs",
        "scene_display",
        "scene_results",
        "panel_inputs",
        "panel_words",
        "panel_devices",
        "panel_models",
        "panel_segments",
        "panel_results",
        "panel_run",
        "train_commands",
        "commands",
        "cli",
    ),
)
# The package's front loads its public names on first use; __main__ is the command.
DOORS = ("__init__", "__main__")

# cli → commands: what is heavy is imported where Ctrl-C is already a clean end.
# worker → services: it must listen before the heavy imports are done.
INNER_IMPORTS = {("cli", "commands"), ("worker", "services")}

# Slicer's own process imports these; they must not bring torch.
LIGHT = (
    "errors",
    "progress",
    "version",
    "transfer",
    "catalogue",
    "weights",
    "model_list",
    "needs",
    "cli",
    "messages",
    "interpreter",
    "dependencies",
    "worker",
)
# Some of these work in Slicer only.
IN_SLICER = ("client", "sample_data", "scene_sampling", "mrml", "scene_inputs", "scene_display", "scene_results")


def rooms() -> list[str]:
    """Every room that stands in the package: its files, and its folders that hold Python."""
    files = [path.stem for path in PACKAGE.glob("*.py")]
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    return sorted({*files, *folders} - set(DOORS))


def sources(room: str) -> Iterator[Path]:
    folder = PACKAGE / room
    yield from folder.rglob("*.py") if folder.is_dir() else [PACKAGE / f"{room}.py"]


def own_imports(source: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The rooms that the import statements among `nodes` name."""
    depth = len(source.relative_to(PACKAGE).parts)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module and node.module.startswith(PACKAGE.name):
            yield from node.module.split(".")[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE.name}."))


def imports_of(room: str) -> set[str]:
    found = (name for source in sources(room) for name in own_imports(source, ast.walk(ast.parse(source.read_text("utf-8")))))
    return set(found) - {room}


def inner_imports_of(room: str) -> set[str]:
    """Rooms that are imported inside a function."""
    functions = [
        (source, node)
        for source in sources(room)
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return {name for source, function in functions for name in own_imports(source, ast.walk(function))}


def place(room: str) -> tuple[int, int]:
    """Floor, and position on it."""
    return next((floor, names.index(room)) for floor, names in enumerate(FLOORS) if room in names)


@pytest.mark.parametrize("room", rooms())
def test_every_room_has_a_floor(room: str) -> None:
    assert any(room in names for names in FLOORS), f"{room} stands on no floor; give it one"


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_from_below(room: str) -> None:
    above = {other for other in imports_of(room) if place(other) >= place(room)}
    assert not above, f"{room} (floor {place(room)[0]}) imports from above: {', '.join(above)}"


@pytest.mark.parametrize("room", rooms())
def test_no_import_of_a_room_hides_inside_a_function(room: str) -> None:
    hidden = {other for other in inner_imports_of(room) if (room, other) not in INNER_IMPORTS}
    assert not hidden, f"{room} imports {', '.join(hidden)} inside a function"


def test_no_room_stands_on_two_floors() -> None:
    names = [room for floor in FLOORS for room in floor]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", ["", *(f".{room}" for room in LIGHT if (PACKAGE / f"{room}.py").exists())])
def test_import_brings_nothing_heavy(module: str) -> None:
    script = f"""
import sys
import {PACKAGE.name}{module}
heavy = {{"torch", "SimpleITK", "itk", "numpy", "scipy", "matplotlib", "vtk", "qt", "slicer", "PySide6", "PyQt5", "requests"}}
print(" ".join(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", IN_SLICER)
def test_what_slicer_imports_brings_no_torch(module: str) -> None:
    if module != "client":
        pytest.importorskip("slicer")
    script = f"import sys, {PACKAGE.name}.{module}; print(*{{'torch', 'SimpleITK', 'qt', 'PySide6'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == ""


def test_the_reader_of_imports_sees_every_form() -> None:
    code = """
from . import errors
from .space import Grid
from RegistrationNetLib.marks import worst
from RegistrationNetLib import refine
import RegistrationNetLib.prepare
import torch
"""
    found = own_imports(PACKAGE / "example.py", ast.walk(ast.parse(code)))
    assert set(found) == {"errors", "space", "marks", "refine", "prepare"}
