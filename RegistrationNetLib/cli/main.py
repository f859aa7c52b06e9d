"""The command line: what can be asked, and how a failure is told.

Exit status: 0 done; 3 done, but worse than `--require` asks; 2 the input or the usage is wrong, nothing written; 1 it failed inside; 130 cancelled, nothing written.
What fails is told in one line on stderr; `--debug` or REGISTRATIONNET_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ..choices import (
    ALIGNMENT_STAGES,
    DEVICES,
    INTERPOLATIONS,
    MODALITIES,
    REFINEMENTS,
    SIMILARITIES,
    TRANSFORM_FORMATS,
    VERDICTS,
)
from ..errors import Cancelled, RegistrationNetError, is_out_of_memory_text
from ..io.warning import DataWarning
from ..models.catalogue import cards
from ..version import __version__
from .argument_values import (
    AS_THE_QUEUE_SAYS,
    Pulling,
    alignment_stages,
    any_number,
    checksum,
    device_name,
    frame_name,
    key_and_value,
    positive_number,
    whole_number,
)
from .interruption import Interruption

Command: TypeAlias = Callable[[argparse.Namespace, Interruption], int]

# The file and the function of each command. Only the file of the command that runs is imported: torch alone takes seconds.
COMMANDS: dict[str, tuple[str, str]] = {
    "register": ("registration_commands", "run_register"),
    "demo": ("registration_commands", "run_demo"),
    "warp": ("warping_commands", "run_warp"),
    "jacobian": ("warping_commands", "run_jacobian"),
    "points": ("point_commands", "run_points"),
    "convert": ("point_commands", "run_convert"),
    "evaluate": ("evaluation_commands", "run_evaluate"),
    "models list": ("model_commands", "run_models_list"),
    "models show": ("model_commands", "run_models_show"),
    "models remove": ("model_commands", "run_models_remove"),
    "models download": ("weights_commands", "run_models_download"),
    "models import": ("weights_commands", "run_models_import"),
    "doctor": ("doctor", "run_doctor"),
    "train": ("train_commands", "run_train"),
    "finetune": ("train_commands", "run_finetune"),
    "cohort": ("cohort_commands", "run_cohort_command"),
    "series": ("cohort_commands", "run_series"),
    "template": ("cohort_commands", "run_template"),
}


def loaded(name: str) -> Command:
    """The function of a command, its file imported.

    While it is imported for the first time, Python does not look for garbage, and what was made is never looked at again: imports make
    half a million objects that stay, and going through them takes a fifth of the time.
    """
    file, function = COMMANDS[name]
    is_new = f"{__package__}.{file}" not in sys.modules
    with _uncollected() if is_new else nullcontext():
        command: Command = getattr(importlib.import_module(f".{file}", __package__), function)
    return command


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, no garbage is collected; what was made there is kept out of every later collection."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def program() -> None:
    """`main` as the program `registrationnet`, which ends at once with its exit status.

    Python would take every module apart first, which for those of torch takes half a second. Exit handlers run, and what was printed
    is out. `python -m RegistrationNetLib` ends as every Python program does, so that profilers can tell what they saw.
    """
    status = main()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that lacks a letter still gets the line
    is_debugging = os.environ.get("REGISTRATIONNET_DEBUG", "0") not in ("", "0")
    with Interruption() as interruption, _data_warnings_in_one_line():
        try:
            commands = parser()
            _complete(commands)
            options = commands.parse_args(arguments)
            is_debugging |= options.debug
            # Heavy imports happen here, so that Ctrl-C during them is a clean end too. It waits for their end: torch's do not stand it.
            with interruption.patient():
                command = loaded(options.command)
            interruption.check()

            with log_on_stderr() if options.verbose else nullcontext():
                status = command(options, interruption)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # The reader of our output has seen enough; what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001, the one place where every failure becomes a line and a status
            return explain(error, is_cancelled=interruption.is_requested, is_debugging=is_debugging)


def explain(error: BaseException, *, is_cancelled: bool = False, is_debugging: bool = False) -> int:
    """Tell `error` on stderr in one line (after its traceback when debugging) and return the exit status that belongs to it."""
    if is_debugging:
        traceback.print_exception(error)
    if is_cancelled or isinstance(error, (KeyboardInterrupt, Cancelled)):
        _tell("cancelled; nothing was written")
        return Cancelled.exit_status
    if isinstance(error, RegistrationNetError):
        _tell(str(error))
        return error.exit_status
    if isinstance(error, MemoryError) or is_out_of_memory_text(str(error)):
        _tell("Out of memory; close other programs or use smaller images.")
        return 1
    _tell(f"failed inside: {type(error).__name__}: {error} (--debug tells where)")
    return 1


def _complete(commands: Parser) -> None:
    """Answer the shell that asks how the line goes on, and end; it asks by a variable, and argcomplete (extra `terminal`) is there."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(commands)


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Inside, what the library's loggers tell stands on stderr, but for warnings, which commands tell themselves."""
    logger, handler = logging.getLogger(__package__.partition(".")[0]), logging.StreamHandler()
    handler.addFilter(lambda record: record.levelno < logging.WARNING)
    handler.setFormatter(logging.Formatter("registrationnet: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _data_warnings_in_one_line() -> Iterator[None]:
    """Inside, warnings about what came in are told as every other message is, not as Python's own."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, DataWarning):
            _tell(f"warning: {message}")
        else:
            before(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = show
        yield


def _tell(message: str) -> None:
    print(f"registrationnet: {' '.join(message.split())}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Wrong usage is told in one line, like every other failure; an unknown option with the known one that is most like it."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:  # type: ignore[override]
        """As argparse, but what is unknown is told by the parser of the command."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(options, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser.suggestion(unknown)}")
        return options

    def suggestion(self, unknown: Sequence[str]) -> str:
        """The known options that are most like the unknown ones, in words; "" where none is."""
        known = [option for action in self._actions for option in action.option_strings]
        found = [get_close_matches(one.partition("=")[0], known, n=1) for one in unknown if one.startswith("-")]
        names = [one[0] for one in found if one]
        return f" (did you mean {', '.join(names)}?)" if names else ""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line that says what is wrong with the command."""
        _tell(f"{message}; see {self.prog} --help")
        self.exit(2)


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="registrationnet", description="Medical image registration, with numbers that say whether to trust it.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _add_register(commands)
    _add_warp(commands)
    _add_points(commands)
    _add_jacobian(commands)
    _add_convert(commands)
    _add_evaluate(commands)
    _add_models(commands)
    _add_json(_add(commands, "doctor", "say whether this machine is ready, and what to do if not"))
    _add_demo(commands)
    _add_train(commands)
    _add_finetune(commands)
    _add_cohort(commands)
    _add_series(commands)
    _add_template(commands)
    return top


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def _add(commands: Commands, name: str, summary: str, *, command: str = "", description: str = "") -> Parser:
    one = commands.add_parser(name, help=summary, description=description or f"{summary}.".capitalize())
    one.set_defaults(command=command or name, parser=one)
    one.add_argument("--debug", action="store_true", help="add the traceback to an error")
    one.add_argument("--verbose", action="store_true", help="say on stderr what is being done, and why")
    return one


def _add_register(commands: Commands) -> None:
    one = _add(commands, "register", "register MOVING to FIXED")
    one.add_argument("fixed", metavar="FIXED", help="image file, or folder with one DICOM series")
    one.add_argument("moving", metavar="MOVING", help="image file, or folder with one DICOM series")
    one.add_argument(
        "out_dir",
        metavar="OUT_DIR",
        type=Path,
        nargs="?",
        help="receives transform.h5, inverse.h5, warped.nii.gz, jacobian.nii.gz, error_mm.nii.gz, report.json, report.html; "
        "left out: says what would be done, and what that takes",
    )
    for side in ("fixed", "moving"):
        one.add_argument(f"--{side}-mask", metavar="FILE", help=f"where in {side} similarity counts")
    for side in ("fixed", "moving"):
        one.add_argument(f"--{side}-labels", metavar="FILE", help=f"outlined structures of {side}; both sides or neither")
    for side in ("fixed", "moving"):
        one.add_argument(
            f"--{side}-landmarks",
            type=Path,
            metavar="FILE",
            help=f"points of {side} that measure the error (CSV, .fcsv, .mrk.json); both or neither",
        )
    one.add_argument("--rigid", metavar="FILE", help="labels of fixed that move only rigidly, each by itself: bones, implants")
    one.add_argument("--keep-volume", metavar="FILE", help="labels of fixed that keep their volume: lesions")
    one.add_argument(
        "--from", dest="previous", type=Path, metavar="FILE",
        help="transform.h5 of a result of this pair, which is corrected near landmarks that pull and stays as it is elsewhere",
    )  # fmt: skip
    one.add_argument("--initial", type=Path, metavar="FILE", help="transform to begin with, points of fixed to points of moving")
    _add_pull(one)
    _add_options(one)
    one.add_argument(
        "--require", choices=VERDICTS, help="end with status 3 where the verdict is worse; the results are written all the same"
    )
    one.add_argument("--anonymous", action="store_true", help="name no files in the reports")
    _add_quiet_or_json(one)


def _add_pull(one: argparse._ActionsContainer) -> None:
    one.add_argument(
        "--landmarks-pull", dest="landmarks", action=Pulling, nargs="?", default="judge", metavar="MM",
        help="landmarks guide the registration, too; they were placed to within MM, default 1",
    )  # fmt: skip
    one.set_defaults(tolerance=1.0)


def _add_options(one: argparse._ActionsContainer) -> None:
    """What `register` takes beside images, points and transforms."""
    _add_model_name(one, "--model", default="direct", help="see `registrationnet models`; default %(default)s")
    one.add_argument("--refine", choices=REFINEMENTS, help="refinement after the model; default: as its card says")
    one.add_argument(
        "--steps", type=whole_number, metavar="N", help="steps of the refinement, 0 for none; default: the method's own"
    )
    similarity = one.add_argument(
        "--similarity", default="auto", metavar="NAME", help="default: as the modalities and contrasts of the pair ask"
    )
    similarity.completer = lambda **_: ["auto", *SIMILARITIES]  # type: ignore[attr-defined]
    for side in ("fixed", "moving"):
        one.add_argument(
            f"--{side}-modality", choices=MODALITIES, help="default: what the DICOM header says, other where it says nothing"
        )
    one.add_argument(
        "--align",
        type=alignment_stages,
        metavar="LIST",
        help=f"of {', '.join(ALIGNMENT_STAGES)}; or none; default: as the card says",
    )
    one.add_argument(
        "--device", type=device_name, default="auto", metavar="NAME", help=f"{', '.join(DEVICES)}, or cuda:1 for the second GPU"
    )
    one.add_argument("--weights", type=Path, metavar="FILE", help="weights for the model, in place of its own")
    one.add_argument(
        "--smoothness", type=positive_number, default=1.0, metavar="X", help="more than 1 is smoother; default %(default)s"
    )
    one.add_argument("--mirrored", action="store_true", help="the other side of the body than the model knows (right knees)")
    one.add_argument("--conserve-mass", action="store_true", help="for two CT of lungs: tissue that grows gets thinner")
    one.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="the same seed gives the same result; default %(default)s"
    )
    one.add_argument(
        "--resolution", type=positive_number, metavar="MM",
        help="spacing at which the work is done; default: the images', or, of large ones, the finest that pair and memory allow",
    )  # fmt: skip
    one.add_argument(
        "--repeats", type=whole_number, metavar="N",
        help="register so often again to see how far to trust it; default: as takes no longer than the registration",
    )  # fmt: skip


def _add_warp(commands: Commands) -> None:
    one = _add(commands, "warp", "carry images onto the grid of another by a transform")
    one.add_argument(
        "image", metavar="IMAGE", nargs="+", help="what to warp: for transform.h5, anything that lies on moving; also 4-D"
    )
    one.add_argument(
        "out", metavar="OUT", type=Path, help="image file, whose suffix chooses the format; or a folder, for several images"
    )
    _add_transform(one, is_required=True)
    one.add_argument("--like", metavar="FIXED", required=True, help="the image whose grid the result has")
    one.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="nearest neighbour and 0 outside, for label maps; asked for where it looks so",
    )
    one.add_argument(
        "--interpolation", choices=INTERPOLATIONS,
        help="between voxels; label-gaussian gives labels smooth borders; default: linear, of labels nearest",
    )  # fmt: skip
    one.add_argument(
        "--fill", type=any_number, metavar="VALUE", help="value outside of the image; default: its minimum, of labels 0"
    )


def _add_points(commands: Commands) -> None:
    one = _add(
        commands,
        "points",
        "map points by a transform",
        description="Map points by a transform. With transform.h5 points of fixed become points of moving, "
        "with inverse.h5 points of moving become points of fixed.",
    )
    one.add_argument("points", metavar="IN.csv", type=Path, help="columns x, y, z in LPS mm; other columns are kept; or .fcsv")
    one.add_argument("out", metavar="OUT.csv", type=Path)
    _add_transform(one, is_required=True)


def _add_jacobian(commands: Commands) -> None:
    one = _add(commands, "jacobian", "write the Jacobian determinant of a transform as an image")
    one.add_argument("out", metavar="OUT", type=Path, help="image file; its suffix chooses the format")
    _add_transform(one, is_required=True)
    one.add_argument("--like", metavar="FIXED", required=True, help="the image whose grid the result has")


def _add_convert(commands: Commands) -> None:
    one = _add(commands, "convert", "write a transform in another format")
    one.add_argument("transform", metavar="T", type=Path, help="as --transform of the other commands")
    one.add_argument(
        "out", metavar="OUT", type=Path,
        help="transform file of ITK (.h5 .tfm .txt); or image of displacements in LPS mm, for ANTs (.nii.gz) or Slicer (.nrrd)",
    )  # fmt: skip
    one.add_argument("--like", metavar="FIXED", help="the image whose grid an image of displacements has")
    _add_transform_format(one)


def _add_evaluate(commands: Commands) -> None:
    one = _add(commands, "evaluate", "measure a transform: Dice of labels, distance of landmarks, folds")
    _add_transform(one, is_required=False)
    one.add_argument("--fixed-labels", metavar="FILE", help="with --moving-labels: Dice of each label")
    one.add_argument("--moving-labels", metavar="FILE")
    one.add_argument("--fixed-landmarks", type=Path, metavar="FILE", help="with --moving-landmarks: distances in mm")
    one.add_argument("--moving-landmarks", type=Path, metavar="FILE")
    one.add_argument("--like", metavar="FIXED", help="with --transform: folds and displacement on the grid of this image")
    _add_json(one)


def _add_models(commands: Commands) -> None:
    one = _add(commands, "models", "list the models, show their cards, and manage their weights", command="models list")
    _add_json(one)
    what = one.add_subparsers(metavar="list | show NAME | download NAME | import NAME FILE | remove NAME")
    _add_json(_add(what, "list", "list the models and whether their weights are here", command="models list"))
    _add_json(_add_model(what, "show", "show the card of one model"))
    downloading = _add_model(what, "download", "fetch the weights of one model")
    downloading.add_argument("--sha256", type=checksum, metavar="SUM", help="take the file only if it has this checksum")
    _add_quiet_or_json(downloading)
    importing = _add_model(what, "import", "take the weights of one model from a file, where there is no network")
    importing.add_argument(
        "file", metavar="FILE", type=Path, help="as published (`show` tells where), or of your own training, its card beside it"
    )
    importing.add_argument("--sha256", type=checksum, metavar="SUM", help="take the file only if it has this checksum")
    _add_quiet_or_json(importing)
    _add_quiet_or_json(_add_model(what, "remove", "delete the weights of one model from this machine"))


def _add_model(what: Commands, name: str, summary: str) -> Parser:
    one = _add(what, name, summary, command=f"models {name}")
    _add_model_name(one, "name")
    return one


def _add_model_name(one: argparse._ActionsContainer, name: str, **more: Any) -> None:
    action = one.add_argument(name, metavar="NAME", **more)
    action.completer = lambda **_: list(cards())  # type: ignore[attr-defined]  # argcomplete asks it for the words that may stand there


def _add_demo(commands: Commands) -> None:
    one = _add(commands, "demo", "register a pair that is made on the spot and whose truth is known")
    one.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="receives the pair and the results")
    one.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="another seed is another pair; default %(default)s"
    )
    _add_quiet_or_json(one)


def _add_train(commands: Commands) -> None:
    one = _add(commands, "train", "train a network as CONFIG says; under torchrun on several devices")
    one.add_argument("config", metavar="CONFIG", type=Path, help="TOML file; see docs/training.md")
    _add_resume(one)


def _add_finetune(commands: Commands) -> None:
    one = _add(commands, "finetune", "train a model further on images of your own")
    _add_model_name(one, "--model", required=True, help="which to start from; see `registrationnet models`")
    one.add_argument("--name", required=True, help="of the model that comes out")
    one.add_argument("--data", required=True, type=Path, metavar="WHAT", help="folder of images, or CSV file that lists pairs")
    one.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="receives weights, checkpoint, curves, pictures")
    one.add_argument("--masks", type=Path, metavar="FOLDER", help="where similarity counts: files named as the images")
    one.add_argument("--labels", type=Path, metavar="FOLDER", help="outlined structures: files named as the images")
    one.add_argument("--modality", choices=MODALITIES, default="other")
    one.add_argument("--unreadable", choices=("stop", "skip"), default="stop", help="at a file that cannot be used; default stop")
    one.add_argument("--validation", type=Path, metavar="WHAT", help="as --data, for an early look; masks and labels by a list")
    one.add_argument("--weights", type=Path, metavar="FILE", help="start from these instead of the model's own")
    one.add_argument("--steps", type=whole_number, default=1000, metavar="N", help="default %(default)s")
    one.add_argument("--batch", type=whole_number, default=1, metavar="N", help="pairs of a step; default %(default)s")
    one.add_argument("--learning-rate", type=positive_number, default=2e-5, metavar="X", help="default %(default)s")
    one.add_argument("--similarity", default="", metavar="NAME", help="default: the model's own")
    one.add_argument(
        "--smoothness", type=positive_number, default=1.0, metavar="X", help="factor on the regularity; default %(default)s"
    )
    one.add_argument("--dice-weight", type=positive_number, default=1.0, metavar="X", help="of the labels; default %(default)s")
    one.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    one.add_argument(
        "--device", type=device_name, default="auto", metavar="NAME", help=f"{', '.join(DEVICES)}, or cuda:1 for the second GPU"
    )
    one.add_argument("--seed", type=whole_number, default=0, metavar="N")
    one.add_argument("--no-pictures", action="store_true", help="draw none; matplotlib is then not needed")
    _add_resume(one)


def _add_cohort(commands: Commands) -> None:
    one = _add(
        commands, "cohort", "register many pairs, on all cores, a cluster or a queue; what is done already is not done again"
    )
    one.add_argument(
        "plan", metavar="PLAN", type=Path, help="CSV file with the columns fixed,moving and options; or a BIDS folder"
    )
    one.add_argument(
        "out_dir", metavar="OUT", type=Path, help="receives a folder for each pair, index.html, pairs.csv, failures.csv"
    )
    bids = one.add_argument_group("of a BIDS folder")
    bids.add_argument(
        "--rule", choices=("first-session", "template"),
        help="each session to the subject's first, or each image to --template; default first-session",
    )  # fmt: skip
    bids.add_argument("--template", type=Path, metavar="FILE", help="the fixed image of all, for --rule template")
    bids.add_argument("--suffix", metavar="NAME", help="which images: the end of their names; default T1w")
    bids.add_argument("--select", metavar="ENTITIES", help="which images: what their names have, acq-mprage_run-1 say")
    where = _add_place(one)
    where.add_argument(
        "--array", type=whole_number, nargs="?", const=AS_THE_QUEUE_SAYS, metavar="N",
        help="register only pair N of the plan, from 1, without Dask; without N, as the queue numbers the element of a job array",
    )  # fmt: skip
    one.add_argument("--overview", action="store_true", help="register nothing; write the overview of what is there")
    of_all = one.add_argument_group("for every pair that does not say otherwise")
    _add_pull(of_all)
    _add_options(of_all)
    one.add_argument("--anonymous", action="store_true", help="name no files in reports and tables")
    _add_quiet_or_json(one)


def _add_place(one: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Where many registrations are worked on."""
    where = one.add_argument_group("where to work")
    where.add_argument(
        "--processes",
        type=whole_number,
        default=0,
        metavar="N",
        help="of this machine; default: one for a GPU, else one for a core",
    )
    where.add_argument("--scheduler", default="", metavar="ADDRESS", help="of a running Dask cluster, tcp://host:8786 say")
    where.add_argument("--queue", default="", metavar="NAME", help="slurm, pbs, sge, lsf, …: jobs that dask-jobqueue submits")
    where.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="how many; default %(default)s")
    where.add_argument("--cores", type=whole_number, metavar="N", help="of each job")
    where.add_argument("--memory", metavar="SIZE", help="of each job, 16GB say")
    where.add_argument("--walltime", metavar="TIME", help="of each job, as the queue writes it")
    where.add_argument(
        "--queue-option", action="append", default=[], type=key_and_value, metavar="NAME=VALUE",
        help="what else dask-jobqueue takes, account=… or queue=… say; may be there several times",
    )  # fmt: skip
    return where


def _add_series(commands: Commands) -> None:
    one = _add(commands, "series", "register the frames of a series in time to one of them")
    one.add_argument(
        "series",
        metavar="IMAGE_4D",
        type=Path,
        help="4-D image, Slicer sequence, DICOM folder by phase, folder of images in the order of their numbers",
    )
    one.add_argument("out_dir", metavar="OUT", type=Path, help="receives the warped series, a folder for each frame, series.csv")
    one.add_argument(
        "--reference", type=frame_name, default="middle", metavar="FRAME",
        help="first, middle, last, mean of all, or a number from 0; default %(default)s",
    )  # fmt: skip
    one.add_argument("--labels", metavar="FILE", help="outlined structures of the reference, carried to every frame")
    one.add_argument("--points", type=Path, metavar="FILE", help="points of the reference, followed through the series")
    _add_options(one)
    _add_quiet_or_json(one)


def _add_template(commands: Commands) -> None:
    one = _add(commands, "template", "build the mean of a group of images, in shape and intensity")
    one.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="two or more files")
    one.add_argument(
        "out_dir", metavar="OUT", type=Path, help="receives template.nii.gz, and the transforms to each image and back"
    )
    one.add_argument("--iterations", type=whole_number, default=8, metavar="N", help="at most; default %(default)s")
    one.add_argument(
        "--tolerance",
        dest="tolerance_vox",
        type=positive_number,
        default=0.1,
        metavar="VOXELS",
        help="stop when the template moves by less; default %(default)s",
    )
    _add_place(one)
    _add_options(one.add_argument_group("for every registration"))
    _add_quiet_or_json(one)


def _add_resume(one: argparse.ArgumentParser) -> None:
    one.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    _add_quiet_or_json(one)


def _add_transform(one: argparse.ArgumentParser, *, is_required: bool) -> None:
    one.add_argument(
        "--transform", metavar="T", type=Path, required=is_required,
        help="transform file of ITK (transform.h5), FSL, FreeSurfer, elastix or NiftyReg, or image of displacements",
    )  # fmt: skip
    _add_transform_format(one)


def _add_transform_format(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--transform-format", choices=TRANSFORM_FORMATS, default="auto",
        help="whose transform it is; default: what the file says, which a bare matrix does not",
    )  # fmt: skip
    for side in ("fixed", "moving"):
        one.add_argument(
            f"--transform-{side}", metavar="FILE", help=f"the {side} image of a transform of FSL, where the command has no other"
        )


def _add_json(one: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup) -> None:
    # Without a default of its own, or that of a command within a command would undo what was said before it.
    one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _add_quiet(one: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup) -> None:
    one.add_argument("--quiet", action="store_true", help="print nothing")


def _add_quiet_or_json(one: argparse.ArgumentParser) -> None:
    how = one.add_mutually_exclusive_group()
    _add_quiet(how)
    _add_json(how)
