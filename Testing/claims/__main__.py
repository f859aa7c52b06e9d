"""Check the claims of the six papers in small, and write `docs/claims.md` with its pictures.

    python -m Testing.claims [--quick] [--only NAME …] [--go-on] [--out FILE]

`--quick` takes a hundredth of the steps: it shows that everything runs, and its figures say nothing. Each claim is kept as it
ends (`NAME.json` beside the pictures), and each training every 50 steps, so that a run that was cut goes on by `--go-on`; one claim is
checked again by `--only`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .setting import RUNS, SLICES, Claim, Setting, Skipped

NAMES = ("icon", "gradicon", "constricon", "carl", "nephi", "unigradicon")
QUICK = 0.01
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "claims.md"


def checked(name: str, setting: Setting) -> Claim | str:
    """The claim of that name, or why it was not checked."""
    try:
        module = importlib.import_module(f"{__package__}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("RegistrationNetLib.models."):
            raise
        return f"this version has no {error.name}"
    try:
        claim: Claim = getattr(module, name)(setting)
        return claim
    except Skipped as skipped:
        return str(skipped)


@dataclass(frozen=True)
class Checked:
    """A claim as it was checked: how long it took, in processor time (all runs) and by the clock (the last run), on how many threads."""

    claim: Claim
    processor_seconds: float
    seconds: float
    threads: int
    torch: str
    is_quick: bool

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Checked:
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(Claim(**told.pop("claim")), **told)


def check(name: str, setting: Setting, folder: Path) -> str | None:
    """Check a claim and keep it in `folder`; why it was not checked, where it was not."""
    start, processor, before = time.monotonic(), time.process_time(), setting.seconds_before
    claim = checked(name, setting)
    if isinstance(claim, str):
        return claim
    spent = time.process_time() - processor + setting.seconds_before - before
    seconds = time.monotonic() - start
    kept = Checked(claim, spent, seconds, torch.get_num_threads(), torch.__version__, setting.share == QUICK)
    kept.save(folder / f"{name}.json")
    return None


def kept_in(folder: Path) -> dict[str, Checked]:
    """The claims that were checked, now or before."""
    files = {name: folder / f"{name}.json" for name in NAMES}
    return {name: Checked.load(file) for name, file in files.items() if file.exists()}


def told(name: str, checked: Checked, pictures: str) -> Iterator[str]:
    claim = checked.claim
    yield f"## {name}"
    yield f"{claim.paper}, in our words: {claim.sentence}"
    yield f"Checked: {claim.checked}"
    lines = [claim.columns, ["---"] * len(claim.columns), *claim.rows]
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    yield "\n".join(f"- {'held' if held else '**did not hold**'}: {what}" for what, held in claim.held)
    if claim.remark:
        yield claim.remark
    yield (
        f"{checked.processor_seconds / 60:.1f} minutes of processor time, "
        f"{checked.threads} thread{'s' * (checked.threads > 1)}, torch {checked.torch}."
    )
    for file, caption in claim.pictures:
        yield f"![{caption}]({pictures}/{file})\n\n{caption}"


def summary(kept: Mapping[str, Checked], skipped: Mapping[str, str]) -> str:
    def verdict(name: str) -> str:
        if name not in kept:
            return f"not checked: {skipped.get(name, 'not asked for yet')}"
        held = [one for _, one in kept[name].claim.held]
        return "held" if all(held) else f"**did not hold**: {sum(held)} of {len(held)} conditions did"

    return "\n".join(["| claim | verdict |", "| --- | --- |", *(f"| {name} | {verdict(name)} |" for name in NAMES)])


def document(kept: Mapping[str, Checked], skipped: Mapping[str, str], pictures: str) -> str:
    parts = [
        "# The claims of the papers, in small",
        "Written by `make claims`. The figures are those of small 2-D images and of trainings of minutes, from fixed seeds, so that "
        "each claim is checked in kind and not in size; Dice and folds are means over held-out pairs.",
        *(["**Quick runs among them: nothing has learnt there, and no figure means anything.**"] * any(one.is_quick for one in kept.values())),
        summary(kept, skipped),
        *(part for name, one in kept.items() for part in told(name, one, pictures)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the claims; 0 if all conditions held, 1 if not. A quick run asks for nothing but that all runs."""
    parser = argparse.ArgumentParser(description="The claims of the six papers, in small")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--go-on", action="store_true", help="leave out what was checked already, and take trainings up")
    parser.add_argument(
        "--out", type=Path, default=DOCUMENT, help="the document; figures and pictures go into a folder of its name beside it"
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="where trainings are kept on their way; default %(default)s")
    parser.add_argument("--slices", type=Path, default=SLICES, help="folder of the 2-D brain slices")
    options = parser.parse_args(arguments)
    folder = options.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        QUICK if options.quick else 1.0, folder, options.slices, options.runs, options.go_on, lambda line: print(line, flush=True)
    )
    skipped: dict[str, str] = {}
    for name in options.only:
        if options.go_on and (folder / f"{name}.json").exists():
            continue
        print(name, flush=True)
        why_not = check(name, setting, folder)
        if why_not is not None:
            skipped[name] = why_not
        options.out.write_text(document(kept_in(folder), skipped, folder.name), encoding="utf-8")
    kept = kept_in(folder)
    options.out.write_text(document(kept, skipped, folder.name), encoding="utf-8")
    print(summary(kept, skipped))
    all_held = all(held for one in kept.values() for _, held in one.claim.held)
    return 0 if all_held or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
