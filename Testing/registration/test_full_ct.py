"""A CT of 512×512×300 goes through the command line in the memory of a laptop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import displacements_mm, grid_of, image_on

from ..benchmarks.generated_ct import ct_grid, ct_pair

MOST_MB = 3000


@pytest.mark.slow
def test_a_full_ct_is_registered_in_three_gigabytes(tmp_path: Path) -> None:
    pair = ct_pair(ct_grid((300, 512, 512), (300.0, 360.0, 360.0)), seed=1)
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    command = ["register", "fixed.nrrd", "moving.nrrd", "out", "--fixed-modality", "ct", "--moving-modality", "ct", "--quiet"]
    subprocess.run([sys.executable, "-m", "RegistrationNetLib", *command], cwd=tmp_path, check=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    images_mb = 2 * 2 * pair.fixed.GetNumberOfPixels() / 2**20
    peak_mb = report["peak_memory_mb"] - images_mb
    assert peak_mb < MOST_MB
    assert report["estimated_memory_mb"] == pytest.approx(peak_mb, rel=0.2)
    assert report["jacobian"]["folded_percent"] == 0
    sizes = [(tmp_path / "out" / name).stat().st_size for name in ("transform.h5", "inverse.h5")]
    assert sum(sizes) < 200e6
    warped = sitk.ReadImage(str(tmp_path / "out" / "warped.nii.gz"))
    assert (warped.GetPixelID(), warped.GetSize()) == (sitk.sitkInt16, pair.fixed.GetSize())
    coarse = image_on(grid_of(pair.fixed).resized((60, 72, 72)), np.zeros((60, 72, 72), np.uint8))
    body = sitk.GetArrayFromImage(sitk.Resample(pair.fixed, coarse)) > -500
    found, known = (
        displacements_mm(one, grid_of(coarse))[body]
        for one in (sitk.ReadTransform(str(tmp_path / "out" / "transform.h5")), pair.known.moving_from_fixed)
    )
    assert np.linalg.norm(found - known, axis=1).mean() < 0.25 * np.linalg.norm(known, axis=1).mean()
