"""Slicer's nodes as volumes and points of the world, and back: with `scene_sampling` the only place that knows RAS.

What the user sees is what is taken: parent transforms are part of the geometry. Everything leaves here in LPS mm of the world.
What may take long (sampling) is given as `Steps`, so that the application stays responsive in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import GeometryError, InputError
from ..io.landmark_matching import ListedPoints
from ..io.nrrd import Volume
from .scene_sampling import (
    LPS_FROM_RAS,
    Array,
    Node,
    Steps,
    displacements,
    image_blocks,
    numpy_matrix,
    sampled,
    voxels,
    vtk_matrix,
    world_from_local,
)

# How displacements must come from the worker: along Slicer's axes, so that nothing is left to do for those of a whole volume.
DISPLACEMENT_AXES = (-1, -1, 1)
# As wide as what the library takes for orthogonal.
ORTHOGONAL_WITHIN = 1e-3
SAME_GRID_WITHIN_VOX = 1e-3
BINARY = "Binary labelmap"
# Points per axis at which a non-linear transform is followed to see how far a volume reaches under it.
BOUNDS_POINTS = 9


def volume_of(node: Node, what: str) -> Steps[Volume]:
    """The voxels of a volume node where the user sees them; `what` names it in messages ("fixed").

    Under a linear transform that keeps the axes orthogonal no voxel is changed. Otherwise (shear, or a non-linear transform) the
    volume is resampled linearly on an orthogonal lattice of the same spacing that covers it.

    Raises:
        InputError: no volume, or one without voxels.
        GeometryError: its axes span no volume.
    """
    if node is None or not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f"{what} is {_described(node)}; a volume is needed. Choose one.")
    image, local_from_index = node.GetImageData(), _ijk_to_ras(node)
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(
            f"{what} ({node.GetName()}) holds no voxels; a volume with voxels is needed. Load its file, or choose another."
        )
    if not (np.isfinite(local_from_index).all() and abs(np.linalg.det(local_from_index[:3, :3])) > 1e-12):
        raise GeometryError(
            f"The axes of {what} ({node.GetName()}) span no volume; they must be independent. Repair its directions."
        )
    parent = node.GetParentTransformNode()
    if parent is None or parent.IsTransformToWorldLinear():
        ras_from_index = world_from_local(parent) @ local_from_index
        if _is_orthogonal(ras_from_index):
            return Volume(voxels(image), LPS_FROM_RAS @ ras_from_index)
    lattice = _covering(image.GetDimensions(), local_from_index, parent)
    return (yield from sampled(image, local_from_index, parent, lattice, is_label=False))


def mask_of(node: Node, like: Volume, *, segment: str | None = None) -> Steps[Volume]:
    """1 inside and 0 outside on the lattice of `like`: a label map where it is not 0, a segmentation as the union of its segments.

    Args:
        segment: name or ID of the one segment to take.

    Raises:
        InputError: neither of these, or no such segment.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        chosen = list(segments_of(node)) if segment is None else [_segment_named(node, segment)]
        return (yield from _segments_on(node, chosen, like, np.ones(len(chosen), np.uint8)))
    labels = yield from _label_map_on(node, like)
    return replace(like, values=(labels.values != 0).view(np.uint8))


def labels_of(fixed: Node, moving: Node, *, like: tuple[Volume, Volume]) -> Steps[tuple[Volume, Volume]]:
    """The labels of both on the lattices of `like`, numbered alike: two segmentations by the names of their segments.

    A label map keeps its numbers, and beside one a segmentation takes the label values of its segments. Where segments overlap
    the later one counts.

    Raises:
        InputError: neither label map nor segmentation.
    """
    both = (fixed, moving)
    numbers: Mapping[str, int] | None = None
    if all(node.IsA("vtkMRMLSegmentationNode") for node in both):
        names = sorted({name for node in both for name in segments_of(node).values()})
        numbers = {name: number for number, name in enumerate(names, start=1)}
    one = yield from _labels_on(fixed, like[0], numbers)
    two = yield from _labels_on(moving, like[1], numbers)
    return one, two


def numbered_on(node: Node, like: Volume) -> Steps[Volume]:
    """The labels of a label map as they are, or the segments of a segmentation numbered in its order, on the lattice of `like`.

    Raises:
        InputError: neither label map nor segmentation.
    """
    is_segmentation = node.IsA("vtkMRMLSegmentationNode")
    numbers = {name: number for number, name in enumerate(segments_of(node).values(), start=1)} if is_segmentation else None
    return (yield from _labels_on(node, like, numbers))


def segments_of(node: Node) -> dict[str, str]:
    """The names of the segments of a segmentation by their IDs, in its order."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return {one: segmentation.GetSegment(one).GetName() for one in ids}


def segment_times(node: Node) -> Iterator[int]:
    """When the voxels of each segment were changed last."""
    for one in segments_of(node):
        voxels_of_it = _segment(node, one).GetRepresentation(BINARY)
        if voxels_of_it is not None:
            yield voxels_of_it.GetMTime()


def points_of(node: Node, what: str, *, without: Node = None) -> ListedPoints:
    """The control points of a markups node, LPS mm of the world; those that were never placed, or are not selected, do not count.

    Args:
        without: a transform node that is not to count where the points lie under it: they are seen on a warped volume, and belong to
            moving.

    Raises:
        InputError: no markups, or none that counts.
    """
    if node is None or not node.IsA("vtkMRMLMarkupsNode"):
        raise InputError(f"{what} are {_described(node)}; a list of markups points is needed. Choose one.")
    count = node.GetNumberOfControlPoints()
    numbers = tuple(
        index
        for index in range(count)
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined and node.GetNthControlPointSelected(index)
    )
    if not numbers:
        raise InputError(f"{what} ({node.GetName()}) hold no point that is placed and selected; at least one must be. Place one.")
    is_seen_warped = without is not None and node.GetParentTransformNode() is without
    place = node.GetNthControlPointPosition if is_seen_warped else node.GetNthControlPointPositionWorld
    points = np.array([place(index) for index in numbers], dtype=np.float64)
    labels = tuple(str(node.GetNthControlPointLabel(index)) for index in numbers)
    return ListedPoints(points @ LPS_FROM_RAS[:3, :3], labels, numbers, count)


def grid_displacements(node: Node) -> Volume | None:
    """The displacements that a grid transform node holds, on its own lattice, LPS mm; None where it holds them in another form."""
    transform = node.GetTransformFromParent()
    grid = None if transform is None or not transform.IsA("vtkOrientedGridTransform") else transform.GetDisplacementGrid()
    if grid is None or transform.GetInverseFlag() or node.GetParentTransformNode() is not None:
        return None
    ras_from_index = np.eye(4) if transform.GetGridDirectionMatrix() is None else numpy_matrix(transform.GetGridDirectionMatrix())
    spacing = np.diag([*grid.GetSpacing(), 1.0])
    ras_from_index = ras_from_index @ spacing
    ras_from_index[:3, 3] = grid.GetOrigin()
    scale = transform.GetDisplacementScale()
    values = vtk_to_numpy(grid.GetPointData().GetScalars()).reshape(*grid.GetDimensions()[::-1], 3)
    along = np.array(DISPLACEMENT_AXES, dtype=np.float32) * np.float32(scale)
    return Volume(values.astype(np.float32) * along, LPS_FROM_RAS @ ras_from_index)


def transform_of(node: Node, like: Volume) -> Steps[list[list[float]] | Volume]:
    """Where a transform node takes points of fixed when moving is placed under it: a matrix [4, 4], or displacements on `like`.

    Raises:
        InputError: no transform node.
    """
    if node is None or not node.IsA("vtkMRMLTransformNode"):
        raise InputError(f"The initial transform is {_described(node)}; a transform is needed. Choose one.")
    if node.IsTransformToWorldLinear():
        matrix: list[list[float]] = (LPS_FROM_RAS @ np.linalg.inv(world_from_local(node)) @ LPS_FROM_RAS).tolist()
        return matrix
    return (yield from displacements(node, like))


def set_voxels(node: Node, volume: Volume) -> None:
    """Give a volume node these voxels at their place; the array is used, not copied."""
    image = vtk.vtkImageData()
    image.SetDimensions(volume.size)
    image.GetPointData().SetScalars(_vtk_array(volume.values))
    node.SetIJKToRASMatrix(vtk_matrix(LPS_FROM_RAS @ volume.world_from_index))
    node.SetAndObserveImageData(image)


def set_displacements(node: Node, volume: Volume) -> None:
    """Make these displacements (along `DISPLACEMENT_AXES`) the *from parent* side of a grid transform node; not copied."""
    ras_from_index = LPS_FROM_RAS @ volume.world_from_index
    spacing = np.linalg.norm(ras_from_index[:3, :3], axis=0)
    image = vtk.vtkImageData()
    image.SetDimensions(volume.size)
    image.SetOrigin(ras_from_index[:3, 3])
    image.SetSpacing(spacing)
    image.GetPointData().SetScalars(_vtk_array(volume.values))
    directions = np.eye(4)
    directions[:3, :3] = ras_from_index[:3, :3] / spacing
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(vtk_matrix(directions))
    transform.SetDisplacementGridData(image)
    node.SetAndObserveTransformFromParent(transform)


def set_matrix(node: Node, moving_from_fixed: Sequence[Sequence[float]]) -> None:
    """Make this matrix (LPS) the *from parent* side of a linear transform node."""
    node.SetMatrixTransformFromParent(vtk_matrix(LPS_FROM_RAS @ np.array(moving_from_fixed) @ LPS_FROM_RAS))


def _described(node: Node) -> str:
    return "not chosen" if node is None else f"{node.GetName()} ({node.GetNodeTagName()})"


def _vtk_array(values: NDArray[Any]) -> Any:
    channels = values.shape[3] if values.ndim == 4 else 1
    return numpy_to_vtk(
        np.ascontiguousarray(values).reshape(-1, channels) if channels > 1 else np.ascontiguousarray(values).reshape(-1)
    )


def _ijk_to_ras(node: Node) -> Array:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return numpy_matrix(matrix)


def _is_orthogonal(world_from_index: Array) -> bool:
    columns = world_from_index[:3, :3] / np.linalg.norm(world_from_index[:3, :3], axis=0)
    return bool(np.allclose(columns.T @ columns, np.eye(3), atol=ORTHOGONAL_WITHIN))


def _covering(size: Sequence[int], local_from_index: Array, parent: Node | None) -> Volume:
    """An orthogonal lattice without voxels, along the axes and in the spacing of a volume, over all that it covers under `parent`."""
    axes = [np.linspace(-0.5, count - 0.5, BOUNDS_POINTS) for count in size]
    indices = np.stack([one.ravel() for one in np.meshgrid(*axes, indexing="ij")] + [np.ones(BOUNDS_POINTS**3)])
    local = local_from_index @ indices
    if parent is None or parent.IsTransformToWorldLinear():
        frame, ras = world_from_local(parent) @ local_from_index, (world_from_local(parent) @ local)[:3]
    else:
        to_world = vtk.vtkGeneralTransform()
        parent.GetTransformToWorld(to_world)
        frame, ras = local_from_index, np.array([to_world.TransformPoint(point) for point in local[:3].T.tolist()]).T
    spacing = np.linalg.norm(frame[:3, :3], axis=0)
    left, _, right = np.linalg.svd(frame[:3, :3] / spacing)
    # The nearest orthogonal axes.
    directions = left @ right
    along = directions.T @ ras
    low, high = along.min(axis=1), along.max(axis=1)
    counts = [max(1, math.ceil(length - 1e-3)) for length in (high - low) / spacing]
    ras_from_index = np.eye(4)
    ras_from_index[:3, :3] = directions * spacing
    ras_from_index[:3, 3] = directions @ (low + 0.5 * spacing)
    return Volume(np.empty((*counts[::-1], 0)), LPS_FROM_RAS @ ras_from_index)


def _label_map_on(node: Node, like: Volume) -> Steps[Volume]:
    """A volume's values on the lattice of `like`, by nearest neighbour where its own is another one."""
    if not node.IsA("vtkMRMLLabelMapVolumeNode") or node.GetImageData() is None:
        raise InputError(
            f"{_described(node)} is no label map with voxels and no segmentation; one of these is needed. Choose another, or make "
            "one of it in the Segment Editor."
        )
    parent = node.GetParentTransformNode()
    if parent is None or parent.IsTransformToWorldLinear():
        world_from_index = LPS_FROM_RAS @ world_from_local(parent) @ _ijk_to_ras(node)
        if node.GetImageData().GetDimensions() == like.size and _is_same(world_from_index, like.world_from_index):
            return Volume(voxels(node.GetImageData()), like.world_from_index)
    return (yield from sampled(node.GetImageData(), _ijk_to_ras(node), parent, like, is_label=True))


def _is_same(one: Array, other: Array) -> bool:
    return bool(np.abs(np.linalg.inv(other) @ one - np.eye(4)).max() < SAME_GRID_WITHIN_VOX)


def _labels_on(node: Node, like: Volume, numbers: Mapping[str, int] | None) -> Steps[Volume]:
    if not node.IsA("vtkMRMLSegmentationNode"):
        return (yield from _label_map_on(node, like))
    names = segments_of(node)
    own = [_segment(node, one).GetLabelValue() if numbers is None else numbers[name] for one, name in names.items()]
    return (yield from _segments_on(node, list(names), like, np.array(own, np.int32)))


def _segment(node: Node, segment_id: str) -> Any:
    return node.GetSegmentation().GetSegment(segment_id)


def _segment_named(node: Node, name: str) -> str:
    """The ID of the segment with this ID or name."""
    names = segments_of(node)
    if name in names:
        return name
    if name not in names.values():
        raise InputError(
            f"{node.GetName()} has no segment {name!r}; its segments are {', '.join(names.values()) or 'none'}. Choose one of them."
        )
    return next(one for one, other in names.items() if other == name)


def _segments_on(node: Node, chosen: Sequence[str], like: Volume, numbers: NDArray[Any]) -> Steps[Volume]:
    """On the lattice of `like` the number of the segment, of the IDs `chosen`, that is there, the last of several; 0 where none is."""
    ranks = np.zeros(like.values.shape[:3], np.min_scalar_type(len(chosen)))
    for image, rank_of in _arrays(node, chosen):
        local_from_index = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(local_from_index)
        blocks = image_blocks(image, numpy_matrix(local_from_index), node.GetParentTransformNode(), like, is_label=True)
        for block, part in blocks:
            np.maximum(ranks[block], rank_of.take(part.astype(np.intp), mode="clip"), out=ranks[block])
            yield
    values, number_of = np.empty(ranks.shape, numbers.dtype), np.pad(numbers, (1, 0))
    for layer, ranks_there in zip(values, ranks, strict=True):
        number_of.take(ranks_there, out=layer, mode="clip")
        yield
    return replace(like, values=values)


def _arrays(node: Node, chosen: Sequence[str]) -> Iterator[tuple[Any, NDArray[np.unsignedinteger]]]:
    """The images that hold these segments, and the place among them of each value there, from 1 on; other values have none.

    Segments that do not overlap share one image.
    """
    held: dict[Any, dict[int, int]] = {}
    for rank, one in enumerate(chosen, start=1):
        image, value = _image_of(node, one)
        if image is not None and not image.IsEmpty():
            held.setdefault(image, {})[value] = rank
    for image, ranks in held.items():
        rank_of = np.zeros(max(ranks) + 2, np.min_scalar_type(len(chosen)))  # 0 for all that is larger, too
        for value, rank in ranks.items():
            rank_of[value] = rank
        yield image, rank_of


def _image_of(node: Node, segment_id: str) -> tuple[Any, int]:
    """The image with the voxels of a segment, and their value there; None where it is empty."""
    segment = _segment(node, segment_id)
    if node.GetSegmentation().ContainsRepresentation(BINARY):
        return segment.GetRepresentation(BINARY), segment.GetLabelValue()
    image = slicer.vtkOrientedImageData()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not logic.GetSegmentBinaryLabelmapRepresentation(node, segment_id, image, False):
        raise InputError(
            f"The segment {segment.GetName()} of {node.GetName()} cannot be made voxels; a mask or label needs them. "
            "Create the representation Binary labelmap in the Segmentations module."
        )
    return image, 1
