"""Displacements in mm at every voxel, as an image: those of ANTs (1Warp.nii.gz), ITK and Slicer, which are one convention, LPS."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from ..errors import InputError
from .native_paths import printable
from .outputs import write_image

# By which Slicer tells, in an NRRD file, whether displacements lead from the grid to what is resampled, or the other way.
SLICER_KEY, RESAMPLING, MODELING = "displacement field type", "resampling", "modeling"


def displacement_transform(path: Path, image: sitk.Image) -> sitk.Transform:
    """An image of displacements, read from `path`, as points of fixed → points of moving.

    Raises:
        InputError: its voxels hold no displacements, or they lead from moving to fixed.
    """
    dim, count = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dim not in (2, 3) or count != dim:
        raise InputError(
            f"{printable(path)} is no image of displacements; that has as many numbers in each voxel as dimensions, two or three. Got {count} in "
            f"{dim} dimensions. If FNIRT wrote it, say --transform-format fsl."
        )
    kind = printable(image.GetMetaData(SLICER_KEY)).strip() if image.HasMetaDataKey(SLICER_KEY) else RESAMPLING
    if kind != RESAMPLING:
        raise InputError(
            f"{printable(path)} holds displacements for {kind}, from moving to fixed; those from fixed to moving are "
            f"needed ({RESAMPLING}). Invert the transform in Slicer, and save it again."
        )
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))


def write_displacements(transform: sitk.Transform, like: sitk.Image, path: Path) -> None:
    """The displacements in mm of `transform` at the voxels of `like`, in float32; an NRRD file also says to Slicer what they are.

    Raises:
        OutputError: it could not be written.
    """
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    )
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        field.SetMetaData(SLICER_KEY, RESAMPLING)
    write_image(field, path)
