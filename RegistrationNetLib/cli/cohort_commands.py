"""What the command `cohort` does. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from ..choices import OPTIONS
from ..cohort.bids import Source, bids_plan
from ..cohort.clusters import Place
from ..cohort.option_texts import without_defaults
from ..cohort.overview import write_overview
from ..cohort.plan import Plan, listed_plan
from ..cohort.records import is_done
from ..cohort.run import Summary, run_cohort, run_one
from ..errors import Cancelled, InputError, PlanError
from ..io.outputs import check_folder_name
from .console import progress_bar
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


def _plan(options: Namespace, *, is_here: bool) -> Plan:
    defaults = without_defaults({name: getattr(options, name) for name in OPTIONS})
    if options.plan.is_dir():
        source = Source(options.plan, options.suffix, options.select)
        return bids_plan(source, options.rule, options.out_dir, defaults, template=options.template, is_here=is_here)
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
    """The element of the job array, as it was given or as the queue tells it."""
    if given:
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
    if not options.quiet:
        before = f", {summary.before} were done before" if summary.before else ""
        print(f"{summary.now} registered{before}, {len(summary.failures)} failed")
        if options.array is None:
            print(f"Overview: {options.out_dir / 'index.html'}")
    return FAILED if summary.failures else 0
