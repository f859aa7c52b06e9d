"""Another package of the field reads the transforms that we write."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import register

from .small import blob

manip = pytest.importorskip("nitransforms.manip")


def test_nitransforms_maps_points_as_our_files_say(tmp_path: Path) -> None:
    fixed, moving = blob((12, 12, 12)), blob((12, 13, 14))
    for image in (fixed, moving):
        image.SetOrigin((-30.0, 12.0, 5.0))
        image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    result = register(fixed, moving, align=["centre"], steps=2, repeats=0)
    result.save(tmp_path)
    # At voxel centres, which are the nodes of the fields: between them nitransforms reads fields by cubic splines, and ITK linearly.
    index = np.random.default_rng(0).integers(3, 20, (50, 3))
    ras = np.array([-1.0, -1.0, 1.0])
    for name, image, transform in (
        ("transform.h5", fixed, result.moving_from_fixed),
        ("inverse.h5", moving, result.fixed_from_moving),
    ):
        points = np.array([image.TransformIndexToPhysicalPoint(one) for one in index.tolist()])
        ours = np.array([transform.TransformPoint(point) for point in points.tolist()])
        assert np.linalg.norm(ours - points, axis=1).max() > 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = ras * manip.load(tmp_path / name, fmt="itk").map(ras * points)
        assert np.abs(theirs - ours).max() < 1e-3
    assert sitk.ReadTransform(str(tmp_path / "transform.h5")).GetDimension() == 3
