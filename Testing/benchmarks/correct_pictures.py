"""A result corrected by three pairs of points, before and after: the picture in the docs.

    python -m Testing.benchmarks.correct_pictures docs/corrected.png

The first pair of each kind, so none was chosen for its result.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from numpy.typing import NDArray

from RegistrationNetLib import Registration, register
from RegistrationNetLib.geometry.space import displacements_mm, grid_of

from .pushed_pairs import PushedPair, pushed_pair

KINDS = {"organ": "an organ taken\nfor its neighbour", "blank": "nothing to be seen"}
SEED = 0
LARGEST_MM = 20.0


def drawn() -> Figure:
    """A row for each pair: fixed with the points, moving warped before and after, and the true error before and after."""
    figure = Figure(figsize=(10.0, 4.4), layout="constrained")
    for row, (kind, words) in zip(figure.subplots(len(KINDS), 5), KINDS.items(), strict=True):
        pair = pushed_pair(kind, SEED)
        points = pair.around(3, SEED)
        alone = register(pair.fixed, pair.moving, repeats=0)
        second = register(
            pair.fixed, pair.moving, previous=alone, fixed_landmarks=points, moving_landmarks=pair.partners(points),
            landmarks="pull", repeats=0,
        )  # fmt: skip
        axis, place = _slice(pair)
        images = {"fixed, three points": pair.fixed, "before": alone.warped, "after": second.warped}
        for panel, (title, image) in zip(row, images.items(), strict=False):
            panel.imshow(np.take(sitk.GetArrayFromImage(image), place, axis), cmap="gray", vmin=0, vmax=1, origin="lower")
            panel.set_title(title, fontsize=9)
        voxel_from_world = np.linalg.inv(grid_of(pair.fixed).world_from_voxel)
        up, across = np.delete(points @ voxel_from_world[:-1, :-1].T + voxel_from_world[:-1, -1], axis, axis=1).T
        row[0].plot(across, up, "o", color="orange", markersize=4)
        for panel, result, when in zip(row[3:], (alone, second), ("before", "after"), strict=True):
            error = _error_mm(pair, result)
            shown = panel.imshow(np.take(error, place, axis), cmap="viridis", vmin=0, vmax=LARGEST_MM, origin="lower")
            panel.set_title(f"error {when}", fontsize=9)
        figure.colorbar(shown, ax=row[4], label="mm", extend="max")
        row[0].set_ylabel(words, fontsize=9)
        for panel in row:
            panel.set_xticks([])
            panel.set_yticks([])
    return figure


def _slice(pair: PushedPair) -> tuple[int, int]:
    """The axis of the array along which tissue was pushed least, and the place on it that was pushed."""
    grid = grid_of(pair.fixed)
    voxel_from_world = np.linalg.inv(grid.world_from_voxel)
    push = voxel_from_world[:-1, :-1] @ (pair.partners(pair.centre_mm[None])[0] - pair.centre_mm)
    axis = int(np.abs(push).argmin())
    return axis, round(float(voxel_from_world[axis, :-1] @ pair.centre_mm + voxel_from_world[axis, -1]))


def _error_mm(pair: PushedPair, result: Registration) -> NDArray[np.float64]:
    """At each voxel of the head, NaN elsewhere."""
    grid = grid_of(pair.fixed)
    there, true = (displacements_mm(one, grid) for one in (result.moving_from_fixed, pair.known.moving_from_fixed))
    inside = sitk.GetArrayViewFromImage(pair.mask) > 0
    return np.where(inside, np.linalg.norm(there - true, axis=-1), np.nan)


if __name__ == "__main__":
    drawn().savefig(Path(sys.argv[1]), dpi=80)
