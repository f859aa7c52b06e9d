"""What a user does in the panel, from the first look to a result."""

from typing import Any

from ..module.nodes import pair_nodes
from .conftest import Panel


def quick(panel: Panel) -> None:
    """Choose few steps."""
    panel.choose("alignmentCombo", "None")
    panel.click("hasOwnStepsCheckBox")
    panel.type("stepsSpinBox", "3")


def test_an_empty_scene_says_what_to_do(panel: Panel) -> None:
    assert not panel.ui.registerButton.isEnabled()
    assert panel.ui.progressLabel.text == "Choose a fixed and a moving volume."
    assert panel.logic.client._life is None


def test_two_volumes_are_registered_by_one_click(scene: Any, panel: Panel, layers: dict[str, Any]) -> None:
    pair_nodes(scene)
    panel.choose("fixedSelector", "fixed")
    panel.choose("movingSelector", "moving")
    quick(panel)
    panel.click("registerButton")
    assert panel.is_running
    panel.until(lambda: not panel.is_running)
    assert panel.message == ""
    assert panel.ui.marksTable.rowCount >= 5
    for view in ("fixed", "moving", "warped"):
        panel.click(f"{view}ViewButton")
        assert layers["background"] is getattr(panel.widget.resultPanel.result, f"{view}Node")
