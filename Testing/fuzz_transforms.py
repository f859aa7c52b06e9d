"""Damaged transforms of other programs against the commands that read them: seeds of each format, and what must be true of what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

FIXED_SIZE, MOVING_SIZE = (11, 10, 9), (9, 8, 10)
# By the name of the seed: its format as it is named on the command line.
FORMATS: Mapping[str, str] = {
    "ants1Warp.nii.gz": "auto",
    "itk.mha": "auto",
    "slicer.nrrd": "auto",
    "flirt.mat": "fsl",
    "fnirt.nii.gz": "auto",
    "freesurfer.lta": "auto",
    "elastix.0.txt": "auto",
    "elastix.1.txt": "auto",
    "niftyreg.txt": "niftyreg",
    "niftyreg_def.nii": "auto",
    "niftyreg_disp.nii.gz": "auto",
    "niftyreg_cpp.nii": "auto",
}
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MATRIX = np.array([[1.05, 0.02, -0.1, 4.0], [-0.05, 0.95, 0.05, -3.0], [0.1, 0.02, 1.0, 2.5], [0, 0, 0, 1.0]])


# seeds


def images() -> tuple[Any, Any]:
    """Fixed and moving, of unlike grids."""
    import SimpleITK as sitk

    made = []
    for size, spacing, angle in ((FIXED_SIZE, (1.5, 2.0, 2.5), 0.0), (MOVING_SIZE, (2.0, 2.5, 2.0), 0.2)):
        values = np.random.default_rng(0).integers(0, 255, size[::-1]).astype(np.int16)
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing)
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0, 0, angle).GetMatrix())
        made.append(image)
    return made[0], made[1]


def make_transform_seeds(folder: Path) -> None:
    """A whole file of each format, as its program writes it."""
    import nibabel
    import SimpleITK as sitk

    from RegistrationNetLib.io.lattices import applied, indices, lps_from_index, vectors_on

    fixed, moving = images()
    lps = applied(lps_from_index(fixed), indices(fixed.GetSize()))
    moved = 0.02 * (lps - lps.mean(axis=(0, 1, 2)))[..., [1, 0, 2]] + [1.0, -2.0, 0.5]

    def nifti(name: str, values: Any, intent: int, kind: int | None = None, affine: Any = None) -> None:
        one = nibabel.Nifti1Image(values.astype(np.float32), LPS_FROM_RAS @ lps_from_index(fixed) if affine is None else affine)
        one.header["intent_code"] = intent
        if kind is not None:
            one.header["intent_name"], one.header["intent_p1"] = b"NREG_TRANS", kind
        nibabel.save(one, folder / name)

    def vectors(values: Any) -> Any:
        """Of an array [z, y, x, 3], as NIfTI keeps vectors: [x, y, z, 1, 3]."""
        return values.transpose(2, 1, 0, 3)[:, :, :, None]

    nifti("ants1Warp.nii.gz", vectors(moved), 1007)
    nifti("fnirt.nii.gz", moved.transpose(2, 1, 0, 3), 2006)
    nifti("niftyreg_def.nii", vectors((lps + moved) * [-1, -1, 1]), 1007, kind=0)
    nifti("niftyreg_disp.nii.gz", vectors(moved * [-1, -1, 1]), 1007, kind=1)
    nifti("niftyreg_cpp.nii", vectors((lps + moved) * [-1, -1, 1]), 1007, kind=2)
    field = vectors_on(fixed, moved)
    sitk.WriteImage(field, str(folder / "itk.mha"))
    field.SetMetaData("displacement field type", "resampling")
    sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(folder / "slicer.nrrd"))
    np.savetxt(folder / "flirt.mat", MATRIX, fmt="%.8f")
    np.savetxt(folder / "niftyreg.txt", MATRIX, fmt="%.7g")
    (folder / "freesurfer.lta").write_text(_lta(moving, fixed))
    affine = [*MATRIX[:3, :3].ravel(), *MATRIX[:3, 3]]
    (folder / "elastix.0.txt").write_text(_elastix("AffineTransform", affine, CenterOfRotationPoint="15 -10 40"))
    lattice = {"GridSize": "6 6 6", "GridIndex": "0 0 0", "GridSpacing": "8 8 8", "GridOrigin": "0 -30 20"}
    values = np.random.default_rng(1).normal(size=3 * 6**3)
    spline = {"GridDirection": "1 0 0 0 1 0 0 0 1", "BSplineTransformSplineOrder": "3"}
    before = {"InitialTransformParameterFileName": '"elastix.0.txt"'}
    (folder / "elastix.1.txt").write_text(_elastix("BSplineTransform", values, **lattice, **spline, **before))


def _lta(source: Any, destination: Any) -> str:
    rows = "\n".join(" ".join(f"{value:.15e}" for value in row) for row in MATRIX)
    head = (
        f"# transform file\ntype      = 0\nnxforms   = 1\nmean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n{rows}\n"
    )
    return f"{head}src volume info\n{_volume_info(source)}dst volume info\n{_volume_info(destination)}subject any\nfscale 0.15\n"


def _volume_info(image: Any) -> str:
    size, spacing = (" ".join(f"{one:.6g}" for one in values) for values in (image.GetSize(), image.GetSpacing()))
    axes = "xras = -1 0 0\nyras = 0 0 -1\nzras = 0 1 0\ncras = -12 9 41\n"
    return f"valid = 1  # volume info valid\nfilename = any.mgz\nvolume = {size}\nvoxelsize = {spacing}\n{axes}"


def _elastix(kind: str, values: Any, **more: str) -> str:
    lines = {
        "Transform": f'"{kind}"',
        "NumberOfParameters": str(len(values)),
        "TransformParameters": " ".join(f"{one:.8g}" for one in values),
        "InitialTransformParameterFileName": '"NoInitialTransform"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": "3",
        "MovingImageDimension": "3",
    }
    return "".join(f"({name} {value})\n" for name, value in (lines | more).items())


# what is done with them


def try_transform(path: Path, chance: random.Random) -> None:
    """One of the commands that read transforms takes the file: what it writes is finite, on the grid that was asked for."""
    import SimpleITK as sitk

    folder = path.parent
    for name, image in zip(("fixed", "moving"), images(), strict=True):
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
        sitk.WriteImage(sitk.Cast(image > 100, sitk.sitkUInt8), str(folder / f"{name}_labels.nrrd"))
    (folder / "some.csv").write_text("x,y,z\n12,-15,40\n15,-10,35\n20,-8,45\n")
    sides = ["--transform-fixed", folder / "fixed.nrrd", "--transform-moving", folder / "moving.nrrd"]
    deed = chance.choice((try_points, try_convert, try_warp, try_evaluate))
    deed(path, folder, ["--transform-format", FORMATS[path.name], *sides])


def _run(*arguments: object) -> str:
    """What a command prints; what it fails with is raised as it came, and not told in a line."""
    from RegistrationNetLib.cli import main

    def raised(error: BaseException, **_: Any) -> int:
        raise error

    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with (
        mock.patch.object(main, "explain", raised),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        assert main.main([str(one) for one in arguments]) == 0
    printed.seek(0)
    return printed.read()


def try_points(path: Path, folder: Path, given: list[Any]) -> None:
    _run("points", folder / "some.csv", folder / "out.csv", "--transform", path, *given)
    assert np.isfinite(np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1)).all(), (folder / "out.csv").read_text()


def try_convert(path: Path, folder: Path, given: list[Any]) -> None:
    """What was written maps voxels as what was read."""
    import SimpleITK as sitk

    from RegistrationNetLib.io.transform_files import Between, read_transform

    fixed, moving = (sitk.ReadImage(str(folder / f"{side}.nrrd")) for side in ("fixed", "moving"))
    found = read_transform(path, form=FORMATS[path.name], between=Between(fixed, moving), warn=lambda _: None)
    if found.GetDimension() != 3:
        return
    for out in (folder / "out.h5", folder / "out.nrrd"):
        _run("convert", path, out, "--like", folder / "fixed.nrrd", *given)
        again = read_transform(out, warn=lambda _: None)
        for index in ((0, 0, 0), (4, 5, 6), (10, 9, 8)):
            point = fixed.TransformIndexToPhysicalPoint(index)
            there = np.array(found.TransformPoint(point))
            assert np.allclose(there, again.TransformPoint(point), rtol=1e-5, atol=1e-3), (there, again.TransformPoint(point))


def try_warp(path: Path, folder: Path, given: list[Any]) -> None:
    import SimpleITK as sitk

    out = folder / "out.nii.gz"
    _run("warp", folder / "moving.nrrd", out, "--like", folder / "fixed.nrrd", "--no-labels", "--transform", path, *given)
    warped = sitk.ReadImage(str(out))
    assert warped.GetSize() == FIXED_SIZE
    values = sitk.GetArrayViewFromImage(warped)
    assert 0 <= values.min() <= values.max() <= 255


def try_evaluate(path: Path, folder: Path, given: list[Any]) -> None:
    labels = ["--fixed-labels", folder / "fixed_labels.nrrd", "--moving-labels", folder / "moving_labels.nrrd"]
    told = _run("evaluate", "--transform", path, *given, *labels, "--like", folder / "fixed.nrrd", "--json")
    numbers: list[str] = []
    json.loads(told, parse_float=numbers.append, parse_constant=numbers.append)
    assert np.isfinite(np.array(numbers, dtype=float)).all(), told
