"""Headers of MetaImage files (.mha, .mhd): what ITK's reader takes at its word, and is ended or held up by."""

from __future__ import annotations

import re
from pathlib import Path

# The header ends with the line that names the voxels' file; no longer one is known.
HEADER_BYTES = 2**16
MOST_AXES = 10
LONGEST_WORD = 79
_AXES = re.compile(rb"^[ \t]*NDims\b[ \t]*[=:]?[ \t]*([^\r\n]*)", re.MULTILINE)


def has_sound_axes(path: Path) -> bool:
    """Whether the file, if it is a MetaImage, says that it has 1 to 10 axes, or nothing of them."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return True
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES).partition(b"ElementDataFile")[0]
    said = [words.strip() for words in _AXES.findall(header)]
    return all(re.fullmatch(rb"\d{1,2}", words) is not None and 1 <= int(words) <= MOST_AXES for words in said)


def has_short_pattern(path: Path) -> bool:
    """Whether the file, if it is a MetaImage, names the files of its voxels by no pattern (slice-%d.raw 1 9 1) with an overlong word.

    ITK keeps each word of a pattern in 80 bytes and writes on beyond them, which sooner or later ends the process.
    """
    if path.suffix.lower() not in (".mha", ".mhd"):
        return True
    with path.open("rb") as file:
        _, _, said = file.read(HEADER_BYTES).partition(b"ElementDataFile")
    named = said.splitlines()[0] if said else b""
    return b"%" not in named or all(len(word) <= LONGEST_WORD for word in named.split())
