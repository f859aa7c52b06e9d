"""A view of an image's voxels keeps nothing alive: of an image that nobody holds, it shows whatever comes into its memory next."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("RegistrationNetLib", "RegistrationNet", "Testing") for path in (ROOT / folder).rglob("*.py"))
# What such a call gives lies in the memory of what it is called on.
SHARED = {"GetDisplacementField"}
# A function of Testing that gives the same image each time.
KEPT = {"head"}


def views_of_nobodys(tree: ast.Module) -> Iterator[int]:
    """Lines that take a view of what a call has just made."""
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "GetArrayViewFromImage"
        ):
            continue
        given = node.args[0]
        if isinstance(given, ast.Call) and ast.unparse(given.func).split(".")[-1] not in SHARED | KEPT:
            yield node.lineno


def test_no_view_is_taken_of_an_image_that_nobody_holds() -> None:
    taking = {path: text for path in FILES if "GetArrayViewFromImage" in (text := path.read_text("utf-8"))}
    found = {str(path.relative_to(ROOT)): list(views_of_nobodys(ast.parse(text))) for path, text in taking.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("sitk.GetArrayViewFromImage(image)", []),
        ("sitk.GetArrayViewFromImage(result.jacobian) > 0", []),
        ("sitk.GetArrayViewFromImage(part.GetDisplacementField())", []),
        ("x = 1\nbright = sitk.GetArrayViewFromImage(sitk.OtsuThreshold(image, 0, 1)) > 0", [2]),
    ],
)
def test_such_a_view_is_found(code: str, lines: list[int]) -> None:
    assert list(views_of_nobodys(ast.parse(code))) == lines
