"""Tables of points: what is read, what is kept, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.landmarks import mapped, read_points, write_points

SHIFT = sitk.TranslationTransform(3, (1.0, -2.0, 0.5))


def table(folder: Path, text: str, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def shifted(folder: Path, text: str, name: str = "in.csv") -> str:
    points = read_points(table(folder, text, name), dim=3)
    write_points(points.moved(mapped(points.points_mm, SHIFT)), folder / "out.csv")
    return (folder / "out.csv").read_text(encoding="utf-8")


def test_columns_without_a_header_are_x_y_z(tmp_path: Path) -> None:
    assert shifted(tmp_path, "1,2,3\n-4.5,0,1e1\n") == "2.000000,0.000000,3.500000\n-3.500000,-2.000000,10.500000\n"


def test_a_header_names_the_columns_in_any_place_and_the_rest_is_kept(tmp_path: Path) -> None:
    text = 'label,Z, y ,X\n"tip, left",3,2,1\n'
    assert shifted(tmp_path, text) == 'label,Z, y ,X\n"tip, left",3.500000,0.000000,2.000000\n'


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_kept(tmp_path: Path, delimiter: str) -> None:
    text = "x,y,z\n1,2,3\n".replace(",", delimiter)
    assert shifted(tmp_path, text) == "x,y,z\n2.000000,0.000000,3.500000\n".replace(",", delimiter)


def test_comments_empty_lines_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    text = "\ufeff# by hand\nx,y,z\n\n1,2,3\n"
    assert shifted(tmp_path, text) == "# by hand\nx,y,z\n\n2.000000,0.000000,3.500000\n"


SLICER = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,label\n7,1,2,3,0,F-1\n"


def test_a_slicer_file_in_lps_is_read(tmp_path: Path) -> None:
    assert shifted(tmp_path, SLICER, "in.fcsv").splitlines()[-1] == "7,2.000000,0.000000,3.500000,0,F-1"


@pytest.mark.parametrize("system", ["RAS", "0", "IJK"])
def test_a_slicer_file_in_another_system_is_refused(tmp_path: Path, system: str) -> None:
    with pytest.raises(InputError, match=f"coordinate system {system}; points must be in LPS"):
        read_points(table(tmp_path, SLICER.replace("= LPS", f"= {system}")))


def test_two_dimensions_are_seen(tmp_path: Path) -> None:
    assert read_points(table(tmp_path, "x,y\n1,2\n")).points_mm.tolist() == [[1, 2]]
    assert read_points(table(tmp_path, "1,2,left\n")).points_mm.tolist() == [[1, 2]]
    assert read_points(table(tmp_path, "1,2,3\n")).points_mm.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no points"),
        ("x,y,z\n", "holds no points"),
        ("x,y,z\n1,2,3\n1,2\n", "line 3 has 2 columns; a point is 3 numbers"),
        ("x,y,z\n1,two,3\n", "line 2: 'two' is not a number"),
        ("1,2,3\n4,5,nan\n", "line 2: 'nan' is not a number"),
        ("a,b,c\n1,2,3\n", "has no column x, y, z"),
        ("label,r,a,s\np,1,2,3\n", "are RAS"),
    ],
)
def test_what_is_not_a_table_of_points_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_points(table(tmp_path, text), dim=3)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        read_points(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not a text file"):
        read_points(tmp_path / "binary.csv")


def test_mapping_is_that_of_the_transform() -> None:
    points = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert mapped(points, SHIFT).tolist() == [[2, 0, 3.5], [1, -2, 0.5]]
