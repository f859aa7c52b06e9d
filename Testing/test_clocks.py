"""No test asserts how long something took: on a busy machine it would fail, whatever the code does."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTING = Path(__file__).resolve().parent
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}
FILES = sorted(path for path in TESTING.rglob("*.py") if path.name.startswith(("test_", "conftest")))


def is_clock(node: ast.AST) -> bool:
    """`time.monotonic()` and the like."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCKS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "time"
    )


def asserted_times(tree: ast.Module) -> Iterator[int]:
    """Lines that assert something of a clock, or of a name that was given a value from one in the same function."""
    for function in (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)):
        timed = {
            target.id
            for one in ast.walk(function)
            if isinstance(one, ast.Assign) and any(is_clock(inner) for inner in ast.walk(one.value))
            for target in one.targets
            if isinstance(target, ast.Name)
        }
        for one in ast.walk(function):
            if isinstance(one, ast.Assert) and any(
                is_clock(inner) or (isinstance(inner, ast.Name) and inner.id in timed) for inner in ast.walk(one.test)
            ):
                yield one.lineno


def test_no_test_asserts_the_time_that_something_took() -> None:
    timing = {path: text for path in FILES if "time." in (text := path.read_text("utf-8"))}
    found = {str(path.relative_to(TESTING)): list(asserted_times(ast.parse(text))) for path, text in timing.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_an_asserted_time_is_found() -> None:
    code = "def test():\n    start = time.monotonic()\n    longest = max(0.0, time.perf_counter() - start)\n    assert longest < 1\n    assert 1\n"
    assert list(asserted_times(ast.parse(code))) == [4]
