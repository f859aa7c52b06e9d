"""What a user sees without scrolling: Slicer's module panel shows 600 pixels of the panel, at 320 of width."""

from collections.abc import Iterator
from typing import Any

import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.slicer_bridge import dependencies

from ..module.test_scene_results import result as shift_result
from .conftest import SIZE, Panel
from .fake_client import FakeClient

# In the order from above; each lies below the one before.
FIRST = ("fixedSelector", "movingSelector", "modelCombo", "weightsLabel")
LARGE_TEXT = 1.5


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
