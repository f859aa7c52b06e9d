"""Transforms of NiftyReg: affine matrices, fields of positions and displacements, and control points of cubic B-splines.

All map points of the reference (fixed) to the floating image (moving) in RAS mm. Images say by their intent which they are.
Source: NiftyReg's `_reg_maths.h` and `reg_transform`, https://github.com/KCL-BMEIS/niftyreg.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .lattices import affine_of, applied, indices, lps_from_index, vectors_on
from .matrix_files import RAS_FROM_LPS, read_matrix
from .native_paths import printable

INTENT_NAME = "NREG_TRANS"
POSITIONS, DISPLACEMENTS, SPLINE = 0, 1, 2


def niftyreg_matrix(path: Path) -> sitk.Transform:
    """A matrix of reg_aladin as points of fixed → points of moving.

    Raises:
        InputError: the file holds no matrix.
    """
    return affine_of(RAS_FROM_LPS @ read_matrix(path) @ RAS_FROM_LPS)


def is_niftyreg(image: sitk.Image) -> bool:
    """Whether an image was written by NiftyReg as a transform."""
    return image.HasMetaDataKey("intent_name") and image.GetMetaData("intent_name").strip() == INTENT_NAME


def niftyreg_transform(path: Path, image: sitk.Image) -> sitk.Transform:
    """An image of NiftyReg, read from `path`, as points of fixed → points of moving.

    Raises:
        InputError: it is of another kind (velocities), or not three-dimensional.
    """
    kind = float(image.GetMetaData("intent_p1")) if image.HasMetaDataKey("intent_p1") else -1.0
    if kind not in (POSITIONS, DISPLACEMENTS, SPLINE) or image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(
            f"{printable(path)} is a transform of NiftyReg of the kind {kind:g} in {image.GetDimension()} dimensions; read are positions (0), "
            "displacements (1) and control points of cubic splines (2) in three. Make one by reg_transform -ref FIXED -def IN OUT."
        )
    vectors = sitk.GetArrayFromImage(image).astype(np.float64) * [-1.0, -1.0, 1.0]
    if kind != DISPLACEMENTS:
        # Cubic B-splines reproduce what is linear, so that control points are positions plus coefficients of displacements.
        vectors = vectors - applied(lps_from_index(image), indices(image.GetSize()))
    field = vectors_on(image, vectors)
    if kind == SPLINE:
        return sitk.BSplineTransform([sitk.VectorIndexSelectionCast(field, axis) for axis in range(3)], 3)
    return sitk.DisplacementFieldTransform(field)
