"""What the commands `register` and `demo` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..choices import OPTIONS
from ..io.image_files import read_transform, voxel_count
from ..io.outputs import check_disk_space, check_folder_name, result_bytes, staged_folder, write_image
from ..io.warning import Warn
from ..quality.phantom import demo_pair
from ..quality.truth import Truth, truth_of
from ..registration.forecast import Forecast, forecast
from ..registration.pipeline import Registration, register
from ..registration.request import REGIONS
from .console import painted, progress_bar, table, wants_json, warned
from .interruption import Interruption
from .option_pairs import landmarks_of

# Exit status of a registration that was done but is worse than what was required.
WORSE_THAN_REQUIRED = 3
# What `Registration.save` writes.
RESULTS = ("transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "error_mm.nii.gz", "report.json", "report.html")


def run_register(options: Namespace, interruption: Interruption) -> int:
    """Register two images, and write all that comes out into a folder; without a folder say what would be done."""
    warn = warned(options)
    if options.out_dir is None:
        return _tell_forecast(options, interruption, warn)
    check_folder_name(options.out_dir)
    check_disk_space(options.out_dir, result_bytes(voxel_count(options.fixed), voxel_count(options.moving)))
    initial = read_transform(options.initial) if options.initial else None
    landmarks = landmarks_of(options, warn)
    with progress_bar(is_wanted=not options.quiet) as callback:
        result = register(
            options.fixed,
            options.moving,
            **_options_and_regions(options),
            fixed_landmarks=None if landmarks is None else landmarks.fixed_mm,
            moving_landmarks=None if landmarks is None else landmarks.moving_mm,
            landmark_labels=None if landmarks is None else landmarks.labels,
            rigid=options.rigid,
            keep_volume=options.keep_volume,
            initial=initial,
            previous=options.previous,
            progress=interruption.checked(callback),
        )
        interruption.check()
        result.save(options.out_dir, anonymous=options.anonymous)
    interruption.too_late()
    for warning in result.facts["warnings"]:
        warn(warning)
    if wants_json(options):
        print((options.out_dir / "report.json").read_text(encoding="utf-8"))
    elif not options.quiet:
        _print_result(result, options.out_dir)
    return _status(result, options.require)


def _options_and_regions(options: Namespace) -> dict[str, Any]:
    """The options of `register`, and its masks and labels."""
    return {name: getattr(options, name) for name in (*OPTIONS, *REGIONS)}


def _tell_forecast(options: Namespace, interruption: Interruption, warn: Warn) -> int:
    """Say what would be done, and what that takes; files of landmarks and transforms are read, too."""
    if options.initial:
        read_transform(options.initial)
    landmarks_of(options, warn)
    told = forecast(options.fixed, options.moving, **_options_and_regions(options))
    needed_mb = result_bytes(math.prod(told.fixed["size"]), math.prod(told.moving["size"])) / 2**20
    interruption.check()
    for warning in told.warnings:
        warn(warning)
    if wants_json(options):
        print(json.dumps(told.as_dict() | {"results": list(RESULTS), "results_mb": needed_mb}, indent=2))
    elif not options.quiet:
        print(table(list(_forecast_rows(told, needed_mb)), indent=""))
        print("Nothing was done. To do it, name a folder for the results: registrationnet register FIXED MOVING OUT_DIR")
    return 0


def _forecast_rows(told: Forecast, needed_mb: float) -> Iterator[tuple[str, str]]:
    for name, image in (("fixed", told.fixed), ("moving", told.moving)):
        size, spacing = "×".join(map(str, image["size"])), "×".join(f"{one:.3g}" for one in image["spacing_mm"])
        yield name, f"{size} voxels of {spacing} mm, modality {image['modality']}"
    yield "method", f"{told.model}: {told.title}"
    yield "weights", told.weights + ("" if told.weights != "missing" else f": registrationnet models download {told.model}")
    yield "alignment", ", ".join(told.align) or "none"
    yield "refinement", f"{told.refine}, {told.steps} steps" if told.steps else told.refine
    across = f"; {' or '.join(told.across_contrasts)} if the aligned images turn out to have two contrasts"
    yield "similarity", told.similarity + (across if told.across_contrasts else "")
    yield "repeats", f"{told.repeats}, to see how far to trust it"
    yield "resolution", f"{told.resolution_mm:.3g} mm"
    yield "memory", f"about {told.memory_mb / 1024:.1f} GB on {told.device}; {told.free_mb / 1024:.1f} GB are free"
    yield "time", "not known for a GPU" if told.seconds is None else f"about {told.seconds:.0f} s on two idle cores"
    yield "results", f"{', '.join(RESULTS)}; {needed_mb:.0f} MB at most"


def _status(result: Registration, required: str | None) -> int:
    """0, or 3 where the verdict is worse than what was required, which is told."""
    words = (required or "does-not-fit").replace("-", " ")
    if result.verdict.is_as_good_as(words):
        return 0
    print(f"registrationnet: the registration is worse than required ({words}); {result.verdict}", file=sys.stderr)
    return WORSE_THAN_REQUIRED


def run_demo(options: Namespace, interruption: Interruption) -> int:
    """Make a pair whose truth is known, register it, and say how far off the result is."""
    out_dir: Path = options.out_dir
    check_folder_name(out_dir)
    fixed, moving, fixed_labels, moving_labels, known = demo_pair(seed=options.seed)
    interruption.check()
    with progress_bar(is_wanted=not options.quiet) as callback:
        result = register(fixed, moving, seed=options.seed, progress=interruption.checked(callback))
    truth = truth_of(
        result.moving_from_fixed, known, labels=(fixed_labels, moving_labels), expected_error_mm=result.error_mm,
        bound_factor=result.expected_error.bound_factor,
    )  # fmt: skip
    inputs = {"fixed": fixed, "moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
    with staged_folder(out_dir) as folder:
        for name, image in inputs.items():
            write_image(image, folder / f"{name}.nii.gz")
        result.save(folder, truth=truth)
        interruption.check()
    interruption.too_late()
    if wants_json(options):
        print((out_dir / "report.json").read_text(encoding="utf-8"))
    elif not options.quiet:
        _print_result(result, out_dir)
        _print_truth(truth)
    return 0


def _print_truth(truth: Truth) -> None:
    print("Distance from the true place, over the head:")
    errors = {"before": truth.error_mm_before, "after": truth.error_mm_after, "expected": truth.expected_mm}
    rows = [[name, *(f"{mm:.2f} mm" for mm in vars(error).values())] for name, error in errors.items()]
    print(table([["", *vars(truth.error_mm_after)], *rows]))
    print(f"Mean Dice of the structures: {truth.dice.before:.3f} before, {truth.dice.after:.3f} after")


def _print_result(result: Registration, out_dir: Path) -> None:
    facts, verdict = result.report(), result.verdict
    all_marks = result.marks
    width = max(len(mark.colour) for mark in all_marks)
    rows = [(mark.colour.ljust(width), mark.measure, mark.value_text) for mark in all_marks]
    for line, mark in zip(table(rows).splitlines(), all_marks, strict=True):
        print(line.replace(mark.colour, painted(mark.colour, mark.colour), 1))
    for mark in all_marks:
        if mark.colour != "green":
            print(f"  {mark.measure}: {mark.rule}")
    print(f"{facts['model']} on {facts['device']}, {facts['seconds']['total']:.1f} s")
    print(f"{painted(verdict.words.capitalize(), verdict.colour)}: {verdict.reason}")
    print(f"Pictures and numbers: {out_dir / 'report.html'}")
