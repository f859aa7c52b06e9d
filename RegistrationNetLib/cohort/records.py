"""What is done and what has failed, as the folder of a cohort tells it; and how a pair's results get there, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..io.checksums import Fingerprint
from ..io.native_paths import printable
from ..io.outputs import staged, staged_folder
from ..models.catalogue import card_named
from ..models.weights import weights_state
from ..quality.verdict import WORDS
from ..version import __version__
from .pair import RESULTS, CohortPair, Layout

FAILURES_FOLDER = "failures"
UNFINISHED_FOLDER = ".unfinished"
LOCK = ".lock"
# How the runs of elements of a job array are called.
ARRAY = "array-"


@dataclass(frozen=True)
class Setting:
    """What all pairs of a run share.

    Attributes:
        out: the folder of the cohort, under the same name on every machine.
        run: the name of the run.
        is_anonymous: reports name no files.
    """

    out: Path
    run: str
    is_anonymous: bool = False

    @property
    def scratch(self) -> Path:
        """Where results are made before they are placed; it is there as long as the run is wanted."""
        return self.out / UNFINISHED_FOLDER / self.run


@dataclass(frozen=True)
class Failure:
    """Why a pair has no result: one clear line, and after how many seconds."""

    name: str
    error: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a pair ended: done where `error` is empty. `is_disk_full` means that no other pair will do better."""

    name: str
    error: str = ""
    seconds: float = 0.0
    is_disk_full: bool = False
    is_cancelled: bool = False


Work = Callable[[CohortPair, Setting], Outcome]


def asked_of(pair: CohortPair) -> dict[str, Any]:
    """What the results depend on beside the files: the options, and the checksum of the model's own weights."""
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in pair.options.items()}
    if "weights" not in pair.files:
        try:
            state = weights_state(card_named(str(pair.options.get("model", "direct"))))
        except InputError:
            return options  # there is no such model, as the registration will tell
        options |= {} if state.sha256 is None else {"weights_sha256": state.sha256}
    return options


def fingerprints_of(pair: CohortPair) -> dict[str, Fingerprint]:
    """What each file of the pair holds now.

    Raises:
        InputError: one is missing, or cannot be read.
    """
    return {role: Fingerprint.of(path) for role, path in pair.files.items()}


def is_done(pair: CohortPair, out: Path) -> bool:
    """Whether the results are there, all of them, of these files (by checksum) with these options."""
    record = _read(pair.layout.record_path(out))
    made_from = _fingerprints_in(record)
    if record.get("options") != asked_of(pair) or set(made_from) != set(pair.files):
        return False
    if not all(_has_content(pair.layout.path(out, name)) for name in RESULTS) or not report_of(pair, out):
        return False
    return all(made_from[role].still_holds(path) for role, path in pair.files.items())


def has_results(pair: CohortPair, out: Path) -> bool:
    """Whether there are results of the pair, be they of these files and options or of former ones."""
    return pair.layout.record_path(out).is_file() and bool(report_of(pair, out))


@contextmanager
def placed(pair: CohortPair, setting: Setting, fingerprints: Mapping[str, Fingerprint]) -> Iterator[Path]:
    """A folder to fill with `RESULTS`, which become the pair's when the block ends well, and vanish when it does not.

    A folder of its own appears by one renaming. Where several pairs share a folder, the record, which alone says that a
    pair is done, goes first and comes last.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    layout, out = pair.layout, setting.out
    try:
        with tempfile.TemporaryDirectory(prefix="pair-", dir=setting.scratch, ignore_cleanup_errors=True) as scratch:
            made, new = Path(scratch) / "made", Path(scratch) / "new"
            made.mkdir()
            new.mkdir()
            yield made
            _named(made, new, layout)
            record = json.dumps(_record(pair, fingerprints), indent=2)
            if layout.is_shared:
                layout.record_path(out).unlink(missing_ok=True)
                with staged_folder(out / layout.folder) as folder:
                    for one in new.iterdir():
                        one.replace(folder / one.name)
                _write(layout.record_path(out), record)
            else:
                (new / layout.record).write_text(record, encoding="utf-8")
                _exchange(new, out / layout.folder, Path(scratch) / "old")
            _failure_path(out, pair.name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write the results of {pair.name} into {printable(out)}: {error.strerror or error}. Free some space or choose another folder."
        ) from error


def note_failure(failure: Failure, out: Path) -> None:
    """Keep why a pair has no result; results of former files or options stay where they are.

    Raises:
        OutputError: it cannot be written.
    """
    _write(_failure_path(out, failure.name), json.dumps(asdict(failure), indent=2))


def failure_of(pair: CohortPair, out: Path) -> Failure | None:
    """Why the last try gave no result; None where there was none, or one went well since."""
    content = _read(_failure_path(out, pair.name))
    is_whole = set(content) == {"name", "error", "seconds"} and isinstance(content["error"], str)
    return Failure(**content) if is_whole else None


def begin_run(out: Path, run: str) -> Setting:
    """The setting of a run that may begin, when no other run is at work in `out`; what killed runs have left is removed.

    Elements of a job array are at work at the same time, and only look after their own.

    Raises:
        OutputError: `out` cannot be written.
    """
    folder = out / UNFINISHED_FOLDER
    try:
        left = [folder / run] if run.startswith(ARRAY) else [one for one in folder.glob("*") if not one.name.startswith(ARRAY)]
        for one in left:
            shutil.rmtree(one, ignore_errors=True)
        (folder / run).mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write into {printable(out)}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    return Setting(out.absolute(), run)


def end_run(setting: Setting) -> None:
    """Remove what the run has not finished. Processes that are still at work for it, wherever they are, stop when they see that."""
    folder = setting.out / UNFINISHED_FOLDER
    shutil.rmtree(folder / setting.run, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def report_of(pair: CohortPair, out: Path) -> dict[str, Any]:
    """The report of the results that are there; empty where there are none, or where it is not as it was written."""
    report = _read(pair.layout.path(out, "report.json"))
    verdict = report.get("verdict")
    told = [verdict.get(name) for name in ("words", "reason", "colour")] if isinstance(verdict, dict) else [None]
    return report if all(isinstance(one, str) for one in told) and told[-1] in WORDS else {}


def _has_content(path: Path) -> bool:
    """Whether the file is there with something in it, which it has lost where the machine went down before the disk had it."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _fingerprints_in(record: Mapping[str, Any]) -> dict[str, Fingerprint]:
    """What a record says of the files; nothing where somebody has changed it."""
    try:
        return {role: Fingerprint.from_dict(content) for role, content in record["files"].items()}
    except (AttributeError, KeyError, TypeError):
        return {}


def _record(pair: CohortPair, fingerprints: Mapping[str, Fingerprint]) -> dict[str, Any]:
    sidecar = pair.layout.sidecars.get(pair.layout.record, {})
    return {
        **sidecar,
        "name": pair.name,
        "options": asked_of(pair),
        "files": {role: fingerprint.as_dict() for role, fingerprint in fingerprints.items()},
        "registrationnet": __version__,
    }


def _named(made: Path, new: Path, layout: Layout) -> None:
    """The results under their names in the layout, with what stands beside them."""
    for result, name in layout.names.items():
        (made / result).replace(new / name)
    for name, content in layout.sidecars.items():
        if name != layout.record:
            (new / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _exchange(new: Path, target: Path, old: Path) -> None:
    """`new` in place of `target`, if there is one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except BaseException:
        if old.exists():
            old.replace(target)
        raise


def _failure_path(out: Path, name: str) -> Path:
    return out / FAILURES_FOLDER / f"{name}.json"


def _write(path: Path, text: str) -> None:
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where it cannot be read, as where somebody has changed it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def folder_bytes_free(out: Path) -> int:
    """What the disk of `out` has left."""
    return shutil.disk_usage(next(one for one in (out, *out.absolute().parents) if one.exists())).free


def run_name() -> str:
    """A name for a run that no other run has."""
    return f"{os.getpid()}-{os.urandom(4).hex()}"
