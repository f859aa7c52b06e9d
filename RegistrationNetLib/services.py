"""What the worker can do: each request's answer, as a JSON value, with images left as NRRD files beside the request's own."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk
import torch

from .catalogue import card_named
from .checkpoint import check
from .errors import InputError, OutputError
from .inputs import read_image
from .messages import Message
from .model_list import listed_models
from .native import native_messages_dropped
from .predictor import untrained_network
from .progress import ProgressCallback
from .registration import Registration, register
from .space import Array, Grid, affine_matrix, affine_transform, displacements_mm, grid_of, image_on
from .weights import download, import_file, weights_state

# The histogram of Jacobian determinants; what lies beyond counts in the bin at the end.
HISTOGRAM_BINS, HISTOGRAM_RANGE = 144, (-0.5, 4.0)

IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels")
_GIVEN = (*IMAGES, "initial", "progress")
OPTIONS = tuple(name for name in inspect.signature(register).parameters if name not in _GIVEN)


def registered(request: Message, progress: ProgressCallback) -> dict[str, Any]:
    """Register the images that `request` names and leave the results in its folder.

    `images` {name: path}, `initial` ({"matrix"} in LPS mm or {"field": path}, points of fixed → points of moving), `options` of
    `register`, `parts`: whether the deformable part is wanted alone too, `folder`.

    Raises:
        InputError: something is missing, unknown or breaks a rule.
        OutputError: the results could not be written.
    """
    images: dict[str, Any] = {
        name: read_image(path) for name, path in _asked(request, "images", IMAGES, ("fixed", "moving")).items()
    }
    options = _asked(request, "options", OPTIONS)
    folder = Path(request.get("folder", "."))
    result = register(
        images.pop("fixed"),
        images.pop("moving"),
        **images,
        **options,
        initial=_initial(request.get("initial")),
        progress=progress,
    )
    return {
        "files": _written(dict(_results(result, with_parts=bool(request.get("parts")))), folder),
        "alignment": affine_matrix(result.alignment).tolist(),
        "report": result.report(),
        "histogram": _histogram(result.jacobian),
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
    download(card, partial(check, card=card, network_of=untrained_network), progress=progress)
    return {"name": card.name, "state": weights_state(card).as_dict()}


def imported(request: Message, progress: ProgressCallback) -> dict[str, Any]:  # noqa: ARG001, one form for every service
    """Take the `file` that `request` names as the weights of its `model`, and tell the state they are in then."""
    card = card_named(str(request.get("model")))
    import_file(card, Path(str(request.get("file"))), partial(check, card=card, network_of=untrained_network))
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


def _initial(given: Message | None) -> sitk.Transform | None:
    if given is None:
        return None
    if "matrix" in given:
        return affine_transform(np.array(given["matrix"], dtype=np.float64))
    return sitk.DisplacementFieldTransform(sitk.Cast(read_image(given["field"]), sitk.sitkVectorFloat64))


def _results(result: Registration, *, with_parts: bool) -> Any:
    """Name and image of everything that goes back; transforms as displacements in mm."""
    yield "warped", result.warped
    yield "jacobian", result.jacobian
    yield "moving_from_fixed", _displacements(result.moving_from_fixed, grid_of(result.fixed))
    yield "fixed_from_moving", _displacements(result.fixed_from_moving, grid_of(result.moving))
    if with_parts:
        yield "deformable", sitk.Cast(_innermost(result.moving_from_fixed).GetDisplacementField(), sitk.sitkVectorFloat32)


def _innermost(transform: sitk.CompositeTransform) -> Any:
    """The part that is applied first, which SimpleITK has last."""
    return transform.GetNthTransform(transform.GetNumberOfTransforms() - 1).Downcast()


def _displacements(transform: sitk.CompositeTransform, grid: Grid) -> sitk.Image:
    """World displacements, float32: on the field's own lattice where an affine follows a field, else at the lattice of `grid`."""
    field = _innermost(transform)
    if transform.GetNumberOfTransforms() == 2 and isinstance(field, sitk.DisplacementFieldTransform):
        image, affine = field.GetDisplacementField(), transform.GetNthTransform(0)
        if affine.IsLinear():
            grid = grid_of(image)
            return image_on(grid, _followed(sitk.GetArrayViewFromImage(image), affine_matrix(affine), grid), is_vector=True)
    return image_on(grid, displacements_mm(transform, grid).astype(np.float32), is_vector=True)


def _followed(displacement_mm: Array, matrix: Array, grid: Grid) -> Array:
    """Displacements of x ↦ A(x + u(x)): A u + (A - 1) x, the second part being a sum over the axes of the lattice."""
    linear, dim = matrix[:-1, :-1], grid.dim
    # By torch: numpy takes many times as long for such narrow matrices.
    total: Array = (torch.from_numpy(displacement_mm.astype(np.float32)) @ torch.from_numpy(linear.T.astype(np.float32))).numpy()
    rest = (matrix - np.eye(dim + 1)) @ grid.world_from_voxel
    for axis, size in enumerate(grid.shape):
        along = np.arange(size)[:, None] * rest[:-1, axis] + (rest[:-1, -1] if axis == 0 else 0.0)
        total += along.astype(np.float32).reshape([size if one == axis else 1 for one in range(dim)] + [dim])
    return total


def _written(images: Mapping[str, sitk.Image], folder: Path) -> dict[str, str]:
    paths = {name: str(folder / f"{name}.nrrd") for name in images}
    try:
        with native_messages_dropped():
            for name, image in images.items():
                sitk.WriteImage(image, paths[name], useCompression=False)
    except RuntimeError as error:
        raise OutputError(f"The results cannot be written into {folder}; they travel as files. Free some disk space.") from error
    return paths


def _histogram(jacobian: sitk.Image) -> dict[str, list[float]]:
    """Voxels per bin of the Jacobian determinant, and the middle of each bin."""
    low, high = HISTOGRAM_RANGE
    values = torch.from_numpy(sitk.GetArrayFromImage(jacobian)).clamp_(low, high)
    width = (high - low) / HISTOGRAM_BINS
    middles = [low + (index + 0.5) * width for index in range(HISTOGRAM_BINS)]
    return {"determinant": middles, "voxels": torch.histc(values, HISTOGRAM_BINS, low, high).tolist()}
