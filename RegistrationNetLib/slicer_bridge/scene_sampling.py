"""Images and transforms of the scene on a lattice, block by block, so that the application gets its turn in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..io.nrrd import Volume

Node = Any
Array = NDArray[np.float64]
Value = TypeVar("Value")
# Work that pauses after every little while; what it comes to is the generator's return value.
Steps = Generator[None, None, Value]
# Where a block lies in an array [D, H, W]: whole layers, or some rows of one.
Block = tuple[slice, slice]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxels of a block: some ten milliseconds where a matrix takes each to its place, and where a bent transform must be inverted there.
LINEAR_BLOCK, BENT_BLOCK = 2**18, 2**13


def at_once(steps: Steps[Value]) -> Value:
    """What `steps` come to, without a pause."""
    found: list[Value] = []

    def to_the_end() -> Iterator[None]:
        found.append((yield from steps))

    for _pause in to_the_end():
        pass
    return found[0]


def sampled(image: Any, local_from_index: Array, parent: Node | None, lattice: Volume, *, is_label: bool) -> Steps[Volume]:
    """`image`, that lies under `parent`, at the lattice; outside it is 0 for labels, else the image's smallest value."""
    channels = image.GetNumberOfScalarComponents()
    shape = (*lattice.values.shape[:3], *([channels] if channels > 1 else []))
    values = np.empty(shape, voxels(image).dtype)
    for block, part in image_blocks(image, local_from_index, parent, lattice, is_label=is_label):
        values[block] = part
        yield
    return replace(lattice, values=values)


def interpolated(volume: Volume, lattice: Volume) -> Steps[Volume]:
    """The voxels of one lattice (LPS) linearly at another; outside it is its smallest value."""
    image = vtk.vtkImageData()
    image.SetDimensions(volume.size)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(volume.values).reshape(-1), deep=True))
    return (yield from sampled(image, LPS_FROM_RAS @ volume.world_from_index, None, lattice, is_label=False))


def image_blocks(
    image: Any, local_from_index: Array, parent: Node | None, lattice: Volume, *, is_label: bool
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """What `sampled` puts together. The array of a block is good until the next one."""
    is_linear = parent is None or bool(parent.IsTransformToWorldLinear())
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(_in_index_space(image))
    if is_linear:
        index_from_ras = np.linalg.inv(world_from_local(parent) @ local_from_index)
        reslice.SetResliceAxes(vtk_matrix(index_from_ras @ LPS_FROM_RAS @ lattice.world_from_index))
    else:
        reslice.SetResliceTransform(_bent(local_from_index, parent, lattice))
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetInterpolationMode(vtk.VTK_RESLICE_NEAREST if is_label else vtk.VTK_RESLICE_LINEAR)
    reslice.SetBackgroundLevel(0 if is_label else image.GetScalarRange()[0])
    for block in _blocks(lattice.size, LINEAR_BLOCK if is_linear else BENT_BLOCK):
        layers, rows = block
        reslice.SetOutputExtent(0, lattice.size[0] - 1, rows.start, rows.stop - 1, layers.start, layers.stop - 1)
        reslice.Update()
        yield block, voxels(reslice.GetOutput())


def displacements(node: Node, lattice: Volume) -> Steps[Volume]:
    """Where the *from world* side of a transform node takes the points of the lattice, as displacements in LPS mm, float32."""
    values = np.empty((*lattice.values.shape[:3], 3), np.float32)
    for layers, rows in _blocks(lattice.size, BENT_BLOCK):
        image = vtk.vtkImageData()
        image.SetDimensions(lattice.size[0], rows.stop - rows.start, layers.stop - layers.start)
        first = np.eye(4)
        first[1:3, 3] = rows.start, layers.start
        ras_from_index = vtk_matrix(LPS_FROM_RAS @ lattice.world_from_index @ first)
        slicer.vtkSlicerTransformLogic.GetTransformedPointSamplesAsVectorImage(image, node, ras_from_index, False)
        np.multiply(voxels(image), np.diag(LPS_FROM_RAS)[:3], out=values[layers, rows], casting="same_kind")
        yield
    return replace(lattice, values=values)


def voxels(image: Any) -> NDArray[Any]:
    """[D, H, W] or [D, H, W, C], a view."""
    scalars = image.GetPointData().GetScalars()
    channels = scalars.GetNumberOfComponents()
    shape = (*image.GetDimensions()[::-1], *([channels] if channels > 1 else []))
    values: NDArray[Any] = vtk_to_numpy(scalars).reshape(shape)
    return values


def vtk_matrix(values: NDArray[Any]) -> Any:
    """A 4 × 4 array as VTK's matrix."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(values.ravel().tolist())
    return matrix


def numpy_matrix(matrix: Any) -> Array:
    """VTK's matrix as an array [4, 4]."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def world_from_local(parent: Node | None) -> Array:
    """RAS of the world from RAS under the linear transform node `parent`."""
    matrix = vtk.vtkMatrix4x4()
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return numpy_matrix(matrix)


def _bent(local_from_index: Array, parent: Node, lattice: Volume) -> Any:
    """Indices of the image from indices of the lattice, where `parent` is not linear."""
    from_world = vtk.vtkGeneralTransform()
    parent.GetTransformFromWorld(from_world)
    index_from_index = vtk.vtkGeneralTransform()
    index_from_index.PostMultiply()
    index_from_index.Concatenate(vtk_matrix(LPS_FROM_RAS @ lattice.world_from_index))
    index_from_index.Concatenate(from_world)
    index_from_index.Concatenate(vtk_matrix(np.linalg.inv(local_from_index)))
    return index_from_index


def _in_index_space(image: Any) -> Any:
    """The same voxels with the geometry of their indices."""
    plain = vtk.vtkImageData()
    plain.SetExtent(image.GetExtent())
    plain.GetPointData().SetScalars(image.GetPointData().GetScalars())
    return plain


def _blocks(size: Sequence[int], most: int) -> Iterator[Block]:
    """The lattice in blocks of at most about `most` voxels, at least a row each."""
    row, rows, layers = size
    layers_at_once = max(1, most // (row * rows))
    rows_at_once = rows if row * rows <= most else max(1, most // row)
    for layer in range(0, layers, layers_at_once):
        for first in range(0, rows, rows_at_once):
            yield slice(layer, min(layers, layer + layers_at_once)), slice(first, min(rows, first + rows_at_once))
