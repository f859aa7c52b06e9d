"""What a result says of one place: how far it moves, how its volume changes, which error to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk

from ..io.nrrd import Volume
from .scene_sampling import LPS_FROM_RAS, Node


@dataclass(frozen=True)
class ValuesAt:
    """None for what the result does not tell there; outside the body only the displacement is told."""

    displacement_mm: float | None
    volume_percent: float | None
    error_mm: float | None


def values_at(result: Any, point_ras: Sequence[float]) -> ValuesAt | None:
    """What a result (a `RegistrationResult`) says of a point of fixed in the world; None outside fixed, or where all of it is gone."""
    lattice = next((node for node in (result.fixedNode, result.jacobianNode, result.errorNode) if node is not None), None)
    if lattice is None or _value(lattice, point_ras) is None:
        return None
    moved = None
    if result.transformNode is not None:
        there = result.transformNode.GetTransformFromParent().TransformPoint(*point_ras)
        moved = float(np.linalg.norm(np.subtract(there, point_ras)))
    if result.bodyVolume is not None and not _is_inside(result.bodyVolume, point_ras):
        return ValuesAt(moved, None, None)
    determinant, error = (None if node is None else _value(node, point_ras) for node in (result.jacobianNode, result.errorNode))
    return ValuesAt(moved, None if determinant is None else 100 * (determinant - 1), error)


def _value(volume: Node, point_ras: Sequence[float]) -> float | None:
    """The value of the nearest voxel; None outside the volume."""
    image = volume.GetImageData()
    if image is None:
        return None
    local = list(point_ras)
    if volume.GetParentTransformNode() is not None:
        from_world = vtk.vtkGeneralTransform()
        volume.GetParentTransformNode().GetTransformFromWorld(from_world)
        local = list(from_world.TransformPoint(*point_ras))
    matrix = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(matrix)
    index = [round(one) for one in matrix.MultiplyPoint((*local, 1.0))[:3]]
    if not all(0 <= one < size for one, size in zip(index, image.GetDimensions(), strict=True)):
        return None
    return float(image.GetScalarComponentAsDouble(*index, 0))


def _is_inside(mask: Volume, point_ras: Sequence[float]) -> bool:
    point = LPS_FROM_RAS @ [*point_ras, 1.0]
    index = np.rint(np.linalg.solve(mask.world_from_index, point)[:3]).astype(int)
    size = np.array(mask.size)
    return bool(mask.values[tuple(np.clip(index, 0, size - 1)[::-1])])
