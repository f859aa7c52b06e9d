"""Another package of the field reads the transforms that we write."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from RegistrationNetLib.geometry.deformation import DisplacementField
from RegistrationNetLib.geometry.space import grid_of, transform_from_map
from RegistrationNetLib.io.outputs import write_transform

from .small import blob

manip = pytest.importorskip("nitransforms.manip")


def test_nitransforms_maps_points_as_our_files_say(tmp_path: Path) -> None:
    image = blob((12, 12, 12))
    image.SetOrigin((-30.0, 12.0, 5.0))
    image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    grid = grid_of(image)
    # As registrations deliver them: an affine after a displacement field.
    bump = 0.05 * torch.sin(torch.linspace(0, 3.14, 24))
    field = DisplacementField(
        (bump[:, None, None] * bump[:, None] * bump).expand(1, 3, -1, -1, -1)
        * torch.tensor([90.0, -50.0, 70.0]).view(1, 3, 1, 1, 1)
    )
    affine = np.diag([1.1, 0.9, 1.0, 1.0])
    affine[:3, 3] = (4.0, -3.0, 2.0)
    affine[0, 1] = 0.1
    ours = transform_from_map(field, grid, grid.moved(affine))
    write_transform(ours, tmp_path / "transform.h5")
    # At voxel centres, which are the nodes of the field: between them nitransforms reads fields by cubic splines, and ITK linearly.
    index = np.random.default_rng(0).integers(3, 20, (50, 3))
    points = np.array([image.TransformIndexToPhysicalPoint(one) for one in index.tolist()])
    mapped = np.array([ours.TransformPoint(point) for point in points.tolist()])
    assert np.linalg.norm(mapped - points @ affine[:3, :3].T - affine[:3, 3], axis=1).max() > 0.2
    ras = np.array([-1.0, -1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ras * manip.load(tmp_path / "transform.h5", fmt="itk").map(ras * points)
    assert np.abs(theirs - mapped).max() < 1e-3
