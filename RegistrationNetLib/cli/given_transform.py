"""The transform that a command was given, with the images that it may need."""

from __future__ import annotations

from argparse import Namespace

import SimpleITK as sitk

from ..io.transform_files import Between, read_transform
from .console import warned


def transform_of(options: Namespace, *, fixed: str | None = None, moving: str | None = None) -> sitk.Transform:
    """The transform of `--transform`; `fixed` and `moving` are the images of the command, where no other is named for the transform.

    Raises:
        InputError: it cannot be read, or an image that it needs did not come.
    """
    between = Between(options.transform_fixed or fixed, options.transform_moving or moving)
    return read_transform(options.transform, form=options.transform_format, between=between, warn=warned(options))
