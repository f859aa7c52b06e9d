"""What the panel proposes when it is first opened."""

from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.io.nrrd import Volume

from ..module.nodes import volume_node
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


def volumes(scene: Any, *names: str) -> list[Any]:
    return [volume_node(scene, ball((0, 0, 0), 8), name) for name in names]


def shown(panel: Panel) -> tuple[Any, Any]:
    return panel.ui.fixedSelector.currentNode(), panel.ui.movingSelector.currentNode()


def test_what_the_slice_views_show_is_proposed(scene: Any, panel: Panel) -> None:
    _first, second, third = volumes(scene, "first", "second", "third")
    view = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetBackgroundVolumeID(third.GetID())
    view.SetForegroundVolumeID(second.GetID())
    panel.module.enter()
    assert shown(panel) == (third, second)


def test_without_views_the_first_two_are_proposed(scene: Any, panel: Panel) -> None:
    first, second, _third = volumes(scene, "first", "second", "third")
    panel.module.enter()
    assert shown(panel) == (first, second)


def test_a_choice_that_was_made_is_kept(scene: Any, panel: Panel) -> None:
    _first, second, third = volumes(scene, "first", "second", "third")
    panel.choose("fixedSelector", "third")
    panel.choose("movingSelector", "second")
    panel.module.exit()
    panel.module.enter()
    assert shown(panel) == (third, second)


def test_ct_is_recognised_by_its_values_and_can_be_changed(scene: Any, panel: Panel) -> None:
    air = np.full((8, 8, 8), -1000, np.int16)
    volume_node(scene, Volume(air, np.eye(4)), "air")
    volumes(scene, "other")
    panel.module.enter()
    assert (panel.ui.fixedModalityCombo.currentText, panel.ui.movingModalityCombo.currentText) == ("CT", "Other")
    panel.choose("fixedModalityCombo", "MR")
    panel.module.exit()
    panel.module.enter()
    assert panel.ui.fixedModalityCombo.currentText == "MR"


@pytest.mark.parametrize("on_study", [False, True])
@pytest.mark.parametrize(("said", "guessed"), [("MR", "MR"), ("CT", "CT"), ("US", "Other")])
def test_what_dicom_says_of_the_modality_counts(scene: Any, panel: Panel, said: str, guessed: str, on_study: bool) -> None:
    """On the volume itself, or on the study that it is in; more than its values, which are those of CT here."""
    node = volume_node(scene, Volume(np.full((8, 8, 8), -1000, np.int16), np.eye(4)), "scan")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    if on_study:
        study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
        hierarchy.SetItemParent(item, study)
        item = study
    hierarchy.SetItemAttribute(item, "DICOM.Modality", said)
    panel.module.enter()
    assert panel.ui.fixedModalityCombo.currentText == guessed


def test_another_volume_has_its_modality_guessed_anew(scene: Any, panel: Panel) -> None:
    volumes(scene, "first", "second")
    volume_node(scene, Volume(np.full((8, 8, 8), -1000, np.int16), np.eye(4)), "air")
    panel.module.enter()
    panel.choose("movingSelector", "air")
    assert panel.parameters.movingModality == "ct"


def test_every_model_has_its_line_of_words_and_the_state_of_its_weights(panel: Panel) -> None:
    """Whatever cards there are; one that needs no weights is ready."""
    for card in panel.logic.models():
        panel.choose("modelCombo", card["title"])
        assert card["summary"] in panel.ui.modelLabel.text
        assert card["not_for"] in panel.ui.modelLabel.text
        assert panel.ui.weightsLabel.text
        if card["weights"] is None:
            assert panel.ui.weightsLabel.text == "Ready: needs no weights."
            assert not panel.ui.downloadButton.isVisibleTo(panel.top)
            assert not panel.ui.importButton.isVisibleTo(panel.top)


def test_a_model_of_a_scene_that_is_not_known_here_gives_way(panel: Panel) -> None:
    panel.parameters.model = "from-another-hospital"
    assert panel.parameters.model == panel.widget.modelPanel.simplest


def test_nothing_has_been_started(panel: Panel, fake: FakeClient) -> None:
    assert fake.jobs == []
    assert not panel.logic._timer.active
