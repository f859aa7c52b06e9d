"""What the commands `cohort`, `series` and `template` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from ..choices import OPTIONS
from ..cohort.bids import Source, bids_plan
from ..cohort.clusters import Place
from ..cohort.option_texts import DEFAULTS, without_defaults
from ..cohort.overview import write_overview
from ..cohort.plan import Plan, listed_plan
from ..cohort.records import is_done
from ..cohort.run import Summary, run_cohort, run_one
from ..cohort.series import SeriesRegistration, check_carried, register_series
from ..cohort.template import Course, build_template
from ..errors import Cancelled, InputError, PlanError
from ..io.image_files import read_image
from ..io.landmarks import read_points
from ..io.outputs import check_folder_name
from ..io.series_files import read_series
from .argument_values import AS_THE_QUEUE_SAYS
from .console import progress_bar, table, wants_json
from .interruption import Interruption

# Where queues tell an element of a job array its number.
ARRAY_VARIABLES = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "SGE_TASK_ID", "LSB_JOBINDEX")
FAILED = 1


def run_cohort_command(options: Namespace, interruption: Interruption) -> int:
    """Register every pair of a plan."""
    place = _place(options)
    check_folder_name(options.out_dir)
    try:
        plan = _plan(options, is_here=place.is_here)
    except PlanError as error:
        return _tell_faults(error)
    interruption.check()
    if options.overview:
        write_overview(plan, options.out_dir, is_anonymous=options.anonymous)
        return 0
    if options.array is not None:
        summary = run_one(plan, options.out_dir, _number(options.array), is_anonymous=options.anonymous)
        return _tell(summary, options)
    try:
        with progress_bar(is_wanted=not options.quiet) as callback:
            summary = run_cohort(
                plan,
                options.out_dir,
                place=place,
                is_anonymous=options.anonymous,
                progress=interruption.checked(callback),
            )
    except (KeyboardInterrupt, Cancelled):
        done = sum(is_done(pair, options.out_dir) for pair in plan.pairs)
        print(f"registrationnet: cancelled; {done} of {len(plan.pairs)} are done, and the same command goes on", file=sys.stderr)
        return Cancelled.exit_status
    interruption.too_late()
    return _tell(summary, options)


def run_series(options: Namespace, interruption: Interruption) -> int:
    """Register the frames of a series to one of them."""
    check_folder_name(options.out_dir)
    labels = None if options.labels is None else read_image(options.labels)
    points = None if options.points is None else read_points(options.points)
    series = read_series(options.series)
    check_carried(series, labels=labels, points_mm=None if points is None else points.points_mm)
    with progress_bar(is_wanted=not options.quiet) as callback:
        result = register_series(series, reference=options.reference, progress=interruption.checked(callback), **_chosen(options))
        interruption.check()
        result.save(options.out_dir, labels=labels, points=None if points is None else (points.labels, points.points_mm))
    interruption.too_late()
    if wants_json(options):
        print(json.dumps(result.report(), indent=2))
    elif not options.quiet:
        _print_series(result)
    return 0


def _print_series(result: SeriesRegistration) -> None:
    rows = [["FRAME", "TIME", "MOVED", "VERDICT"]]
    for frame in result.frames:
        words = "reference" if frame.registration is None else str(frame.registration.verdict.words)
        rows.append([str(frame.number), f"{frame.time:g}", f"{frame.displacement_mm.mean:.2f} mm", words])
    print(table(rows))
    for drift in result.drift_mm:
        print(
            f"Drift when a chain of neighbours comes back to the reference: {drift.mean:.2f} mm mean, {drift.max:.2f} mm largest"
        )


def run_template(options: Namespace, interruption: Interruption) -> int:
    """Build the mean of a group of images."""
    course = Course(options.iterations, options.tolerance_vox)
    try:
        with progress_bar(is_wanted=not options.quiet) as callback:
            template = build_template(
                options.images, options.out_dir, course=course, options=_chosen(options), place=_place(options),
                progress=interruption.checked(callback),
            )  # fmt: skip
    except (KeyboardInterrupt, Cancelled):
        print("registrationnet: cancelled; what has been registered is kept, and the same command goes on", file=sys.stderr)
        return Cancelled.exit_status
    interruption.too_late()
    if wants_json(options):
        print((options.out_dir / "template.json").read_text(encoding="utf-8"))
    elif not options.quiet:
        for number, moved in enumerate(template.moved_mm, 1):
            print(f"Iteration {number}: off the mean shape by {moved.mean:.3f} mm mean, {moved.p95:.3f} mm for 95 %")
        print(
            "The template stands." if template.has_converged else "The template does not stand yet; --iterations gives it more."
        )
        print(f"Template: {options.out_dir / 'template.nii.gz'}")
    return 0


def _chosen(options: Namespace) -> dict[str, Any]:
    """The options of `register` that differ from its defaults."""
    return without_defaults({name: getattr(options, name, DEFAULTS[name]) for name in OPTIONS})


def _plan(options: Namespace, *, is_here: bool) -> Plan:
    defaults = _chosen(options)
    asked = {name: value for name in ("rule", "template", "suffix", "select") if (value := getattr(options, name)) is not None}
    if options.plan.is_dir():
        source = Source(options.plan, **{name: asked[name] for name in ("suffix", "select") if name in asked})
        rule = asked.get("rule", "first-session")
        return bids_plan(source, rule, options.out_dir, defaults, template=options.template, is_here=is_here)
    if asked:
        names = ", ".join(f"--{name}" for name in asked)
        raise InputError(f"{names} choose among the images of a BIDS folder, and {options.plan} is none. Leave them out.")
    return listed_plan(options.plan, defaults, is_here=is_here)


def _place(options: Namespace) -> Place:
    job: Mapping[str, Any] = {
        "cores": options.cores, "memory": options.memory, "walltime": options.walltime, **dict(options.queue_option)
    }  # fmt: skip
    return Place(
        processes=options.processes,
        scheduler=options.scheduler,
        queue=options.queue,
        jobs=options.jobs,
        job={name: value for name, value in job.items() if value is not None},
    )


def _number(given: int) -> int:
    """The element of the job array, as it was given or, where it was not, as the queue tells it."""
    if given != AS_THE_QUEUE_SAYS:
        return given
    for name in ARRAY_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    raise InputError(
        f"No queue tells which element of a job array this is; one of {', '.join(ARRAY_VARIABLES)} must. Give the number: --array 1."
    )


def _tell_faults(error: PlanError) -> int:
    """Each fault of a plan in a line."""
    for fault in error.faults:
        print(f"registrationnet: {' '.join(fault.split())}", file=sys.stderr)
    count = "1 fault" if len(error.faults) == 1 else f"{len(error.faults)} faults"
    print(f"registrationnet: {error.source} has {count}; nothing was started", file=sys.stderr)
    return PlanError.exit_status


def _tell(summary: Summary, options: Namespace) -> int:
    for failure in summary.failures:
        print(f"registrationnet: {failure.name}: {failure.error}", file=sys.stderr)
    if wants_json(options):
        failures = [{"name": one.name, "error": one.error} for one in summary.failures]
        print(json.dumps({"registered": summary.now, "before": summary.before, "failures": failures}, indent=2))
    elif not options.quiet:
        before = f", {summary.before} were done before" if summary.before else ""
        print(f"{summary.now} registered{before}, {len(summary.failures)} failed")
        if options.array is None:
            print(f"Overview: {options.out_dir / 'index.html'}")
    return FAILED if summary.failures else 0
