"""What opens, fails or finishes comes into sight: the panel lies in a scroll area, and its end is often below what is visible."""

from __future__ import annotations

from typing import Any

import qt

MARGIN_PX = 4
# At once, and when the layout has taken in what was shown or hidden with it.
_MOMENTS_MSEC = (0, 80)


def bring_into_sight(widget: Any) -> None:
    """Scroll so that all of `widget` can be seen, or its upper part where it is too high."""

    def scroll() -> None:
        try:
            _scroll_to(widget)
        except (RuntimeError, ValueError):
            # The panel was closed meanwhile.
            return

    for moment in _MOMENTS_MSEC:
        qt.QTimer.singleShot(moment, scroll)


def _scroll_to(widget: Any) -> None:
    area = widget.parent()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parent()
    if area is None or not widget.isVisible():
        return
    top, bar = widget.mapTo(area.widget(), qt.QPoint(0, 0)).y(), area.verticalScrollBar()
    above, below = top - MARGIN_PX, top + widget.height + MARGIN_PX - area.viewport().height
    if bar.value > above:
        bar.setValue(above)
    elif bar.value < below:
        bar.setValue(min(above, below))
