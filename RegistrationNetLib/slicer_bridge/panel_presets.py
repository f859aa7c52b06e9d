"""The part of the panel about presets: the list, and keeping the present settings under a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..errors import InputError
from .presets import BUILT_IN, USUAL, Preset, settings_of
from .settings import keep, kept

PRESETS = "Presets"


class PresetPanel:
    """Shows which preset is in force.

    Args:
        ui: the widgets of the panel by name.
        tell: is given an error to show, or None to show none any more.
        on_chosen: is given the preset that the user chose.
        settings: gives what the panel is set to now, None without a scene.
    """

    def __init__(
        self,
        ui: Any,
        *,
        tell: Callable[[Exception | None], None],
        on_chosen: Callable[[Preset], None],
        settings: Callable[[], dict[str, Any] | None],
    ) -> None:
        self._ui, self._tell, self._on_chosen, self._settings = ui, tell, on_chosen, settings
        self._own: list[Preset] = [Preset(name, name, asked) for name, asked in kept(PRESETS, {}).items()]
        ui.presetCombo.connect("activated(int)", self._choose)
        self._tip = ui.presetCombo.toolTip
        menu = qt.QMenu(ui.presetButton)
        self._keep_action = menu.addAction(_("Keep these settings…"))
        self._keep_action.connect("triggered(bool)", lambda: self._ask_for_name())
        self._delete_action = menu.addAction(_("Delete this preset"))
        self._delete_action.connect("triggered(bool)", lambda: self._delete())
        ui.presetButton.setMenu(menu)
        self.show(None)

    def show(self, node: Any) -> None:
        """Show the preset that a parameter node's settings are, or that they are none."""
        settings = None if node is None else settings_of(node)
        self._in_force = next((one for one in self._presets if settings is not None and one.is_in_force(settings)), None)
        combo = self._ui.presetCombo
        titles = [one.title for one in self._presets] + ([] if self._in_force else [_("Own settings")])
        if [combo.itemText(index) for index in range(combo.count)] != titles:
            combo.clear()
            for title in titles:
                combo.addItem(title)
        combo.setCurrentIndex(self._presets.index(self._in_force) if self._in_force else len(titles) - 1)
        combo.setToolTip(f"{combo.currentText}\n{self._tip}")
        self._delete_action.setEnabled(self._in_force in self._own)

    def keep_as(self, name: str) -> None:
        """Keep the present settings under a name, in the place of an own preset of that name.

        Raises:
            InputError: a built-in preset has that name.
        """
        settings = self._settings()
        if settings is None:
            return
        if name in [one.title for one in BUILT_IN]:
            raise InputError(
                f"“{name}” is a built-in preset, which stays as it is; a preset of yours needs another name. Choose one."
            )
        self._own = [*(one for one in self._own if one.name != name), Preset(name, name, settings)]
        self._save()

    @property
    def _presets(self) -> list[Preset]:
        # Own ones come first: a built-in one may mean the same.
        return [*self._own, *BUILT_IN]

    def _choose(self, index: int) -> None:
        self._tell(None)
        if index < len(self._presets):
            self._on_chosen(self._presets[index])

    def _ask_for_name(self) -> None:
        name = qt.QInputDialog.getText(self._ui.presetButton, _("Keep these settings"), _("Name of the preset:"))
        name = (name if isinstance(name, str) else name[0]).strip()
        if not name:
            return
        self._tell(None)
        try:
            self.keep_as(name)
        except InputError as error:
            self._tell(error)

    def _delete(self) -> None:
        self._own = [one for one in self._own if one is not self._in_force]
        self._save()

    def _save(self) -> None:
        keep(PRESETS, {one.name: dict(one.settings) for one in self._own})
        settings = self._settings()
        self.show(None if settings is None else _Settings(settings))


class _Settings:
    """Settings by attribute, as a parameter node has them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.__dict__.update({**USUAL, **settings})
