"""Label maps from files, on the network's lattice, for images that are painted from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..errors import InputError, RegistrationNetError
from ..geometry.space import Grid, anatomical_grid, bring_to_axes_of, grid_of, image_on, resampled
from ..io.image_files import read_image
from ..io.inputs import check_geometry
from ..io.label_images import checked_labels
from .cohort_files import SUFFIXES
from .cohort_images import Skipped, check_unreadable

# What is labelled takes this share of the lattice along the axis where it takes most; around it there is room for turns and shifts.
FILLED = 0.8
ORIENTATION = "LPS"
# As many as their numbers, int16, can tell apart.
MOST_LABELS = 2**15


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of one lattice, with voxels as long as wide.

    Attributes:
        names: the labels of all maps; the first is background, 0.
        maps: int16 [1, 1, *shape] each, which number the names.
    """

    names: tuple[int, ...]
    maps: tuple[Tensor, ...]


def files_of(patterns: Sequence[Path]) -> list[Path]:
    """The files that the patterns name (`folder/heads_0*.nii.gz`), sorted; a folder names the images in it.

    Raises:
        InputError: a pattern names none.
    """
    found: set[Path] = set()
    for pattern in patterns:
        if pattern.is_dir():
            matching = [path for path in pattern.iterdir() if path.name.lower().endswith(SUFFIXES)]
        else:
            matching = list(pattern.parent.glob(pattern.name))
        if not matching:
            raise InputError(
                f"No label map is named {pattern}; label_maps holds folders, or names in which * stands for anything. "
                "Correct it, or leave label_maps out to paint random shapes alone."
            )
        found |= set(matching)
    return sorted(found)


def read_label_maps(
    files: Sequence[Path],
    shape: Sequence[int],
    *,
    unreadable: str = "stop",
    report: Callable[[float], None] = lambda _: None,
) -> tuple[LabelMaps, tuple[Skipped, ...]]:
    """The label maps of `files` on a lattice of `shape`, and those that were left out.

    They are brought to common anatomical axes; what is labelled lies in the middle.

    Args:
        unreadable: "stop" at the first file that cannot be used, or "skip" such files.
        report: hears the fraction that is read, and may stop it by raising `Cancelled`.

    Raises:
        InputError: the file and what is wrong with it; or that none is left.
    """
    check_unreadable(unreadable)
    labels, skipped = [], []
    for place, file in enumerate(files):
        report(place / len(files))
        try:
            labels.append(_on_lattice(file, tuple(shape)))
        except RegistrationNetError as error:
            if unreadable == "stop":
                raise InputError(f'{error} To go on without such files, set unreadable = "skip".') from error
            skipped.append(Skipped(file, str(error)))
    if not labels:
        raise InputError(f"No label map can be read; at least one is needed. The first: {skipped[0].reason}")
    names = np.unique(np.concatenate([[0], *(own for own, _ in labels)]))
    names = np.array([0, *names[names != 0]])
    if len(names) > MOST_LABELS:
        raise InputError(
            f"The label maps have {len(names)} different labels, background included; {MOST_LABELS} are the most. "
            "Leave out what is an image rather than a label map, or join labels."
        )
    place_of = {int(name): number for number, name in enumerate(names)}
    maps = tuple(torch.tensor([place_of[int(name)] for name in own], dtype=torch.int16)[numbers] for own, numbers in labels)
    return LabelMaps(tuple(place_of), maps), tuple(skipped)


def _on_lattice(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Tensor]:
    """The labels of a file, and a lattice that numbers them."""
    what, image = str(file), read_image(file)
    if image.GetDimension() != len(shape):
        raise InputError(
            f"{what} has {image.GetDimension()} dimensions, and the network {len(shape)}; both need the same. "
            "Leave it out, or give another `shape`."
        )
    check_geometry(image, what)
    image = checked_labels(image, image, what)
    if len(shape) == 3:
        image = bring_to_axes_of(image, anatomical_grid(ORIENTATION))
    grid, array = grid_of(image), sitk.GetArrayFromImage(image)
    names, numbers = np.unique(array, return_inverse=True)
    numbers = numbers.reshape(array.shape)
    if not names.any():
        raise InputError(f"{what} is 0 everywhere; a label map needs labels besides background (0). Leave it out.")
    inside = [
        np.flatnonzero((array != 0).any(tuple(other for other in range(array.ndim) if other != axis)))
        for axis in range(array.ndim)
    ]
    content = grid.cropped([slice(int(one[0]), int(one[-1]) + 1) for one in inside])
    lattice = _around(content, shape)
    background = int(np.flatnonzero(names == 0)[0]) if (names == 0).any() else len(names)
    sampled = resampled(image_on(grid, numbers.astype(np.int32)), lattice, nearest=True, outside=background).long()
    return (names if background < len(names) else np.append(names, 0)).astype(np.int64), sampled


def _around(content: Grid, shape: tuple[int, ...]) -> Grid:
    """A lattice of cubic voxels along the axes of `content`, which lies in its middle and takes the share `FILLED` at most."""
    edges_mm = [size * step for size, step in zip(content.shape, content.spacing_mm, strict=True)]
    spacing_mm = max(edge / (FILLED * size) for edge, size in zip(edges_mm, shape, strict=True))
    dim = len(shape)
    matrix = np.eye(dim + 1)
    matrix[:-1, :-1] = content.world_from_voxel[:-1, :-1] / np.array(content.spacing_mm) * spacing_mm
    matrix[:-1, -1] = content.centre_mm - matrix[:-1, :-1] @ (0.5 * (np.array(shape) - 1))
    return Grid(shape, matrix)
