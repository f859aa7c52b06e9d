"""How large a pair is, from the headers of its images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry.space import Grid
from ..io.image_files import voxel_count
from ..io.image_sources import modality_of
from ..io.inputs import Pair
from ..io.native_messages import native_messages_dropped
from ..io.native_paths import native_path
from ..registration.options import checked_options
from ..registration.resolution import wanted_mb
from .pair import CohortPair


@dataclass(frozen=True)
class Header:
    """The lattice of an image, without its place in the world, and the type of its voxels."""

    grid: Grid
    pixel: int


def voxels_of(pair: CohortPair) -> int:
    """About how many voxels both images have."""
    return voxel_count(pair.files["fixed"]) + voxel_count(pair.files["moving"])


def memory_mb_of(pair: CohortPair) -> float:
    """What the registration will take, at the resolution that it wants; 0 where the images or options will be refused."""
    try:
        return _memory_mb(pair)
    except (InputError, RuntimeError):
        return 0.0


def _memory_mb(pair: CohortPair) -> float:
    options = dict(pair.options)
    stated = [options.pop(f"{side}_modality", None) for side in ("fixed", "moving")]
    modalities = (modality_of(pair.files["fixed"], stated[0]), modality_of(pair.files["moving"], stated[1]))
    checked = checked_options(options.pop("model", "direct"), modalities=modalities, weights=pair.files.get("weights"), **options)
    fixed, moving = (_header(pair.files[side]) for side in ("fixed", "moving"))
    # What is asked of the images is the type of their voxels, and whether there are labels.
    small = [sitk.Image([1] * one.grid.dim, one.pixel) for one in (fixed, moving)]
    labels = small[0] if "fixed_labels" in pair.files else None
    stand_in = Pair((small[0], small[1]), modalities, (None, None), (labels, labels))
    return wanted_mb(stand_in, (fixed.grid, moving.grid), checked)


def _header(path: Path) -> Header:
    """Of a folder of DICOM slices, whose files are not looked at, a cube of as many voxels."""
    if path.is_dir():
        side = max(1, math.ceil(voxel_count(path) ** (1 / 3)))
        return Header(Grid((side,) * 3, np.eye(4)), sitk.sitkInt16)
    reader = sitk.ImageFileReader()
    with native_messages_dropped(), native_path(path) as native:
        reader.SetFileName(native)
        reader.ReadImageInformation()
    size, spacing = reader.GetSize(), reader.GetSpacing()
    return Header(Grid(tuple(size[::-1]), np.diag([*spacing[::-1], 1.0])), reader.GetPixelID())
