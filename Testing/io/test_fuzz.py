"""Damaged files and wrong options end in an error of this library or in a sound answer: a fixed budget; more by `Testing.fuzz`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.landmarks import read_points
from RegistrationNetLib.io.native_paths import printable
from RegistrationNetLib.io.whole_files import is_whole

from .. import fuzz, fuzz_transforms

# What a cell of a table may hold, likely and unlikely.
CELLS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.integers(-1000, 1000).map(str),
    st.sampled_from(
        ["x", "y", "z", "l", "p", "s", "r", "a", "label", "defined", "", '"', "1,5", "#", "point", "index", "sep=;", " "]
    ),
    st.text(max_size=4),
)


@pytest.mark.skipif(sys.platform == "win32", reason="its limit of memory is a POSIX notion")
def test_damaged_files_and_wrong_options_end_well() -> None:
    assert list(fuzz.failures(0, cases=6 * len(fuzz.TARGETS), seconds=300)) == []


@pytest.mark.parametrize("deed", [fuzz_transforms.try_points, fuzz_transforms.try_warp], ids=lambda one: one.__name__)
def test_whole_transforms_are_taken(tmp_path: Path, deed: Callable[..., None]) -> None:
    """Else what the damaged ones are tried for would never be reached."""
    fuzz_transforms.make_transform_seeds(tmp_path)
    for name in fuzz_transforms.FORMATS:
        fuzz_transforms.try_transform(tmp_path / name, SimpleNamespace(choice=lambda _: deed))


def stumble(*_: object) -> None:
    raise ZeroDivisionError


def tell_an_address(*_: object) -> None:
    raise InputError("NiftiImageIO(0x5637d5c33a50) failed")


def test_what_ends_badly_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "TARGETS", (("", stumble), ("", tell_an_address)))
    with pytest.raises(ZeroDivisionError):
        fuzz.try_case(0, tmp_path)
    with pytest.raises(AssertionError, match="an address in"):
        fuzz.try_case(1, tmp_path)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os; print('case 7', flush=True); os.abort()", "FAILED 7 .*the process ended with -6"),
        ("print('case 8'); print('FAILED 8 (options)\\nTraceback'); raise SystemExit(1)", "FAILED 8 .options.\nTraceback"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="abort has another status there")
def test_a_process_that_aborts_or_fails_is_told(monkeypatch: pytest.MonkeyPatch, program: str, told: str) -> None:
    run = subprocess.run
    monkeypatch.setattr(fuzz.subprocess, "run", lambda _, **more: run([sys.executable, "-c", program], **more))
    found = next(fuzz.failures(7, cases=1, seconds=30))
    assert re.match(told, found)


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=6), max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", " "]),
    dim=st.sampled_from([None, 2, 3]),
)
def test_any_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, dim: int | None
) -> None:
    path = tmp_path_factory.mktemp("table") / "points.csv"
    path.write_bytes("\n".join(delimiter.join(row) for row in rows).encode("utf-8", "surrogatepass"))
    try:
        found = read_points(path, dim=dim, warn=lambda _: None)
    except InputError:
        return
    assert np.isfinite(found.points_mm).all()
    assert found.points_mm.shape[1] in (2, 3)


@given(st.text(st.characters(exclude_characters="\x00")))
@example("CT \udce4.nii")
def test_any_path_can_be_printed(text: str) -> None:
    """Also one with bytes that are no text, which Python holds as lone surrogates; what is text stays as it is."""
    shown = printable(text)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown) == len(text)
    assert all(one == other or ("\ud800" <= other <= "\udfff" and one == "?") for one, other in zip(shown, text, strict=True))


@given(st.binary(max_size=64), st.sampled_from([".tif", ".jpg", ".bmp", ".nii"]))
def test_any_beginning_of_a_picture_is_whole_or_not(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("picture") / f"a{suffix}"
    for start in (b"", b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08", b"II+\x00\x08\x00\x00\x00"):
        path.write_bytes(start + content)
        assert is_whole(path) in (True, False)
