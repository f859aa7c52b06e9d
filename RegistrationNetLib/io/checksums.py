"""Whether a file, or a folder of files, still holds what it held."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .native_paths import printable
from .whole_files import image_beside

PIECE = 2**20
# In the headers of MetaImage and NRRD: the file that holds the voxels; LIST, with one file in each line after it; or a pattern of names
# ("slice%03d.raw 1 10 1", with the first number, the last and the step).
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)
_NUMBER = re.compile(r"%\d*[di]")
_HEADER_BYTES = 65_536


@dataclass(frozen=True)
class Fingerprint:
    """What a file or folder holds: the SHA-256 of its content, and a stamp of sizes and times that spares reading it again."""

    sha256: str
    stamp: str

    @staticmethod
    def of(path: Path) -> Fingerprint:
        """That of `path`, with the file of voxels that a header names.

        Raises:
            InputError: it is missing, or cannot be read.
        """
        try:
            return Fingerprint(_content(path), stamp_of(path))
        except OSError as error:
            raise InputError(
                f"{printable(path)} cannot be read ({error.strerror or error}). Check the path and who may read it."
            ) from error

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Fingerprint:
        """What `as_dict` gave."""
        return Fingerprint(str(content["sha256"]), str(content["stamp"]))

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)

    def still_holds(self, path: Path) -> bool:
        """Whether `path` holds the same content; it is read only where its size or times differ."""
        try:
            return stamp_of(path) == self.stamp or _content(path) == self.sha256
        except OSError:
            return False


def stamp_of(path: Path) -> str:
    """Sizes and times of change of `path`, of all files of a folder, of the voxels beside a header.

    The same stamp means the same content on any usual file system.

    Raises:
        OSError: it is missing, or cannot be read.
    """
    states = [one.stat() for one in _files(path)]
    text = ";".join(f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}" for state in states)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    """The files that make up one input."""
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    return [path, *_beside(path)]


def _beside(path: Path) -> Iterator[Path]:
    """The files with the voxels, where `path` is only a header."""
    name = path.name.lower()
    if name.endswith((".hdr", ".hdr.gz", ".img", ".img.gz")):
        other = image_beside(path)
        if other != path:
            yield other
    elif name.endswith((".mhd", ".mha", ".nhdr", ".nrrd")):
        with path.open("rb") as file:
            found = _DATA_FILE.search(start := file.read(_HEADER_BYTES))
            if found is None:
                return
            named = os.fsdecode(found[1])
            if named.split()[0] == "LIST":
                lines = (start[found.end() :] + file.read()).splitlines()
                beside = [path.parent / os.fsdecode(line.strip()) for line in lines if line.strip()]
            elif _NUMBER.search(named):
                # All of that form, whichever numbers the header gives: one more does no harm.
                form = Path(re.sub(r"(\s+[-+.\d]+)*$", "", named))
                pattern = _NUMBER.sub("*", glob.escape(str(form.relative_to(form.anchor))))
                beside = sorted((path.parent / form.anchor).glob(pattern))
            else:
                beside = [path.parent / named]
        yield from (one for one in beside if one != path and one.is_file())


def _content(path: Path) -> str:
    """SHA-256 of every byte; of a folder also of the names, so that exchanged files are noticed."""
    digest = hashlib.sha256()
    for one in _files(path):
        if path.is_dir():
            digest.update(f"\0{one.relative_to(path).as_posix()}\0".encode("utf-8", "surrogateescape"))
        with one.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()
