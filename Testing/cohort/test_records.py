"""What is done, failed or outdated, as the folder tells it; and that results appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from RegistrationNetLib.cohort import records
from RegistrationNetLib.cohort.pair import RECORD, RESULTS, CohortPair, Layout
from RegistrationNetLib.cohort.records import (
    Failure,
    Setting,
    begin_run,
    end_run,
    failure_of,
    has_results,
    is_done,
    note_failure,
    placed,
)
from RegistrationNetLib.errors import OutputError
from RegistrationNetLib.models.catalogue import published_cards

from .small import changed, small_plan
from .works import fill, pretend


@pytest.fixture
def pair(tmp_path: Path) -> CohortPair:
    return small_plan(tmp_path, 1).pairs[0]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return begin_run(tmp_path / "out", "run")


def everything(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_pair_is_done_when_its_results_are_there(pair: CohortPair, setting: Setting) -> None:
    assert not is_done(pair, setting.out)
    pretend(pair, setting)
    end_run(setting)
    assert is_done(pair, setting.out)
    assert everything(setting.out) == {f"pairs/pair0/{name}" for name in (*RESULTS, RECORD)}


@pytest.mark.parametrize("name", RESULTS)
def test_a_pair_that_lacks_a_file_or_what_was_in_it_is_not_done(name: str, pair: CohortPair, setting: Setting) -> None:
    pretend(pair, setting)
    pair.layout.path(setting.out, name).write_bytes(b"")
    assert not is_done(pair, setting.out)
    pair.layout.path(setting.out, name).unlink()
    assert not is_done(pair, setting.out)


def test_a_pair_of_other_files_or_options_is_not_done(pair: CohortPair, setting: Setting) -> None:
    pretend(pair, setting)
    assert not is_done(changed(pair, steps=3), setting.out)
    assert not is_done(CohortPair(pair.name, {**pair.files, "fixed_mask": pair.files["fixed"]}, {}, pair.layout), setting.out)
    content = pair.files["moving"].read_bytes()
    pair.files["moving"].write_bytes(pair.files["fixed"].read_bytes())
    assert not is_done(pair, setting.out)
    pair.files["moving"].write_bytes(content)
    assert is_done(pair, setting.out)


@pytest.mark.parametrize("role", ["rigid", "keep_volume", "previous", "previous_inverse"])
def test_a_pair_whose_file_of_another_role_has_changed_is_not_done(
    role: str, pair: CohortPair, setting: Setting, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    pair = CohortPair(pair.name, {**pair.files, role: file}, {}, pair.layout)
    pretend(pair, setting)
    assert is_done(pair, setting.out)
    file.write_bytes(b"two")
    assert not is_done(pair, setting.out)


def test_a_pair_of_other_weights_is_not_done(
    pair: CohortPair, setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    pair = changed(pair, model="unigradicon")
    pretend(pair, setting)
    assert is_done(pair, setting.out)
    card = published_cards()["unigradicon"]
    assert card.weights is not None
    monkeypatch.setitem(card.weights, "sha256", "1" * 64)  # type: ignore[arg-type]
    assert records.asked_of(pair)["weights_sha256"] == "1" * 64
    assert not is_done(pair, setting.out)


@pytest.mark.parametrize("before", [False, True])
def test_what_goes_wrong_leaves_what_was_there(before: bool, pair: CohortPair, setting: Setting) -> None:
    if before:
        pretend(pair, setting)
    there = everything(setting.out)
    with pytest.raises(RuntimeError, match="oh"), placed(pair, setting, {}) as folder:
        fill(folder, "new")
        raise RuntimeError("oh")
    assert everything(setting.out) == there
    assert is_done(pair, setting.out) == before


def test_a_folder_takes_the_place_of_an_older_one(pair: CohortPair, setting: Setting) -> None:
    pretend(pair, setting)
    (setting.out / "pairs" / "pair0" / "notes.txt").touch()
    other = changed(pair, steps=3)
    pretend(other, setting)
    assert is_done(other, setting.out)
    assert "pairs/pair0/notes.txt" not in everything(setting.out)


def test_an_older_folder_stays_where_the_new_one_cannot_come(
    pair: CohortPair, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(pair, setting)
    replace = Path.replace

    def failing(one: Path, target: Path) -> Path:
        if one.name == "new":
            raise OSError(28, "No space left on device")
        return replace(one, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="Cannot write the results of pair0 into .*: No space left on device. Free some space"):
        pretend(changed(pair, steps=3), setting)
    assert is_done(pair, setting.out)


def shared(pair: CohortPair) -> CohortPair:
    names = {name: f"{pair.name}_{name}" for name in RESULTS}
    layout = Layout(
        "sub", names, f"{pair.name}_record.json", is_shared=True, sidecars={f"{pair.name}_beside.json": {"Units": "mm"}}
    )
    return CohortPair(pair.name, pair.files, pair.options, layout)


def test_pairs_that_share_a_folder_leave_each_other_alone(setting: Setting, tmp_path: Path) -> None:
    pairs = [shared(pair) for pair in small_plan(tmp_path, 2).pairs]
    for pair in pairs:
        pretend(pair, setting)
    assert all(is_done(pair, setting.out) for pair in pairs)
    assert json.loads((setting.out / "sub" / "pair0_beside.json").read_text()) == {"Units": "mm"}
    pretend(changed(pairs[0], steps=3), setting)
    assert [is_done(pair, setting.out) for pair in pairs] == [False, True]


def test_a_pair_in_a_shared_folder_that_is_half_written_is_not_done(
    pair: CohortPair, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = shared(pair)
    pretend(pair, setting)

    def full(*_: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr(records, "_write", full)
    with pytest.raises(OutputError, match="full"):
        pretend(pair, setting)
    assert not is_done(pair, setting.out)


def test_a_failure_is_kept_until_the_pair_goes_well(pair: CohortPair, setting: Setting) -> None:
    assert failure_of(pair, setting.out) is None
    note_failure(Failure(pair.name, "because", 1.5), setting.out)
    assert failure_of(pair, setting.out) == Failure(pair.name, "because", 1.5)
    pretend(pair, setting)
    assert failure_of(pair, setting.out) is None


def test_a_record_that_somebody_has_changed_is_none(pair: CohortPair, setting: Setting) -> None:
    pretend(pair, setting)
    written = pair.layout.record_path(setting.out).read_text()
    spoilt = ['{"fixed": "x", "moving": 3}', '{"fixed": {}, "moving": {}}', "[]", "null"]
    files = [json.dumps({**json.loads(written), "files": json.loads(one)}) for one in spoilt]
    for text in ("", "[]", "{", '{"options": {}, "files": []}', *files):
        pair.layout.record_path(setting.out).write_text(text)
        assert not is_done(pair, setting.out)
    pair.layout.record_path(setting.out).write_text(written)
    assert is_done(pair, setting.out)


@pytest.mark.parametrize(
    "verdict", ["null", '"fits"', '{"colour": "blue", "words": "fits", "reason": ""}', '{"colour": "green"}']
)
def test_a_report_that_somebody_has_changed_is_none(pair: CohortPair, setting: Setting, verdict: str) -> None:
    pretend(pair, setting)
    assert has_results(pair, setting.out)
    pair.layout.path(setting.out, "report.json").write_text(f'{{"verdict": {verdict}}}')
    assert not is_done(pair, setting.out)
    assert not has_results(pair, setting.out)


def test_a_failure_that_somebody_has_changed_is_none(pair: CohortPair, setting: Setting) -> None:
    note_failure(Failure(pair.name, "because", 1.5), setting.out)
    (setting.out / "failures" / f"{pair.name}.json").write_text('{"name": 1, "error": null, "seconds": "x"}')
    assert failure_of(pair, setting.out) is None


def test_what_killed_runs_have_left_goes_but_for_elements_of_an_array(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, element = begin_run(out, "first"), begin_run(out, "array-3")
    (first.scratch / "half").touch()
    (element.scratch / "half").touch()
    second = begin_run(out, "second")
    assert not first.scratch.exists()
    assert (element.scratch / "half").exists()
    assert list(begin_run(out, "array-3").scratch.iterdir()) == []
    end_run(second)
    end_run(element)
    assert list(out.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Cannot write into"):
        begin_run(tmp_path / "out", "run")


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="Cannot write into .*out: Not a directory. Free some space or choose another folder"):
        begin_run(tmp_path / "out", "run")
