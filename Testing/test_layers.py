"""The plan of the library: which package may import which, which file of a package stands on which, and what stays light.

`python Testing/test_layers.py` prints the plan.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "RegistrationNetLib"

# Lowest first. A package imports only from those named before it; "" is the library's own folder. Within a package a file
# imports only from files named before it.
PLAN: dict[str, str] = {
    "": "version errors choices progress progress_bars devices memory interop",
    "geometry": "separable trilinear deformation pyramid space transform_slabs interpolation smooth_noise regularity field_pair layered_points margin point_velocity",
    "losses": "measure mind mutual_information overlap similarity label_overlap label_codes blockwise direction patches",
    "io": "order_statistics native_messages native_paths warning nrrd outputs whole_files checksums metaimage_headers nifti_headers nifti_missing mr_weighting dicom_headers dicom_series dicom image_files image_sources lattices transform_checks matrix_files fsl_transforms freesurfer_transforms niftyreg_transforms elastix_transforms displacement_images transform_files natural_order series_files label_images inputs outlying landmark_matching point_tables markups landmarks warping",
    "models": """
        catalogue download weights checkpoint
        layers.layout layers.coarse_input layers.linear_end layers.unet layers.matrix layers.features layers.attention layers.exponential
        layers.latent layers.implicit
        composition training_loss icon gradicon carl_equivariance carl constricon_velocities constricon constricon_resolution
        nephi nephi_loss nephi_parameters loading
    """,
    "quality": "assessment marks likeness evidence error_map worst verdict known_warp known_pair truth phantom slices colours pictures film report notebook",
    "registration": """
        argument_types size foreground volume prepare method aligned_pair optimizer network_lattice landmark_pairs initial_transform
        measures overlap_score pose_search affine_fits affine_steps contrast alignment
        field_refinement deforming velocity_refinement network_refinement network_run nephi_fit nephi_pair
        direct network_methods constricon nephi methods options landmark_outliers correction kept_shape previous solving perturbation repeats delivery resolution request forecast pipeline
    """,
    "training": """
        state schedule processes loaders pairs synthetic cohort_files image_cache survey cohort_images label_maps painting data augmentation
        learning validation configuration checkpoints record export run
    """,
    "cohort": "chains report_numbers pair option_texts plan bids records thumbnail estimate machine work overview clusters run series template",
    "slicer_bridge": """
        messages packed_mask interpreter dependencies installation settings sample_data worker_services worker client
        scene_sampling mrml scene_inputs scene_display scene_results scene_views scene_transforms scene_sequences scene_record scene_values scene_correction scene_job many sequence logic
        presets panel_binding panel_sight panel_words panel_inputs panel_devices panel_models panel_segments panel_checks
        panel_installation panel_presets panel_cursor panel_frames panel_results panel_several panel_sequence panel_correct panel_run
    """,
    "cli": "argument_values interruption console option_pairs given_transform doctor point_commands model_commands weights_commands warping_commands evaluation_commands registration_commands train_commands cohort_commands main",
}
# Programs: `python -m RegistrationNetLib`, `python -m RegistrationNetLib.worker`; and the package itself, whose public names load on
# first use.
PROGRAMS = ("__init__", "__main__", "worker")

# The panel asks methods, in a process without torch: only what works imports it, in these functions of their files.
METHODS = ("direct", "network_methods", "constricon", "nephi")
WORKING = ("network", "settings", "repeat_settings", "solve")
# What is heavy is imported where Ctrl-C is already a clean end, and after the worker has begun to listen.
IMPORTS_IN_FUNCTIONS = {("slicer_bridge.worker", "slicer_bridge.worker_services")}

# Slicer's own process imports these; they must not bring torch, nor what is only there after an installation.
LIGHT = [
    "errors",
    "choices",
    "progress",
    "progress_bars",
    "version",
    "models.download",
    "models.catalogue",
    "models.weights",
    "registration.size",
    "registration.methods",
    "cli.main",
    "slicer_bridge.messages",
    "slicer_bridge.interpreter",
    "slicer_bridge.dependencies",
    "slicer_bridge.installation",
    "slicer_bridge.worker",
]
# Some of these work in Slicer only.
IN_SLICER = ["slicer_bridge.client", "slicer_bridge.sample_data"] + [
    f"slicer_bridge.{name}"
    for name in (
        "scene_sampling",
        "mrml",
        "scene_inputs",
        "scene_display",
        "scene_results",
        "scene_views",
        "scene_transforms",
        "scene_job",
        "many",
        "sequence",
        "logic",
    )
]


def files() -> list[str]:
    """Every file of the library but the programs and the packages' docstrings, as a dotted name within it."""
    paths = [path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("*.py")]
    return sorted(
        ".".join(path.parts) for path in paths if path.stem != "__init__" and (len(path.parts) > 1 or path.name not in PROGRAMS)
    )


def order() -> list[str]:
    """The plan as one list of files, lowest first."""
    return [f"{package}.{name}" if package else name for package, names in PLAN.items() for name in names.split()]


def package_of(file: str) -> str:
    """The outermost package of a file; "" for the library's own folder."""
    return file.split(".")[0] if "." in file else ""


@cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file."""
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"))))


def source(file: str) -> Path:
    return LIBRARY.joinpath(*file.split(".")).with_suffix(".py")


def own_imports(path: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The files and packages of the library that the import statements among `nodes` name, as dotted names within it."""
    folder = path.relative_to(LIBRARY).parts[:-1]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            yield from _named([part for part in base if part], node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == LIBRARY.name:
            yield from _named(node.module.split(".")[1:], node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if alias.name.startswith(f"{LIBRARY.name}."))


def _named(base: list[str], aliases: list[ast.alias]) -> Iterator[str]:
    """`from base import …`: the file `base`, or the files of the package `base` that are imported."""
    if base and LIBRARY.joinpath(*base).with_suffix(".py").exists():
        yield ".".join(base)
    else:
        yield from (".".join([*base, alias.name]) for alias in aliases)


def imports_of(file: str) -> set[str]:
    path = source(file)
    return set(own_imports(path, parsed(path))) & set(order())


def imports_in_functions_of(file: str) -> set[str]:
    """What functions import, but for those of a method that may."""
    path, may = source(file), WORKING if file in [f"registration.{method}" for method in METHODS] else ()
    functions = [
        node for node in parsed(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in may
    ]
    return {name for function in functions for name in own_imports(path, ast.walk(function))}


def test_every_file_stands_in_the_plan() -> None:
    assert sorted(set(files()) - set(order())) == [], "these stand nowhere in the plan; name them there"


def test_the_plan_names_each_file_once_and_none_that_is_gone() -> None:
    assert sorted(order()) == files()


def test_a_file_imports_only_what_stands_before_it() -> None:
    place = {file: number for number, file in enumerate(order())}
    assert [f"{file} imports {other}" for file in order() for other in imports_of(file) if place[other] >= place[file]] == []


def test_no_import_of_the_library_hides_inside_a_function() -> None:
    hidden = {(file, other) for file in files() for other in imports_in_functions_of(file)}
    assert sorted(hidden - IMPORTS_IN_FUNCTIONS) == []


@pytest.mark.parametrize("package", [*(name for name in PLAN if name), "models.layers"])
def test_a_package_itself_is_a_docstring_that_says_what_lives_there_and_who_may_import_it(package: str) -> None:
    statements = ast.parse(LIBRARY.joinpath(*package.split("."), "__init__.py").read_text("utf-8"))
    assert len(statements.body) == 1
    told = ast.get_docstring(statements)
    assert told is not None
    assert "mport" in told


def brought_by_imports(files: Iterable[str], heavy: Iterable[str], *, first: str = "") -> str:
    """One process imports one of `files` after the other, and says which of them brought the first of what is `heavy`."""
    script = f"""
import importlib, sys
{first}
for file in {list(files)}:
    importlib.import_module(file)
    found = {set(heavy)} & set(sys.modules)
    if found:
        sys.exit(f"{{file}} brings {{', '.join(found)}}")
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=LIBRARY.parent, check=False).stderr


def test_import_brings_nothing_heavy() -> None:
    heavy = ("torch", "SimpleITK", "itk", "numpy", "scipy", "matplotlib", "vtk", "qt", "slicer", "PySide6", "PyQt5", "requests")
    assert brought_by_imports([LIBRARY.name, *(f"{LIBRARY.name}.{file}" for file in LIGHT)], heavy) == ""


def test_what_slicer_imports_brings_no_torch() -> None:
    pytest.importorskip("slicer")
    files = [f"{LIBRARY.name}.{file}" for file in IN_SLICER]
    layers = LIBRARY.parent / "Testing" / "host" / "slicer_layer"  # Slicer's own i18n
    assert (
        brought_by_imports(
            files, ("torch", "SimpleITK", "qt", "PySide6"), first=f"import slicer; slicer.__path__.append({str(layers)!r})"
        )
        == ""
    )


def test_a_heavy_import_is_seen() -> None:
    assert "json brings json" in brought_by_imports(["json"], ["json"])


def test_the_reader_of_imports_sees_every_form() -> None:
    code = """
from . import measure
from .mind import MINDSSC
from ..geometry import space
from ..errors import InputError
from RegistrationNetLib.quality.marks import worst
from RegistrationNetLib.registration import prepare
import RegistrationNetLib.models.layers.unet
import torch
"""
    found = own_imports(LIBRARY / "losses" / "example.py", ast.walk(ast.parse(code)))
    assert set(found) == {
        "losses.measure", "losses.mind", "geometry.space", "errors", "quality.marks", "registration.prepare", "models.layers.unet",
    }  # fmt: skip


def plan() -> str:
    """The packages, lowest first, with their files and the packages that they import."""
    lines = []
    for package, names in PLAN.items():
        lower = {package_of(other) for file in order() if package_of(file) == package for other in imports_of(file)} - {package}
        used = ", ".join(name or LIBRARY.name for name in PLAN if name in lower)
        lines += [f"{package or LIBRARY.name}  imports {used or 'nothing of the library'}", f"    {' '.join(names.split())}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(plan())  # noqa: T201, this is what the program is for
