"""Paths for C libraries: SimpleITK ends the whole process at a name that is not valid Unicode, as old disks and archives have."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


def is_plain(path: Path) -> bool:
    """Whether a C library takes the name: valid Unicode, without a null character."""
    try:
        return b"\0" not in str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False


def printable(path: str | os.PathLike[str]) -> str:
    """A path, or what a file says, as text that every file and terminal takes; bytes that are no text become question marks."""
    return os.fspath(path).encode("utf-8", "replace").decode("utf-8")


@contextmanager
def native_path(path: Path) -> Iterator[str]:
    """A name of the file or folder `path`, which must exist, that C libraries take: its own, or that of a link to it.

    Raises:
        InputError: the name is not valid Unicode and the system makes no links.
    """
    if is_plain(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="registrationnet-") as folder:
        # The folder is linked where the file's own name will do, so that a second file beside it (.mhd and .raw) is found.
        link_to_folder = is_plain(Path(path.name))
        name = "folder" if link_to_folder else "file" + "".join(one for one in path.suffixes[-2:] if is_plain(Path(one)))
        link, target = Path(folder) / name, path.absolute().parent if link_to_folder else path.absolute()
        try:
            link.symlink_to(target, target_is_directory=target.is_dir())
        except OSError as error:
            raise InputError(
                f"The name {printable(path)} is not valid Unicode; files are opened by names that are. Rename the file or its folder."
            ) from error
        yield str(link / path.name if link_to_folder else link)
