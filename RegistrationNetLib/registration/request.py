"""What a registration is asked for, as a whole: options and images, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..io.image_sources import ImageLike, modality_of
from ..io.inputs import Pair, checked_pair
from ..io.warning import Warn
from .options import Options, checked_options

# What may come with the images and lies on them, as `register` calls it.
REGIONS = ("fixed_mask", "moving_mask", "fixed_labels", "moving_labels")


@dataclass(frozen=True)
class Request:
    """Options and images that were checked."""

    options: Options
    pair: Pair


def checked_request(fixed: ImageLike, moving: ImageLike, given: Mapping[str, Any], warn: Warn) -> Request:
    """The images read and checked, and the options checked against their modalities.

    Args:
        given: of the arguments of `register` its options, masks and labels.
        warn: hears what was read with a doubt.

    Raises:
        InputError: an image, mask, label image or option breaks a rule.
    """
    asked = dict(given)
    masks_and_labels = [asked.pop(name, None) for name in REGIONS]
    stated = [asked.pop(f"{side}_modality", None) for side in ("fixed", "moving")]
    modalities = modality_of(fixed, stated[0]), modality_of(moving, stated[1])
    options = checked_options(asked.pop("model", "direct"), modalities=modalities, **asked)
    pair = checked_pair(
        (fixed, moving), modalities=modalities, masks=(masks_and_labels[0], masks_and_labels[1]),
        labels=(masks_and_labels[2], masks_and_labels[3]), warn=warn,
    )  # fmt: skip
    return Request(options, pair)
