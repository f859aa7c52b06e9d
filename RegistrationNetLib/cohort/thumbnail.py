"""A small picture of a result for a table of many: fixed, moving warped onto it, and the error to expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..quality.pictures import Result, error_over_fixed, grey, window_of, windowed
from ..quality.slices import centre_of_foreground_mm, views

LONGEST_PX = 96
QUALITY = 80


def write_thumbnail(result: Result, path: Path) -> None:
    """The middle axial slice of fixed, of warped, and of fixed in the colours of the expected error, beside each other."""
    view = views(result.fixed, centre_of_foreground_mm(result.fixed), longest_px=LONGEST_PX)[0]
    fixed = windowed(result.fixed, window_of(result.fixed), view)
    warped = windowed(result.warped, window_of(result.moving), view)
    error = error_over_fixed(result, fixed, view)
    Image.fromarray(np.concatenate([grey(fixed), grey(warped), error], axis=1)).save(path, format="jpeg", quality=QUALITY)
