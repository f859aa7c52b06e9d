"""What the commands `warp` and `jacobian` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from ..io.image_files import read_image
from ..io.label_images import looks_like_labels
from ..io.native_paths import printable
from ..io.outputs import (
    IMAGE_SUFFIXES,
    check_folder_name,
    check_image_name,
    check_not_read,
    check_picture,
    staged_folder,
    write_image,
)
from ..io.warping import Reading, warp_series
from ..quality.assessment import jacobian_image
from .console import warned
from .given_transform import transform_of
from .interruption import Interruption


def run_warp(options: Namespace, interruption: Interruption) -> int:
    """Carry images onto the grid of another by a transform: one into a file, several into a folder, all or none."""
    warn = warned(options)
    transform = transform_of(options, fixed=options.like, moving=options.image[0])
    targets = _warp_targets(options, dim=transform.GetDimension())
    for target in targets.values():
        check_not_read(target, (*options.image, options.like, options.transform))
    like = read_image(options.like, warn)
    with _together(options, targets) as written:
        for source, target in targets.items():
            image = read_image(source, warn)
            check_picture(target, like, image.GetPixelID())
            warped = warp_series(image, like, transform, _warp_reading(options, source, image))
            interruption.check()
            write_image(warped, written(target))
    interruption.too_late()
    return 0


def _warp_targets(options: Namespace, *, dim: int) -> dict[str, Path]:
    """For each image the file that it becomes."""
    if len(options.image) == 1 and not options.out.is_dir():
        check_image_name(options.out, dim=dim)
        return {options.image[0]: options.out}
    if options.out.name.lower().endswith(IMAGE_SUFFIXES) and not options.out.exists():
        raise InputError(
            f"{printable(options.out)} is named as an image, and {len(options.image)} images were given to warp, which go into a folder. "
            "Name a folder after them."
        )
    check_folder_name(options.out)
    targets = {source: options.out / _image_name(Path(source)) for source in options.image}
    for name, count in Counter(target.name for target in targets.values()).items():
        if count > 1:
            raise InputError(
                f"{count} of the images would become {name} in {printable(options.out)}; each needs a name of its own. Warp them one by one."
            )
    return targets


def _image_name(source: Path) -> str:
    """The name of a warped image: that of its file, where its format can be written."""
    name = source.absolute().name
    return name if name.lower().endswith(IMAGE_SUFFIXES) and not source.is_dir() else f"{name}.nii.gz"


def _warp_reading(options: Namespace, source: str, image: sitk.Image) -> Reading:
    """How an image is read, by what was asked and what it is."""
    if options.interpolation is None:
        return Reading("nearest" if _is_labels(options, source, image) else "linear", options.fill)
    reading = Reading(options.interpolation, options.fill)
    if options.labels is not None and options.labels != reading.is_of_labels:
        kind = "labels" if reading.is_of_labels else "images"
        raise InputError(
            f"The interpolation {options.interpolation} is for {kind}, and --{'' if options.labels else 'no-'}labels says otherwise; both must "
            "agree. Leave one out."
        )
    return reading


@contextmanager
def _together(options: Namespace, targets: Mapping[str, Path]) -> Iterator[Callable[[Path], Path]]:
    """Where to write what becomes a file in the end, all of them together."""
    if list(targets.values()) == [options.out]:
        yield lambda target: target
        return
    with staged_folder(options.out) as folder:
        yield lambda target: folder / target.name


def _is_labels(options: Namespace, source: str, image: sitk.Image) -> bool:
    """Whether the image holds labels: as it was said, else by its looks, about which the user is asked."""
    if options.labels is not None:
        return bool(options.labels)
    if looks_like_labels(image):
        raise InputError(
            f"{printable(source)} looks like a label map (few whole numbers), whose values must not be mixed; "
            "warp takes it as an image unless told. Add --labels, or --no-labels if it is an image."
        )
    return False


def run_jacobian(options: Namespace, interruption: Interruption) -> int:
    """Write the Jacobian determinant of a transform on the grid of an image."""
    transform = transform_of(options, fixed=options.like)
    check_image_name(options.out, dim=transform.GetDimension())
    check_not_read(options.out, (options.like, options.transform))
    like = read_image(options.like, warned(options))
    check_picture(options.out, like, sitk.sitkFloat32)
    determinant = jacobian_image(transform, like)
    interruption.check()
    write_image(determinant, options.out)
    interruption.too_late()
    return 0
