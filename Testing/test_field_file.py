"""A displacement field on disk is what ITK reads as the transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.deformation import DisplacementField
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.field_file import write_displacement_field
from RegistrationNetLib.space import Grid, displacements_mm, grid_of, transform_from_map


def oblique(shape: tuple[int, ...]) -> Grid:
    image = sitk.Image(shape[::-1], sitk.sitkUInt8)
    image.SetSpacing([1.5, 2.0, 2.5][: len(shape)])
    image.SetOrigin([-10.0, 20.0, 5.0][: len(shape)])
    turn = sitk.Euler2DTransform([0.0, 0.0], 0.3) if len(shape) == 2 else sitk.Euler3DTransform([0.0] * 3, 0.3, -0.2, 0.1)
    image.SetDirection(turn.GetMatrix())
    return grid_of(image)


@pytest.mark.parametrize("shape", [(9, 7), (6, 9, 7)])
def test_the_file_is_the_transform_that_itk_reads(shape: tuple[int, ...], tmp_path: Path) -> None:
    grid, dim = oblique(shape), len(shape)
    field = DisplacementField(0.05 * torch.randn(1, dim, *shape).double())
    alignment = np.eye(dim + 1)
    alignment[:dim, :dim] += 0.02 * np.random.default_rng(0).standard_normal((dim, dim))
    alignment[:dim, dim] = 3.0
    path = tmp_path / "moving_from_fixed.nrrd"
    write_displacement_field(path, field, grid, alignment, like=field.displacement)
    image = sitk.ReadImage(str(path))
    assert np.allclose(grid_of(image).world_from_voxel, grid.world_from_voxel)
    expected = displacements_mm(transform_from_map(field, grid, grid.moved(alignment), like=field.displacement), grid)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), expected, atol=1e-4)


def test_another_format_is_refused(tmp_path: Path) -> None:
    field = DisplacementField(torch.zeros(1, 2, 9, 7))
    with pytest.raises(InputError, match=r"field\.nii names no NRRD file"):
        write_displacement_field(tmp_path / "field.nii", field, oblique((9, 7)), np.eye(3), like=field.displacement)
    assert not list(tmp_path.iterdir())
