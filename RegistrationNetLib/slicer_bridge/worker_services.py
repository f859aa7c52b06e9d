"""What the worker can do: each request's answer, as a JSON value, with images left as NRRD files beside the request's own."""

from __future__ import annotations

import inspect
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from ..devices import memory_kept, threads_for
from ..errors import InputError, OutputError
from ..geometry.space import Array, Grid, affine_matrix, affine_transform, displacements_mm, grid_of, image_on
from ..io.image_files import read_image
from ..io.native_messages import native_messages_dropped
from ..io.native_paths import native_path
from ..io.nrrd import write_slabs
from ..models.catalogue import card_named
from ..models.checkpoint import check
from ..models.weights import download, import_file, listed_models, weights_state
from ..progress import ProgressCallback
from ..registration.methods import untrained_network
from ..registration.pipeline import Registration, register
from ..registration.previous import Previous
from ..registration.size import delivered_shape
from .messages import Message
from .packed_mask import packed

# The histogram of Jacobian determinants; what lies beyond counts in the bin at the end.
HISTOGRAM_BINS, HISTOGRAM_RANGE = 144, (-0.5, 4.0)

# Planes of a field that are worked on at once, so that they stay in the processor's cache; and points that are multiplied as one
# row, by a matrix that repeats itself: torch takes several times as long for rows of three.
SLAB, POINTS_TOGETHER = 4, 4

# Displacements u, and the matrix A of the affine that follows them.
Field = tuple[sitk.Image, Array]

IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "rigid", "keep_volume")
_GIVEN = (*IMAGES, "initial", "previous", "progress")
OPTIONS = tuple(name for name in inspect.signature(register).parameters if name not in _GIVEN)


def registered(request: Message, progress: ProgressCallback) -> dict[str, Any]:
    """Register the images that `request` names and leave the results in its folder.

    `images` {name: path}, `initial` ({"matrix"} in LPS mm or {"field": path}, points of fixed → points of moving), `previous` ({"field":
    path, "inverse": path or None, "alignment": matrix or None}, a result to go on from), `options` of
    `register`, `parts`: whether the deformable part is wanted alone too, `folder`, `displacement_axes`: for each of x, y, z
    whether the displacements that come back run along it (1, LPS) or against it (-1).

    Raises:
        InputError: something is missing, unknown or breaks a rule.
        OutputError: the results could not be written.
    """
    paths, options = _asked(request, "images", IMAGES, ("fixed", "moving")), _asked(request, "options", OPTIONS)
    images: dict[str, Any] = {name: read_image(_path(path, name)) for name, path in paths.items()}
    folder, axes = _path(request.get("folder", "."), "folder"), _axes(request.get("displacement_axes", (1, 1, 1)))
    # What the registration has used is used again for its results: new memory must be cleared by the system first.
    with memory_kept():
        result = register(
            images.pop("fixed"),
            images.pop("moving"),
            **images,
            **options,
            initial=_initial(request.get("initial")),
            previous=_previous(request.get("previous")),
            progress=progress,
        )
        return {
            "files": _written(result, folder, axes, with_parts=bool(request.get("parts"))),
            "alignment": affine_matrix(result.alignment).tolist(),
            "report": result.report(),
            "histogram": _histogram(result.jacobian),
            "body": packed(result.evidence.body, _world_from_index(result.evidence.grid).tolist()),
        }


def devices(request: Message, progress: ProgressCallback) -> list[dict[str, Any]]:  # noqa: ARG001, one form for every service
    """What there is to compute on, and its free memory where that can be told."""
    title = platform.processor() or platform.machine()
    found: list[dict[str, Any]] = [{"name": "cpu", "title": title, "free_mb": psutil.virtual_memory().available / 2**20}]
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(cards):
        name = "cuda" if cards == 1 else f"cuda:{index}"
        free_mb = torch.cuda.mem_get_info(index)[0] / 2**20
        found.append({"name": name, "title": torch.cuda.get_device_name(index), "free_mb": free_mb})
    return found + ([{"name": "mps", "title": "Apple GPU", "free_mb": None}] if torch.backends.mps.is_available() else [])


def models(request: Message, progress: ProgressCallback) -> list[dict[str, Any]]:  # noqa: ARG001, one form for every service
    """Every model card, with the state of its weights."""
    return listed_models()


def downloaded(request: Message, progress: ProgressCallback) -> dict[str, Any]:
    """Download the weights of the model that `request` names, and tell the state they are in then."""
    card = card_named(str(request.get("model")))
    wanted = _checksum(request.get("sha256"))
    download(card, partial(check, card=card, network_of=untrained_network), sha256=wanted, progress=progress)
    return {"name": card.name, "state": weights_state(card).as_dict()}


def imported(request: Message, progress: ProgressCallback) -> dict[str, Any]:  # noqa: ARG001, one form for every service
    """Take the `file` that `request` names as the weights of its `model`, and tell the state they are in then."""
    card = card_named(str(request.get("model")))
    file, wanted = _path(request.get("file"), "file"), _checksum(request.get("sha256"))
    import_file(card, file, partial(check, card=card, network_of=untrained_network), sha256=wanted)
    return {"name": card.name, "state": weights_state(card).as_dict()}


SERVICES: Mapping[str, Callable[[Message, ProgressCallback], Any]] = {
    "register": registered,
    "devices": devices,
    "models": models,
    "download": downloaded,
    "import": imported,
}


def _asked(request: Message, key: str, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of `request[key]`, checked by name."""
    entries = request.get(key, {})
    if not isinstance(entries, dict) or not set(entries) <= set(known) or not set(needed) <= set(entries):
        came = ", ".join(entries) if isinstance(entries, dict) else repr(entries)
        raise InputError(
            f"The {key} of a registration are {', '.join(known)}"
            + (f", of which {' and '.join(needed)} must be there" if needed else "")
            + f"; {came or 'nothing'} came. Correct the request."
        )
    return entries


def _path(given: Any, name: str) -> Path:
    if isinstance(given, str) and "\0" not in given:
        return Path(given)
    raise InputError(f"The {name.replace('_', ' ')} of a request is a path; {given!r} came. Correct the request.")


def _checksum(given: Any) -> str | None:
    if given is None or (isinstance(given, str) and re.fullmatch(r"[0-9a-fA-F]{64}", given)):
        return given
    raise InputError(f"The sha256 of a request is a checksum of 64 hexadecimal digits; {given!r} came. Correct the request.")


def _initial(given: Any) -> sitk.Transform | None:
    if given is None:
        return None
    kind, value = next(iter(given.items())) if isinstance(given, dict) and len(given) == 1 else ("", None)
    if kind == "matrix" and (matrix := _matrix(value)) is not None:
        return affine_transform(matrix)
    if kind == "field":
        return _field_transform(_path(value, "initial field"))
    raise InputError(
        f"The initial transform of a request is a matrix (3 by 3 or 4 by 4 numbers) or a field (the path of an image of vectors); "
        f"{given!r} came. Correct the request."
    )


def _field_transform(path: Path, affine: Array | None = None) -> sitk.Transform:
    """Displacements from a file, as a transform; with `affine` as this matrix after a field, which come to the same.

    Raises:
        InputError: the file holds no vectors.
    """
    image = read_image(path)
    if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise InputError(
            f"A field of displacements has as many numbers per voxel as dimensions; {path.name} has "
            f"{image.GetNumberOfComponentsPerPixel()} in {image.GetDimension()}. Correct the request."
        )
    if affine is None:
        return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    grid, back = grid_of(image), np.linalg.inv(affine)
    places = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
    before = (places + sitk.GetArrayViewFromImage(image)) @ back[:-1, :-1].T + back[:-1, -1] - places
    chain = sitk.CompositeTransform(grid.dim)
    chain.AddTransform(affine_transform(affine))
    chain.AddTransform(sitk.DisplacementFieldTransform(image_on(grid, before, is_vector=True)))
    return chain


def _previous(given: Any) -> Previous | None:
    """The result to go on from."""
    if given is None:
        return None
    if not isinstance(given, dict) or "field" not in given or not set(given) <= {"field", "inverse", "alignment"}:
        raise InputError(
            f"The result to go on from is a field, with its inverse and its alignment where they are known; {given!r} came. "
            "Correct the request."
        )
    alignment = None if given.get("alignment") is None else _matrix(given["alignment"])
    back = None if alignment is None else np.asarray(np.linalg.inv(alignment))
    inverse = given.get("inverse")
    return Previous(
        _field_transform(_path(given["field"], "previous field"), alignment),
        None if inverse is None else _field_transform(_path(inverse, "previous inverse"), back),
    )


def _matrix(given: Any) -> Array | None:
    """Homogeneous, of two or three dimensions; None for anything else."""
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return matrix if matrix.shape in ((3, 3), (4, 4)) and np.isfinite(matrix).all() else None


def _written(result: Registration, folder: Path, axes: Array, *, with_parts: bool) -> dict[str, str]:
    """Everything that goes back as files; transforms as displacements in mm along the axes that the client wants."""
    images = {"warped": result.warped, "jacobian": result.jacobian, "error_mm": result.error_mm}
    fields = {
        "moving_from_fixed": partial(_displacements, result.moving_from_fixed, grid_of(result.fixed)),
        "fixed_from_moving": partial(_displacements, result.fixed_from_moving, grid_of(result.moving)),
    }
    if with_parts:
        fields["deformable"] = partial(_deformable, result.moving_from_fixed)
    paths = {name: folder / f"{name}.nrrd" for name in (*images, *fields)}
    # Each field by a thread of its own: several at every slab would spend their time waiting for each other.
    with threads_for(1), ThreadPoolExecutor() as pool:
        written = [pool.submit(_write_field, field, axes, paths[name]) for name, field in fields.items()]
        for name, image in images.items():
            _write_image(image, paths[name])
        for one in written:
            one.result()
    return {name: str(path) for name, path in paths.items()}


def _write_image(image: sitk.Image, path: Path) -> None:
    try:
        with native_messages_dropped(), native_path(path.parent) as parent:
            sitk.WriteImage(image, str(Path(parent) / path.name), useCompression=False)
    except RuntimeError as error:
        raise OutputError(
            f"The results cannot be written into {path.parent}; they travel as files. Free some disk space."
        ) from error


def _axes(given: Any) -> Array:
    """Which way the client's axes run along x, y, z."""
    try:
        axes = np.array(given, dtype=np.float64)
        if axes.shape == (3,) and (np.abs(axes) == 1).all():
            return axes
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"The displacement_axes are three of 1 and -1, for x, y and z of LPS; {given!r} came. Correct the request.")


def _innermost(transform: sitk.CompositeTransform) -> Any:
    """The part that is applied first, which SimpleITK has last."""
    return transform.GetNthTransform(transform.GetNumberOfTransforms() - 1).Downcast()


def _deformable(transform: sitk.CompositeTransform) -> Field:
    """The part that is applied first, with nothing after."""
    return _innermost(transform).GetDisplacementField(), np.eye(4)


def _displacements(transform: sitk.CompositeTransform, grid: Grid) -> Field:
    """A displacement field and the affine that follows it: as they are, or sampled with nothing after, on the extent of `grid`."""
    field, rest = (
        _innermost(transform),
        [transform.GetNthTransform(number) for number in range(transform.GetNumberOfTransforms() - 1)],
    )
    if isinstance(field, sitk.DisplacementFieldTransform) and all(one.IsLinear() for one in rest):
        return field.GetDisplacementField(), reduce(np.matmul, map(affine_matrix, rest), np.eye(4))
    lattice = grid.spanned(delivered_shape(grid.shape))
    return image_on(lattice, displacements_mm(transform, lattice), is_vector=True), np.eye(4)


def _write_field(field: Callable[[], Field], axes: Array, path: Path) -> None:
    """World displacements of x ↦ A(x + u(x)), float32, slab by slab: A u + (A - 1) x, the second a sum over the lattice's axes."""
    image, follower = field()
    # [D, H, W, 3], a view of the field's own memory
    displacement_mm, grid = sitk.GetArrayViewFromImage(image), grid_of(image)
    depth, height, width = grid.shape
    rest = axes[:, None] * ((follower - np.eye(4)) @ grid.world_from_voxel)[:3]
    across = torch.from_numpy(
        np.arange(height)[:, None, None] * rest[:, 1] + np.arange(width)[None, :, None] * rest[:, 2]
    ).float()
    along = torch.from_numpy(np.arange(depth)[:, None, None, None] * rest[:, 0] + rest[:, 3]).float()
    linear = (axes[:, None] * follower[:3, :3]).T

    def slabs() -> Iterator[NDArray[np.float32]]:
        # The same memory for every slab: what is new must be cleared by the system first.
        part, total = (torch.empty((min(SLAB, depth), height, width, 3)) for _ in range(2))
        for first in range(0, depth, SLAB):
            count = min(SLAB, depth - first)
            np.copyto(part[:count].numpy(), displacement_mm[first : first + count], casting="same_kind")
            torch.add(across, along[first : first + count], out=total[:count])
            together = math.gcd(count * height * width, POINTS_TOGETHER)
            matrix = torch.from_numpy(np.kron(np.eye(together), linear)).float()
            total[:count].view(-1, 3 * together).addmm_(part[:count].view(-1, 3 * together), matrix)
            yield total[:count].numpy()

    write_slabs(slabs(), path, shape=(*grid.shape, 3), world_from_index=_world_from_index(grid))


def _world_from_index(grid: Grid) -> NDArray[np.float64]:
    """From indices in the order x, y, z."""
    return grid.world_from_voxel[:, [2, 1, 0, 3]].astype(np.float64)


def _histogram(jacobian: sitk.Image) -> dict[str, list[float]]:
    """Voxels per bin of the Jacobian determinant, and the middle of each bin."""
    low, high = HISTOGRAM_RANGE
    width = (high - low) / HISTOGRAM_BINS
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for slab in sitk.GetArrayViewFromImage(jacobian):
        bins = ((slab - low) / width).clip(0, HISTOGRAM_BINS - 1).astype(np.int16)
        counts += np.bincount(bins.ravel(), minlength=HISTOGRAM_BINS)
    middles = [low + (index + 0.5) * width for index in range(HISTOGRAM_BINS)]
    return {"determinant": middles, "voxels": counts.astype(float).tolist()}
