"""Tables of points: what is read, what is kept, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io import landmark_matching
from RegistrationNetLib.io.landmarks import PointTable, mapped, read_points, write_points
from RegistrationNetLib.io.warning import DataWarning

SHIFT = sitk.TranslationTransform(3, (1.0, -2.0, 0.5))


def table(folder: Path, text: str, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def shifted(folder: Path, text: str, name: str = "in.csv") -> str:
    points = read_points(table(folder, text, name), dim=3, warn=lambda _: None)
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


@pytest.mark.parametrize(("system", "signs"), [("LPS", (1, 1, 1)), ("1", (1, 1, 1)), ("RAS", (-1, -1, 1)), ("0", (-1, -1, 1))])
def test_a_slicer_file_is_brought_to_lps(tmp_path: Path, system: str, signs: tuple[int, ...]) -> None:
    points = read_points(table(tmp_path, SLICER.replace("= LPS", f"= {system}"), "in.fcsv"))
    assert points.points_mm.tolist() == [[one * sign for one, sign in zip((1, 2, 3), signs, strict=True)]]


def test_a_slicer_file_in_ras_stays_one(tmp_path: Path) -> None:
    assert shifted(tmp_path, SLICER.replace("= LPS", "= RAS"), "in.fcsv").splitlines()[-1] == "7,0.000000,4.000000,3.500000,0,F-1"


def test_a_slicer_file_in_another_system_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="coordinate system IJK; points must be in LPS or RAS mm"):
        read_points(table(tmp_path, SLICER.replace("= LPS", "= IJK"), "in.fcsv"))
    with pytest.raises(InputError, match="does not say its coordinate system"):
        read_points(table(tmp_path, SLICER.replace("# CoordinateSystem = LPS\n", ""), "in.fcsv"))


def test_two_dimensions_are_seen(tmp_path: Path) -> None:
    assert read_points(table(tmp_path, "x,y\n1,2\n")).points_mm.tolist() == [[1, 2]]
    assert read_points(table(tmp_path, "1.5,2,left\n")).points_mm.tolist() == [[1.5, 2]]
    assert read_points(table(tmp_path, "1.5,2,3\n")).points_mm.tolist() == [[1.5, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no points"),
        ("x,y,z\n", "holds no points"),
        ("x,y,z\n1,2,3\n1,2\n", "line 3 has 2 columns; a point is 3 numbers"),
        ("x,y,z\n1,two,3\n", "line 2: 'two' is not a number"),
        ("1,2,3\n4,5,nan\n", "line 2: 'nan' is not a number"),
        ("a,b,c\n1,2,3\n", "has no one column x, y, z"),
        ("x,y,z,x\n1,2,3,4\n", "has no one column x;"),
        ('x,y,z\n1,2,3,"a\nb"c\nd"\n', "cannot be split into cells|line 3|not a number"),
        ("7,1.5,2,3\n", "has 4 columns of numbers and no header that says which are x, y, z"),
        ("7,8,1.5,2,3\n", "has 5 columns of numbers and no header"),
        ("A,1.5,2\n", "has 2 columns of numbers in its first line; a point is 3 numbers"),
        ("index\n1\n1 2 3\n", "holds indices of voxels"),
        ("point\n3\n1.5 2 3\n", "announces 3 points and holds 1"),
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


# every tool's table; the same three points in each

POINTS = [[10.5, -20.25, 30.0], [-5.0, 6.0, 7.0], [0.0, 0.0, -12.5]]
RAS = [[-x, -y, z] for x, y, z in POINTS]


def lines(template: str, points: list[list[float]] = POINTS) -> str:
    return "".join(template.format(*point, k=k) for k, point in enumerate(points))


SLICER_TABLE = "F-{k},{},{},{},1,1,1,0,\n"
MARKUPS_HEAD = "# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
MARKUPS_ROW = "{k},{},{},{},0,0,0,1,1,1,0,F-{k},,,2,0\n"
TABLES = {
    "Slicer's table, LPS": ("in.csv", "label,l,p,s,defined,selected,visible,locked,description\n" + lines(SLICER_TABLE)),
    "Slicer's table, RAS": ("in.csv", "label,r,a,s,defined,selected,visible,locked,description\n" + lines(SLICER_TABLE, RAS)),
    "fcsv": ("in.fcsv", MARKUPS_HEAD + lines(MARKUPS_ROW)),
    "ANTs": ("in.csv", "x,y,z,t,label,comment\n" + lines("{},{},{},0,{k},a\n")),
    "pandas with an index": ("in.csv", ",x,y,z\n" + lines("{k},{},{},{}\n")),
    "names first": ("in.csv", lines("A{k},{},{},{}\n")),
    "MATLAB": ("in.txt", lines("  {:.8e}  {:.8e}  {:.8e}\n")),
    "elastix": ("in.txt", "point\n3\n" + lines("{} {} {}\n")),
    "decimal comma": ("in.csv", "x;y;z\n" + lines("{};{};{}\n").replace(".", ",")),
    "spaces after commas": ("in.csv", "X, Y, Z\n" + lines("{}, {}, {}\n")),
    "carriage returns": ("in.csv", ("x,y,z\n" + lines("{},{},{}\n")).replace("\n", "\r")),
    "empty lines": ("in.csv", "x,y,z\n\n" + lines("{},{},{}\n\n")),
    "a cell of two lines": ("in.csv", "x,y,z,name\n" + lines('{},{},{},"two\nlines"\n')),
    "the delimiter said": ("in.csv", "sep=;\nx;y;z\n" + lines("{};{};{}\n")),
}


@pytest.mark.parametrize("what", TABLES)
def test_the_tables_of_every_tool_are_read_and_written(tmp_path: Path, what: str) -> None:
    name, text = TABLES[what]
    read = read_points(table(tmp_path, text, name))
    np.testing.assert_allclose(read.points_mm, POINTS, atol=1e-6)
    out = tmp_path / f"out{Path(name).suffix}"
    write_points(read.moved(mapped(read.points_mm, SHIFT)), out)
    np.testing.assert_allclose(read_points(out).points_mm, np.add(POINTS, (1, -2, 0.5)), atol=1e-6)


def markups(points: list[list[float]], *, system: str = "LPS", status: str = "defined") -> str:
    control = [
        {"id": str(k), "label": f"F-{k}", "position": point, "positionStatus": "defined" if k else status}
        for k, point in enumerate(points)
    ]
    one = {"type": "Fiducial", "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": control}
    return json.dumps({"@schema": "markups-schema", "markups": [one]})


@pytest.mark.parametrize(("system", "points"), [("LPS", POINTS), ("RAS", RAS)])
def test_markups_are_read_and_written(tmp_path: Path, system: str, points: list[list[float]]) -> None:
    read = read_points(table(tmp_path, markups(points, system=system), "in.mrk.json"))
    assert read.points_mm.tolist() == POINTS
    write_points(read.moved(mapped(read.points_mm, SHIFT)), tmp_path / "out.mrk.json")
    assert json.loads((tmp_path / "out.mrk.json").read_text())["markups"][0]["coordinateSystem"] == system
    for name in ("out.mrk.json", "out.csv"):
        write_points(read.moved(mapped(read.points_mm, SHIFT)), tmp_path / name)
        again = read_points(tmp_path / name)
        np.testing.assert_allclose(again.points_mm, np.add(POINTS, (1, -2, 0.5)), atol=1e-6)
        assert again.labels == ("F-0", "F-1", "F-2")


def test_a_table_becomes_markups_by_the_suffix(tmp_path: Path) -> None:
    read = read_points(table(tmp_path, "label,x,y,z\ntip,1,2,3\n"))
    write_points(read, tmp_path / "out.mrk.json")
    again = read_points(tmp_path / "out.mrk.json")
    assert (again.points_mm.tolist(), again.labels) == ([[1, 2, 3]], ("tip",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a markups file of Slicer"),
        ("[]", "not a markups file"),
        ('{"markups": [3]}', "not a markups file"),
        ('{"markups": []}', "holds 0 lists of points; one is needed"),
        (markups(POINTS).replace("LPS", "IJK"), "coordinate system IJK"),
        (markups(POINTS).replace('"mm"', '"um"'), "coordinates in um; they must be in mm"),
        (markups(POINTS).replace("[10.5, -20.25, 30.0]", "[10.5, -20.25]"), "point 1: its position is .*; 3 numbers are needed"),
        (markups(POINTS).replace("10.5", "NaN"), "point 1: its position is"),
    ],
)
def test_what_is_no_markups_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_points(table(tmp_path, text, "in.mrk.json"))
    with pytest.raises(InputError, match="Cannot read"):
        read_points(tmp_path / "missing.mrk.json")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-16", "x,y,z,name\n1.5,2,3,Sch\u00e4del\n"), ("latin-1", "x,y,z,name\n1.5,2,3,Sch\u00e4del\n")],
)
def test_other_encodings_are_read(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "in.csv").write_bytes(text.encode(encoding))
    read = read_points(tmp_path / "in.csv")
    assert (read.points_mm.tolist(), read.labels) == ([[1.5, 2, 3]], ("Sch\u00e4del",))


def test_whole_numbers_without_a_header_may_be_indices(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="whole numbers only; they were taken as LPS mm"):
        read_points(table(tmp_path, " 109 67 15\n"))


def test_points_never_placed_do_not_count_and_stay_in_the_file(tmp_path: Path) -> None:
    missing = MARKUPS_HEAD + MARKUPS_ROW.format(1, 2, 3, k=1) + MARKUPS_ROW.format(0, 0, 0, k=2).replace(",2,0\n", ",3,0\n")
    for name, text in (
        ("in.fcsv", missing),
        ("in.csv", "label,l,p,s,defined\nF-1,1,2,3,1\nF-2,0,0,0,0\n"),
        ("in.mrk.json", markups([[0, 0, 0], [1, 2, 3]], status="undefined")),
    ):
        with pytest.warns(DataWarning, match="1 of its 2 points were never placed; left out"):
            read = read_points(table(tmp_path, text, name))
        assert read.points_mm.tolist() == [[1, 2, 3]]
        write_points(read.moved(mapped(read.points_mm, SHIFT)), tmp_path / f"out-{name}")
        with pytest.warns(DataWarning, match="never placed"):
            assert read_points(tmp_path / f"out-{name}").points_mm.tolist() == [[2, 0, 3.5]]
    with pytest.raises(InputError, match="holds no point that has been placed"):
        read_points(table(tmp_path, "label,l,p,s,defined\nF-2,0,0,0,0\n"))


# two lists of landmarks


def landmarks(folder: Path, text: str, name: str = "in.csv") -> PointTable:
    return read_points(table(folder, text, name))


def matched(fixed: PointTable, moving: PointTable) -> tuple[list[list[float]], list[list[float]], list[str]]:
    heard: list[str] = []
    found = landmark_matching.matched(fixed, moving, heard.append)
    assert len(found.labels) == len(found.fixed_mm)
    return found.fixed_mm.tolist(), found.moving_mm.tolist(), heard


def test_landmarks_are_matched_by_their_labels_in_any_order(tmp_path: Path) -> None:
    fixed = landmarks(tmp_path, "label,x,y,z\na,1,0,0\nb,2,0,0\nc,3,0,0\n")
    moving = landmarks(tmp_path, "label,x,y,z\nd,9,0,0\nb,2,1,0\na,1,1,0\n")
    one, other, heard = matched(fixed, moving)
    assert one == [[1, 0, 0], [2, 0, 0]]
    assert other == [[1, 1, 0], [2, 1, 0]]
    assert heard[0] == "Landmarks that only one of the images has were left out: c, d."
    assert "another order" in heard[1]


def test_labels_with_nothing_in_common_leave_the_order(tmp_path: Path) -> None:
    fixed = landmarks(tmp_path, "label,l,p,s,defined\nF-1,1,0,0,1\nF-2,2,0,0,1\nF-3,3,0,0,1\n")
    with pytest.warns(DataWarning, match="never placed"):
        moving = landmarks(tmp_path, "label,l,p,s,defined\nM-1,1,1,0,1\nM-2,0,0,0,0\nM-3,3,1,0,1\n")
    assert matched(fixed, moving) == ([[1, 0, 0], [3, 0, 0]], [[1, 1, 0], [3, 1, 0]], [])


def test_landmarks_that_cannot_be_matched_are_refused(tmp_path: Path) -> None:
    plain = landmarks(tmp_path, "x,y,z\n1,0,0\n2,0,0\n")
    with pytest.raises(InputError, match="2 landmarks of fixed and 1 of moving, without labels in common"):
        landmark_matching.matched(plain, landmarks(tmp_path, "x,y,z\n1,0,0\n"))
    fixed = landmarks(tmp_path, "label,x,y,z\na,1,0,0\na,2,0,0\nb,3,0,0\n")
    with pytest.raises(InputError, match="occur more than once and stand in different orders"):
        landmark_matching.matched(fixed, landmarks(tmp_path, "label,x,y,z\na,1,0,0\nb,2,0,0\na,3,0,0\n"))
    with pytest.warns(DataWarning, match="never placed"):
        first = landmarks(tmp_path, "l,p,s,defined\n1,0,0,1\n0,0,0,0\n")
    with pytest.warns(DataWarning, match="never placed"):
        second = landmarks(tmp_path, "l,p,s,defined\n0,0,0,0\n1,0,0,1\n")
    with pytest.raises(InputError, match="No landmark has a place in both"):
        landmark_matching.matched(first, second)
