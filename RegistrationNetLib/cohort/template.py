"""The mean of a group: an image whose shape and intensity are the mean of all, with the transforms to each and back.

Every image is registered to the template so far. Through these transforms the images are averaged; and the mean of the transforms
tells by how much the template's shape is off the mean shape, which the next template makes up for:

    φᵢ: points of the template → points of image i;  m = mean of all φᵢ;  next template = (mean of Iᵢ ∘ φᵢ) ∘ m⁻¹

so that the mean of φᵢ ∘ m⁻¹ is the identity, whichever image one began with (Guimond et al., CVIU 2000; Joshi et al., NeuroImage 2004;
here the mean is taken of displacements, which the iteration brings to 0).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.deformation import DisplacementField
from ..geometry.space import Grid, displacements_mm, grid_of, inverse_transform_from_map
from ..io.checksums import Fingerprint
from ..io.image_files import read_image
from ..io.inputs import checked_image
from ..io.native_paths import printable
from ..io.outputs import check_folder_name, staged, staged_folder, write_image
from ..io.transform_files import read_transform
from ..io.warping import warp_image
from ..progress import Progress, ProgressCallback, silent
from ..quality.assessment import ErrorStatistics, error_statistics
from ..quality.pictures import window_of
from .clusters import Place
from .option_texts import without_defaults
from .pair import CohortPair
from .plan import Plan, checked_plan, plain_layout, stem
from .run import run_cohort

FEWEST_IMAGES = 2
ITERATIONS_FOLDER, TEMPLATE = "iterations", "template.nii.gz"
# The work is no coarser than this share of what an image shows.
COARSEST_SHARE = 1 / 9
# What scaled images have where they are bright.
BRIGHT = 100.0
# How coarse the work is at first, in voxels of the template, and how often at each of these.
COARSE_TO_FINE = (4, 2, 1)


@dataclass(frozen=True)
class Course:
    """How a template is built.

    Attributes:
        iterations: at most so many, the coarse ones counted.
        tolerance_vox: when 95 % of what the template shows move by less than so many voxels, it stands.
    """

    iterations: int = 8
    tolerance_vox: float = 0.1

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.tolerance_vox > 0:
            raise InputError(
                f"A template needs at least 1 iteration and a tolerance above 0; it has {self.iterations} and {self.tolerance_vox:g}. "
                "Choose others."
            )

    def coarseness(self, number: int) -> int:
        """How coarse iteration `number` is, in voxels of the template."""
        return COARSE_TO_FINE[min(number, len(COARSE_TO_FINE) - 1)]


@dataclass(frozen=True)
class Template:
    """A template that was built.

    Attributes:
        image: its mean intensity, on the grid of the first image.
        moved_mm: for each iteration, how far what the template shows still was off the mean shape of the images.
        has_converged: whether that became less than the tolerance.
        transforms: for each image by its name, points of the template → points of the image.
    """

    image: sitk.Image
    moved_mm: tuple[ErrorStatistics, ...]
    has_converged: bool
    transforms: Mapping[str, Path]


def build_template(
    images: Sequence[Path],
    out: Path,
    *,
    course: Course = Course(),
    options: Mapping[str, Any] | None = None,
    place: Place = Place(),
    progress: ProgressCallback = silent,
) -> Template:
    """Build the mean of `images`; what an ended call has done is not done again.

    Leaves in `out`: `template.nii.gz`, `transforms/NAME.h5` and `inverses/NAME.h5` for each image, `template.json`, and under
    `iterations` the registrations of each with their overview.

    Args:
        options: of `register`, for every registration.
        progress: told how far the work is; raises `Cancelled` to stop it.

    Raises:
        InputError: there are not enough images, one breaks a rule, or one could not be registered.
        OutputError: the results cannot be written.
    """
    check_folder_name(out)
    given = without_defaults(options or {})
    names, moved = _names(images), list[ErrorStatistics]()
    current = _begun(names, out / ITERATIONS_FOLDER, given)
    grids = [grid_of(current), *(grid_of(checked_image(path, str(path))) for path in names.values())]
    for number in range(course.iterations):
        folder = out / ITERATIONS_FOLDER / f"{number:02d}"
        plan = _plan(names, current, folder, {**given, **_resolution(course.coarseness(number), grids)})
        is_same = _registered(plan, folder, place, _part(progress, number, course.iterations))
        mean, shift_mm = _means(plan, folder, current, given)
        moved.append(off_mean_shape(mean, shift_mm))
        is_fine, limit_mm = course.coarseness(number) == 1, course.tolerance_vox * max(current.GetSpacing())
        has_converged = is_fine and moved[-1].p95 < limit_mm
        if has_converged or number + 1 == course.iterations:
            break
        following = out / ITERATIONS_FOLDER / f"{number + 1:02d}" / TEMPLATE
        current = read_image(following) if is_same and following.exists() else _moved(mean, shift_mm)
    forward = {pair.name: pair.layout.path(folder, "transform.h5") for pair in plan.pairs}
    template = Template(mean, tuple(moved), has_converged, forward)
    _save(template, plan, folder, out)
    return template


def _names(images: Sequence[Path]) -> dict[str, Path]:
    """A name for each image, from its file."""
    if len(images) < FEWEST_IMAGES:
        raise InputError(
            f"A mean needs at least {FEWEST_IMAGES} images, each a file or a folder of DICOM slices; {len(images)} came. Give more."
        )
    names = {stem(path).replace(" ", "-"): path.absolute() for path in images}
    if len(names) < len(images):
        raise InputError(
            f"{len(images)} images have only {len(names)} names; each needs a file name of its own, from which its results are named. "
            "Rename them."
        )
    return names


def _begun(names: Mapping[str, Path], folder: Path, options: Mapping[str, Any]) -> sitk.Image:
    """The first template: that of an ended call of the same images and options, so that its registrations count, or a new one."""
    images = {name: Fingerprint.of(path).sha256 for name, path in names.items()}
    begun = json.dumps({"images": images, "options": options}, indent=2, default=str)
    record, first = folder / "begun.json", folder / "00" / TEMPLATE
    if record.is_file() and first.is_file() and record.read_text(encoding="utf-8") == begun:
        return read_image(first)
    template = _first_template(list(names.values()), options)
    write_image(template, first)
    with staged(record) as temporary:
        temporary.write_text(begun, encoding="utf-8")
    return template


def _first_template(images: Sequence[Path], options: Mapping[str, Any]) -> sitk.Image:
    """The mean of the images as they lie, each centred on the first, on the grid of the first."""
    first = checked_image(images[0], str(images[0]))
    centre = _centre(first)
    seen = []
    for path in images:
        image = checked_image(path, str(path))
        if image.GetDimension() != first.GetDimension():
            raise InputError(
                f"{path} has {image.GetDimension()} dimensions and {images[0]} {first.GetDimension()}; all need the same. Leave it out."
            )
        shift = sitk.TranslationTransform(image.GetDimension(), (_centre(image) - centre).tolist())
        seen.append(sitk.GetArrayFromImage(warp_image(_scaled(image, options), first, shift)))
    return _image_like(first, np.mean(seen, axis=0))


def _centre(image: sitk.Image) -> NDArray[np.float64]:
    """The middle of what is bright, in LPS mm."""
    index = np.argwhere(_bright(image)).mean(axis=0)[::-1]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _bright(image: sitk.Image) -> NDArray[np.bool_]:
    """Which voxels are brighter than Otsu's threshold."""
    return np.asarray(sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1)) > 0)


def _scaled(image: sitk.Image, options: Mapping[str, Any]) -> sitk.Image:
    """Intensities as float, 0 to 100 between dark and bright, as scanners scale them differently; of CT as they are."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    if options.get("fixed_modality") == "ct":
        return image
    low, high = window_of(image)
    return (image - low) * (BRIGHT / (high - low))


def _image_like(image: sitk.Image, values: NDArray[Any]) -> sitk.Image:
    result = sitk.GetImageFromArray(values.astype(np.float32))
    result.CopyInformation(image)
    return result


def _resolution(coarseness: int, grids: Sequence[Grid]) -> dict[str, float]:
    """The spacing of the work, for the template, whose grid is the first, and the images; nothing where it is that of the images."""
    if coarseness == 1:
        return {}
    widest_mm = COARSEST_SHARE * min(max(grid.extent_mm) for grid in grids)
    asked_mm = min(coarseness * max(grids[0].spacing_mm), widest_mm)
    return {"resolution": round(asked_mm, 6)} if asked_mm > min(min(grid.spacing_mm) for grid in grids) else {}


def _plan(names: Mapping[str, Path], template: sitk.Image, folder: Path, options: Mapping[str, Any]) -> Plan:
    """Every image to the template, which is written for that."""
    file = folder.absolute() / TEMPLATE
    if not (file.exists() and np.array_equal(sitk.GetArrayFromImage(read_image(file)), sitk.GetArrayFromImage(template))):
        write_image(template, file)
    files = {name: {"fixed": file, "moving": path} for name, path in names.items()}
    if (weights := options.get("weights")) is not None:
        files = {name: {**both, "weights": Path(weights).absolute()} for name, both in files.items()}
    others = {name: value for name, value in options.items() if name != "weights"}
    pairs = tuple(CohortPair(name, both, others, plain_layout(name), name) for name, both in files.items())
    return checked_plan(Plan(f"template {folder.name}", pairs))


def _registered(plan: Plan, folder: Path, place: Place, progress: ProgressCallback) -> bool:
    """Register all; True where all had been registered before.

    Raises:
        InputError: one could not be.
    """
    summary = run_cohort(plan, folder, place=place, progress=progress)
    if summary.failures:
        first = summary.failures[0]
        raise InputError(
            f"{len(summary.failures)} of {len(plan.pairs)} images could not be registered to the template; the mean needs all. "
            f"{first.name}: {first.error}"
        )
    return summary.now == 0


def _part(progress: ProgressCallback, number: int, total: int) -> ProgressCallback:
    """The progress of one of several iterations."""

    def hear(one: Progress) -> None:
        progress(Progress(f"{number + 1}: {one.stage}", (number + one.fraction) / total, None))

    return hear


def _means(plan: Plan, folder: Path, template: sitk.Image, options: Mapping[str, Any]) -> tuple[sitk.Image, NDArray[np.float64]]:
    """The mean of the images through their transforms, and the mean displacement [*shape, dim] in mm, both on the template's grid."""
    grid = grid_of(template)
    intensity, shift_mm = np.zeros(grid.shape), np.zeros((*grid.shape, grid.dim))
    for pair in plan.pairs:
        transform = read_transform(pair.layout.path(folder, "transform.h5"))
        image = _scaled(checked_image(pair.files["moving"], pair.name), options)
        intensity += sitk.GetArrayFromImage(warp_image(image, template, transform))
        shift_mm += displacements_mm(transform, grid)
    return _image_like(template, intensity / len(plan.pairs)), shift_mm / len(plan.pairs)


def off_mean_shape(mean: sitk.Image, shift_mm: NDArray[np.float64]) -> ErrorStatistics:
    """How far a template, by its mean displacement [*shape, dim], is off the mean shape; the dark around what it shows has none."""
    return error_statistics(np.linalg.norm(shift_mm[_bright(mean)], axis=-1))


def _moved(mean: sitk.Image, shift_mm: NDArray[np.float64]) -> sitk.Image:
    """The mean image, moved to the mean shape: seen through the inverse of x ↦ x + shift."""
    grid = grid_of(mean)
    unit_from_world = torch.as_tensor(grid.unit_from_world[:-1, :-1])
    field = torch.einsum("dw,...w->d...", unit_from_world, torch.as_tensor(shift_mm))[None].float()
    back = inverse_transform_from_map(DisplacementField(field), grid, grid, np.eye(grid.dim + 1))
    return warp_image(mean, mean, back)


def _save(template: Template, plan: Plan, folder: Path, out: Path) -> None:
    """What people use, at the top of the folder."""
    content = {
        "images": {pair.name: printable(pair.files["moving"]) for pair in plan.pairs},
        "converged": template.has_converged,
        "moved_mm": [asdict(one) for one in template.moved_mm],
    }
    with staged_folder(out) as made:
        write_image(template.image, made / TEMPLATE)
        for result, name in (("transform.h5", "transforms"), ("inverse.h5", "inverses")):
            (made / name).mkdir()
            for pair in plan.pairs:
                shutil.copyfile(pair.layout.path(folder, result), made / name / f"{pair.name}.h5")
        (made / "template.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
