"""What the command `evaluate` does. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import SimpleITK as sitk

from ..errors import InputError
from ..io.image_files import read_image, read_transform
from ..quality.assessment import displacement, jacobian_image, jacobian_statistics, label_overlap, landmark_errors
from .console import table, wants_json, warned
from .interruption import Interruption
from .option_pairs import is_pair, landmarks_of


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
    print(json.dumps(content, indent=2) if wants_json(options) else table(list(_evaluation_rows(content))))
    return 0


def _evaluation(options: Namespace, transform: sitk.Transform | None) -> Iterator[tuple[str, Any]]:
    warn = warned(options)
    if is_pair(options, "labels"):
        fixed, moving = read_image(options.fixed_labels, warn), read_image(options.moving_labels, warn)
        overlap = label_overlap(fixed, moving, transform or sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity))
        yield "dice", {str(label): vars(dice) for label, dice in overlap.dice.items()}
        yield "mean_dice", vars(overlap.mean)
    if landmarks := landmarks_of(options, warn):
        still = sitk.Transform(landmarks.fixed_mm.shape[1], sitk.sitkIdentity)
        errors = landmark_errors(landmarks.fixed_mm, landmarks.moving_mm, transform or still)
        yield "landmarks_mm", {"count": errors.count, "before": vars(errors.before), "after": vars(errors.after)}
    if options.like:
        if transform is None:
            raise InputError("--like is there to count the folds of a transform; no transform came. Add --transform.")
        like = read_image(options.like, warn)
        yield "jacobian", vars(jacobian_statistics(jacobian_image(transform, like)))
        yield "displacement_mm", vars(displacement(transform, like))


def _evaluation_rows(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _evaluation_rows(value, f"{prefix}{name} ")
        else:
            yield prefix + name, f"{value:.4g}"
