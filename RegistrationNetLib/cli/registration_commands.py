"""What the commands `register` and `demo` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from ..choices import OPTIONS
from ..io.image_files import read_transform, voxel_count
from ..io.outputs import check_disk_space, check_folder_name, result_bytes, staged_folder, write_image
from ..quality.phantom import demo_pair
from ..quality.truth import Truth, truth_of
from ..registration.pipeline import Registration, register
from .console import painted, progress_bar, table, warned
from .interruption import Interruption
from .option_pairs import landmarks_of

# Exit status of a registration that was done but is worse than what was required.
WORSE_THAN_REQUIRED = 3


def run_register(options: Namespace, interruption: Interruption) -> int:
    """Register two images, and write all that comes out into a folder."""
    check_folder_name(options.out_dir)
    warn = warned(options)
    check_disk_space(options.out_dir, result_bytes(voxel_count(options.fixed), voxel_count(options.moving)))
    initial = read_transform(options.initial) if options.initial else None
    landmarks = landmarks_of(options, warn)
    with progress_bar(is_wanted=not options.quiet) as callback:
        result = register(
            options.fixed,
            options.moving,
            **{name: getattr(options, name) for name in OPTIONS},
            fixed_mask=options.fixed_mask,
            moving_mask=options.moving_mask,
            fixed_labels=options.fixed_labels,
            moving_labels=options.moving_labels,
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
    if not options.quiet:
        _print_result(result, options.out_dir)
    return _status(result, options.require)


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
    if not options.quiet:
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
