"""One anatomy in many contrasts: the tissues of the head phantom as MR and CT show them, and label maps painted at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import grid_of, image_on
from RegistrationNetLib.quality.phantom import Tissue, head_phantom
from Testing.benchmarks.pose_pairs import Source, at_3_mm

FINE_MM = 1.5
# Brightness of each tissue, about as in the clinic: 1 is the brightest of the image. CT in Hounsfield units.
TISSUES: dict[str, dict[Tissue, float]] = {
    "t1": dict(zip(Tissue, (0.02, 0.85, 0.10, 0.18, 0.52, 0.80, 0.15, 0.57, 0.60, 0.74, 0.22), strict=True)),
    "t2": dict(zip(Tissue, (0.02, 0.45, 0.08, 1.00, 0.60, 0.40, 1.00, 0.48, 0.58, 0.42, 0.95), strict=True)),
    "flair": dict(zip(Tissue, (0.02, 0.50, 0.08, 0.10, 0.75, 0.55, 0.08, 0.65, 0.70, 0.58, 0.15), strict=True)),
    "agent": dict(zip(Tissue, (0.02, 0.95, 0.12, 0.30, 0.55, 0.72, 0.18, 0.62, 0.85, 0.70, 0.30), strict=True)),
    "ct": dict(zip(Tissue, (-1000, 20, 900, 8, 38, 28, 6, 36, 37, 30, 15), strict=True)),
}
CONTRASTS = (*TISSUES, "inverted", "random")


def contrast_source(kind: str, other: str, seed: int, labels_folder: Path) -> Source:
    """The anatomy of `seed` in the contrast `kind` for fixed and `other` for moving.

    "random" paints a real label map, every other contrast a phantom; "inverted" is the phantom's T1 turned upside down.
    """
    random = np.random.default_rng(seed)
    labels = _head_labels(seed, labels_folder) if kind == "random" else _phantom_labels(seed)
    images = [at_3_mm(painted(labels, name, random)) for name in (kind, other)]
    if kind == other:
        images[1] = images[0]
    body = at_3_mm(sitk.Cast(labels > 0, sitk.sitkFloat32)) > 0.5
    return Source(images[0], images[1], body)


def _phantom_labels(seed: int) -> sitk.Image:
    return head_phantom((138, 160, 132), [FINE_MM] * 3, seed).labels


def _head_labels(seed: int, folder: Path) -> sitk.Image:
    paths = sorted(folder.glob("heads_*.nii.gz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no label maps")
    return sitk.ReadImage(str(paths[seed % len(paths)]))


def painted(labels: sitk.Image, name: str, random: np.random.Generator) -> sitk.Image:
    """The label map in a contrast of `CONTRASTS`, on its own lattice; `random` draws the brightness of "random" ones."""
    array = sitk.GetArrayViewFromImage(labels)
    values, places = np.unique(array, return_inverse=True)
    if name.startswith("random"):
        brightness = random.uniform(0.1, 1.0, len(values))
        brightness[values == 0] = 0.0
    else:
        sign = -1.0 if name == "inverted" else 1.0
        table = TISSUES["t1" if name == "inverted" else name]
        brightness = np.array([sign * table[Tissue(int(value))] for value in values])
        if name == "inverted":
            brightness = np.where(values == 0, brightness.min(), brightness)
    return image_on(grid_of(labels), brightness[places].reshape(array.shape).astype(np.float32))
