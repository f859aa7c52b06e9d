"""Lists of pairs: what they may say, and that everything wrong is told at once."""

import re
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.choices import OPTIONS
from RegistrationNetLib.cohort.option_texts import DEFAULTS, option_value, without_defaults
from RegistrationNetLib.cohort.plan import listed_plan
from RegistrationNetLib.errors import InputError, PlanError

from .small import images, listed, small_plan

# A text of each option, the value that it stands for, and a text that stands for none.
TEXTS: dict[str, tuple[str, Any, str | None]] = {
    "model": ("unigradicon", "unigradicon", None),
    "refine": ("none", "none", "all"),
    "steps": ("3", 3, "-1"),
    "similarity": ("mi", "mi", "best"),
    "fixed_modality": ("ct", "ct", "pet"),
    "moving_modality": ("mr", "mr", "us"),
    "landmarks": ("pull", "pull", "push"),
    "tolerance": ("2", 2.0, "0"),
    "align": ("centre+rigid", ("centre", "rigid"), "turn"),
    "device": ("cpu", "cpu", None),
    "weights": ("w.trch", "w.trch", None),
    "smoothness": ("2.5", 2.5, "0"),
    "mirrored": ("yes", True, "left"),
    "conserve_mass": ("True", True, "2"),
    "repeats": ("2", 2, "many"),
    "seed": ("4", 4, "x"),
    "resolution": ("1.5", 1.5, "nan"),
}


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    fixed, moving = images(tmp_path, 2)
    return {"fixed": fixed, "moving": moving}


def faults_of(file: Path, **defaults: Any) -> tuple[str, ...]:
    with pytest.raises(PlanError) as found:
        listed_plan(file, defaults)
    assert all(fault in str(found.value) for fault in found.value.faults)
    return found.value.faults


def test_every_option_of_a_registration_can_stand_in_a_list() -> None:
    assert set(OPTIONS) <= set(TEXTS)
    for name, (text, value, wrong) in TEXTS.items():
        assert option_value(name, text) == value
        if wrong is not None:
            with pytest.raises(ValueError, match="must be"):
                option_value(name, wrong)
    assert without_defaults({**DEFAULTS, "steps": 3}) == {"steps": 3}


def test_a_row_gives_files_and_options_and_what_it_leaves_open_is_as_for_all(tmp_path: Path, pair: dict[str, str]) -> None:
    (tmp_path / "w.trch").touch()
    rows = [
        {**pair, "name": "one", "steps": "3", "align": "none", "smoothness": "2"},
        {**pair, "name": "two", "fixed_mask": pair["fixed"], "model": "unigradicon", "weights": "w.trch", "seed": "0"},
    ]
    one, two = listed_plan(listed(tmp_path, rows), {"smoothness": 3.0, "seed": 5}).pairs
    assert one.files == {"fixed": tmp_path / pair["fixed"], "moving": tmp_path / pair["moving"]}
    assert one.options == {"steps": 3, "align": (), "smoothness": 2.0, "seed": 5}
    assert (one.name, one.layout.folder) == ("one", "pairs/one")
    assert two.files["fixed_mask"] == tmp_path / pair["fixed"]
    assert two.files["weights"] == tmp_path / "w.trch"
    assert two.options == {"model": "unigradicon", "smoothness": 3.0}


def test_what_keeps_its_shape_and_a_result_to_go_on_from_are_files_of_a_pair(tmp_path: Path, pair: dict[str, str]) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "transform.h5").touch()
    row = {**pair, "rigid": pair["fixed"], "keep_volume": pair["fixed"], "previous": "before/transform.h5"}
    (alone,) = listed_plan(listed(tmp_path, [row]), {}).pairs
    assert {alone.files["rigid"], alone.files["keep_volume"]} == {tmp_path / pair["fixed"]}
    assert alone.files["previous"] == tmp_path / "before" / "transform.h5"
    assert "previous_inverse" not in alone.files
    (tmp_path / "before" / "inverse.h5").touch()
    (both,) = listed_plan(listed(tmp_path, [row]), {}).pairs
    assert both.files["previous_inverse"] == tmp_path / "before" / "inverse.h5", "register reads it, so that it counts"


def test_a_result_to_go_on_from_needs_something_to_correct_and_no_other_start(tmp_path: Path, pair: dict[str, str]) -> None:
    for name in ("before.h5", "points.csv"):
        (tmp_path / name).touch()
    previous = {**pair, "previous": "before.h5"}
    landmarks = {"fixed_landmarks": "points.csv", "moving_landmarks": "points.csv"}
    rows = [
        {**previous, "name": "a"},
        {**previous, "name": "b", **landmarks},
        {**previous, "name": "c", **landmarks, "landmarks": "pull"},
        {**previous, "name": "d", "rigid": pair["fixed"], "align": "rigid"},
        {**previous, "name": "e", "keep_volume": pair["fixed"], "initial": "before.h5"},
        {**pair, "name": "f", "previous": "gone.h5", "rigid": "gone.nii"},
    ]
    told = "\n".join(faults_of(listed(tmp_path, rows)))
    for fault in (
        "line 2: previous came without anything to correct; .* Fill one of them",
        "line 3: previous came without anything to correct",
        "line 5: previous came with initial or align; .* Leave those fields empty",
        "line 6: previous came with initial or align",
        r"line 7: there is no file .*gone.h5 \(previous\)",
        r"line 7: there is no file .*gone.nii \(rigid\)",
    ):
        assert_matches(fault, told)
    assert len(told.splitlines()) == 6


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_of_spreadsheets_are_read(tmp_path: Path, pair: dict[str, str], delimiter: str) -> None:
    lines = [f"\ufefffixed{delimiter}moving", "", delimiter.join([pair["fixed"], f'"{pair["moving"]}"']), ""]
    (tmp_path / "plan.csv").write_text("\r\n".join(lines), encoding="utf-8")
    (one,) = listed_plan(tmp_path / "plan.csv", {}).pairs
    assert one.place == "line 3"
    assert one.files["moving"] == tmp_path / pair["moving"]


def test_a_name_that_is_not_given_stays_when_other_lines_come(tmp_path: Path) -> None:
    first, second, third = images(tmp_path, 3)
    row = {"fixed": first, "moving": second}
    (alone,) = listed_plan(listed(tmp_path, [row]), {}).pairs
    assert alone.name.startswith("image1_to_image0_")
    pairs = listed_plan(listed(tmp_path, [{"fixed": third, "moving": second}, row]), {}).pairs
    assert pairs[1].name == alone.name
    assert pairs[0].name != alone.name


def test_everything_wrong_is_told_at_once(tmp_path: Path, pair: dict[str, str]) -> None:
    rows = [
        {**pair, "name": "good"},
        {**pair, "moving": "gone.nii.gz", "name": "a"},
        {**pair, "steps": "few", "smoothness": "-1", "name": "b"},
        {**pair, "name": "GOOD"},
        {"moving": pair["moving"], "name": "c"},
        {**pair, "name": "../d"},
        {**pair, "name": "e", "fixed_labels": pair["fixed"]},
        {**pair, "name": "f", "model": "nothing"},
        {**pair, "name": "g", "conserve_mass": "yes"},
        {**pair, "name": "h", "model": "unigradicon"},
    ]
    file = listed(tmp_path, rows)
    file.write_text(file.read_text() + "one,value,too,many,is,in,this,line,of,the,file\n")
    told = "\n".join(faults_of(file))
    for fault in (
        r"line 3: there is no file .*gone.nii.gz \(moving\)",
        "line 4: steps must be a whole number from 0 up; it is 'few'",
        "line 4: smoothness must be a number above 0; it is '-1'",
        "line 2 and line 5 are both 'good'",
        "line 6: there is no fixed image",
        "line 7: the name '../d' cannot be a folder's",
        "line 8: labels came for fixed only",
        "line 9: There is no model 'nothing'",
        "line 10: Mass is conserved between two CT images only",
        "the weights of unigradicon are missing; .* registrationnet models download unigradicon",
        "line 12 has 11 values and the header 8 names",
    ):
        assert_matches(fault, told)
    assert len(told.splitlines()) == 11


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_add_to_a_list_is_left_out(tmp_path: Path, pair: dict[str, str], separator: str) -> None:
    empty = 2 * separator
    lines = [f"sep={separator}", f"fixed{separator}moving{empty}", separator.join(pair.values()) + empty, ""]
    (tmp_path / "plan.csv").write_text("\r\n".join(lines), encoding="utf-8")
    (one,) = listed_plan(tmp_path / "plan.csv", {}).pairs
    assert one.place == "line 3"
    (tmp_path / "plan.csv").write_text("\r\n".join(lines)[:-3] + "note\r\n", encoding="utf-8")
    (fault,) = faults_of(tmp_path / "plan.csv")
    assert fault == "a column with values has no name; each needs one. Name or remove it."


def test_a_comma_in_a_number_is_told(tmp_path: Path, pair: dict[str, str]) -> None:
    (tmp_path / "plan.csv").write_text(f"fixed;moving;smoothness\n{pair['fixed']};{pair['moving']};1,5\n")
    (fault,) = faults_of(tmp_path / "plan.csv")
    assert "smoothness must be a number above 0, with a point and no comma; it is '1,5'" in fault


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_list_in_another_encoding_is_told_what_to_be(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "plan.csv").write_text("fixed,moving\nmüller.nii,b.nii\n", encoding=encoding)
    with pytest.raises(InputError, match=r"it is no text in UTF-8 .*\. Save it as CSV in UTF-8"):
        listed_plan(tmp_path / "plan.csv", {})


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), f"{pattern} is not in:\n{text}"


@pytest.mark.parametrize(
    ("header", "faults"),
    [
        ("fixed", ["no column moving; every plan has"]),
        ("image,mask", ["no column fixed and moving", "no column 'image'. The columns are name, fixed", "no column 'mask'"]),
        ("fixed,moving,stepps", ["no column 'stepps'. Did you mean steps?"]),
        ("fixed,moving,steps,steps", ["the column steps is there 2 times"]),
        ("fixed,moving", ["there is no pair in it"]),
    ],
)
def test_wrong_columns_are_told(header: str, faults: list[str], tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text(f"{header}\n")
    found = faults_of(tmp_path / "plan.csv")
    assert len(found) == len(faults)
    for fault, told in zip(faults, found, strict=True):
        assert fault in told


def test_the_same_pair_twice_needs_names(tmp_path: Path, pair: dict[str, str]) -> None:
    rows = [{**pair, "steps": "1"}, {**pair, "steps": "2"}]
    (fault,) = faults_of(listed(tmp_path, rows))
    assert fault.startswith("line 2 and line 3 are both 'image1_to_image0_")
    assert "fill the column name" in fault
    assert len(listed_plan(listed(tmp_path, [{**row, "name": f"n{row['steps']}"} for row in rows]), {}).pairs) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", None])
def test_what_is_no_list_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "plan.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"plan.csv (cannot be read as a list|is empty)"):
        listed_plan(tmp_path / "plan.csv", {})


def test_devices_and_weights_of_other_machines_are_not_looked_for_here(tmp_path: Path, pair: dict[str, str]) -> None:
    file = listed(tmp_path, [{**pair, "device": "cuda:31", "model": "unigradicon"}])
    assert len(faults_of(file)) == 2
    assert len(listed_plan(file, {}, is_here=False).pairs) == 1


def test_a_small_plan_is_a_plan(tmp_path: Path) -> None:
    assert [pair.name for pair in small_plan(tmp_path, 3).pairs] == ["pair0", "pair1", "pair2"]
