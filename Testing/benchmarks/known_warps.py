"""The cases of the accuracy benchmark: real images, warped by maps that are known in both directions."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from RegistrationNetLib.geometry.space import Grid, grid_of
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import KnownMap

SPACING_MM = 2.0
SEEDS = (0, 1, 2)
DATA_VARIABLE = "REGISTRATIONNET_DATA"


@dataclass(frozen=True)
class Source:
    """An image file, how the moving image comes to look unlike the fixed one, and the value between air and body (NaN: Otsu's)."""

    file: str
    appearance: AppearanceOptions
    air_below: float = math.nan


# Hounsfield units mean the same in every scan, so the CT keeps its contrast and gets noise alone. Its lung belongs to the body
# and reaches the edge of the image, so that only a threshold tells it from the air around.
SOURCES = {
    "ch2": Source("ch2.nii.gz", AppearanceOptions()),
    "mni": Source("mni.nii.gz", AppearanceOptions()),
    "lung": Source("lung_ct_small.mha", AppearanceOptions(contrast=0.0, bias=0.0, noise=0.02), air_below=-940.0),
}


@dataclass(frozen=True)
class Case:
    """A pair of images, the truth between them, and where the error counts.

    `foreground` are the voxels of the body in fixed whose true place lies in moving's field of view; elsewhere no method can know.
    """

    fixed: sitk.Image
    moving: sitk.Image
    known: KnownMap
    foreground: sitk.Image


def data_folder() -> Path:
    """Where the real images lie: `$REGISTRATIONNET_DATA`, else `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get(DATA_VARIABLE, beside))


def case(name: str, seed: int, folder: Path) -> Case:
    """The case `name` at 2 mm, warped with `seed`; FileNotFoundError where its image is missing."""
    source = SOURCES[name]
    path = folder / source.file
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    pair = known_pair(image, _isotropic(grid_of(image)), seed=seed, appearance=source.appearance)
    foreground = body(pair.fixed, source.air_below) * _visible(pair.moving, pair.fixed, pair.known)
    return Case(pair.fixed, pair.moving, pair.known, foreground)


def _isotropic(grid: Grid) -> Grid:
    """About 2 mm: a whole number of voxels over the same extent."""
    sizes = zip(grid.shape, grid.spacing_mm, strict=True)
    return grid.resized([math.floor(size * spacing / SPACING_MM + 0.5) for size, spacing in sizes])


def body(image: sitk.Image, air_below: float) -> sitk.Image:
    """The largest piece brighter than air, its holes filled slice by slice."""
    smooth = sitk.SmoothingRecursiveGaussian(image, SPACING_MM)
    bright = sitk.OtsuThreshold(smooth, 0, 1) if math.isnan(air_below) else smooth > air_below
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(bright), sortByObjectSize=True) == 1
    slices = [sitk.BinaryFillhole(largest[:, :, index]) for index in range(largest.GetDepth())]
    filled = sitk.JoinSeries(slices)
    filled.CopyInformation(image)
    return filled


def _visible(moving: sitk.Image, fixed: sitk.Image, known: KnownMap) -> sitk.Image:
    everywhere = sitk.Cast(moving * 0 + 1, sitk.sitkUInt8)
    return sitk.Resample(everywhere, fixed, known.moving_from_fixed, sitk.sitkNearestNeighbor, 0)
