"""Six hard pairs before and after: the picture in the docs.

    python -m Testing.benchmarks.pose_pictures docs/poses.png

The first judging pair of each row, so none was chosen for its result.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from RegistrationNetLib import register
from Testing.benchmarks.pose_pairs import in_mm
from Testing.benchmarks.poses import FIRST_JUDGING_SEED, ROWS

HARD = {
    "turned-90-180": "turned by 90 to 180°",
    "half-turned": "half the field of view,\nturned by 30 to 180°",
    "slab": "a slab of a head",
    "padded": "CT padded with −32768",
    "t1-flair": "T1 and FLAIR",
    "random-other": "labels painted twice\nat random",
}
LARGEST_MM = 5.0


def drawn() -> Figure:
    """A row for each pair: fixed, moving as it lies, moving registered, and the true error where both show the body."""
    figure = Figure(figsize=(9.0, 2.2 * len(HARD)), layout="constrained")
    axes = figure.subplots(len(HARD), 4)
    for row, (name, words) in zip(axes, HARD.items(), strict=True):
        pair = ROWS[name](FIRST_JUDGING_SEED)
        found = register(pair.fixed, pair.moving, repeats=0, **pair.options)
        counted = sitk.GetArrayViewFromImage(pair.counted) > 0
        true = in_mm(pair.truth, pair, pair.counted)
        error = np.linalg.norm(in_mm(found.moving_from_fixed, pair, pair.counted) - true, axis=-1)
        before = np.linalg.norm(true, axis=-1)[counted].mean()
        lies = sitk.Resample(pair.moving, pair.fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, _lowest(pair.moving))
        level = int(np.median(counted.any(axis=(1, 2)).nonzero()[0]))
        images = [sitk.GetArrayFromImage(image)[level] for image in (pair.fixed, lies, found.warped)]
        for axis, image, title in zip(row, images, ("fixed", f"moving, {before:.1f} mm off", "registered"), strict=False):
            low, high = _window(pair.fixed if title == "fixed" else pair.moving)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high)
            axis.set_title(title, fontsize=9)
        shown = row[3].imshow(np.where(counted, error, np.nan)[level], cmap="viridis", vmin=0, vmax=LARGEST_MM)
        row[3].set_title(f"error, {error[counted].mean():.2f} mm", fontsize=9)
        figure.colorbar(shown, ax=row[3], label="mm", extend="max")
        row[0].set_ylabel(words, fontsize=9)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    return figure


def _window(image: sitk.Image) -> tuple[float, float]:
    """From dark to bright, padding left out."""
    values = sitk.GetArrayViewFromImage(image)
    low, high = np.quantile(values[values > _lowest(image)], [0.02, 0.995])
    return float(low), float(high)


def _lowest(image: sitk.Image) -> float:
    return float(sitk.GetArrayViewFromImage(image).min())


if __name__ == "__main__":
    drawn().savefig(Path(sys.argv[1]), dpi=80)
