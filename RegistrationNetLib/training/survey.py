"""Which files of a cohort were found usable, kept beside a training, so that its next start need not decode all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock

from ..io.outputs import staged

SURVEY = "survey.json"


@contextmanager
def kept_survey(folder: Path, *, is_shared: bool = False) -> Iterator[set[str]]:
    """The keys of what was found usable, to which those may be added that are found now; they are kept however the block ends.

    Only what is usable is kept: a file that was not may have become readable, and is looked at again.

    Args:
        folder: of the training.
        is_shared: other processes do the same: one after the other, so that the first looks and the others find.

    Raises:
        OutputError: it could not be written.
    """
    with FileLock(folder / f".{SURVEY}.lock") if is_shared else nullcontext():
        before = _read(folder / SURVEY)
        usable = set(before)
        try:
            yield usable
        finally:
            if usable != before:
                with staged(folder / SURVEY) as temporary:
                    temporary.write_text(json.dumps({"usable": sorted(usable)}, indent=1) + "\n", encoding="utf-8")


def _read(file: Path) -> set[str]:
    """What the file tells; nothing where it is missing or damaged: then all files are read."""
    try:
        return {str(key) for key in json.loads(file.read_text(encoding="utf-8"))["usable"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
