"""The stand-in refuses what Slicer's Qt side does not have, so that a wrong call fails in these tests too."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

UI = (ROOT / "RegistrationNet" / "Resources" / "UI" / "RegistrationNet.ui").read_text(encoding="utf-8")


def test_a_signal_that_a_widget_does_not_have_is_refused(host: Any) -> None:
    import qt

    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda _: None)
    for signature in ("pressedTwice()", "clicked(QString)"):
        with pytest.raises(ValueError, match=f"QPushButton has no signal {signature.partition('(')[0]}"):
            button.connect(signature, lambda: None)


def test_a_property_is_an_attribute_and_not_always_writable(host: Any) -> None:
    import qt

    label = qt.QLabel("words")
    assert label.text == "words"
    with pytest.raises(AttributeError, match="property 'hasSelectedText' of QLabel is not writable"):
        label.hasSelectedText = True


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("<ui", "<ui", ""),
        ('class="ctkSliderWidget"', 'class="ctkNoSuchWidget"', "no stand-in for .*ctkNoSuchWidget"),
        ('<property name="wordWrap">', '<property name="wordFold">', "has no property 'wordFold'"),
    ],
)
def test_a_panel_with_unknown_parts_is_refused(host: Any, tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "Panel.ui"
    path.write_text(UI.replace(before, after), encoding="utf-8")
    if not message:
        assert host.slicer.util.loadUI(str(path)) is not None
        return
    with pytest.raises(RuntimeError, match=message):
        host.slicer.util.loadUI(str(path))


def test_a_list_of_nodes_takes_no_node_of_another_kind(scene: Any, host: Any) -> None:
    import slicer

    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(scene)
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    selector.setCurrentNode(points)
    assert selector.currentNode() is None
