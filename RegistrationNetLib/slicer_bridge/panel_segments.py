"""The part of the panel about segments: whether a mask is a whole segmentation, or one segment of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .mrml import segments_of

Node = Any

SIDES = ("fixed", "moving")
ALL = ""
EVENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified")


class SegmentPanel:
    """For each mask a list of its segments, shown where the mask is a segmentation.

    Args:
        ui: the widgets of the panel by name.
        on_chosen: is given the side, "fixed" or "moving", and the ID of the segment that the user chose, `ALL` for all of them.
        on_changed: called when a segment of a mask was added, removed or renamed.
    """

    def __init__(self, ui: Any, on_chosen: Callable[[str, str], None], on_changed: Callable[[], None]) -> None:
        self._ui, self._on_changed = ui, on_changed
        self._watched: dict[str, tuple[Any, list[int]]] = {}
        self._ids: dict[str, list[str]] = {}
        self._lost: dict[str, bool] = {}
        for side in SIDES:
            self._combo(side).connect("activated(int)", lambda index, side=side: on_chosen(side, self._ids[side][index]))
            selector = getattr(ui, f"{side}MaskSelector")
            # IDs mean something within one segmentation only, and are often alike in another.
            selector.connect("nodeActivated(vtkMRMLNode*)", lambda _node, side=side: on_chosen(side, ALL))
            self.show(side, None, ALL)

    @property
    def lost(self) -> list[str]:
        """The sides whose segmentation does not have the segment that was chosen."""
        return [side for side in SIDES if self._lost[side]]

    def show(self, side: str, mask: Node, segment: str) -> None:
        """Offer the segments of `mask`, and `segment` even where it is not there any more."""
        is_segmentation = mask is not None and mask.IsA("vtkMRMLSegmentationNode")
        self._watch(side, mask.GetSegmentation() if is_segmentation else None)
        names = {ALL: _("All segments"), **(segments_of(mask) if is_segmentation else {})}
        self._lost[side] = is_segmentation and segment not in names
        if self._lost[side]:
            names[segment] = _("Not there any more")
        self._ids[side] = list(names)
        combo = self._combo(side)
        combo.clear()
        for name in names.values():
            combo.addItem(name)
        combo.setCurrentIndex(self._ids[side].index(segment) if segment in names else 0)
        combo.setVisible(is_segmentation)
        getattr(self._ui, f"{side}SegmentComboLabel").setVisible(is_segmentation)

    def close(self) -> None:
        """Watch no segmentation any more."""
        for side in SIDES:
            self._watch(side, None)

    def _watch(self, side: str, segmentation: Any) -> None:
        watched, tags = self._watched.get(side, (None, []))
        if watched is segmentation:
            return
        for tag in tags:
            watched.RemoveObserver(tag)
        events = [] if segmentation is None else [getattr(segmentation, name) for name in EVENTS]
        self._watched[side] = (
            segmentation,
            [segmentation.AddObserver(event, lambda *_given: self._on_changed()) for event in events],
        )

    def _combo(self, side: str) -> Any:
        return getattr(self._ui, f"{side}SegmentCombo")
