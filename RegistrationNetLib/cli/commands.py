"""What each command of the terminal does. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..choices import OPTIONS
from ..errors import InputError
from ..io.image_files import read_image, read_transform, voxel_count
from ..io.label_images import looks_like_labels
from ..io.landmark_matching import Matched, matched
from ..io.landmarks import mapped, read_points, write_points
from ..io.native_paths import printable
from ..io.outputs import (
    IMAGE_SUFFIXES,
    check_disk_space,
    check_file_name,
    check_folder_name,
    check_image_name,
    check_picture,
    result_bytes,
    staged_folder,
    write_image,
)
from ..io.warning import Warn
from ..io.warping import Reading, warp_series
from ..models.catalogue import OWN_SUFFIX, Card, card_named, cards, models_folder, own_card_path, read_own_card
from ..models.checkpoint import check
from ..models.weights import (
    Check,
    download,
    import_file,
    import_own,
    megabytes,
    remove,
    remove_unreadable,
    total_size,
    weights_state,
)
from ..quality.assessment import displacement, jacobian_image, jacobian_statistics, label_overlap, landmark_errors
from ..quality.phantom import demo_pair
from ..quality.truth import Truth, truth_of
from ..registration.methods import untrained_network
from ..registration.pipeline import Registration, register
from .cohort_commands import run_cohort_command, run_series, run_template
from .console import painted, progress_bar, table
from .doctor import Finding, examine
from .interruption import Interruption
from .train_commands import run_finetune, run_train

Command = Callable[[Namespace, Interruption], int]

# Exit status of a registration that was done but is worse than what was required.
WORSE_THAN_REQUIRED = 3


def run_register(options: Namespace, interruption: Interruption) -> int:
    """Register two images, and write all that comes out into a folder."""
    check_folder_name(options.out_dir)
    warn = _printed(options)
    check_disk_space(options.out_dir, result_bytes(voxel_count(options.fixed), voxel_count(options.moving)))
    initial = read_transform(options.initial) if options.initial else None
    landmarks = _landmarks(options, warn)
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


def run_warp(options: Namespace, interruption: Interruption) -> int:
    """Carry images onto the grid of another by a transform: one into a file, several into a folder, all or none."""
    warn = _printed(options)
    transform = read_transform(options.transform)
    targets = _warp_targets(options, dim=transform.GetDimension())
    like = read_image(options.like, warn)
    with _together(options, targets) as written:
        for source, target in targets.items():
            image = read_image(source, warn)
            check_picture(target, like, image.GetPixelID())
            warped = warp_series(image, like, transform, _warp_reading(options, source, image))
            interruption.check()
            write_image(warped, written(target))
    interruption.too_late()
    return 0


def _warp_targets(options: Namespace, *, dim: int) -> dict[str, Path]:
    """For each image the file that it becomes."""
    if len(options.image) == 1 and not options.out.is_dir():
        check_image_name(options.out, dim=dim)
        return {options.image[0]: options.out}
    check_folder_name(options.out)
    targets = {source: options.out / _image_name(Path(source)) for source in options.image}
    for name, count in Counter(target.name for target in targets.values()).items():
        if count > 1:
            raise InputError(
                f"{count} of the images would become {name} in {printable(options.out)}; each needs a name of its own. Warp them one by one."
            )
    return targets


def _image_name(source: Path) -> str:
    """The name of a warped image: that of its file, where its format can be written."""
    name = source.absolute().name
    return name if name.lower().endswith(IMAGE_SUFFIXES) and not source.is_dir() else f"{name}.nii.gz"


def _warp_reading(options: Namespace, source: str, image: sitk.Image) -> Reading:
    """How an image is read, by what was asked and what it is."""
    if options.interpolation is None:
        return Reading("nearest" if _is_labels(options, source, image) else "linear", options.fill)
    reading = Reading(options.interpolation, options.fill)
    if options.labels is not None and options.labels != reading.is_of_labels:
        kind = "labels" if reading.is_of_labels else "images"
        raise InputError(
            f"The interpolation {options.interpolation} is for {kind}, and --{'' if options.labels else 'no-'}labels says otherwise; both must "
            "agree. Leave one out."
        )
    return reading


@contextmanager
def _together(options: Namespace, targets: Mapping[str, Path]) -> Iterator[Callable[[Path], Path]]:
    """Where to write what becomes a file in the end, all of them together."""
    if list(targets.values()) == [options.out]:
        yield lambda target: target
        return
    with staged_folder(options.out) as folder:
        yield lambda target: folder / target.name


def _is_labels(options: Namespace, source: str, image: sitk.Image) -> bool:
    """Whether the image holds labels: as it was said, else by its looks, about which the user is asked."""
    if options.labels is not None:
        return bool(options.labels)
    if looks_like_labels(image):
        raise InputError(
            f"{printable(source)} looks like a label map (few whole numbers), whose values must not be mixed; "
            "warp takes it as an image unless told. Add --labels, or --no-labels if it is an image."
        )
    return False


def run_points(options: Namespace, interruption: Interruption) -> int:
    """Carry points by a transform."""
    check_file_name(options.out)
    transform = read_transform(options.transform)
    points = read_points(options.points, dim=transform.GetDimension(), warn=_printed(options))
    interruption.check()
    write_points(points.moved(mapped(points.points_mm, transform)), options.out)
    interruption.too_late()
    return 0


def run_jacobian(options: Namespace, interruption: Interruption) -> int:
    """Write the Jacobian determinant of a transform on the grid of an image."""
    transform = read_transform(options.transform)
    check_image_name(options.out, dim=transform.GetDimension())
    like = read_image(options.like, _printed(options))
    check_picture(options.out, like, sitk.sitkFloat32)
    determinant = jacobian_image(transform, like)
    interruption.check()
    write_image(determinant, options.out)
    interruption.too_late()
    return 0


def run_evaluate(options: Namespace, interruption: Interruption) -> int:
    """Say how good a transform is, by labels, landmarks and folds."""
    transform = read_transform(options.transform) if options.transform else None
    content = dict(_evaluation(options, transform))
    interruption.check()
    if not content:
        raise InputError(
            "Nothing to evaluate; give a pair of labels, a pair of landmarks, or a transform with --like. "
            "See registrationnet evaluate --help."
        )
    print(json.dumps(content, indent=2) if _wants_json(options) else table(list(_evaluation_rows(content))))
    return 0


def _evaluation(options: Namespace, transform: sitk.Transform | None) -> Iterator[tuple[str, Any]]:
    warn = _printed(options)
    if _is_pair(options, "labels"):
        fixed, moving = read_image(options.fixed_labels, warn), read_image(options.moving_labels, warn)
        overlap = label_overlap(fixed, moving, transform or sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity))
        yield "dice", {str(label): vars(dice) for label, dice in overlap.dice.items()}
        yield "mean_dice", vars(overlap.mean)
    if landmarks := _landmarks(options, warn):
        still = sitk.Transform(landmarks.fixed_mm.shape[1], sitk.sitkIdentity)
        errors = landmark_errors(landmarks.fixed_mm, landmarks.moving_mm, transform or still)
        yield "landmarks_mm", {"count": errors.count, "before": vars(errors.before), "after": vars(errors.after)}
    if options.like:
        if transform is None:
            raise InputError("--like is there to count the folds of a transform; no transform came. Add --transform.")
        like = read_image(options.like, warn)
        yield "jacobian", vars(jacobian_statistics(jacobian_image(transform, like)))
        yield "displacement_mm", vars(displacement(transform, like))


def _is_pair(options: Namespace, what: str) -> bool:
    given = [side for side in ("fixed", "moving") if getattr(options, f"{side}_{what}")]
    if len(given) == 1:
        other = "moving" if given == ["fixed"] else "fixed"
        raise InputError(f"--{given[0]}-{what} came alone; {what} are compared in pairs. Add --{other}-{what}.")
    return bool(given)


def _evaluation_rows(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _evaluation_rows(value, f"{prefix}{name} ")
        else:
            yield prefix + name, f"{value:.4g}"


def run_models_list(options: Namespace, interruption: Interruption) -> int:
    """List the models and whether their weights are here."""
    interruption.check()
    if _wants_json(options):
        print(json.dumps([_card_and_state(card) for card in cards().values()], indent=2))
        return 0
    rows = [(name, str(weights_state(card)), card.title) for name, card in cards().items()]
    print(table([("NAME", "WEIGHTS", "TITLE"), *rows], indent=""))
    print(f"\nWeights lie in {models_folder()} ({megabytes(total_size())})")
    return 0


def run_models_show(options: Namespace, interruption: Interruption) -> int:
    """Print the card of a model."""
    interruption.check()
    content = _card_and_state(card_named(options.name))
    if _wants_json(options):
        print(json.dumps(content, indent=2))
    else:
        print(table([(key, _in_one_line(value)) for key, value in content.items()], indent=""))
    return 0


def run_models_download(options: Namespace, interruption: Interruption) -> int:
    """Fetch the weights of a model."""
    card = card_named(options.name)
    with progress_bar(is_wanted=not options.quiet) as callback:
        path = download(card, _check_of(card), sha256=options.sha256, progress=interruption.checked(callback))
    interruption.too_late()
    _print_ready(card, path, options)
    return 0


def run_models_import(options: Namespace, interruption: Interruption) -> int:
    """Take the weights of a model from a file."""
    beside = options.file.with_name(f"{options.name}{OWN_SUFFIX}")
    if options.name not in cards() and beside.is_file():
        card = read_own_card(beside)
        path = import_own(card, options.file, _check_of(card), sha256=options.sha256)
    else:
        card = card_named(options.name)
        path = import_file(card, options.file, _check_of(card), sha256=options.sha256)
    interruption.too_late()
    _print_ready(card, path, options)
    return 0


def _print_ready(card: Card, path: Path, options: Namespace) -> None:
    if not options.quiet:
        print(f"{card.name} is ready: {path}")
        print(f"SHA-256 {weights_state(card).sha256}; whatever comes later under this name must have it too.")


def run_models_remove(options: Namespace, interruption: Interruption) -> int:
    """Remove the weights of a model."""
    interruption.check()
    try:
        card = card_named(options.name)
    except InputError:
        if not own_card_path(options.name).is_file():
            raise
        freed = remove_unreadable(options.name)
    else:
        freed = remove(card)
    if not options.quiet:
        print(f"{options.name}: {megabytes(freed)} freed" if freed else f"{options.name}: there was nothing to remove")
    return 0


def _check_of(card: Card) -> Check:
    return partial(check, card=card, network_of=untrained_network)


def _card_and_state(card: Card) -> dict[str, Any]:
    return {**card.as_dict(), "state": weights_state(card).as_dict()}


def _in_one_line(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def run_doctor(options: Namespace, interruption: Interruption) -> int:
    """Say whether this machine is ready."""
    interruption.check()
    findings: list[Finding] = list(examine())
    if _wants_json(options):
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print(table([("ok" if finding.is_fine else "!!", finding.what, finding.value) for finding in findings], indent=""))
        for finding in findings:
            if not finding.is_fine:
                print(f"!! {finding.what}: {finding.advice}")
    return 0 if all(finding.is_fine for finding in findings) else 1


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


def _landmarks(options: Namespace, warn: Warn) -> Matched | None:
    if not _is_pair(options, "landmarks"):
        return None
    return matched(read_points(options.fixed_landmarks, warn=warn), read_points(options.moving_landmarks, warn=warn), warn)


def _wants_json(options: Namespace) -> bool:
    return getattr(options, "json", False)


def _printed(options: Namespace) -> Warn:
    """Prints a warning in one line on stderr, unless all is to be quiet."""

    def warn(text: str) -> None:
        if not getattr(options, "quiet", False):
            print(f"registrationnet: warning: {' '.join(text.split())}", file=sys.stderr)

    return warn


COMMANDS: dict[str, Command] = {
    "register": run_register,
    "warp": run_warp,
    "points": run_points,
    "jacobian": run_jacobian,
    "evaluate": run_evaluate,
    "models list": run_models_list,
    "models show": run_models_show,
    "models download": run_models_download,
    "models import": run_models_import,
    "models remove": run_models_remove,
    "doctor": run_doctor,
    "demo": run_demo,
    "train": run_train,
    "finetune": run_finetune,
    "cohort": run_cohort_command,
    "series": run_series,
    "template": run_template,
}
