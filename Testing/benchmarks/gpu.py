"""A check for a machine with a CUDA card that is at hand for minutes: do the tests marked `gpu` pass, how fast is it, what does it take?

    python -m Testing.benchmarks.gpu [FOLDER]          # make gpu GPU_OUT=FOLDER

What to bring, for a machine with Python 3.12, torch 2.11 with CUDA, numpy and no network; in all under 64 MiB:

- this working copy;
- wheels, fetched beforehand: SimpleITK (about 50 MB) and what that machine lacks of psutil, jinja2, pillow, requests, tqdm and pytest
  (under 4 MB together); icon_registration and unigradicon (under 1 MB), to have the reference packages beside:

      pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \\
          --platform any -d wheels SimpleITK psutil icon_registration unigradicon

There, in the working copy:

    python -m pip install --no-index --no-deps wheels/*.whl
    PYTHONPATH=. python -m Testing.benchmarks.gpu "$OUT"

FOLDER (else $OUT, else gpu-output) gets gpu.json and gpu.md, written anew after every step, so that a run that is cut has kept what
it had. Each step is a process with its own time limit. One that fails, takes too long, needs a package that is missing or more memory
than is free is named with its reason, and the others go on; after `--seconds` (340) what is left is named and skipped. Status: 0
where every step is done or skipped, 1 where one failed or took too long, 2 where there is no card, 130 where it was stopped.

Weights and images are random. Seconds are the median of the runs after a warm-up, by the device's own events; memory is the peak
of torch's allocator. `--rehearse` runs the same on the CPU with tiny sizes: it shows that everything works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNTIME = ("numpy", "torch", "SimpleITK", "psutil", "jinja2", "PIL", "requests", "tqdm")
OPTIONAL = ("pytest", "icon_registration", "unigradicon", "matplotlib")
CARDLESS, PACKAGELESS = 2, 3
LEAST_SECONDS = 5


@dataclass(frozen=True)
class Step:
    """One process: its time limit, what it imports, and about how much memory of the card it takes."""

    name: str
    seconds: float
    packages: tuple[str, ...] = ("numpy", "torch", "psutil")
    needed_gb: float = 0.0


# The memory is estimated generously: 2.5 KB for each voxel of a network's images with gradients, 1 KB without (0.4 KB for ours).
STEPS = (
    Step("machine", 60, ("torch",)),
    Step("tests", 120, ("numpy", "torch", "psutil", "SimpleITK", "pytest")),
    Step("unigradicon", 45, needed_gb=4),
    Step("network refinement", 60, needed_gb=14),
    Step("direct", 45, ("numpy", "torch", "psutil", "SimpleITK"), needed_gb=4),
    Step("nephi", 60, ("numpy", "torch", "psutil", "SimpleITK"), needed_gb=4),
    Step("carl", 45, needed_gb=8),
    Step("unicarl", 45, needed_gb=8),
    Step("constricon", 30, needed_gb=4),
    Step("unigradicon, reference", 45, ("numpy", "torch", "unigradicon", "icon_registration"), needed_gb=6),
    Step("network refinement, reference", 60, ("numpy", "torch", "unigradicon", "icon_registration"), needed_gb=14),
    Step("carl, reference", 45, ("numpy", "torch", "icon_registration"), needed_gb=12),
    Step("unicarl, reference", 45, ("numpy", "torch", "icon_registration"), needed_gb=12),
    Step("constricon, reference", 30, ("numpy", "torch", "icon_registration"), needed_gb=6),
)


class Record:
    """What has come so far, kept in `folder` as JSON and as a table; whole at any moment."""

    def __init__(self, folder: Path, steps: Sequence[Step], *, is_rehearsal: bool) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "rehearsal": is_rehearsal,
            "machine": {},
            "steps": [{"name": step.name, "outcome": "not reached", "reason": "", "rows": []} for step in steps],
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def enter(self, name: str, **found: Any) -> None:
        """What came of a step: outcome, reason, rows, seconds."""
        next(step for step in self.content["steps"] if step["name"] == name).update(found)
        self.write()

    def write(self) -> None:
        _replace(self.folder / "gpu.json", json.dumps(self.content, indent=2) + "\n")
        _replace(self.folder / "gpu.md", table(self.content))


def _replace(file: Path, text: str) -> None:
    arriving = file.with_suffix(".arriving")
    arriving.write_text(text, encoding="utf-8")
    arriving.replace(file)


def table(content: dict[str, Any]) -> str:
    """The record as Markdown: the machine, the figures, and what gave none."""
    machine = {name: value for name, value in content["machine"].items() if name != "free_gb"}
    lines = ["Rehearsal on tiny sizes: the figures mean nothing.\n"] if content["rehearsal"] else []
    lines += [f"{name}: {value}  " for name, value in machine.items()]
    lines += ["", "| step | setting | seconds | runs | peak, GB | |", "|---|---|---|---|---|---|"]
    for step in content["steps"]:
        for row in step["rows"]:
            peak = "–" if row["peak_mb"] is None else f"{row['peak_mb'] / 1024:.2f}"
            lines.append(f"| {step['name']} | {row['setting']} | {row['seconds']:.4g} | {row['runs']} | {peak} | {row['note']} |")
    lines += ["", "| step | outcome | reason |", "|---|---|---|"]
    lines += [f"| {step['name']} | {step['outcome']} | {step['reason'].replace('|', '/')} |" for step in content["steps"]]
    return "\n".join(lines) + "\n"


def missing(packages: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    """Those of `packages` that are not installed (or are named in `without`)."""
    return [name for name in packages if name in without or importlib.util.find_spec(name) is None]


def run(record: Record, steps: Sequence[Step], options: argparse.Namespace) -> int:
    """Every step, as far as the time goes; the exit status."""
    until = time.monotonic() + options.seconds
    outcomes = []
    for step in steps:
        found = _skipped(step, record.content["machine"], options, left=until - time.monotonic())
        found = found or _done(step, options, limit=min(options.limit or step.seconds, until - time.monotonic()))
        if step.name == "machine" and found["outcome"] == "done":
            record.content["machine"] = found.pop("machine")
        record.enter(step.name, **found)
        outcomes.append(found["outcome"])
        print(f"{step.name}: {found['outcome']} {found['reason']}".rstrip(), flush=True)
        if step.name == "machine" and found.get("status") == CARDLESS:
            for other in steps[1:]:
                record.enter(other.name, outcome="skipped", reason="no CUDA card")
            return CARDLESS
    return int(bool({"failed", "took too long"} & set(outcomes)))


def _skipped(step: Step, machine: dict[str, Any], options: argparse.Namespace, *, left: float) -> dict[str, Any]:
    """Why the step cannot be done, if it cannot."""
    lacking = missing(step.packages, options.without)
    free_gb = options.memory_gb if options.memory_gb is not None else machine.get("free_gb", float("inf"))
    needed_gb = step.needed_gb * (0.01 if options.rehearse else 1)
    if left < LEAST_SECONDS:
        reason = f"the time for the whole run, {options.seconds:g} s, was over"
    elif lacking:
        reason = f"needs {', '.join(lacking)}, which this machine has not"
    elif needed_gb > free_gb:
        reason = f"needs about {needed_gb:g} GB of the card; {free_gb:.2g} GB are free"
    else:
        return {}
    return {"outcome": "skipped", "reason": reason}


def _done(step: Step, options: argparse.Namespace, *, limit: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "Testing.benchmarks.gpu", "--step", step.name, *(["--rehearse"] if options.rehearse else [])]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "took too long", "reason": f"more than {limit:.3g} s"}
    seconds = round(time.monotonic() - begun, 1)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return {"outcome": "done", "reason": "", "process_seconds": seconds, **json.loads(lines[-1])}
    if done.returncode == PACKAGELESS:
        return {"outcome": "skipped", "reason": done.stderr.strip().splitlines()[-1]}
    said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
    return {
        "outcome": "failed",
        "reason": said[-1][:500],
        "process_seconds": seconds,
        "status": done.returncode,
        "output": (done.stdout + done.stderr)[-8000:],
    }


def machine(*, is_rehearsal: bool) -> dict[str, Any]:
    """Which card, driver and packages there are; ends the process where there is no card."""
    import torch

    if not (torch.cuda.is_available() or is_rehearsal):
        print(
            f"This machine (or this build of torch, {torch.__version__}) has no CUDA card; the check needs one.", file=sys.stderr
        )
        sys.exit(CARDLESS)
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available() and not is_rehearsal:
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        found["card"] = f"{torch.cuda.get_device_name()}, {total / 2**30:.1f} GB, compute capability {capability}"
        found |= {"cards": torch.cuda.device_count(), "driver": _driver(), "cudnn": torch.backends.cudnn.version()}
        found["free_gb"] = free / 2**30
    found["missing"] = ", ".join(missing((*RUNTIME, *OPTIONAL))) or "nothing"
    return {"machine": found, "rows": []}


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown (no nvidia-smi)"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (nvidia-smi does not answer)"


def tests(*, is_rehearsal: bool) -> dict[str, Any]:
    """The tests marked `gpu`, which all lie in Testing/gpu; ends the process with pytest's words where one fails or none ran."""
    folder = Path(__file__).resolve().parents[1] / "gpu"
    which = ["-m", "not gpu", "-k", "card_that_is_not_there"] if is_rehearsal else ["-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--confcutdir", str(folder), *which, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or "nothing").splitlines()[-1]
    if done.returncode or "passed" not in last:
        print(done.stdout, done.stderr, f"pytest: {last}", sep="\n", file=sys.stderr)
        sys.exit(1)
    return {"reason": last, "rows": []}


def child(name: str, *, is_rehearsal: bool) -> dict[str, Any]:
    """What the step `name` finds, in this process."""
    if name == "machine":
        return machine(is_rehearsal=is_rehearsal)
    if name == "tests":
        return tests(is_rehearsal=is_rehearsal)
    try:
        from Testing.benchmarks.gpu_measures import measured

        return {"rows": measured(name, is_rehearsal=is_rehearsal)}
    except ModuleNotFoundError as error:
        print(f"needs {error.name}, which this machine has not", file=sys.stderr)
        sys.exit(PACKAGELESS)


def main() -> None:
    parser = argparse.ArgumentParser(description="tests and measurements on a CUDA card")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("OUT") or "gpu-output"))
    parser.add_argument("--steps", help="some of them only, separated by semicolons")
    parser.add_argument("--seconds", type=float, default=340, help="for the whole run")
    parser.add_argument("--limit", type=float, help="seconds for each step, in place of its own limit")
    parser.add_argument("--memory-gb", type=float, help="as if the card had so much free")
    parser.add_argument("--without", default=[], type=lambda names: names.split(","), help="as if these packages were missing")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with tiny sizes")
    parser.add_argument("--step", choices=[step.name for step in STEPS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(child(options.step, is_rehearsal=options.rehearse)))
        return
    names = [name.strip() for name in options.steps.split(";")] if options.steps else [step.name for step in STEPS]
    if unknown := sorted(set(names) - {step.name for step in STEPS}):
        parser.error(f"there is no step {unknown[0]!r}; the steps are {'; '.join(step.name for step in STEPS)}")
    steps = [step for step in STEPS if step.name in names]
    record = Record(options.folder, steps, is_rehearsal=options.rehearse)
    try:
        status = run(record, steps, options)
    except KeyboardInterrupt:
        status = 130
    print(f"{record.folder / 'gpu.md'}, {record.folder / 'gpu.json'}")
    sys.exit(status)


if __name__ == "__main__":
    main()
