"""Every choice of the panel reaches the logic: one that changes nothing would deceive its user."""

import sys
from typing import Any

import pytest

from RegistrationNetLib import choices
from RegistrationNetLib.slicer_bridge.logic import ALIGNMENTS, REFINEMENTS

from ..module.nodes import linear_transform, pair_nodes, points_node, segmentation_node, volume_node
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.fixture
def asked(scene: Any, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Presses Register and gives what the logic was asked for."""
    pair_nodes(scene)
    panel.choose("fixedSelector", "fixed")
    panel.choose("movingSelector", "moving")
    found: dict[str, Any] = {}

    def start(fixed: Any, moving: Any, **given: Any) -> Any:
        found.clear()
        found.update(given, fixed=fixed, moving=moving)
        raise RuntimeError("that was enough")

    monkeypatch.setattr(panel.logic, "startRegistration", start)

    def press() -> dict[str, Any]:
        panel.click("registerButton")
        return {name: value for name, value in found.items() if name != "onChanged"}

    return press


LISTS = [
    ("fixedModalityCombo", "CT", "fixedModality", "ct"),
    ("movingModalityCombo", "MR", "movingModality", "mr"),
    ("alignmentCombo", "Rigid", "align", ("centre", "pose", "rigid")),
    ("refinementCombo", "Nothing", "refine", "none"),
    ("similarityCombo", "Mutual information (across modalities)", "similarity", "mi"),
    ("deviceCombo", "Processor", "device", "cpu"),
]
BOXES = ["mirrored", "conserveMass", "separateParts"]
SEGMENTATIONS = ["fixedMask", "movingMask", "fixedLabels", "movingLabels", "rigid", "keepVolume"]
LANDMARKS = ["fixedLandmarks", "movingLandmarks"]
# Those that need a test of their own.
OTHERS = {
    "fixedSelector", "movingSelector", "modelCombo", "hasOwnStepsCheckBox", "stepsSpinBox", "smoothnessSlider", "resolutionSpinBox",
    "landmarksCombo", "toleranceSlider", "initialTransformSelector", "outputTransformSelector", "outputVolumeSelector", "presetCombo",
}  # fmt: skip


def test_every_control_that_chooses_is_tested_here(panel: Panel) -> None:
    bound = {widget.name for widget in panel.top.findChildren(panel.qt.QWidget) if widget.property("SlicerParameterName")}
    tested = {name for name, *_ in LISTS} | {f"{name}CheckBox" for name in BOXES}
    tested |= {f"{name}Selector" for name in SEGMENTATIONS + LANDMARKS} | OTHERS
    assert bound | {"modelCombo", "deviceCombo", "presetCombo"} == tested
    chosen = {name for name in dir(panel.ui) if name.endswith(("Combo", "Selector")) and not name.startswith("applyTo")}
    assert chosen - tested == {
        "fixedSegmentCombo",
        "movingSegmentCombo",
        "resultCombo",
        "compareCombo",
        "folderSelector",
    }  # tested elsewhere


@pytest.mark.parametrize(("widget", "words", "option", "value"), LISTS)
def test_a_choice_from_a_list_reaches_the_logic(
    panel: Panel, asked: Any, widget: str, words: str, option: str, value: Any
) -> None:
    before = asked()
    panel.choose(widget, words)
    assert asked() == {**before, option: value}


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_volume_reaches_the_logic(scene: Any, panel: Panel, asked: Any, side: str) -> None:
    other, before = pair_nodes(scene)[0], asked()
    other.SetName("other")
    panel.choose(f"{side}Selector", "other")
    assert asked() == {**before, side: other}


def test_the_panel_offers_every_value_that_the_library_takes(panel: Panel) -> None:
    words = sys.modules["RegistrationNet"].CHOICES
    assert set(words["refinement"]) == {"default", *choices.REFINEMENTS} == set(REFINEMENTS)
    assert set(words["similarity"]) == {"auto", *choices.SIMILARITIES}
    assert set(words["fixedModality"]) == set(words["movingModality"]) == set(choices.MODALITIES)
    assert set(words["landmarks"]) == set(choices.LANDMARK_USES)
    assert list(words["alignment"]) == list(ALIGNMENTS) == ["default", "none", *choices.ALIGNMENT_STAGES]
    # Each stage includes those before it.
    assert [ALIGNMENTS[name] for name in choices.ALIGNMENT_STAGES] == [choices.ALIGNMENT_STAGES[:count] for count in range(1, 6)]
    assert tuple(sys.modules["RegistrationNetLib.slicer_bridge.panel_words"].DEVICES) == choices.DEVICES


def test_a_list_offers_the_values_of_its_parameter_in_the_same_order(panel: Panel) -> None:
    """The lists are bound by place: the words of the panel, and the values that the parameter takes by place."""
    words = sys.modules["RegistrationNet"].CHOICES
    for name, values in words.items():
        combo = getattr(panel.ui, f"{name}Combo")
        assert [combo.itemText(index) for index in range(combo.count)] == list(values.values())
        for index, value in enumerate(values):
            combo.setCurrentIndex(index)
            assert getattr(panel.parameters, name) == value


@pytest.mark.parametrize("option", BOXES)
def test_a_box_that_is_checked_reaches_the_logic(panel: Panel, asked: Any, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(panel.widget.modelPanel), "is_ready", property(lambda _: True))
    panel.choose("modelCombo", "GradICON for knee MR")
    panel.choose("fixedModalityCombo", "CT")
    panel.choose("movingModalityCombo", "CT")
    before = asked()
    panel.click(f"{option}CheckBox")
    assert asked() == {**before, option: True}


def test_boxes_that_would_be_refused_cannot_be_checked(panel: Panel, asked: Any) -> None:
    assert not panel.ui.mirroredCheckBox.isEnabled()
    assert not panel.ui.conserveMassCheckBox.isEnabled()


def test_steps_count_only_when_they_are_ones_own(panel: Panel, asked: Any) -> None:
    before = asked()
    assert not panel.ui.stepsSpinBox.isEnabled()
    panel.click("hasOwnStepsCheckBox")
    panel.type("stepsSpinBox", "7")
    assert asked() == {**before, "steps": 7}


def test_smoothness_reaches_the_logic(panel: Panel, asked: Any) -> None:
    before = asked()
    panel.type("smoothnessSlider", "3")
    assert asked() == {**before, "smoothness": 3.0}


def test_the_resolution_is_left_to_the_program_unless_one_is_given(panel: Panel, asked: Any) -> None:
    before = asked()
    assert "resolution" not in before
    assert panel.ui.resolutionSpinBox.text == "automatic"
    panel.type("resolutionSpinBox", "2.5")
    assert asked() == {**before, "resolution": 2.5}


@pytest.mark.parametrize("option", SEGMENTATIONS)
def test_a_segmentation_reaches_the_logic(scene: Any, panel: Panel, asked: Any, option: str) -> None:
    node, before = segmentation_node(scene, {}, "outline"), asked()
    panel.choose(f"{option}Selector", "outline")
    assert asked() == {**before, option: node}


@pytest.fixture
def organs(scene: Any) -> dict[str, Any]:
    """Two segmentations whose segments have the same IDs and names."""
    segments = {"liver": ball((3, -4, 0), size=8), "spleen": ball((0, 0, 0), size=8)}
    return {name: segmentation_node(scene, segments, name) for name in ("organs", "others")}


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_one_segment_of_a_mask_reaches_the_logic(panel: Panel, asked: Any, organs: dict[str, Any], side: str) -> None:
    before = asked()
    panel.choose(f"{side}MaskSelector", "organs")
    whole = {**before, f"{side}Mask": organs["organs"]}
    assert asked() == whole
    combo = getattr(panel.ui, f"{side}SegmentCombo")
    assert [combo.itemText(index) for index in range(combo.count)] == ["All segments", "liver", "spleen"]
    panel.choose(f"{side}SegmentCombo", "spleen")
    spleen = organs["organs"].GetSegmentation().GetNthSegmentID(1)
    assert asked() == {**whole, f"{side}MaskSegment": spleen}
    panel.choose(f"{side}SegmentCombo", "All segments")
    assert asked() == whole


def test_another_mask_is_all_its_segments(panel: Panel, asked: Any, organs: dict[str, Any]) -> None:
    before = asked()
    panel.choose("fixedMaskSelector", "organs")
    panel.choose("fixedSegmentCombo", "liver")
    panel.choose("fixedMaskSelector", "others")
    assert panel.ui.fixedSegmentCombo.currentText == "All segments"
    assert asked() == {**before, "fixedMask": organs["others"]}


def test_segments_are_offered_for_a_segmentation_only(scene: Any, panel: Panel, asked: Any, organs: dict[str, Any]) -> None:
    label_map = volume_node(scene, ball((0, 0, 0), size=8), "painted", "vtkMRMLLabelMapVolumeNode")
    shown = [panel.ui.fixedSegmentCombo, panel.ui.fixedSegmentComboLabel]
    before = asked()
    panel.choose("fixedMaskSelector", "organs")
    panel.choose("fixedSegmentCombo", "liver")
    assert all(widget.isVisibleTo(panel.top) for widget in shown)
    panel.choose("fixedMaskSelector", "painted")
    assert not any(widget.isVisibleTo(panel.top) for widget in shown)
    assert asked() == {**before, "fixedMask": label_map}


@pytest.mark.parametrize("option", LANDMARKS)
def test_landmarks_reach_the_logic(scene: Any, panel: Panel, asked: Any, option: str) -> None:
    node, before = points_node(scene, [[1, 2, 3]]), asked()
    panel.choose(f"{option}Selector", "points")
    assert asked() == {**before, option: node}


def test_an_initial_transform_reaches_the_logic(scene: Any, panel: Panel, asked: Any) -> None:
    node = linear_transform(scene, [[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "shift")
    before = asked()
    panel.choose("initialTransformSelector", "shift")
    assert asked() == {**before, "initial": node}


def test_a_network_reaches_the_logic(panel: Panel, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked()
    monkeypatch.setattr(type(panel.widget.modelPanel), "is_ready", property(lambda _: True))
    panel.choose("modelCombo", "uniGradICON")
    assert asked() == {**before, "model": "unigradicon"}


def test_landmarks_that_pull_reach_the_logic_with_their_tolerance(scene: Any, panel: Panel, asked: Any) -> None:
    assert not panel.ui.landmarksCombo.isEnabled()
    for side in ("fixed", "moving"):
        points_node(scene, [(0, 0, 0)], f"points of {side}")
        panel.choose(f"{side}LandmarksSelector", f"points of {side}")
    before = asked()
    assert not panel.ui.toleranceSlider.isEnabled()
    panel.choose("landmarksCombo", "Bring the volumes together")
    panel.type("toleranceSlider", "3")
    assert asked() == {**before, "landmarks": "pull", "tolerance": 3.0}


def test_landmarks_that_are_to_pull_and_are_not_there_are_asked_for(panel: Panel, asked: Any) -> None:
    panel.parameters.landmarks = "pull"
    assert panel.ui.progressLabel.text.startswith("Landmarks are to bring the volumes together. Choose those of both")
    assert not panel.ui.registerButton.isEnabled()
