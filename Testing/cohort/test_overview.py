"""The tables of a cohort: everything is there, the worst first."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RegistrationNetLib.cohort.overview import REPORT_NUMBERS, SHOWN, histogram, rows_of, write_overview
from RegistrationNetLib.cohort.plan import Plan
from RegistrationNetLib.cohort.records import Failure, begin_run, end_run, fingerprints_of, note_failure, placed
from RegistrationNetLib.cohort.thumbnail import LONGEST_PX, write_thumbnail

from .small import blob, changed, small_plan
from .works import fill

# Verdict and expected error of each pair that has a result.
KNOWN = {"pair0": ("green", 0.5), "pair1": ("red", 9.0), "pair2": ("amber", 3.0), "pair3": ("amber", 4.0)}
WORDS = {"green": "fits", "amber": "look closely", "red": "does not fit"}


def report(colour: str, error_mm: float) -> dict[str, Any]:
    return {
        "verdict": {"colour": colour, "words": WORDS[colour], "reason": "because <of> it"},
        "error_mm": {"median": error_mm / 2, "p95": error_mm, "max": 2 * error_mm},
        "jacobian": {"min": 0.4, "max": 2.0, "mean": 1.0, "folded_percent": 0.0, "log_sd": 0.1},
        "labels": {"dice": {}, "mean_dice": {"before": 0.5, "after": 0.9}},
        "seconds": {"total": 2.0},
    }


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Four pairs with results, one that failed, one that is missing; the last with a result is of other options."""
    plan, out = small_plan(tmp_path, 6), tmp_path / "out"
    setting = begin_run(out, "run")
    for pair in plan.pairs[:4]:
        with placed(pair, setting, fingerprints_of(pair)) as folder:
            fill(folder)
            (folder / "report.json").write_text(json.dumps(report(*KNOWN[pair.name])))
            Image.new("RGB", (12, 4)).save(folder / "thumbnail.jpg")
    end_run(setting)
    note_failure(Failure("pair4", "it <broke>", 1.0), out)
    return Plan(plan.source, (*plan.pairs[:3], changed(plan.pairs[3], steps=7), *plan.pairs[4:]))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_tables_hold_every_pair_the_worst_first(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_overview(plan, out)
    rows = table(out / "pairs.csv")
    assert [row["name"] for row in rows] == ["pair1", "pair3", "pair2", "pair0", "pair4", "pair5"]
    assert [row["state"] for row in rows] == ["done", "outdated", "done", "done", "failed", "missing"]
    assert rows[0] | {"verdict": "does not fit", "error_mm_p95": "9", "dice_after": "0.9", "folder": "pairs/pair1"} == rows[0]
    assert rows[0]["fixed"] == str(tmp_path / "image0.nii.gz")
    assert rows[4]["error_mm_p95"] == ""
    (failure,) = table(out / "failures.csv")
    assert (failure["name"], failure["error"]) == ("pair4", "it <broke>")


def test_the_tables_name_no_files_where_that_is_asked_for(plan: Plan, tmp_path: Path) -> None:
    write_overview(plan, tmp_path / "out", is_anonymous=True)
    for name in ("pairs.csv", "failures.csv", "index.html"):
        assert "image0" not in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_the_page_shows_every_pair_and_needs_no_other_file(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_overview(plan, out)
    page = (out / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]+)">', page)
    assert links == [f"pairs/{name}/report.html" for name in ("pair1", "pair3", "pair2", "pair0")]
    assert all((out / link).is_file() for link in links)
    assert page.count("data:image/jpeg;base64,") == 4
    assert not re.search(r'(src|href)="(http|//)', page)
    for words in (
        "1 does not fit",
        "2 look closely",
        "1 fits",
        "1 failed",
        "1 not done yet",
        "it &lt;broke&gt;",
        "because &lt;of&gt; it",
    ):
        assert words in page
    assert "of files or options that have changed since" in page
    titles = {measure.name: measure.title for measure in REPORT_NUMBERS}
    for name in SHOWN:
        assert (f">{titles[name]}</button>" in page) == (not name.startswith("landmarks")), name


def test_the_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    write_overview(small_plan(tmp_path, 2), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "2 not done yet" in page
    assert "<table" not in page


def test_a_histogram_counts_every_pair_by_its_verdict(plan: Plan, tmp_path: Path) -> None:
    rows = [row for row in rows_of(plan, tmp_path / "out") if row.words]
    measure = next(one for one in REPORT_NUMBERS if one.name == "error_mm_p95")
    drawn = histogram(measure, rows)
    assert (drawn.low, drawn.high, drawn.count) == (0.0, 9.0, 4)
    assert drawn.median == 3.5
    assert sum(int(bar.words.rpartition(": ")[2]) for bar in drawn.bars) == 4
    heights = dict.fromkeys(WORDS, 0.0)
    for bar in drawn.bars:
        for colour, base, height in bar.parts:
            assert 0 <= base < base + height <= 100
            heights[colour] += height
    assert heights == {"green": 100.0, "amber": 200.0, "red": 100.0}


def test_a_histogram_of_one_value_has_one_bar(plan: Plan, tmp_path: Path) -> None:
    rows = [row for row in rows_of(plan, tmp_path / "out") if row.words]
    measure = next(one for one in REPORT_NUMBERS if one.name == "dice_after")
    drawn = histogram(measure, rows)
    assert (drawn.low, drawn.high) == (0.0, 0.9)
    assert [len(bar.parts) for bar in drawn.bars].count(3) == 1


def test_a_thumbnail_shows_fixed_warped_and_the_error_beside_each_other(tmp_path: Path) -> None:
    fixed, warped = blob((12.0, 12.0)), blob((12.0, 6.0))
    error_mm = sitk.Cast(fixed * 0 + 15.0, sitk.sitkFloat32)
    body = sitk.Cast(fixed * 0, sitk.sitkUInt8)
    body[: body.GetWidth() // 2, :] = 1
    result = SimpleNamespace(fixed=fixed, moving=warped, warped=warped, error_mm=error_mm, body=body)
    write_thumbnail(result, tmp_path / "thumbnail.jpg")  # type: ignore[arg-type]
    with Image.open(tmp_path / "thumbnail.jpg") as picture:
        assert picture.size == (3 * LONGEST_PX, LONGEST_PX)
        parts = np.split(np.asarray(picture, dtype=float), 3, axis=1)
    brightest = [part.sum(axis=2).sum(axis=0).argmax() / LONGEST_PX for part in parts[:2]]
    assert brightest == pytest.approx([0.52, 0.27], abs=0.05)
    colourfulness = [np.ptp(part, axis=2).max() for part in parts]
    assert max(colourfulness[:2]) < 30 < colourfulness[2]
    # Only the body is coloured, one half of the picture here.
    assert (np.ptp(parts[2], axis=2) > 60).mean() == pytest.approx(0.5, abs=0.1)
