"""The pairs by which trust is calibrated and judged: what is right, what is wrong, and of what kind, with the truth where there is one.

Images for calibration and for the test are different ones (`SPLITS`), and so are the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from RegistrationNetLib.geometry.smooth_noise import smooth_noise
from RegistrationNetLib.geometry.space import Grid, affine_transform, displacements_mm, grid_of, image_on
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import WarpOptions
from RegistrationNetLib.quality.phantom import head_phantom
from Testing.benchmarks.known_warps import data_folder

# Images are made at this spacing, and pairs that are finer from the images as they are.
SOURCE_MM = 2.5
SPLITS: Mapping[str, tuple[str, ...]] = {
    "calibration": ("mni", "MRBrainTumor1", *(f"labels{number}" for number in range(1, 11)), *(f"phantom{n}" for n in range(4))),
    "test": (
        "ch2",
        "lung",
        "MRBrainTumor2",
        *(f"labels{number}" for number in range(11, 21)),
        *(f"phantom{n}" for n in range(50, 54)),
    ),
}
FILES = {"mni": "mni.nii.gz", "ch2": "ch2.nii.gz", "lung": "lung_ct_small.mha", "MRBrainTumor1": "MRBrainTumor1.nii.gz",
         "MRBrainTumor2": "MRBrainTumor2.nii.gz"}  # fmt: skip
# The first seeds of the two, far apart.
FIRST_SEED = {"calibration": 1_000, "test": 500_000}


@dataclass(frozen=True)
class TrustPair:
    """A pair, and the true map from points of fixed to points of moving; None where no map is right."""

    fixed: sitk.Image
    moving: sitk.Image
    truth: sitk.Transform | None


@dataclass(frozen=True)
class Draw:
    """What a pair of a kind is made from."""

    source: str
    spacing_mm: float
    seed: int

    @property
    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


@lru_cache(maxsize=40)
def source_image(name: str, *, fine: bool = False) -> sitk.Image:
    """The image `name` at 2.5 mm, if it is finer, or as `fine` as it is; of a map of labels with a random intensity for each.

    Raises:
        FileNotFoundError: it is not there.
    """
    image = _read(name)
    if fine:
        return image
    grid = _grid(image, SOURCE_MM)
    blurred = sitk.SmoothingRecursiveGaussian(
        image, [max(0.3, 0.5 * math.sqrt(max(0.0, SOURCE_MM**2 - step**2))) for step in image.GetSpacing()]
    )
    return sitk.Resample(
        blurred, image_on(grid, np.zeros(grid.shape, np.uint8)), sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32
    )


def _read(name: str) -> sitk.Image:
    folder = data_folder()
    if name.startswith("phantom"):
        return head_phantom((104, 120, 100), (2.0, 2.0, 2.0), int(name.removeprefix("phantom"))).image
    if name.startswith("labels"):
        number = int(name.removeprefix("labels"))
        return _painted(sitk.ReadImage(str(_there(folder.parent / "labels" / f"heads_{number:02d}.nii.gz"))), number)
    return sitk.ReadImage(str(_there(folder / FILES[name])), sitk.sitkFloat32)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    return path


def _painted(labels: sitk.Image, seed: int) -> sitk.Image:
    random = np.random.default_rng(seed)
    values = sitk.GetArrayFromImage(labels).astype(np.int64)
    names, numbers = np.unique(values, return_inverse=True)
    intensity = random.uniform(0.15, 1.0, len(names))
    intensity[names == 0] = 0.0
    painted = intensity[numbers].reshape(values.shape).astype(np.float32)
    image = sitk.GetImageFromArray(painted)
    image.CopyInformation(labels)
    return image


def _grid(image: sitk.Image, spacing_mm: float) -> Grid:
    grid = grid_of(image)
    sizes = zip(grid.shape, grid.spacing_mm, strict=True)
    return grid.resized([max(16, min(size, math.floor(size * step / spacing_mm + 0.5))) for size, step in sizes])


def _warped(draw: Draw, *, warp: WarpOptions | None = None, appearance: AppearanceOptions | None = None) -> TrustPair:
    image, random = source_image(draw.source, fine=draw.spacing_mm < SOURCE_MM), draw.random
    is_ct = draw.source == "lung"
    if appearance is None:
        appearance = AppearanceOptions(
            contrast=0.0 if is_ct else float(random.uniform(0, 0.5)), bias=0.0 if is_ct else float(random.uniform(0, 0.3)),
            noise=float(random.uniform(0.005, 0.05)),
        )  # fmt: skip
    if warp is None:
        warp = WarpOptions(
            rotation_degrees=float(random.uniform(0, 8)), translation_mm=float(random.uniform(0, 12)),
            displacement_mm=float(random.uniform(3, 16)), correlation_mm=float(random.uniform(16, 32)), lattice_mm=4.0,
        )  # fmt: skip
    pair = known_pair(image, _grid(image, draw.spacing_mm), seed=draw.seed, warp=warp, appearance=appearance)
    return TrustPair(pair.fixed, pair.moving, pair.known.moving_from_fixed)


def _identical(draw: Draw) -> TrustPair:
    pair = _warped(draw)
    return TrustPair(pair.fixed, pair.fixed, sitk.Transform(pair.fixed.GetDimension(), sitk.sitkIdentity))


def _rigid(draw: Draw) -> TrustPair:
    return _warped(draw, warp=WarpOptions(6.0, 10.0, displacement_mm=0.5, lattice_mm=4.0))


def _through(pair: TrustPair, world: np.ndarray) -> TrustPair:
    """The pair with the header of moving changed by a world matrix (moving's new place from its old one)."""
    turned = affine_transform(np.linalg.inv(world))
    grid = grid_of(pair.moving)
    box = _around(grid, world)
    moving = sitk.Resample(
        pair.moving, image_on(box, np.zeros(box.shape, np.uint8)), turned, sitk.sitkLinear,
        float(sitk.GetArrayViewFromImage(pair.moving).min()), sitk.sitkFloat32,
    )  # fmt: skip
    assert pair.truth is not None
    # The one added last is applied first.
    return TrustPair(pair.fixed, moving, sitk.CompositeTransform([affine_transform(world), pair.truth]))


def _around(grid: Grid, world: np.ndarray) -> Grid:
    """A lattice along the axes of `grid` about the middle of where `world` takes it, as large."""
    middle = world @ np.append(grid.centre_mm, 1)
    matrix = grid.world_from_voxel.copy()
    matrix[:-1, -1] += middle[:-1] - grid.centre_mm
    return Grid(grid.shape, matrix)


def _turn(axis: np.ndarray, degrees: float, centre: np.ndarray, shift: np.ndarray) -> np.ndarray:
    axis, angle = axis / np.linalg.norm(axis), math.radians(degrees)
    cross = np.cross(np.eye(3), -axis)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, centre - rotation @ centre + shift
    return matrix


def _pose(draw: Draw) -> TrustPair:
    pair, random = _warped(draw), draw.random
    degrees, axis = random.uniform(40, 180), random.normal(size=3)
    return _through(pair, _turn(axis, degrees, grid_of(pair.moving).centre_mm, random.uniform(-80, 80, 3)))


def _half_turn(draw: Draw) -> TrustPair:
    pair, random = _warped(draw), draw.random
    return _through(pair, _turn(np.eye(3)[random.integers(3)], 180, grid_of(pair.moving).centre_mm, np.zeros(3)))


def _mirrored(draw: Draw) -> TrustPair:
    """Moving with its voxels in the wrong order along the axis nearest to left and right: a header that lies."""
    pair = _warped(draw)
    grid = grid_of(pair.moving)
    axis = int(np.argmax(np.abs(grid.world_from_voxel[0, :3])))
    voxels = np.flip(sitk.GetArrayFromImage(pair.moving), axis).copy()
    moving = sitk.GetImageFromArray(voxels)
    moving.CopyInformation(pair.moving)
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, grid.shape[axis] - 1
    world = grid.world_from_voxel @ flip @ np.linalg.inv(grid.world_from_voxel)
    assert pair.truth is not None
    return TrustPair(pair.fixed, moving, sitk.CompositeTransform([affine_transform(world), pair.truth]))


def _cut(draw: Draw) -> TrustPair:
    """Of moving only a slab, 15 to 40 % of it, at one of its ends."""
    pair, random = _warped(draw), draw.random
    axis, share = int(random.integers(3)), random.uniform(0.15, 0.4)
    size = list(pair.moving.GetSize())
    kept, start = max(8, round(share * size[axis])), [0, 0, 0]
    start[axis] = int(random.choice([0, size[axis] - kept]))
    size[axis] = kept
    return TrustPair(pair.fixed, sitk.RegionOfInterest(pair.moving, size, start), pair.truth)


def _cropped(draw: Draw) -> TrustPair:
    """Of moving 60 to 90 % along one axis."""
    pair, random = _warped(draw), draw.random
    axis, share = int(random.integers(3)), random.uniform(0.6, 0.9)
    size, start = list(pair.moving.GetSize()), [0, 0, 0]
    kept = max(8, round(share * size[axis]))
    start[axis] = int(random.choice([0, size[axis] - kept]))
    size[axis] = kept
    return TrustPair(pair.fixed, sitk.RegionOfInterest(pair.moving, size, start), pair.truth)


def _contrast(draw: Draw) -> TrustPair:
    """Moving with its intensities shuffled: another modality than was said."""
    pair, random = _warped(draw), draw.random
    values = sitk.GetArrayFromImage(pair.moving)
    low, high = np.percentile(values, [1, 99.5])
    unit = ((values - low) / (high - low)).clip(0, 1)
    knots = random.uniform(0, 1, 9)
    knots[0] = 0
    moving = sitk.GetImageFromArray(np.interp(unit, np.linspace(0, 1, 9), knots).astype(np.float32))
    moving.CopyInformation(pair.moving)
    return TrustPair(pair.fixed, moving, pair.truth)


def _noise(draw: Draw) -> TrustPair:
    pair, random = _warped(draw), torch.Generator().manual_seed(draw.seed)
    sigma = float(draw.random.uniform(0.5, 4))
    one, two = (
        image_on(grid_of(image), smooth_noise(grid_of(image).shape, sigma, random)[0, 0].numpy())
        for image in (pair.fixed, pair.moving)
    )
    return TrustPair(one if draw.seed % 2 else pair.fixed, two, None)


def _other_part(draw: Draw) -> TrustPair:
    """Head against thorax, either way."""
    image = source_image("lung")
    other = known_pair(image, _grid(image, draw.spacing_mm), seed=draw.seed).fixed
    own = _warped(draw).fixed
    pair = (own, other) if draw.seed % 2 else (other, own)
    return TrustPair(*pair, None)


def _unit(draw: Draw) -> TrustPair:
    """Moving's spacing and origin in another unit than mm."""
    pair, factor = _warped(draw), float(draw.random.choice([0.1, 10.0, 1000.0]))
    moving = sitk.Image(pair.moving)
    moving.SetSpacing([factor * step for step in moving.GetSpacing()])
    moving.SetOrigin([factor * place for place in moving.GetOrigin()])
    assert pair.truth is not None
    return TrustPair(pair.fixed, moving, sitk.CompositeTransform([affine_transform(np.diag([factor] * 3 + [1.0])), pair.truth]))


def _wrong_series(draw: Draw) -> TrustPair:
    """A body of the right outline with nothing of its inside: another scan, of a bottle or of the scout."""
    pair, random = _warped(draw), torch.Generator().manual_seed(draw.seed)
    grid = grid_of(pair.fixed)
    axes = [torch.linspace(-1, 1, size) for size in grid.shape]
    radius = sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij")) / float(draw.random.uniform(0.4, 0.8))
    texture = 0.6 + 0.12 * smooth_noise(grid.shape, float(draw.random.uniform(1, 5)), random)[0, 0]
    values = texture * torch.sigmoid(12 * (1 - radius))
    return TrustPair(pair.fixed, image_on(grid, values.numpy()), None)


KINDS: Mapping[str, Callable[[Draw], TrustPair]] = {
    "warped": _warped,
    "identical": _identical,
    "rigid": _rigid,
    "cropped": _cropped,
    "pose": _pose,
    "half turn": _half_turn,
    "mirrored": _mirrored,
    "cut": _cut,
    "contrast": _contrast,
    "noise": _noise,
    "other body part": _other_part,
    "wrong unit": _unit,
    "wrong series": _wrong_series,
}
# In which order the kinds come, again and again. Nine of these 25 no registration can get right.
CYCLE = (
    "warped", "pose", "warped", "mirrored", "noise", "warped", "half turn", "identical", "other body part", "warped",
    "rigid", "wrong series", "warped", "cut", "warped", "contrast", "wrong unit", "cropped", "warped", "pose",
    "noise", "mirrored", "other body part", "wrong series", "warped",
)  # fmt: skip


def pair_number(split: str, number: int, spacing_mm: float) -> tuple[str, str, TrustPair]:
    """The pair of that number: its kind, the image it was made from, and the pair; the same number gives the same one.

    Raises:
        FileNotFoundError: an image is missing.
    """
    sources = SPLITS[split]
    kind, seed = CYCLE[number % len(CYCLE)], FIRST_SEED[split] + number
    source = sources[np.random.default_rng(seed + 77).integers(len(sources))]
    if kind == "other body part" and source == "lung":
        source = sources[0]
    return kind, source, KINDS[kind](Draw(source, spacing_mm, seed))


def true_error_mm(transform: sitk.Transform, truth: sitk.Transform, lattice: Grid) -> np.ndarray:
    """Distance of where `transform` takes each point of `lattice` from where it should: [*shape]."""
    found, true = (displacements_mm(one, lattice) for one in (transform, truth))
    return np.linalg.norm(found - true, axis=-1)
