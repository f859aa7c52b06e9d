"""What a user sees without scrolling: Slicer's module panel shows 600 pixels of the panel, at 320 of width."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.slicer_bridge import dependencies

from ..module.nodes import volume_node
from ..module.test_scene_results import result as shift_result
from ..worker_input import ball
from .conftest import SIZE, Panel
from .fake_client import FakeClient

# In the order from above; each lies below the one before.
FIRST = ("fixedSelector", "movingSelector", "modelCombo", "weightsLabel")
LARGE_TEXT = 1.5
MARK = {
    "colour": "green",
    "value": "4.3 and 4.3 mm from the result (median over the body)",
    "rule": "Green: within 5 %; red: farther.",
}
# The frame of a button; the indicator of a box, and the arrows of a field of numbers.
EDGE_PX = 1
BOX_PX, ARROWS_PX = 20, 20


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.fixture(params=[1.0, LARGE_TEXT])
def text(request: pytest.FixtureRequest, host: Any) -> Iterator[float]:
    """How large the text of the application is."""
    import qt

    before = qt.QApplication.font()
    font = qt.QApplication.font()
    font.setPointSizeF(before.pointSizeF() * request.param)
    qt.QApplication.setFont(font)
    yield request.param
    qt.QApplication.setFont(before)


def finished(panel: Panel, fake: FakeClient) -> None:
    panel.click("registerButton")
    fake.answer(fake.jobs[-1], shift_result())
    fake.poll()


def tops(panel: Panel, names: tuple[str, ...]) -> list[int]:
    panel.settle()
    return [getattr(panel.ui, name).mapTo(panel.area, panel.qt.QPoint(0, 0)).y() for name in names]


def is_as_wide_as_its_area(panel: Panel) -> bool:
    return bool(panel.area.widget().minimumSizeHint().width() <= SIZE[0])


def test_the_first_items_are_in_sight_and_in_order(text: float, ready: Panel) -> None:
    names = (*FIRST, "registerButton")
    assert all(ready.sees(name) for name in names)
    assert tops(ready, names) == sorted(tops(ready, names))
    assert is_as_wide_as_its_area(ready)


def test_each_volume_has_one_row_with_its_modality(ready: Panel) -> None:
    for side in ("fixed", "moving"):
        selector, modality = (getattr(ready.ui, f"{side}{what}") for what in ("Selector", "ModalityCombo"))
        assert abs(selector.geometry.center().y() - modality.geometry.center().y()) <= 2
        assert modality.geometry.left() > selector.geometry.right()


def test_while_it_runs_progress_and_cancel_are_where_the_button_was(text: float, ready: Panel) -> None:
    before = tops(ready, ("registerButton",))[0]
    ready.click("registerButton")
    assert ready.sees("cancelButton")
    assert ready.sees("progressBar")
    assert not ready.ui.registerButton.isVisible()
    assert abs(tops(ready, ("cancelButton",))[0] - before) <= 4


def test_the_verdict_its_reason_and_the_views_are_in_sight_when_it_is_done(text: float, ready: Panel, fake: FakeClient) -> None:
    finished(ready, fake)
    names = (*FIRST, "registerButton", "verdictFrame", "fixedViewButton", "gridViewButton")
    seen = [ready.sees(name) for name in names]
    assert all(seen), dict(zip(names, seen, strict=True))
    assert tops(ready, names) == sorted(tops(ready, names))


def test_the_width_does_not_jump_when_a_result_appears(ready: Panel, fake: FakeClient) -> None:
    def width() -> int:
        ready.settle()
        return int(ready.area.widget().minimumSizeHint().width())

    before = width()
    finished(ready, fake)
    assert width() == before
    ready.open("numbers")
    ready.open("use")
    assert width() == before


def test_a_result_comes_into_sight_from_wherever_the_user_has_scrolled(ready: Panel, fake: FakeClient) -> None:
    ready.click("registerButton")
    for name in ("moreInputs", "refinement", "device", "log"):
        ready.open(name)
    bar = ready.area.verticalScrollBar()
    bar.setValue(bar.maximum)
    assert not ready.sees("verdictFrame")
    fake.answer(next(job for job in fake.jobs if job.request["do"] == "register"), shift_result())
    fake.poll()
    assert ready.sees("verdictFrame")


def test_an_error_comes_into_sight(ready: Panel, fake: FakeClient) -> None:
    ready.click("registerButton")
    ready.open("moreInputs")
    ready.open("refinement")
    bar = ready.area.verticalScrollBar()
    bar.setValue(bar.maximum)
    fake.fail(fake.jobs[-1], InputError("The values are wrong. Mend them."))
    fake.poll()
    assert ready.sees("messageLabel")
    ready.ui.messageLabel.linkActivated.emit("details")
    assert ready.sees("detailsText")


@pytest.mark.parametrize("name", ["moreInputs", "refinement", "device", "outputs", "several", "log"])
def test_a_section_that_opens_comes_into_sight(ready: Panel, fake: FakeClient, name: str) -> None:
    finished(ready, fake)
    for other in ("numbers", "use"):
        ready.open(other)
    ready.settle()
    section = getattr(ready.ui, f"{name}CollapsibleButton")
    ready.area.ensureWidgetVisible(section)
    ready.open(name)
    ready.settle()
    top = section.mapTo(ready.area.viewport(), ready.qt.QPoint(0, 0)).y()
    height = ready.area.viewport().height
    assert top >= 0
    assert top + section.height <= height or (section.height > height and top <= 8)


def test_the_question_comes_where_the_button_was(text: float, ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "missing", lambda wanted: list(wanted))
    before = tops(ready, ("registerButton",))[0]
    ready.click("registerButton")
    assert ready.sees("consentBox")
    assert ready.sees("installButton")
    assert not ready.ui.registerButton.isVisible()
    assert abs(tops(ready, ("consentBox",))[0] - before) <= 4
    assert is_as_wide_as_its_area(ready)
    ready.click("laterButton")
    assert ready.sees("registerButton")


def cut(panel: Panel) -> list[str]:
    """The words of buttons and boxes, and the numbers in fields, that do not fit."""
    panel.settle()
    # Of each kind: how much of its width is beside the words.
    kinds = {
        panel.qt.QPushButton: 2 * EDGE_PX,
        panel.qt.QToolButton: 2 * EDGE_PX,
        panel.qt.QCheckBox: BOX_PX,
        panel.qt.QSpinBox: ARROWS_PX,
        panel.qt.QDoubleSpinBox: ARROWS_PX,
    }
    return [
        one.text
        for kind, beside in kinds.items()
        for one in panel.area.findChildren(kind)
        if one.isVisibleTo(panel.top) and one.fontMetrics().horizontalAdvance(one.text) > one.width - beside
    ]


def test_no_word_or_number_is_cut(text: float, ready: Panel, fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("moreInputs", "refinement", "device", "outputs", "several"):
        ready.open(name)
    assert cut(ready) == []
    ready.choose("modelCombo", "uniGradICON")
    assert ready.ui.importButton.isVisibleTo(ready.top)
    assert cut(ready) == []
    ready.choose("modelCombo", "Direct optimization")
    monkeypatch.setattr(dependencies, "missing", lambda wanted: list(wanted))
    ready.click("registerButton")
    assert cut(ready) == []
    ready.click("laterButton")
    monkeypatch.undo()
    ready.click("registerButton")
    assert cut(ready) == []
    fake.answer(next(job for job in fake.jobs if job.request["do"] == "register"), shift_result())
    fake.poll()
    for name in ("numbers", "use"):
        ready.open(name)
    ready.click("correctButton")
    assert cut(ready) == []


def test_the_buttons_beside_preset_and_network_are_as_wide_as_the_modalities_above(text: float, ready: Panel) -> None:
    ready.settle()
    column = [getattr(ready.ui, name) for name in ("fixedModalityCombo", "movingModalityCombo", "presetButton", "moreButton")]
    assert len({(one.geometry.left(), one.geometry.right()) for one in column}) == 1


def test_a_name_that_its_selector_cuts_is_whole_in_the_tip(scene: Any, panel: Panel) -> None:
    name = "CT chest, expiration, follow-up after three months, reconstructed"
    volume_node(scene, ball((0, 0, 0), 8), name)
    usual = panel.ui.movingSelector.toolTip
    panel.choose("movingSelector", name)
    assert panel.ui.movingSelector.width < panel.ui.movingSelector.fontMetrics().horizontalAdvance(name)
    assert panel.ui.movingSelector.toolTip == f"{name}\n{usual}"
    panel.choose("movingSelector", "Choose a volume")
    assert panel.ui.movingSelector.toolTip == usual
    panel.choose("modelCombo", "uniGradICON")
    assert panel.ui.modelCombo.toolTip.startswith("uniGradICON: ")
    panel.choose("presetCombo", "Head, MR with MR")
    assert panel.ui.presetCombo.toolTip.startswith("Head, MR with MR\n")


def laid_over(panel: Panel) -> list[tuple[str, str]]:
    """The parts of a layout that lie over each other."""
    panel.settle()
    found = []
    for outer in panel.top.findChildren(panel.qt.QWidget):
        if not outer.objectName or outer.layout() is None or not outer.isVisibleTo(panel.top):
            continue
        inner = [one for one in outer.children() if isinstance(one, panel.qt.QWidget) and one.objectName and not one.isHidden()]
        pairs = itertools.combinations(inner, 2)
        found += [(a.objectName, b.objectName) for a, b in pairs if a.geometry.intersects(b.geometry)]
    return found


@pytest.mark.parametrize("width", [SIZE[0], 500])
def test_the_list_of_measures_lies_over_nothing(text: float, width: int, ready: Panel, fake: FakeClient) -> None:
    marks = {f"{name} of the bodies, measured from both sides": MARK for name in "abcdefghij"}
    ready.click("registerButton")
    came = shift_result()
    fake.answer(fake.jobs[-1], dataclasses.replace(came, report={**came.report, "marks": marks}))
    fake.poll()
    for name in ("numbers", "use"):
        ready.open(name)
    table = ready.ui.marksTable
    table.setCurrentCell(1, 1)
    for size in ((width, SIZE[1]), (width, 2400), (width, 1800)):
        ready.area.resize(*size)
        assert laid_over(ready) == []
        assert [table.rowHeight(row) for row in range(len(marks))] == [table.sizeHintForRow(row) for row in range(len(marks))]
        assert table.height >= sum(table.rowHeight(row) for row in range(len(marks)))


@pytest.mark.parametrize(("view", "part"), [("jacobian", "opacitySlider"), ("error", "opacitySlider"), ("grid", "legendLabel")])
def test_the_colours_of_a_view_come_into_sight_with_their_button(
    text: float, ready: Panel, fake: FakeClient, view: str, part: str
) -> None:
    ready.click("registerButton")
    fake.answer(fake.jobs[-1], shift_result(with_parts=True, with_error=True))
    fake.poll()
    ready.click(f"{view}ViewButton")
    assert ready.message == ""
    assert ready.sees(part)
    assert ready.sees(f"{view}ViewButton")


def test_no_line_breaks_between_a_number_and_its_unit() -> None:
    from RegistrationNetLib.slicer_bridge.panel_words import unbroken

    assert unbroken("within 4.3 mm; 95 % of 5 repeats") == "within 4.3\N{NO-BREAK SPACE}mm; 95\N{NO-BREAK SPACE}% of 5 repeats"
