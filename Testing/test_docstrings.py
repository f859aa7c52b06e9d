"""What is public says what it is, and speaks of arguments that exist."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1] / "RegistrationNetLib"
FILES = sorted(str(path.relative_to(LIBRARY)) for path in LIBRARY.rglob("*.py"))

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions, classes and methods without a leading underscore, in classes without one."""
    for inner in node.body:
        if isinstance(inner, Definition) and not inner.name.startswith("_"):
            yield prefix + inner.name, inner
            if isinstance(inner, ast.ClassDef):
                yield from public(inner, f"{prefix}{inner.name}.")


def undocumented(tree: ast.Module, documented: dict[str, set[str]]) -> list[str]:
    """Public names without a docstring of their own or, for a method, of the same method in a base class (by `documented`)."""
    missing = [name for name, node in public(tree) if not ast.get_docstring(node)]
    return [name for name in missing if name.split(".")[-1] not in documented.get(name.split(".")[0], set())]


def documented_methods(trees: Iterable[ast.Module]) -> dict[str, set[str]]:
    """For each class of the library, by name, the methods that its bases document."""
    classes = {one.name: one for tree in trees for one in tree.body if isinstance(one, ast.ClassDef)}

    def of(name: str) -> set[str]:
        if name not in classes:
            return set()
        own = {one.name for one in classes[name].body if isinstance(one, ast.FunctionDef) and ast.get_docstring(one)}
        return own | inherited(name)

    def inherited(name: str) -> set[str]:
        return set().union(*(of(base.id) for base in classes[name].bases if isinstance(base, ast.Name)))

    return {name: inherited(name) for name in classes}


def documented_arguments(docstring: str) -> list[str]:
    """The names that stand before a colon in the section `Args:`."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    lines = section[1].splitlines() if section else []
    heads = [match[1] for line in lines if (match := re.match(r"    (\w+(?:, \w+)*):", line))]
    return [name for head in heads for name in head.split(", ")]


def arguments(node: Definition) -> set[str]:
    """Parameters of a function; of a class, those of its constructor and its annotated fields."""
    if isinstance(node, ast.ClassDef):
        fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
        made = (arguments(one) for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
        return fields.union(*made)
    one = node.args
    every = [*one.posonlyargs, *one.args, *one.kwonlyargs, *filter(None, (one.vararg, one.kwarg))]
    return {argument.arg for argument in every}


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((LIBRARY / file).read_text("utf-8"))


def test_everything_public_has_a_docstring() -> None:
    assert [file for file in FILES if not ast.get_docstring(parsed(file))] == []
    methods = documented_methods(map(parsed, FILES))
    assert [(file, name) for file in FILES for name in undocumented(parsed(file), methods)] == []


def test_a_docstring_names_no_argument_that_is_not_there() -> None:
    explained = [
        (file, name, argument)
        for file in FILES
        for name, node in public(parsed(file))
        for argument in set(documented_arguments(ast.get_docstring(node) or "")) - arguments(node)
    ]
    assert explained == []


def test_the_reader_of_docstrings_sees_what_lacks_one() -> None:
    tree = ast.parse(
        'def a(): ...\ndef _b(): ...\nclass C:\n    """C."""\n    def d(self): ...\nclass _E:\n    def f(self): ...\n'
    )
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == ["a", "C.d"]


def test_the_reader_of_docstrings_sees_an_argument_that_is_gone() -> None:
    (function,) = ast.parse(
        'def f(x, *, y):\n    """F.\n\n    Args:\n        x: one.\n        y, z: both\n            of them.\n    """'
    ).body
    assert isinstance(function, ast.FunctionDef)
    assert set(documented_arguments(ast.get_docstring(function) or "")) - arguments(function) == {"z"}
