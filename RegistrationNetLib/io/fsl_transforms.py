"""Transforms of FSL: matrices of FLIRT and fields of displacements of FNIRT.

FSL places points by voxel indices times voxel sizes; where the axes of an image are right-handed in RAS, the first index counts from
the other end. So both images are needed to say what a transform means, and FLIRT's matrix maps points of its input (moving) to its
reference (fixed). Source: FSL's own documentation of "FLIRT" and of "warp files", https://fsl.fmrib.ox.ac.uk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .lattices import Array, affine_of, applied, indices, lps_from_index, vectors_on
from .matrix_files import read_matrix
from .native_paths import printable

# NIfTI's numbers for what FNIRT writes: a field, and coefficients of three kinds of splines.
FIELD_INTENT, COEFFICIENT_INTENTS = "2006", ("2007", "2008", "2009", "2016")


def is_fnirt(image: sitk.Image) -> bool:
    """Whether an image says that FNIRT wrote it as a transform."""
    return _intent(image) in (FIELD_INTENT, *COEFFICIENT_INTENTS)


def _intent(image: sitk.Image) -> str:
    return image.GetMetaData("intent_code") if image.HasMetaDataKey("intent_code") else ""


def flirt_transform(path: Path, fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """A matrix of FLIRT between its reference `fixed` and its input `moving`, as points of fixed → points of moving.

    Raises:
        InputError: the file holds no matrix.
    """
    fsl_moving_from_fixed = np.linalg.inv(read_matrix(path))
    return affine_of(np.linalg.inv(_fsl_from_lps(moving)) @ fsl_moving_from_fixed @ _fsl_from_lps(fixed))


def fnirt_transform(path: Path, field: sitk.Image, moving: Callable[[], sitk.Image]) -> sitk.Transform:
    """A field of FNIRT, read from `path`, on the lattice of its reference; `moving` gives its input.

    Displacements and positions are told apart as FSL does it: positions vary more than they differ from where they stand.

    Raises:
        InputError: it holds coefficients, not a field, or not three numbers for each voxel.
    """
    if _intent(field) in COEFFICIENT_INTENTS:
        raise InputError(
            f"{printable(path)} holds coefficients of FNIRT's splines; a field of displacements is needed. Make one by fnirtfileutils "
            "--in=COEFFICIENTS --ref=REFERENCE --out=FIELD --withaff."
        )
    if field.GetDimension() != 4 or field.GetSize()[3] != 3:
        size = "×".join(map(str, field.GetSize()))
        raise InputError(
            f"{printable(path)} is no field of FNIRT; that has three numbers for each voxel, along a fourth axis. Got {size} voxels. "
            "Check the file."
        )
    values = np.moveaxis(sitk.GetArrayFromImage(field).astype(np.float64), 0, -1)  # [z, y, x, 3]
    size = field.GetSize()[:3]
    lps = applied(lps_from_index(field), indices(size))
    own: Array = applied(_fsl_from_index(lps_from_index(field), size), indices(size))
    there: Array = values if np.std(values - own) < np.std(values) else own + values
    return sitk.DisplacementFieldTransform(vectors_on(field, applied(np.linalg.inv(_fsl_from_lps(moving())), there) - lps))


def _fsl_from_lps(image: sitk.Image) -> Array:
    lps = lps_from_index(image)
    return _fsl_from_index(lps, image.GetSize()) @ np.linalg.inv(lps)


def _fsl_from_index(lps: Array, size: tuple[int, ...]) -> Array:
    """From indices to FSL's millimetres, of an image of `size` whose indices lie in the world as `lps` says."""
    scale = np.linalg.norm(lps[:3, :3], axis=0)
    matrix: Array = np.diag([*scale, 1.0])
    # Two of three axes of RAS are the opposite of those of LPS, so that the sign of the determinant is the same.
    if np.linalg.det(lps[:3, :3]) > 0:
        matrix[0, 0], matrix[0, 3] = -scale[0], (size[0] - 1) * scale[0]
    return matrix
