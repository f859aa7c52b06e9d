"""Check the claims of the six papers in small, and write `docs/claims.md` with its pictures.

    python -m Testing.claims [--quick] [--only NAME …] [--out FILE]

`--quick` takes a hundredth of the steps: it shows that everything runs, and its figures say nothing.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .setting import SLICES, Claim, Setting, Skipped

NAMES = ("icon", "gradicon", "constricon", "nephi", "carl", "unigradicon")
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


def told(name: str, claim: Claim | str, pictures: str) -> Iterator[str]:
    yield f"## {name}"
    if isinstance(claim, str):
        yield f"Skipped: {claim}."
        return
    yield f"> {claim.sentence}\n> ({claim.paper})"
    yield claim.checked
    lines = [claim.columns, ["---"] * len(claim.columns), *claim.rows]
    yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
    yield "\n".join(f"- {'held' if held else '**did not hold**'}: {what}" for what, held in claim.held)
    for file, caption in claim.pictures:
        yield f"![{caption}]({pictures}/{file})\n\n{caption}"


def summary(claims: dict[str, Claim | str]) -> str:
    def verdict(claim: Claim | str) -> str:
        if isinstance(claim, str):
            return "skipped"
        return f"{sum(held for _, held in claim.held)} of {len(claim.held)} conditions held"

    return "\n".join(
        ["| claim | verdict |", "| --- | --- |", *(f"| {name} | {verdict(claim)} |" for name, claim in claims.items())]
    )


def document(claims: dict[str, Claim | str], *, seconds: float, is_quick: bool, pictures: str) -> str:
    parts = [
        "# The claims of the papers, in small",
        "Written by `make claims`; the figures are those of small images and short trainings, so each claim is checked in kind, not in size.",
        f"{seconds / 60:.0f} minutes with {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}.",
        *(["**A quick run: nothing has learnt, and no figure means anything.**"] if is_quick else []),
        summary(claims),
        *(part for name, claim in claims.items() for part in told(name, claim, pictures)),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the claims; 0 if all conditions held, 1 if not. A quick run asks for nothing but that all runs."""
    parser = argparse.ArgumentParser(description="The claims of the six papers, in small")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument(
        "--out", type=Path, default=DOCUMENT, help="the document; its pictures go into a folder of its name beside it"
    )
    parser.add_argument("--slices", type=Path, default=SLICES, help="folder of the 2-D brain slices")
    options = parser.parse_args(arguments)
    pictures = options.out.with_suffix("")
    setting = Setting(QUICK if options.quick else 1.0, pictures, options.slices, lambda line: print(line, flush=True))
    start, claims = time.monotonic(), {}
    for name in options.only:
        print(name, flush=True)
        claims[name] = checked(name, setting)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = document(claims, seconds=time.monotonic() - start, is_quick=options.quick, pictures=pictures.name)
    options.out.write_text(content, encoding="utf-8")
    print(summary(claims))
    all_held = all(held for claim in claims.values() if isinstance(claim, Claim) for _, held in claim.held)
    return 0 if all_held or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
