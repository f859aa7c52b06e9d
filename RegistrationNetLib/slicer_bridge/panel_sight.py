"""What opens, fails or finishes comes into sight: the panel lies in a scroll area, and its end is often below what is visible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

MARGIN_PX = 4
# At once, and when the layout has taken in what was shown or hidden with it.
_MOMENTS_MSEC = (0, 80)


def bring_into_sight(widget: Any) -> None:
    """Scroll so that all of `widget` can be seen, or its upper part where it is too high."""
    _at_each_moment(lambda: _scroll_to(widget))


def keep_in_place(widget: Any) -> None:
    """Scroll so that `widget` stays where the user sees it now, whatever is shown or hidden above it."""
    area = _area_around(widget)
    if area is None or not widget.isVisible():
        return
    before = _top_in(area.viewport(), widget)

    def scroll() -> None:
        bar = area.verticalScrollBar()
        bar.setValue(bar.value + _top_in(area.viewport(), widget) - before)

    _at_each_moment(scroll)


def fit_to_width(table: Any, fit: Callable[[], None]) -> None:
    """Call `fit` when the rows of a table need another height, since its width has changed.

    The width changes in the midst of a layout, which does not notice another height then: what lies below would be drawn over.
    """
    table.horizontalHeader().connect("sectionResized(int,int,int)", lambda: _at_each_moment(fit))


def _at_each_moment(scroll: Callable[[], None]) -> None:
    def attempt() -> None:
        try:
            scroll()
        except (RuntimeError, ValueError):
            # The panel was closed meanwhile.
            return

    for moment in _MOMENTS_MSEC:
        qt.QTimer.singleShot(moment, attempt)


def _area_around(widget: Any) -> Any:
    area = widget.parent()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parent()
    return area


def _top_in(outer: Any, widget: Any) -> int:
    return int(widget.mapTo(outer, qt.QPoint(0, 0)).y())


def _scroll_to(widget: Any) -> None:
    area = _area_around(widget)
    if area is None or not widget.isVisible():
        return
    top, bar = _top_in(area.widget(), widget), area.verticalScrollBar()
    above, below = top - MARGIN_PX, top + widget.height + MARGIN_PX - area.viewport().height
    if bar.value > above:
        bar.setValue(above)
    elif bar.value < below:
        bar.setValue(min(above, below))
