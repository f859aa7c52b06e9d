"""One pair of a plan, registered and saved: what a process of the cohort does, on whichever machine it runs."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..errors import Cancelled, OutputError, RegistrationNetError, ResourceError
from ..io.image_files import voxel_count
from ..io.landmark_matching import matched
from ..io.landmarks import read_points
from ..io.outputs import check_disk_space, result_bytes
from ..io.transform_files import read_transform
from ..progress import Progress
from ..registration.pipeline import register
from .estimate import memory_mb_of
from .machine import gpu_reserved, memory_reserved
from .pair import IMAGES, LANDMARKS, CohortPair
from .records import Failure, Outcome, Setting, fingerprints_of, folder_bytes_free, note_failure, placed
from .thumbnail import write_thumbnail

# How often it is looked whether the run has ended.
LOOK_SECONDS = 0.5


# A process registers one pair at a time, also where a cluster gives it several threads.
_ONE_AT_A_TIME = threading.Lock()


def carry_out(pair: CohortPair, setting: Setting) -> Outcome:
    """Register the pair and save it. Whatever goes wrong is told in the outcome, and kept in the folder of the cohort."""
    with _ONE_AT_A_TIME:
        start = time.monotonic()
        try:
            _registered(pair, setting)
        except Cancelled:
            return Outcome(pair.name, is_cancelled=True)
        except Exception as error:  # noqa: BLE001, one pair must not end the others, and its failure is told
            return _failed(pair, setting, error, time.monotonic() - start)
        return Outcome(pair.name, seconds=time.monotonic() - start)


def told(error: BaseException) -> str:
    """The one line of a failure."""
    if isinstance(error, RegistrationNetError):
        return " ".join(str(error).split())
    return f"failed inside: {type(error).__name__}: {' '.join(str(error).split())}"


def _registered(pair: CohortPair, setting: Setting) -> None:
    check = _Check(setting)
    check()
    fingerprints = fingerprints_of(pair)
    check_disk_space(setting.out, _needed_bytes(pair))
    with gpu_reserved(str(pair.options.get("device", "auto")), check) as device, memory_reserved(_memory_mb(pair, device), check):
        result = register(**_arguments(pair, device), progress=check.hear)
        with placed(pair, setting, fingerprints) as folder:
            result.save(folder, anonymous=setting.is_anonymous)
            write_thumbnail(result, folder / "thumbnail.jpg")
            check()


def _memory_mb(pair: CohortPair, device: str) -> float:
    """What the registration takes of the memory of this machine; on a card, which it has for itself, next to nothing."""
    return 0.0 if device.startswith("cuda") else memory_mb_of(pair)


def _arguments(pair: CohortPair, device: str) -> dict[str, Any]:
    """What `register` is called with."""
    given: dict[str, Any] = {role: pair.files[role] for role in (*IMAGES, "weights") if role in pair.files}
    if LANDMARKS[0] in pair.files:
        fixed, moving = (read_points(pair.files[role]) for role in LANDMARKS)
        pairs = matched(fixed, moving)
        given |= dict(zip(LANDMARKS, (pairs.fixed_mm, pairs.moving_mm), strict=True)) | {"landmark_labels": pairs.labels}
    if "initial" in pair.files:
        given["initial"] = read_transform(pair.files["initial"])
    if "previous" in pair.files:
        given["previous"] = pair.files["previous"]
    return {**given, **pair.options, "device": device}


def _needed_bytes(pair: CohortPair) -> int:
    return result_bytes(voxel_count(pair.files["fixed"]), voxel_count(pair.files["moving"]))


def _failed(pair: CohortPair, setting: Setting, error: Exception, seconds: float) -> Outcome:
    if not setting.scratch.is_dir():
        return Outcome(pair.name, is_cancelled=True)  # the run has ended, and its folder was taken away
    is_full = isinstance(error, OutputError | ResourceError) and folder_bytes_free(setting.out) < _needed_bytes(pair)
    if not is_full:
        note_failure(Failure(pair.name, told(error), seconds), setting.out)
    return Outcome(pair.name, told(error), seconds, is_disk_full=is_full)


class _Check:
    """Raises `Cancelled` where the run is not wanted any more."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._looked_at = setting, -LOOK_SECONDS

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if not self._setting.scratch.is_dir():
            raise Cancelled("cancelled; the run has ended")

    def hear(self, _: Progress) -> None:
        """As a callback of progress."""
        self()
