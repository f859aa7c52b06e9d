"""What a user installs: the wheel's contents, its version, and that it works away from the source tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from RegistrationNetLib.slicer_bridge.dependencies import TORCH, requirements
from RegistrationNetLib.version import __version__

from . import addresses

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "RegistrationNetLib"
IN_WHEEL = ("Models", "Colors")

sdist = pytest.importorskip("hatchling.builders.sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_the_wheel_holds_the_package_and_its_resources_and_nothing_else(wheel: Path) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in files_under(PACKAGE)}
    for name in IN_WHEEL:
        expected |= {f"RegistrationNetLib/{path.relative_to(ROOT).as_posix()}" for path in files_under(ROOT / "Resources" / name)}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.parametrize(
    "name",
    [
        "Resources/Models/direct.json",
        "Resources/Models/unigradicon.json",
        "Resources/Colors/JacobianDeterminant.ctbl",
        "quality/report_template.html",
        "quality/trust.json",
        "py.typed",
    ],
)
def test_the_wheel_holds_cards_colours_the_page_and_the_mark_of_types(wheel: Path, name: str) -> None:
    assert f"RegistrationNetLib/{name}" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_says_who_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    folder = f"registrationnet-{__version__}.dist-info"
    metadata = archive.read(f"{folder}/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert "registrationnet = RegistrationNetLib.cli.main:program" in archive.read(f"{folder}/entry_points.txt").decode()
    assert archive.read(f"{folder}/licenses/LICENSE.txt") == (ROOT / "LICENSE.txt").read_bytes()


def test_the_wheel_says_whom_to_ask_and_where(wheel: Path) -> None:
    metadata = zipfile.ZipFile(wheel).read(f"registrationnet-{__version__}.dist-info/METADATA").decode()
    repository, authors = addresses.set_in_project()
    assert f"\nAuthor: {authors}\n" in metadata
    assert f"\nProject-URL: Repository, {repository}\n" in metadata
    assert "\nClassifier: Typing :: Typed\n" in metadata


def test_every_link_and_picture_of_the_readme_leads_somewhere_from_the_package_index(wheel: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = zipfile.ZipFile(wheel).read(f"registrationnet-{__version__}.dist-info/METADATA").decode().split("\n\n", 1)[1]
    repository, _ = addresses.set_in_project()
    page, picture = f"{repository}/blob/main/", f"{repository.replace('github.com', 'raw.githubusercontent.com')}/main/"
    inside = [(mark, file) for mark, file in re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme) if "://" not in file]
    assert {mark for mark, _ in inside} == {"!", ""}
    for mark, file in inside:
        assert (ROOT / file).exists(), file
        assert f"({picture if mark else page}{file})" in shown
    assert not re.search(r"\]\((?!https?://)", shown)


def test_the_source_archive_holds_what_its_tests_read() -> None:
    held = {Path(file.distribution_path).as_posix() for file in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    read = {
        "hatch_build.py",
        "RegistrationNet/Resources/requirements.txt",
        "Makefile",
        ".pre-commit-config.yaml",
        *addresses.FILES,
    }
    for folder in ("Testing", "docs", "Resources", "RegistrationNetLib"):
        read |= {path.relative_to(ROOT).as_posix() for path in files_under(ROOT / folder)}
    assert read <= held
    assert not {name for name in held if name.startswith((".git/", ".venv/")) or name == ".git" or "__pycache__" in name}


def test_the_wheel_works_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-m", "RegistrationNetLib", "models", "list", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    installed = {card["name"] for card in json.loads(done.stdout)}
    assert installed == {path.stem for path in (ROOT / "Resources" / "Models").glob("*.json")}


INSTALLED = Path("lib", "Slicer-5.12", "qt-scripted-modules")


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Extension Manager's package holds, built with stand-ins for Slicer's macros."""
    if not shutil.which("cmake"):
        pytest.skip("no cmake here")
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    macros = ROOT / "Testing" / "host" / "cmake"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={macros}", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    for command in (configure, ["cmake", "--install", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return prefix


def test_the_extension_holds_the_module_and_what_the_wheel_holds(wheel: Path, extension: Path) -> None:
    module = {"RegistrationNet.py"} | {
        path.relative_to(ROOT / "RegistrationNet").as_posix() for path in files_under(ROOT / "RegistrationNet" / "Resources")
    }
    library = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # Beside the modules, where Slicer has the resources of all of them, not within the library.
    library = {name.removeprefix("RegistrationNetLib/") if "/Resources/" in name else name for name in library}
    held = {path.relative_to(extension / INSTALLED).as_posix() for path in files_under(extension)}
    assert held == module | library
    for name in library:
        source = ROOT / name
        assert (extension / INSTALLED / name).read_bytes() == source.read_bytes()


def test_the_library_of_the_extension_finds_its_resources(extension: Path, tmp_path: Path) -> None:
    script = "from RegistrationNetLib.models.catalogue import cards; print(*cards())"
    environment = {**os.environ, "PYTHONPATH": str(extension / INSTALLED)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {path.stem for path in (ROOT / "Resources" / "Models").glob("*.json")}


def test_slicer_installs_what_the_library_needs_but_torch_and_what_it_has() -> None:
    """torch comes by the PyTorch extension; numpy and SimpleITK are Slicer's own and are never touched."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert listed is not None
    declared = set(re.findall(r'"([^"]+)"', listed[1]))
    own = {one for one in declared if one.startswith(("numpy", "SimpleITK", "torch"))}
    assert len(own) == 3
    assert set(requirements(ROOT / "RegistrationNet" / "Resources" / "requirements.txt")) == declared - own
    assert TORCH in own


def test_the_version_is_written_once() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^dynamic = \[.*"version".*\]', pyproject, re.MULTILINE)
    assert not re.search(r"^version *=", pyproject, re.MULTILINE)


def test_what_the_library_imports_is_what_it_declares() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert listed is not None
    declared = {name.lower() for name in re.findall(r'"([A-Za-z0-9_-]+)[^"]*"', listed[1])}
    imported = {
        (name[0] or name[1]).split(".")[0].lower()
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(
            r"^ *(?:from ([A-Za-z_][\w.]*) import|import ([A-Za-z_][\w.]*)(?: as \w+)?$)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    extras = {
        "argcomplete",
        "distributed",
        "itk",
        "matplotlib",
        "safetensors",
        "tomli",
        "tomllib",
    }  # tomllib is Python's own from 3.11 on
    host = {"slicer", "vtk", "qt", "sampledata"}
    foreign = imported - {name.lower() for name in sys.stdlib_module_names} - {"registrationnetlib"} - extras - host
    assert {"pillow" if name == "pil" else name for name in foreign} == declared
