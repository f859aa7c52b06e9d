"""Where the voxels of an image lie, without torch: for what reads and writes transforms."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lps_from_index(image: sitk.Image, dim: int = 3) -> Array:
    """The homogeneous matrix [dim + 1, dim + 1] from indices (x, y, z) to LPS mm, of the first `dim` axes of `image`."""
    whole = image.GetDimension()
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = (np.reshape(image.GetDirection(), (whole, whole)) * np.array(image.GetSpacing()))[:dim, :dim]
    matrix[:dim, dim] = image.GetOrigin()[:dim]
    return matrix


def indices(size: tuple[int, ...]) -> Array:
    """The index (x, y, z) of every voxel of a lattice of `size` (x, y, z): [z, y, x, 3]."""
    return np.moveaxis(np.indices(size[::-1], dtype=np.float64)[::-1], 0, -1)


def applied(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> Array:
    """Points [..., dim] mapped by a homogeneous matrix."""
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def affine_of(matrix: Array) -> sitk.AffineTransform:
    """A homogeneous matrix of LPS mm as a transform."""
    dim = len(matrix) - 1
    transform = sitk.AffineTransform(dim)
    transform.SetMatrix(matrix[:dim, :dim].ravel().tolist())
    transform.SetTranslation(matrix[:dim, dim].tolist())
    return transform


def vectors_on(image: sitk.Image, vectors: Array) -> sitk.Image:
    """Vectors [z, y, x, 3] as an image where the first three axes of `image` lie."""
    result = sitk.GetImageFromArray(np.ascontiguousarray(vectors, dtype=np.float64), isVector=True)
    dim, whole = result.GetDimension(), image.GetDimension()
    result.SetOrigin(image.GetOrigin()[:dim])
    result.SetSpacing(image.GetSpacing()[:dim])
    result.SetDirection(np.reshape(image.GetDirection(), (whole, whole))[:dim, :dim].ravel().tolist())
    return result
