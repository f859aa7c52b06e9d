"""Transforms of other programs: a point goes where the definition of each format says, and where another reader of it takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.cli.main import main
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.space import grid_of
from RegistrationNetLib.io.lattices import lps_from_index
from RegistrationNetLib.io.transform_files import Between, check_transform_name, read_transform, write_transform_file

nibabel = pytest.importorskip("nibabel")

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
# From RAS of fixed to RAS of moving: turned, stretched, sheared, moved.
RAS_MOVING_FROM_FIXED = np.array([[1.05, 0.2, -0.1, 4.0], [-0.15, 0.9, 0.05, -7.0], [0.1, 0.02, 1.1, 2.5], [0, 0, 0, 1.0]])


def image(size: tuple[int, ...], spacing: tuple[float, ...], *, turned: float, is_mirrored: bool = False) -> sitk.Image:
    """An oblique image in a place of its own; mirrored, its axes are left-handed."""
    result = sitk.Image(size, sitk.sitkFloat32)
    result.SetSpacing(spacing)
    result.SetOrigin((-12.0, 31.0, 7.0))
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3 * turned, -0.2, turned).GetMatrix(), (3, 3))
    result.SetDirection((turn @ np.diag([-1.0 if is_mirrored else 1.0, 1, 1])).ravel().tolist())
    return result


FIXED = image((14, 12, 10), (2.0, 2.5, 3.0), turned=0.2)
MOVING = image((11, 13, 9), (3.0, 2.0, 2.2), turned=-0.3)
MIRRORED = image((11, 13, 9), (3.0, 2.0, 2.2), turned=-0.3, is_mirrored=True)


def ras_of(one: sitk.Image) -> np.ndarray:
    """From indices to RAS."""
    return FLIP @ lps_from_index(one)


def points(count: int = 12) -> np.ndarray:
    """Points of LPS well within fixed."""
    index = np.random.default_rng(3).uniform(3, np.array(FIXED.GetSize()) - 4, size=(count, 3))
    return index @ lps_from_index(FIXED)[:3, :3].T + lps_from_index(FIXED)[:3, 3]


def mapped(transform: sitk.Transform, at: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(one) for one in at.tolist()])


def expected(at: np.ndarray, ras: np.ndarray = RAS_MOVING_FROM_FIXED) -> np.ndarray:
    """Where a matrix of RAS takes points of LPS."""
    return np.array([(FLIP @ ras @ FLIP @ [*one, 1])[:3] for one in at])


def saved(path: Path, one: sitk.Image) -> Path:
    sitk.WriteImage(one, str(path))
    return path


# matrices


def fsl_from_ras(one: sitk.Image) -> np.ndarray:
    """FSL's millimetres: index times voxel size, the first axis counted from its end where the axes are right-handed in RAS."""
    scale = np.diag([*one.GetSpacing(), 1.0])
    if np.linalg.det(ras_of(one)) > 0:
        scale = (
            np.array([[-1, 0, 0, one.GetSpacing()[0] * (one.GetSize()[0] - 1)], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
            @ scale
        )
    return scale @ np.linalg.inv(ras_of(one))


@pytest.mark.parametrize("moving", [MOVING, MIRRORED], ids=["right-handed", "left-handed"])
def test_a_matrix_of_flirt_maps_its_input_to_its_reference(tmp_path: Path, moving: sitk.Image) -> None:
    flirt = fsl_from_ras(FIXED) @ np.linalg.inv(RAS_MOVING_FROM_FIXED) @ np.linalg.inv(fsl_from_ras(moving))
    np.savetxt(tmp_path / "flirt.mat", flirt, fmt="%.10f", delimiter="  ")
    found = read_transform(tmp_path / "flirt.mat", form="fsl", between=Between(FIXED, moving))
    assert mapped(found, points()) == pytest.approx(expected(points()), abs=1e-5)
    linear = pytest.importorskip("nitransforms.linear")
    reference, floating = (nibabel.Nifti1Image(np.zeros(one.GetSize(), np.float32), ras_of(one)) for one in (FIXED, moving))
    theirs = linear.load(tmp_path / "flirt.mat", fmt="fsl", reference=reference, moving=floating)
    assert pytest.approx(mapped(found, points()), abs=1e-5) == (FLIP[:3, :3] @ theirs.map(points() @ FLIP[:3, :3]).T).T


def test_a_matrix_of_niftyreg_maps_points_of_the_reference_in_ras(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "affine.txt", RAS_MOVING_FROM_FIXED)
    found = read_transform(tmp_path / "affine.txt", form="niftyreg")
    assert mapped(found, points()) == pytest.approx(expected(points()), abs=1e-9)


def lta(kind: int, matrix: np.ndarray, source: sitk.Image, destination: sitk.Image) -> str:
    """An LTA file as FreeSurfer writes it."""

    def geometry(one: sitk.Image) -> str:
        ras, size, spacing = ras_of(one), np.array(one.GetSize()), np.array(one.GetSpacing())
        centre = ras[:3, :3] @ (size / 2) + ras[:3, 3]
        rows = {
            "volume": size,
            "voxelsize": spacing,
            **dict(zip(("xras", "yras", "zras"), (ras[:3, :3] / spacing).T, strict=True)),
            "cras": centre,
        }
        told = "".join(f"{name}   = {' '.join(f'{value:.15g}' for value in values)}\n" for name, values in rows.items())
        return f"valid = 1  # volume info valid\nfilename = any.mgz\n{told}"

    rows = "\n".join(" ".join(f"{value:.15e}" for value in row) for row in matrix)
    head = f"# transform file\ntype      = {kind} # kind\nnxforms   = 1\nmean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n{rows}\n"
    return f"{head}src volume info\n{geometry(source)}dst volume info\n{geometry(destination)}subject any\nfscale 0.15\n"


@pytest.mark.parametrize("kind", [0, 1])
def test_an_lta_maps_its_source_to_its_destination_by_voxels_or_scanner_coordinates(tmp_path: Path, kind: int) -> None:
    matrix = np.linalg.inv(RAS_MOVING_FROM_FIXED)
    if kind == 0:
        matrix = np.linalg.inv(ras_of(FIXED)) @ matrix @ ras_of(MOVING)
    (tmp_path / "one.lta").write_text(lta(kind, matrix, MOVING, FIXED))
    found = read_transform(tmp_path / "one.lta")
    assert mapped(found, points()) == pytest.approx(expected(points()), abs=1e-6)
    linear = pytest.importorskip("nitransforms.linear")
    theirs = linear.load(tmp_path / "one.lta", fmt="fs")
    # It keeps the matrix in single precision.
    assert pytest.approx(mapped(found, points()), abs=1e-3) == (FLIP[:3, :3] @ theirs.map(points() @ FLIP[:3, :3]).T).T


# fields


def bump(at: np.ndarray) -> np.ndarray:
    """Smooth displacements of LPS points, nearly linear over a voxel."""
    return np.stack([3 + 0.02 * at[..., 1], 0.03 * at[..., 0] - 2, 0.01 * at[..., 2] + 1], axis=-1)


def lattice() -> np.ndarray:
    """LPS of the voxels of fixed [x, y, z, 3]."""
    index = np.stack(np.indices(FIXED.GetSize()), axis=-1)
    return index @ lps_from_index(FIXED)[:3, :3].T + lps_from_index(FIXED)[:3, 3]


def write_nifti(
    path: Path, values: np.ndarray, *, intent: int, name: str = "", kind: float = 0, affine: np.ndarray | None = None
) -> Path:
    one = nibabel.Nifti1Image(values.astype(np.float32), ras_of(FIXED) if affine is None else affine)
    one.header["intent_code"], one.header["intent_name"], one.header["intent_p1"] = intent, name.encode(), kind
    nibabel.save(one, path)
    return path


def test_a_field_of_ants_holds_displacements_of_lps(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "1Warp.nii.gz", bump(lattice())[:, :, :, None], intent=1007)
    assert mapped(read_transform(path), points()) == pytest.approx(points() + bump(points()), abs=1e-4)
    manip = pytest.importorskip("nitransforms.nonlinear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        field = manip.DenseFieldTransform.from_filename(path, fmt="itk")
        nodes = lattice()[4:6, 5, 5]
        theirs = field.map(nodes @ FLIP[:3, :3]) @ FLIP[:3, :3]
    assert theirs == pytest.approx(mapped(read_transform(path), nodes), abs=1e-3)


def test_a_field_that_nifti_says_is_of_ras_is_read_as_such(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "field.nii.gz", (bump(lattice()) * [-1, -1, 1])[:, :, :, None], intent=1006)
    assert mapped(read_transform(path), points()) == pytest.approx(points() + bump(points()), abs=1e-4)


@pytest.mark.parametrize("kind", [0, 1], ids=["positions", "displacements"])
def test_fields_of_niftyreg_hold_positions_or_displacements_of_ras(tmp_path: Path, kind: int) -> None:
    vectors = bump(lattice()) + (lattice() if kind == 0 else 0)
    values = (vectors * [-1, -1, 1])[:, :, :, None]
    path = write_nifti(tmp_path / "field.nii.gz", values, intent=1007, name="NREG_TRANS", kind=kind)
    assert mapped(read_transform(path), points()) == pytest.approx(points() + bump(points()), abs=1e-4)


def cubic_weights(rest: np.ndarray) -> np.ndarray:
    """Of the four control points around, [4, 3]: cubic B-splines at the rest of the index, in [0, 1) along each axis."""
    return np.array([(1 - rest) ** 3, 3 * rest**3 - 6 * rest**2 + 4, -3 * rest**3 + 3 * rest**2 + 3 * rest + 1, rest**3]) / 6


def test_control_points_of_niftyreg_are_those_of_cubic_splines(tmp_path: Path) -> None:
    """The lattice of control points begins one before the image; between them, cubic B-splines blend four along each axis."""
    spacing = 5
    index_of_control = np.diag([spacing, spacing, spacing, 1.0])
    index_of_control[:3, 3] = -spacing
    size = np.ceil(np.array(FIXED.GetSize()) / spacing).astype(int) + 3
    affine = ras_of(FIXED) @ index_of_control
    places = np.stack(np.indices(size), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    moved = np.random.default_rng(0).normal(scale=2.0, size=places.shape)
    path = write_nifti(
        tmp_path / "cpp.nii.gz", (places + moved)[:, :, :, None], intent=1007, name="NREG_TRANS", kind=2, affine=affine
    )
    found = read_transform(path)
    values = (places + moved).astype(np.float32).astype(float)
    for point in points():
        index = (np.linalg.inv(lps_from_index(FIXED)) @ [*point, 1])[:3] / spacing
        first, rest = np.floor(index).astype(int), index - np.floor(index)
        weights = (
            np.array([(1 - rest) ** 3, 3 * rest**3 - 6 * rest**2 + 4, -3 * rest**3 + 3 * rest**2 + 3 * rest + 1, rest**3]) / 6
        )
        part = values[tuple(slice(one, one + 4) for one in first)]
        ras = np.einsum("i,j,k,ijkc->c", weights[:, 0], weights[:, 1], weights[:, 2], part)
        assert found.TransformPoint(point.tolist()) == pytest.approx(ras * [-1, -1, 1], abs=1e-4)


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("intent", [2006, 0])
def test_a_field_of_fnirt_leads_from_the_reference_to_the_input_in_fsl_coordinates(
    tmp_path: Path, intent: int, is_absolute: bool
) -> None:
    def fsl(one: sitk.Image, lps: np.ndarray) -> np.ndarray:
        matrix = fsl_from_ras(one) @ FLIP
        return lps @ matrix[:3, :3].T + matrix[:3, 3]

    there = fsl(MOVING, lattice() + bump(lattice()))
    path = write_nifti(tmp_path / "warp.nii.gz", there if is_absolute else there - fsl(FIXED, lattice()), intent=intent)
    found = read_transform(path, form="auto" if intent else "fsl", between=Between(moving=MOVING))
    assert mapped(found, points()) == pytest.approx(points() + bump(points()), abs=1e-4)


# elastix


def elastix_text(kind: str, values: list[float], **more: str) -> str:
    lines = {
        "Transform": f'"{kind}"', "NumberOfParameters": str(len(values)), "TransformParameters": " ".join(map(repr, values)),
        "InitialTransformParameterFileName": '"NoInitialTransform"', "HowToCombineTransforms": '"Compose"', "FixedImageDimension": "3",
        "MovingImageDimension": "3", "CenterOfRotationPoint": "1.5 -20.0 12.25", **more,
    }  # fmt: skip
    return "// a comment\n" + "".join(f"({name} {value})\n" for name, value in lines.items())


AFFINE = [1.1, 0.1, 0.0, -0.05, 0.95, 0.1, 0.02, 0.0, 1.05, 3.0, -2.0, 1.0]
EULER = [0.1, -0.2, 0.3, 4.0, 5.0, -6.0]
CENTRE = np.array([1.5, -20.0, 12.25])


def affine_by_hand(at: np.ndarray) -> np.ndarray:
    return (at - CENTRE) @ np.reshape(AFFINE[:9], (3, 3)).T + CENTRE + AFFINE[9:]


def test_an_affine_of_elastix_turns_about_its_centre(tmp_path: Path) -> None:
    (tmp_path / "TransformParameters.0.txt").write_text(elastix_text("AffineTransform", AFFINE))
    found = read_transform(tmp_path / "TransformParameters.0.txt")
    assert mapped(found, points()) == pytest.approx(affine_by_hand(points()), abs=1e-9)


def test_the_first_of_a_chain_of_elastix_is_applied_first_wherever_the_folder_went(tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text(elastix_text("TranslationTransform", [7.0, -3.0, 2.0]))
    second = elastix_text("AffineTransform", AFFINE, InitialTransformParameterFileName='"/gone/elsewhere/first.txt"')
    (tmp_path / "second.txt").write_text(second)
    found = read_transform(tmp_path / "second.txt")
    assert mapped(found, points()) == pytest.approx(affine_by_hand(points() + np.array([7.0, -3.0, 2.0])), abs=1e-9)


def spline_parameters() -> dict[str, str]:
    """A lattice of control points around fixed, turned with it; elastix writes directions axis by axis."""
    direction = np.reshape(FIXED.GetDirection(), (3, 3))
    origin = np.array(FIXED.GetOrigin()) - direction @ [12.0, 12.0, 12.0]
    return {
        "GridSize": "6 6 6", "GridIndex": "0 0 0", "GridSpacing": "10.0 10.0 10.0", "GridOrigin": " ".join(map(repr, origin.tolist())),
        "GridDirection": " ".join(map(repr, direction.T.ravel().tolist())), "BSplineTransformSplineOrder": "3",
        "UseCyclicTransform": '"false"',
    }  # fmt: skip


def turn(axis: int, angle: float) -> np.ndarray:
    """A rotation about one axis."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -np.sin(angle), np.sin(angle)
    return matrix


@pytest.mark.parametrize(("order", "axes"), [("false", (2, 0, 1)), ("true", (2, 1, 0))])
def test_a_rotation_of_elastix_goes_by_its_order_of_axes(tmp_path: Path, order: str, axes: tuple[int, int, int]) -> None:
    (tmp_path / "euler.txt").write_text(elastix_text("EulerTransform", EULER, ComputeZYX=f'"{order}"'))
    rotation = np.linalg.multi_dot([turn(axis, EULER[axis]) for axis in axes])
    there = (points() - CENTRE) @ rotation.T + CENTRE + EULER[3:]
    assert mapped(read_transform(tmp_path / "euler.txt"), points()) == pytest.approx(there, abs=1e-9)


def test_a_similarity_of_elastix_scales_about_its_centre(tmp_path: Path) -> None:
    """Its rotation is a versor: the axis times the sine of half the angle."""
    (tmp_path / "one.txt").write_text(elastix_text("SimilarityTransform", [0.0, 0.0, float(np.sin(0.2)), 3.0, 2.0, 1.0, 1.2]))
    there = 1.2 * (points() - CENTRE) @ turn(2, 0.4).T + CENTRE + np.array([3.0, 2.0, 1.0])
    assert mapped(read_transform(tmp_path / "one.txt"), points()) == pytest.approx(there, abs=1e-9)


def test_a_plane_of_elastix_is_turned_too(tmp_path: Path) -> None:
    text = elastix_text("EulerTransform", [0.3, 4.0, 5.0], FixedImageDimension="2", CenterOfRotationPoint="1.0 2.0")
    (tmp_path / "plane.txt").write_text(text)
    there = turn(2, 0.3)[:2, :2] @ np.array([9.0, -4.0]) + np.array([1.0, 2.0]) + np.array([4.0, 5.0])
    assert read_transform(tmp_path / "plane.txt").TransformPoint((10.0, -2.0)) == pytest.approx(there, abs=1e-9)


@pytest.mark.parametrize("kind", ["BSplineTransform", "RecursiveBSplineTransform"])
def test_splines_of_elastix_blend_the_coefficients_of_an_oblique_lattice(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(2).normal(scale=2.0, size=(3, 6, 6, 6))
    (tmp_path / "spline.txt").write_text(elastix_text(kind, values.ravel().tolist(), **spline_parameters()))
    found = read_transform(tmp_path / "spline.txt")
    direction = np.reshape(FIXED.GetDirection(), (3, 3))
    for point in points():
        at = direction.T @ (point - FIXED.GetOrigin()) / 10.0 + 1.2
        first = np.floor(at).astype(int) - 1
        weights = cubic_weights(at - np.floor(at))
        # Parameters are written with x fastest: [axis, z, y, x].
        part = values[(slice(None), *(slice(one, one + 4) for one in first[::-1]))]
        moved = np.einsum("k,j,i,ckji->c", weights[:, 2], weights[:, 1], weights[:, 0], part)
        assert found.TransformPoint(point.tolist()) == pytest.approx(point + moved, abs=1e-9)


def kinds() -> Iterator[tuple[str, str]]:
    yield "Euler", elastix_text("EulerTransform", EULER, ComputeZYX='"false"')
    yield "Euler, the other order", elastix_text("EulerTransform", EULER, ComputeZYX='"true"')
    yield "similarity", elastix_text("SimilarityTransform", [0.05, -0.1, 0.2, 3.0, 2.0, 1.0, 1.2])
    yield "affine", elastix_text("AffineTransform", AFFINE)
    values = np.random.default_rng(2).normal(scale=2.0, size=3 * 6**3).tolist()
    yield "B-spline", elastix_text("BSplineTransform", values, **spline_parameters())
    yield "recursive B-spline", elastix_text("RecursiveBSplineTransform", values, **spline_parameters())


@pytest.mark.slow  # itk loads all that it has
@pytest.mark.parametrize("text", [text for _, text in kinds()], ids=[name for name, _ in kinds()])
def test_elastix_itself_takes_points_to_the_same_places(tmp_path: Path, text: str) -> None:
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "TransformixFilter"):
        pytest.skip("itk-elastix is not installed")
    resampling = {
        "Size": FIXED.GetSize(), "Index": (0, 0, 0), "Spacing": FIXED.GetSpacing(), "Origin": FIXED.GetOrigin(),
        "Direction": np.reshape(FIXED.GetDirection(), (3, 3)).T.ravel(),
    }  # fmt: skip
    rest = "".join(f"({key} {' '.join(map(str, value))})\n" for key, value in resampling.items())
    rest += '(FixedInternalImagePixelType "float")\n(MovingInternalImagePixelType "float")\n(ResampleInterpolator "FinalBSplineInterpolator")\n'
    rest += '(Resampler "DefaultResampler")\n(FinalBSplineInterpolationOrder 1)\n(DefaultPixelValue 0)\n(UseDirectionCosines "true")\n'
    (tmp_path / "parameters.txt").write_text(text + rest)
    table = "".join(" ".join(map(repr, one)) + "\n" for one in points().tolist())
    (tmp_path / "points.txt").write_text(f"point\n{len(points())}\n{table}")
    parameters = itk.ParameterObject.New()
    parameters.AddParameterFile(str(tmp_path / "parameters.txt"))
    moving = itk.image_from_array(np.zeros((9, 9, 9), np.float32))
    transformix = itk.TransformixFilter.New(moving)
    transformix.SetFixedPointSetFileName(str(tmp_path / "points.txt"))
    transformix.SetTransformParameterObject(parameters)
    transformix.SetOutputDirectory(str(tmp_path))
    transformix.SetLogToConsole(False)
    transformix.Update()
    lines = (tmp_path / "outputpoints.txt").read_text().splitlines()
    theirs = [[float(one) for one in line.split("OutputPoint = [")[1].split("]")[0].split()] for line in lines]
    assert mapped(read_transform(tmp_path / "parameters.txt"), points()) == pytest.approx(np.array(theirs), abs=1e-4)
    assert np.abs(np.array(theirs) - points()).max() > 0.5  # millimetres


# out


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd", "out.mha", "out.h5", "out.tfm"])
def test_what_is_written_maps_points_as_before(tmp_path: Path, name: str) -> None:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(AFFINE[:9])
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0, 0, (1, 2, 3))
    chain = sitk.CompositeTransform([affine, turn])
    write_transform_file(chain, tmp_path / name, FIXED)
    assert mapped(read_transform(tmp_path / name), points()) == pytest.approx(mapped(chain, points()), abs=1e-4)


def test_an_nrrd_file_tells_slicer_which_way_its_displacements_lead(tmp_path: Path) -> None:
    write_transform_file(sitk.TranslationTransform(3, (1, 2, 3)), tmp_path / "grid.nrrd", FIXED)
    header = (tmp_path / "grid.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert "displacement field type:=resampling" in header
    assert "space: left-posterior-superior" in header
    assert "kinds: vector domain domain domain" in header


def test_a_written_field_is_one_of_vectors_to_other_readers(tmp_path: Path) -> None:
    write_transform_file(sitk.TranslationTransform(3, (1, 2, 3)), tmp_path / "1Warp.nii.gz", FIXED)
    one = nibabel.load(tmp_path / "1Warp.nii.gz")
    assert (int(one.header["intent_code"]), one.shape) == (1007, (*FIXED.GetSize(), 1, 3))
    assert np.asarray(one.dataobj)[3, 4, 5, 0] == pytest.approx([1, 2, 3], abs=1e-5)


# the terminal


def test_points_and_folds_go_by_transforms_of_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flirt = fsl_from_ras(FIXED) @ np.linalg.inv(RAS_MOVING_FROM_FIXED) @ np.linalg.inv(fsl_from_ras(MOVING))
    np.savetxt(tmp_path / "flirt.mat", flirt, fmt="%.10f")
    fixed, moving = (str(saved(tmp_path / f"{name}.nii", one)) for name, one in (("fixed", FIXED), ("moving", MOVING)))
    (tmp_path / "in.csv").write_text("x,y,z\n" + "".join(f"{x!r},{y!r},{z!r}\n" for x, y, z in points().tolist()))
    given = ["--transform-format", "fsl", "--transform-moving", moving]
    transform = ["--transform", str(tmp_path / "flirt.mat"), *given]
    out = tmp_path / "out.csv"
    assert main(["points", str(tmp_path / "in.csv"), str(out), *transform, "--transform-fixed", fixed]) == 0
    assert np.loadtxt(out, delimiter=",", skiprows=1) == pytest.approx(expected(points()), abs=1e-4)
    assert main(["evaluate", *transform, "--like", fixed]) == 0
    assert float(capsys.readouterr().out.split("jacobian mean")[1].split()[0]) == pytest.approx(
        np.linalg.det(RAS_MOVING_FROM_FIXED), abs=1e-3
    )
    assert main(["convert", str(tmp_path / "flirt.mat"), str(tmp_path / "itk.h5"), *given, "--transform-fixed", fixed]) == 0
    assert mapped(sitk.ReadTransform(str(tmp_path / "itk.h5")), points()) == pytest.approx(expected(points()), abs=1e-4)
    assert main(["convert", str(tmp_path / "itk.h5"), str(tmp_path / "field.nrrd"), "--like", fixed]) == 0
    assert mapped(read_transform(tmp_path / "field.nrrd"), points()) == pytest.approx(expected(points()), abs=1e-3)


def test_warp_takes_its_own_images_for_those_of_a_transform_of_fsl(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=MOVING.GetSize()[::-1]).astype(np.float32)
    moving = sitk.GetImageFromArray(values)
    moving.CopyInformation(MOVING)
    files = [str(saved(tmp_path / f"{name}.nii", one)) for name, one in (("fixed", FIXED), ("moving", moving))]
    np.savetxt(tmp_path / "flirt.mat", fsl_from_ras(FIXED) @ np.linalg.inv(fsl_from_ras(MOVING)), fmt="%.10f")
    given = ["--transform", str(tmp_path / "flirt.mat"), "--transform-format", "fsl", "--like", files[0], "--no-labels"]
    assert main(["warp", files[1], str(tmp_path / "out.nii"), *given]) == 0
    own = sitk.Resample(moving, FIXED, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, float(values.min()))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nii")))
    assert found == pytest.approx(sitk.GetArrayFromImage(own), abs=1e-3)
    assert grid_of(FIXED).shape == found.shape


# what is refused


def refused(path: Path, message: str, **given: Any) -> None:
    with pytest.raises(InputError, match=message):
        read_transform(path, **given)


def test_a_bare_matrix_does_not_say_whose_it_is(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "matrix.mat", np.eye(4))
    refused(
        tmp_path / "matrix.mat", "does not say whose it is; FLIRT and NiftyReg mean different .* Say --transform-format fsl, or"
    )
    refused(
        tmp_path / "matrix.mat",
        "the fixed image is needed, of three dimensions. None came. Give it by --transform-fixed",
        form="fsl",
    )
    plane = Between(sitk.Image(4, 4, sitk.sitkUInt8), MOVING)
    refused(tmp_path / "matrix.mat", "the fixed image is needed, of three dimensions. It has 2. Give", form="fsl", between=plane)


@pytest.mark.parametrize(
    "text", ["1 0 0 0\n0 1 0 0\n0 0 1 0\n", "1 0 0 0\n" * 4, "1 0 0 0\n0 1 0 0\n0 0 nan 0\n0 0 0 1", "a b c d"]
)
@pytest.mark.parametrize("form", ["fsl", "niftyreg"])
def test_what_is_no_matrix_is_refused(tmp_path: Path, text: str, form: str) -> None:
    (tmp_path / "matrix.txt").write_text(text)
    refused(
        tmp_path / "matrix.txt",
        "holds no matrix of a transform; .* Got .* Check the file",
        form=form,
        between=Between(FIXED, MOVING),
    )


WHOLE = lta(0, np.eye(4), MOVING, FIXED)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("nxforms   = 1", "nxforms   = 2"), "has 2 transforms of the kind 0; one is read, .* Convert it by lta_convert"),
        (lambda text: text.replace("type      = 0", "type      = 14"), "has 1 transforms of the kind 14; one is read"),
        (lambda text: text.replace("type      = 0", "type      = x"), "cannot be read as an LTA file; .*: type is missing. Copy or write"),
        (lambda text: text[: text.index("1 4 4") + 30], "its matrix is not whole"),
        (lambda text: text.replace("1.000000000000000e+00", "0.0"), "its matrix cannot be inverted, or is not affine"),
        (lambda text: text.replace("1.000000000000000e+00", "1e+300"), "its matrix is not whole"),
        (lambda text: text.replace("voxelsize   = 3", "voxelsize   = 0"), "the axes of src do not span space"),
        (lambda text: text.replace("valid = 1", "valid = 0"), "the geometry of dst is not valid"),
        (lambda text: text[: text.index("dst volume info")], "the geometry of dst is not whole"),
        (lambda text: text.replace("cras   = ", "cras   = 1 "), "the geometry of dst is not whole"),
    ],
)  # fmt: skip
def test_a_damaged_lta_is_refused(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    (tmp_path / "one.lta").write_text(damage(WHOLE))
    refused(tmp_path / "one.lta", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (elastix_text("AffineTransform", AFFINE[:11]), "TransformParameters of .* must be 12 finite numbers, none beyond 1e\\+06; got 11 words. It may be cut short. Copy"),
        (elastix_text("AffineTransform", [*AFFINE[:11], float("nan")]), "must be 12 finite numbers, none beyond 1e\\+06; got"),
        (elastix_text("AffineTransform", [*AFFINE[:11], 1e30]), "must be 12 finite numbers"),
        (elastix_text("BSplineTransform", [0.0] * 648, **{**spline_parameters(), "GridSize": "-6 -6 6"}), "GridSize of .* must be whole numbers from 1 on; got .-6, -6, 6.. Copy"),
        (elastix_text("AffineTransform", AFFINE, CenterOfRotationPoint="a b c"), "CenterOfRotationPoint of .* must be 3 finite numbers"),
        (elastix_text("AffineTransform", AFFINE, TransformParameters=""), "does not say its TransformParameters; .* in another file"),
        (elastix_text("AffineTransform", AFFINE).replace('AffineTransform"', 'Affine\n'), "does not say its Transform"),
        (elastix_text("SplineKernelTransform", [1.0]), "holds a transform SplineKernelTransform in 3 dimensions; read are Translation.* transformix -def all"),
        (
            elastix_text("AffineTransform", AFFINE, InitialTransformParameterFileName='"gone.txt"'),
            "There is no file .*gone.txt, with which another transform of elastix begins; all files .* Copy it beside",
        ),
        (
            elastix_text("AffineTransform", AFFINE, InitialTransformParameterFileName='"one.txt"', HowToCombineTransforms='"Add"'),
            "adds its transform to that before it; only .* Got Add. Register again",
        ),
        (
            elastix_text("AffineTransform", AFFINE, InitialTransformParametersFileName='"one.txt"', InitialTransformParameterFileName=""),
            "begins with more than 32 other files; .* name each other. Correct",
        ),
    ],
)  # fmt: skip
def test_damaged_and_other_files_of_elastix_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.txt").write_text(text)
    refused(tmp_path / "one.txt", message)


def test_images_that_are_no_transforms_are_refused(tmp_path: Path) -> None:
    refused(
        saved(tmp_path / "scalar.nii", FIXED), "is no image of displacements; .* Got 1 in 3 dimensions. If FNIRT wrote it, say"
    )
    broken = sitk.Image(FIXED.GetSize(), sitk.sitkVectorFloat32, 3)
    broken[0, 0, 0] = (np.inf, 0.0, 0.0)
    refused(
        saved(tmp_path / "broken.nrrd", broken),
        "holds values that are not finite or beyond 1e\\+06; those .* Copy or write",
    )
    modeling = sitk.Image(FIXED.GetSize(), sitk.sitkVectorFloat32, 3)
    modeling.SetMetaData("displacement field type", "modeling")
    refused(
        saved(tmp_path / "modeling.nrrd", modeling),
        "holds displacements for modeling, from moving to fixed; .* Invert the transform in Slicer",
    )
    refused(tmp_path / "modeling.nrrd", "is an image; transforms of elastix come in text files. Leave", form="elastix")


def test_images_of_fsl_and_niftyreg_of_other_kinds_are_refused(tmp_path: Path) -> None:
    zeros = np.zeros((*FIXED.GetSize(), 3))
    refused(
        write_nifti(tmp_path / "coef.nii", zeros, intent=2007),
        "holds coefficients of FNIRT's splines; .* Make one by fnirtfileutils",
    )
    refused(
        write_nifti(tmp_path / "warp.nii", zeros, intent=2006), "the moving image is needed, .* Give it by --transform-moving"
    )
    refused(
        write_nifti(tmp_path / "two.nii", zeros[..., :2], intent=2006),
        "is no field of FNIRT; .* Got 14×12×10×2 voxels. Check",
        between=Between(moving=MOVING),
    )
    velocities = write_nifti(tmp_path / "vel.nii", zeros[:, :, :, None], intent=1007, name="NREG_TRANS", kind=5)
    refused(velocities, "is a transform of NiftyReg of the kind 5 in 3 dimensions; .* Make one by reg_transform")
    zeros[3, 4, 5, 1] = np.inf  # which ITK's own reader makes 0
    refused(write_nifti(tmp_path / "1Warp.nii.gz", zeros[:, :, :, None], intent=1007), "holds values that are not finite")
    holes = write_nifti(tmp_path / "nan.nii", zeros[:, :, :, None], intent=1007, name="NREG_TRANS", kind=1)
    between = write_nifti(tmp_path / "half.nii", np.zeros((*FIXED.GetSize(), 1, 3)), intent=1007, name="NREG_TRANS", kind=1.4)
    refused(between, "is a transform of NiftyReg of the kind 1.4 in 3 dimensions")
    refused(holes, "holds values that are not finite or beyond .* Copy or write")


@pytest.mark.parametrize("number", [np.nan, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["field.nrrd", "field.h5", "spline.h5", "chain.h5", "matrix.h5"])
def test_numbers_that_no_anatomy_has_are_refused_in_every_file(tmp_path: Path, name: str, number: float) -> None:
    values = np.zeros((3, 6, 6, 6))
    values[1, 2, 3, 4] = number
    field = sitk.GetImageFromArray(np.moveaxis(values, 0, -1), isVector=True)
    matrix = sitk.AffineTransform(3)
    matrix.SetTranslation((1.0, number, 2.0))
    made = {
        "spline.h5": lambda: sitk.BSplineTransform([sitk.GetImageFromArray(one) for one in values], 3),
        "chain.h5": lambda: sitk.CompositeTransform(
            [sitk.DisplacementFieldTransform(sitk.Image(field)), sitk.AffineTransform(3)]
        ),
        "field.h5": lambda: sitk.DisplacementFieldTransform(sitk.Image(field)),
        "matrix.h5": lambda: matrix,
    }
    if name == "field.nrrd":
        saved(tmp_path / name, field)
    else:
        sitk.WriteTransform(made[name](), str(tmp_path / name))
    refused(
        tmp_path / name,
        "(values|numbers) that are not finite or beyond 1e\\+06; those of a transform in mm are neither. It seems damaged. Copy",
    )


@pytest.mark.parametrize(
    ("place", "number"),
    [(16, -1), (16, 0), (16, 10**6), (4, -1), (4, 2**31 - 1), (8, 2), (0, 99), (12, 7), (147, 10**6), (159, -1)],
)
def test_a_matlab_file_whose_matrices_do_not_lie_in_it_is_refused(tmp_path: Path, place: int, number: int) -> None:
    """ITK takes the length of a name as it stands, and wrote beyond its memory, which ended the process later, over another file."""
    path = tmp_path / "transform.mat"
    matrix = sitk.AffineTransform(3)
    matrix.SetTranslation((1.0, 2.0, 3.0))
    sitk.WriteTransform(matrix, str(path))
    assert read_transform(path).TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)
    content = bytearray(path.read_bytes())
    assert len(content) == 20 + 27 + 96 + 20 + 6 + 24  # header, name and numbers of the parameters, and of the fixed ones
    content[place : place + 4] = number.to_bytes(4, "little", signed=True)
    path.write_bytes(content)
    refused(path, r"no MATLAB file of level 4, or the matrix at byte (0|143) is not whole\. Copy")


@pytest.mark.parametrize("order", [1, 3])
def test_splines_need_more_control_points_than_their_order(tmp_path: Path, order: int) -> None:
    """Else ITK reads beside them, or takes the number of pieces for one below 0."""
    for count in (order, order + 1):
        parts = [sitk.GetImageFromArray(np.zeros((6, 6, count)))] * 3
        sitk.WriteTransform(sitk.CompositeTransform([sitk.BSplineTransform(parts, order)]), str(tmp_path / f"{count}.h5"))
    refused(
        tmp_path / f"{order}.h5", f"splines on too few control points; .* Got .{order}, 6, 6. of the order {order}. Copy or write"
    )
    assert read_transform(tmp_path / f"{order + 1}.h5").GetDimension() == 3


def test_a_lattice_without_length_is_refused(tmp_path: Path) -> None:
    field = sitk.Image((6, 6, 6), sitk.sitkVectorFloat64, 3)
    field.SetSpacing((1.0, 1e-8, 1.0))
    refused(
        saved(tmp_path / "field.mha", field),
        "says that its voxels are 1×1e-08×1 mm apart from .* on; .* none beyond .* mm, and voxels at least 1e-06 mm apart. Repair",
    )


def test_formats_and_names_are_checked_before_the_work(tmp_path: Path) -> None:
    refused(tmp_path / "any.h5", "There is no format 'ants' of transforms; the formats are auto, itk, .* Choose one", form="ants")
    refused(tmp_path / "any.h5", "There is no transform file .* Check the path")
    (tmp_path / "junk.h5").write_bytes(b"junk")
    refused(tmp_path / "junk.h5", "cannot be read as an ITK transform")
    with pytest.raises(InputError, match="names no format of transforms; its suffix must be one of .h5 .* Rename it"):
        check_transform_name(tmp_path / "out.lta", has_grid=True)
    with pytest.raises(InputError, match="would be an image of displacements, which needs a grid; none came. Add --like FIXED"):
        check_transform_name(tmp_path / "out.nrrd", has_grid=False)
    check_transform_name(tmp_path / "out.h5", has_grid=False)
