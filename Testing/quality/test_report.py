from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import SimpleITK as sitk

from RegistrationNetLib.errors import OutputError
from RegistrationNetLib.quality.assessment import BeforeAfter, ErrorStatistics, assess
from RegistrationNetLib.quality.marks import marks
from RegistrationNetLib.quality.report import _flat, html, write_html
from RegistrationNetLib.quality.truth import Truth
from RegistrationNetLib.quality.verdict import Verdict, trust_marks
from Testing.quality.made_evidence import FITTING, evidence
from Testing.quality.test_pictures import ball, image_of, result_of

VOID = {"meta", "img", "input", "link", "br", "hr"}
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


class Page(HTMLParser):
    """Text, addresses and element names of a page; it asserts that elements close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.names, self.addresses = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def made(dim=2, *, fixed_name="/data/fixed.nii.gz", moving_name="moving.nii.gz", **changed):
    drawn = result_of(image_of(ball, [22, 20, 18][:dim]), transform=sitk.TranslationTransform(dim, [1.0] * dim))
    quality = assess(
        fixed=drawn.fixed,
        moving=drawn.moving,
        moving_from_fixed=drawn.moving_from_fixed,
        fixed_from_moving=drawn.moving_from_fixed.GetInverse(),
        jacobian=drawn.jacobian,
        similarity_name="lncc",
        similarity_before=0.4,
        similarity_after=0.8,
    )
    quality = replace(quality, **changed)
    report = {
        "model": "direct",
        "refine": "field",
        "device": "cpu",
        "seconds": {"total": 12.3456, "prepare": 1.0},
        "peak_memory_mb": 777.0,
        **quality.as_dict(),
        "inputs": {"fixed": {"file": fixed_name, "size": [22, 20, 18]}, "moving": {"file": moving_name, "mask": False}},
        "versions": {"torch": "2.13.0"},
        "marks": {"not": {"shown": "twice"}},
    }
    judged = [*trust_marks(evidence(), FITTING, 1.0), *marks(quality)]
    verdict = Verdict("amber", "Two repeats end 40 mm apart")
    return SimpleNamespace(**vars(drawn), quality=quality, marks=judged, verdict=verdict, report=lambda: report)


@pytest.fixture(scope="module")
def page():
    return html(made(dim=3))


def test_the_page_is_well_formed_and_says_what_was_registered_with_what(page):
    read = Page(page)
    assert read.text.startswith("moving.nii.gz registered to fixed.nii.gz")
    assert read.names.count("h1") == 1


def test_images_without_a_file_are_called_by_their_part():
    text = Page(html(made(fixed_name=None, moving_name=None))).text
    assert text.startswith("moving image registered to fixed image")
    assert "None" not in text


def test_the_page_fetches_nothing(page):
    assert all(address.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for address in Page(page).addresses)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "default-src 'none'" in page


def test_every_picture_is_a_png_and_has_a_description(page):
    addresses = Page(page).addresses
    pictures = [base64.b64decode(address.split(",")[1], validate=True) for address in addresses]
    assert all(picture.startswith((PNG, JPEG)) for picture in pictures)
    assert sum(picture.startswith(JPEG) for picture in pictures) == 4
    # Ten panels of three slices, the three under the volume change, six one over the other, three legends, and four films.
    assert len(addresses) == 10 * 3 + 3 + 6 + 3 + 4
    assert "Fixed, Axial" in page


def test_the_page_shows_every_number_its_mark_and_its_rule(page):
    text = Page(page).text
    for mark in made(dim=3).marks:
        assert mark.measure in text
        assert mark.value_text in text
        assert mark.rule in text
    for fact in ("direct", "cpu", "12.35", "777", "2.13.0", "22, 20, 18"):
        assert fact in text
    assert "nan" not in text.lower().split()
    assert "twice" not in text


def test_marks_are_told_by_symbol_and_word_beside_colour():
    quality = made().quality
    folded = made(jacobian=replace(quality.jacobian, folded_percent=0.05))
    text = Page(html(folded)).text
    assert "✓ good" in text
    assert "! check" in text
    assert "✗ alarm" not in text


@pytest.mark.parametrize(("colour", "words"), [("green", "✓ Fits."), ("amber", "! Look closely."), ("red", "✗ Does not fit.")])
def test_the_verdict_stands_on_top_with_its_reason(colour, words):
    result = made()
    result.verdict = Verdict(colour, "Two repeats end 40 mm apart")
    text = Page(html(result)).text
    assert f"{words} Two repeats end 40 mm apart." in text
    assert text.index(words) < text.index("Before, after, flicker")


def test_the_slices_can_be_scrolled_through(page):
    slider = re.search(r'<input type="range" min="0" max="(\d+)"[^>]*aria-label="Slice', page)
    assert slider is not None
    assert int(slider[1]) == 17
    assert not re.search(r'aria-label="Slice', html(made()))


def test_the_truth_is_told_where_it_is_known(page):
    assert "The truth about this pair" not in page
    error = ErrorStatistics(1.25, 3.5, 10.75)
    text = Page(html(made(), truth=Truth(error, error, error, 0.934, BeforeAfter(0.471, 0.789)))).text
    for told in ("The truth about this pair", "1.25 mm", "3.50 mm", "10.75 mm", "93.4 %", "0.471 before, 0.789 after"):
        assert told in text


def test_names_of_files_cannot_become_markup():
    page = html(made(fixed_name="<script>alert(1)<script>.nii", moving_name='a & "b"<img src=x>.nii'))
    assert "script" not in Page(page).names
    assert 'a & "b"<img src=x>.nii registered to <script>alert(1)<script>.nii' in Page(page).text


def test_a_two_dimensional_result_has_one_slice_each():
    assert len(Page(html(made())).addresses) == 10 + 1 + 2 + 3 + 4


def test_a_folded_result_shows_where_it_folds_most():
    result = made()
    assert "Where it folds most" not in html(result)
    result.jacobian[5, 5] = -1.0
    assert "Where it folds most" in html(result)


def test_thinned_measurements_are_stated(monkeypatch):
    assert "one in 3 voxels" not in html(made())
    monkeypatch.setattr("RegistrationNetLib.quality.assessment.LATTICE_VOXELS", 50)
    assert "one in 3 voxels" in Page(html(made())).text


def test_the_page_is_written_as_one_file(tmp_path):
    write_html(made(), tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert written.startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="report cannot be written to"):
        write_html(made(), tmp_path / "missing" / "report.html")


def test_a_list_of_things_is_told_thing_by_thing() -> None:
    assert list(_flat([{"kind": "rigid", "off_mm": 0.25}, {"kind": "volume"}], "kept shape")) == [
        ("kept shape 1 kind", "rigid"), ("kept shape 1 off mm", "0.25"), ("kept shape 2 kind", "volume"),
    ]  # fmt: skip
