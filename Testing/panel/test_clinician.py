"""What went wrong in a real Slicer, each as a clinician met it: by clicks, and with its kind."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import dependencies

from ..module.nodes import pair_nodes, points_node, segmentation_node, volume_node
from ..module.test_scene_results import REPORT
from ..module.test_scene_results import result as shift_result
from ..worker_input import ball
from .conftest import Panel
from .fake_client import FakeClient


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


def registered(panel: Panel, fake: FakeClient, **changes: Any) -> Any:
    """A result, as the panel shows it."""
    panel.click("registerButton")
    answer = shift_result()
    fake.answer(fake.jobs[-1], type(answer)(**{**vars(answer), **changes}))
    fake.poll()
    assert panel.message == ""
    return panel.widget.resultPanel.result


@pytest.fixture
def done(ready: Panel, fake: FakeClient) -> Panel:
    registered(ready, fake)
    return ready


def drawn(scene: Any) -> list[str]:
    """What is drawn over the slices: grids and legends."""
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    kinds = ("vtkMRMLTransformDisplayNode", "vtkMRMLColorLegendDisplayNode")
    return [node.GetClassName() for node in nodes if node.GetClassName() in kinds and node.GetVisibility()]


class TestViews:
    """They belong to the result that is shown, and are given back."""

    @pytest.fixture
    def view(self, scene: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A slice view's node, with a volume that the user looks at, obeyed by Slicer's own function."""
        node = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
        other = volume_node(scene, ball((0, 0, 0), 8), "looked at")
        node.SetBackgroundVolumeID(other.GetID())

        def layers(**given: Any) -> None:
            for name, volume in given.items():
                if name in ("background", "foreground"):
                    getattr(node, f"Set{name.capitalize()}VolumeID")(None if volume is None else volume.GetID())
            if "foregroundOpacity" in given:
                node.SetForegroundOpacity(given["foregroundOpacity"])

        monkeypatch.setattr(host.slicer.util, "setSliceViewerLayers", layers)
        return node

    def shown(self, view: Any) -> str:
        return str(slicer.mrmlScene.GetNodeByID(view.GetBackgroundVolumeID()).GetName())

    def test_nothing_of_an_earlier_result_is_drawn_over_a_new_one(
        self, scene: Any, ready: Panel, fake: FakeClient, view: Any
    ) -> None:
        registered(ready, fake)
        ready.click("gridViewButton")
        assert drawn(scene).count("vtkMRMLTransformDisplayNode") == 1
        registered(ready, fake)
        assert drawn(scene) == []
        ready.click("gridViewButton")
        assert drawn(scene).count("vtkMRMLTransformDisplayNode") == 1

    @pytest.mark.parametrize("name", ["grid", "jacobian", "difference"])
    def test_leaving_the_module_gives_the_views_back(
        self, scene: Any, ready: Panel, fake: FakeClient, view: Any, name: str
    ) -> None:
        registered(ready, fake)
        ready.click(f"{name}ViewButton")
        assert drawn(scene)
        ready.module.exit()
        assert drawn(scene) == []
        assert self.shown(view) == "looked at"
        assert view.GetForegroundVolumeID() is None

    def test_the_button_that_is_down_gives_the_views_back(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        registered(ready, fake)
        ready.click("gridViewButton")
        ready.click("gridViewButton")
        assert drawn(scene) == []
        assert self.shown(view) == "looked at"
        assert not ready.ui.gridViewButton.checked

    def test_off_gives_the_views_back(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        registered(ready, fake)
        ready.click("jacobianViewButton")
        ready.click("leaveViewsButton")
        assert drawn(scene) == []
        assert self.shown(view) == "looked at"

    def test_a_view_that_the_user_has_changed_since_stays(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        registered(ready, fake)
        mine = volume_node(scene, ball((0, 0, 0), 8), "mine")
        view.SetBackgroundVolumeID(mine.GetID())
        ready.module.exit()
        assert self.shown(view) == "mine"

    def test_the_grid_is_that_of_the_deformable_part(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        """Half of the shift is affine in this result."""
        result = registered(ready, fake)
        ready.click("gridViewButton")
        from ..module.nodes import from_world

        grid = result.transformNode.GetNodeReference("RegistrationNet.Grid")
        whole = from_world(result.transformNode, (0, 0, 0))
        assert np.allclose(from_world(grid, (0, 0, 0)), whole / 2, atol=1e-3)
        assert not grid.GetSaveWithScene()

    def test_what_a_colour_means_is_said_with_both_ends(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        result = registered(ready, fake)
        for name, node in (
            ("jacobian", lambda: result.jacobianNode),
            ("difference", lambda: result.warpedNode.GetNodeReference("RegistrationNet.difference")),
            ("grid", lambda: result.transformNode.GetNodeReference("RegistrationNet.Grid")),
        ):
            ready.click(f"{name}ViewButton")
            legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node())
            assert legend.GetVisibility(), name
            assert ready.ui.legendLabel.isVisibleTo(ready.top)
        title = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.jacobianNode).GetTitleText()
        assert "≤" in title
        assert "≥" in title

    def test_no_colour_of_a_grid_is_that_of_a_verdict(self, scene: Any, ready: Panel, fake: FakeClient, view: Any) -> None:
        result = registered(ready, fake)
        ready.click("gridViewButton")
        grid = result.transformNode.GetNodeReference("RegistrationNet.Grid").GetDisplayNode()
        function = grid.GetColorNode().GetColorTransferFunction()
        for value in np.linspace(*function.GetRange(), 20):
            colour = [0.0, 0.0, 0.0]
            function.GetColor(value, colour)
            red, green, blue = colour
            assert blue >= max(red, green) - 1e-6, "neither red, nor amber, nor green"


class TestTargets:
    """Lists offer what makes sense."""

    def offered(self, panel: Panel, name: str) -> set[str]:
        widget = getattr(panel.ui, name)
        combo = widget.findChild(panel.qt.QComboBox)
        return {combo.itemText(index) for index in range(combo.count)}

    def test_only_what_can_follow_moving_is_offered(self, scene: Any, done: Panel) -> None:
        segmentation_node(scene, {"organ": ball((3, -4, 0))}, "organs")
        for view in ("difference", "checkerboard"):
            done.click(f"{view}ViewButton")
        assert self.offered(done, "applyToSelector") == {"moving", "organs"}

    @pytest.mark.parametrize("role", ["fixed", "warped", "jacobian"])
    def test_what_cannot_follow_is_refused_by_the_call_too(self, scene: Any, done: Panel, role: str) -> None:
        from RegistrationNetLib.errors import InputError

        result = done.widget.resultPanel.result
        node = getattr(result, f"{role}Node")
        with pytest.raises(InputError, match="Choose another node"):
            done.logic.applyTransform(node, result.transformNode, harden=True)
        assert node.GetParentTransformNode() is None

    def test_no_volume_of_numbers_is_offered_as_an_image(self, scene: Any, done: Panel) -> None:
        done.click("differenceViewButton")
        for side in ("fixed", "moving"):
            assert self.offered(done, f"{side}Selector") == {"Choose a volume", "fixed", "moving", "Warped: moving to fixed"}

    def test_a_volume_of_numbers_is_refused_by_the_call_too(self, scene: Any, done: Panel) -> None:
        from RegistrationNetLib.errors import InputError

        result = done.widget.resultPanel.result
        with pytest.raises(InputError, match="shows no anatomy"):
            done.logic.startRegistration(result.fixedNode, result.jacobianNode)

    def test_a_grey_volume_is_no_mask(self, scene: Any, done: Panel) -> None:
        from RegistrationNetLib.errors import InputError

        chosen, grey = done.parameters, volume_node(scene, ball((0, 0, 0)), "grey")
        for option in ("fixedMask", "movingMask"):
            with pytest.raises(InputError, match="grey .* is no label map with voxels and no segmentation"):
                done.logic.startRegistration(chosen.fixedVolume, chosen.movingVolume, **{option: grey})
        with pytest.raises(InputError, match="is no label map with voxels and no segmentation"):
            done.logic.startRegistration(chosen.fixedVolume, chosen.movingVolume, fixedLabels=grey, movingLabels=grey)

    def test_when_moving_is_deleted_nothing_is_chosen_in_its_place(self, scene: Any, ready: Panel) -> None:
        scene.RemoveNode(ready.parameters.movingVolume)
        assert ready.ui.movingSelector.currentNode() is None
        assert ready.parameters.movingVolume is None
        assert ready.ui.progressLabel.text == "Choose a fixed and a moving volume."

    def test_no_list_of_nodes_stands_on_another_node_when_its_own_goes(self, panel: Panel) -> None:
        lists = [one for one in panel.top.findChildren(panel.qt.QWidget) if type(one).__name__ == "qMRMLNodeComboBox"]
        assert len(lists) >= 11
        assert all(one.noneEnabled for one in lists)


class TestPartOfAResult:
    """What is left is shown, and what is gone is named."""

    @pytest.mark.parametrize(
        ("role", "named", "views"),
        [
            ("chart", "Chart", ()),
            ("jacobian", "Jacobian", ("jacobian",)),
            ("table", "Quality", ()),
            ("transform", "Transform", ("grid",)),
            ("warped", "Warped", ("warped", "flicker", "checkerboard", "difference", "grid")),
        ],
    )
    def test_a_deleted_node_takes_only_its_own_views(
        self, scene: Any, done: Panel, role: str, named: str, views: tuple[str, ...]
    ) -> None:
        scene.RemoveNode(getattr(done.widget.resultPanel.result, f"{role}Node"))
        assert done.ui.verdictFrame.isVisibleTo(done.top)
        assert done.ui.lostLabel.text == f"Deleted from this result: {named}."
        assert done.ui.lostLabel.isVisibleTo(done.top)
        every = ("fixed", "moving", "warped", "flicker", "checkerboard", "difference", "jacobian", "grid")
        assert {one for one in every if not getattr(done.ui, f"{one}ViewButton").isEnabled()} == set(views)
        done.click("movingViewButton")
        assert done.message == ""

    def test_a_node_that_gets_the_name_of_one_that_went_does_not_take_its_place(self, scene: Any, done: Panel) -> None:
        scene.RemoveNode(done.widget.resultPanel.result.jacobianNode)
        volume_node(scene, ball((0, 0, 0)), "newcomer")
        done.module.exit()
        done.module.enter()
        assert done.widget.resultPanel.result.jacobianNode is None


class TestNames:
    """What tells nodes apart comes first."""

    def test_no_two_nodes_of_a_result_begin_alike(self, done: Panel) -> None:
        names = [node.GetName() for node in vars(done.widget.resultPanel.result.nodes).values() if node is not None]
        assert len({name[:8] for name in names}) == len(names)

    def test_everything_lies_in_the_folder(self, scene: Any, done: Panel) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        nodes = [node for node in vars(done.widget.resultPanel.result.nodes).values() if node is not None]
        assert len(nodes) == 8
        folders = {hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))) for node in nodes}
        assert folders == {"moving to fixed"}


class TestSegments:
    """The list follows what happens to the segmentation, without leaving the module."""

    def test_renamed_added_and_removed_segments_are_in_the_list_at_once(self, scene: Any, ready: Panel) -> None:
        node = segmentation_node(scene, {"liver": ball((3, -4, 0), size=8)}, "organs")
        ready.choose("fixedMaskSelector", "organs")
        combo, segmentation = ready.ui.fixedSegmentCombo, node.GetSegmentation()

        def offered() -> list[str]:
            return [combo.itemText(index) for index in range(combo.count)]

        segmentation.GetNthSegment(0).SetName("hepar")
        assert offered() == ["All segments", "hepar"]
        segmentation.AddEmptySegment("spleen", "spleen")
        assert offered() == ["All segments", "hepar", "spleen"]
        segmentation.RemoveSegment("spleen")
        assert offered() == ["All segments", "hepar"]


def test_a_volume_of_one_slice_is_told_with_what_can_be_done_in_slicer(scene: Any, panel: Panel) -> None:
    volume_node(scene, Volume(ball((0, 0, 0)).values[12:13], np.eye(4)), "slice")
    volume_node(scene, ball((0, 0, 0)), "whole")
    panel.choose("fixedSelector", "slice")
    panel.choose("movingSelector", "whole")
    assert "slice has fewer than 8 voxels along a side. Choose a volume of more slices." in panel.ui.progressLabel.text
    assert not panel.ui.registerButton.isEnabled()


class TestInstallation:
    """In a hospital there is no network."""

    @pytest.fixture
    def without_torch(self, ready: Panel, monkeypatch: pytest.MonkeyPatch) -> Panel:
        monkeypatch.setattr(dependencies, "missing", lambda wanted: [one for one in wanted if one.startswith("torch")])
        ready.click("registerButton")
        return ready

    def pick(self, panel: Panel, words: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Use another Python…, and what the dialogue is answered with."""
        for name in ("getOpenFileName", "getExistingDirectory"):
            monkeypatch.setattr(panel.qt.QFileDialog, name, lambda *_: str(path))
        menu = panel.ui.otherPythonButton.menu()
        next(one for one in menu.actions() if words in one.text).trigger()
        panel.until(lambda: panel.ui.pythonButton.isEnabled())

    def test_a_python_that_has_everything_is_used_from_then_on(
        self, without_torch: Panel, fake: FakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.pick(without_torch, "program", Path(sys.executable), monkeypatch)
        assert without_torch.message == ""
        assert not without_torch.ui.consentBox.isVisibleTo(without_torch.top)
        assert without_torch.ui.pythonLabel.text == f"Runs by {sys.executable}."
        without_torch.click("registerButton")
        assert without_torch.is_running
        assert fake.python == sys.executable
        without_torch.click("cancelButton")
        without_torch.until(lambda: not without_torch.is_running)
        without_torch.click("ownPythonButton")
        assert fake.python is None
        assert without_torch.ui.pythonLabel.text == "Runs by Slicer's own Python."

    def test_a_python_without_torch_is_refused_with_the_reason(
        self, without_torch: Panel, fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bare = tmp_path / "bin" / "python3"
        bare.parent.mkdir()
        bare.write_text(
            "#!/bin/sh\necho \"registrationnet: failed inside: ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n"
        )
        bare.chmod(0o700)
        self.pick(without_torch, "folder", tmp_path, monkeypatch)
        assert "ModuleNotFoundError: No module named" in without_torch.message
        assert "Install them there, or choose another" in without_torch.message
        assert fake.python is None
        assert without_torch.ui.consentBox.isVisibleTo(without_torch.top)

    def test_a_folder_that_holds_no_python_is_refused(
        self, without_torch: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.pick(without_torch, "folder", tmp_path, monkeypatch)
        assert "holds neither a Python nor PyTorch" in without_torch.message


class TestWeights:
    """Size and licence before a download; away with them again."""

    def test_size_and_licence_are_read_before_a_download(self, ready: Panel) -> None:
        ready.choose("modelCombo", "uniGradICON")
        assert "283 MB" in ready.ui.weightsLabel.text
        assert "Licence of the weights: None is stated" in ready.ui.weightsLabel.text
        assert ready.sees("weightsLabel")
        assert ready.sees("registerButton")

    def test_weights_are_removed_by_a_click(self, ready: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from RegistrationNetLib.models.catalogue import card_named
        from RegistrationNetLib.models.weights import weights_file

        monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path))
        listed = ready.logic.models
        file = tmp_path / "models" / "unigradicon"

        def cards() -> Any:
            found = listed()
            for card in found:
                if card["name"] == "unigradicon" and file.exists():
                    card["state"] = {"kind": "ready", "path": str(file), "bytes": 282739696, "sha256": None}
            return found

        monkeypatch.setattr(ready.logic, "models", cards)
        removed: list[str] = []
        monkeypatch.setattr(ready.logic, "removeWeights", lambda name: (removed.append(name), file.unlink()))
        file.parent.mkdir()
        file.write_bytes(b"weights")
        ready.widget.modelPanel.refresh()
        ready.choose("modelCombo", "uniGradICON")
        assert ready.ui.removeWeightsButton.text == "Remove weights (283 MB)"
        ready.click("removeWeightsButton")
        assert removed == ["unigradicon"]
        assert not ready.ui.removeWeightsButton.isVisibleTo(ready.top)
        assert ready.ui.downloadButton.isVisibleTo(ready.top)
        assert not ready.ui.registerButton.isEnabled()
        assert card_named("unigradicon").weights is not None
        assert weights_file  # the command line removes the same file


class TestVerdict:
    """In colour, with its reason."""

    MARKS = {  # noqa: RUF012, a test's constant
        "Similarity of the images (lncc)": {"colour": "green", "value": "0.157 before, 0.264 after", "rule": "It must rise."},
        "Strongest growing (largest Jacobian determinant)": {"colour": "amber", "value": "6.32", "rule": "At most 5."},
    }

    def test_the_worst_mark_is_the_reason(self, ready: Panel, fake: FakeClient) -> None:
        registered(ready, fake, report={**REPORT, "marks": self.MARKS})
        text = ready.ui.verdictLabel.text
        assert "▲" in text
        assert "Look before you trust it" in text
        assert "Strongest growing (largest Jacobian determinant): 6.32" in text
        assert "#d08700" in ready.ui.verdictFrame.styleSheet

    def test_a_verdict_of_the_report_comes_first(self, ready: Panel, fake: FakeClient) -> None:
        verdict = {"colour": "red", "words": "It does not fit.", "reason": "The ventricles miss each other by 6 mm."}
        registered(ready, fake, report={**REPORT, "marks": self.MARKS, "verdict": verdict})
        text = ready.ui.verdictLabel.text
        assert "✖" in text
        assert "It does not fit." in text
        assert "miss each other by 6\N{NO-BREAK SPACE}mm" in text
        assert "#dd3b3b" in ready.ui.verdictFrame.styleSheet


class TestResultsOfTheScene:
    """Each can be seen again, and compared with another."""

    def test_an_earlier_result_is_shown_again(self, ready: Panel, fake: FakeClient, layers: dict[str, Any]) -> None:
        first = registered(ready, fake)
        assert not ready.ui.resultCombo.isVisibleTo(ready.top)
        second = registered(ready, fake)
        titles = [ready.ui.resultCombo.itemText(index) for index in range(ready.ui.resultCombo.count)]
        assert len(set(titles)) == 2
        ready.choose("resultCombo", titles[0])
        ready.click("warpedViewButton")
        assert layers["background"] is first.warpedNode
        assert layers["background"] is not second.warpedNode

    def test_two_results_flicker_and_their_numbers_stand_together(
        self, ready: Panel, fake: FakeClient, layers: dict[str, Any]
    ) -> None:
        first = registered(ready, fake)
        mark = {"colour": "red", "value": "3 %", "rule": "Tissue cannot fold."}
        second = registered(ready, fake, report={**REPORT, "marks": {"Folded voxels": mark}})
        ready.choose("compareCombo", ready.ui.compareCombo.itemText(1))
        assert ready.ui.marksTable.item(0, 1).text() == "Folded voxels\n3 %\ncompared: ✔ 0 %"
        ready.widget.resultPanel._timer.setInterval(20)
        shown = []
        ready.click("flickerViewButton")

        def both() -> bool:
            shown.append(layers["background"])
            return {first.warpedNode, second.warpedNode} <= set(shown)

        ready.until(both, seconds=5)
        assert first.fixedNode not in shown[1:]

    def test_results_come_back_with_the_scene(self, scene: Any, ready: Panel, fake: FakeClient, tmp_path: Path) -> None:
        for _ in range(2):
            registered(ready, fake)
        titles = [ready.ui.resultCombo.itemText(index) for index in range(2)]
        ready.choose("resultCombo", titles[0])
        assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
        scene.Clear(0)
        assert not ready.ui.verdictFrame.isVisibleTo(ready.top)
        scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
        assert [ready.ui.resultCombo.itemText(index) for index in range(2)] == titles
        assert ready.ui.resultCombo.currentText == titles[0]
        ready.choose("resultCombo", titles[1])
        for view in ("grid", "jacobian", "difference"):
            ready.click(f"{view}ViewButton")
            assert ready.message == ""


class TestOutputs:
    """Results go into nodes that are there, where the user says so."""

    def test_existing_nodes_take_the_result(self, scene: Any, ready: Panel, fake: FakeClient) -> None:
        volume = volume_node(scene, ball((9, 9, 9), 8), "mine")
        transform = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "my transform")
        ready.choose("outputVolumeSelector", "mine")
        ready.choose("outputTransformSelector", "my transform")
        result = registered(ready, fake)
        assert result.warpedNode is volume
        assert result.transformNode is transform
        assert volume.GetImageData().GetDimensions() == (24, 24, 24)
        assert scene.GetFirstNodeByName("Warped: moving to fixed") is None
        ready.click("gridViewButton")
        assert ready.message == ""

    def test_a_run_that_fails_leaves_them_as_they_were(self, scene: Any, ready: Panel, fake: FakeClient) -> None:
        volume = volume_node(scene, ball((9, 9, 9), 8), "mine")
        before = volume.GetImageData()
        ready.choose("outputVolumeSelector", "mine")
        ready.click("registerButton")
        fake.answer(fake.jobs[-1], None)
        fake.poll()
        assert ready.message
        assert volume.GetImageData() is before

    def test_an_input_cannot_be_written_over(self, ready: Panel) -> None:
        from RegistrationNetLib.errors import InputError

        ready.choose("outputVolumeSelector", "moving")
        assert "would be written over moving" in ready.ui.progressLabel.text
        assert not ready.ui.registerButton.isEnabled()
        chosen = ready.parameters
        for outputs, message in (
            ({"warped": chosen.fixedVolume}, "which must stay as it is"),
            ({"transform": chosen.movingVolume}, "must be a vtkMRMLGridTransformNode"),
            ({"smell": chosen.movingVolume}, "There is no output smell"),
        ):
            with pytest.raises(InputError, match=message):
                ready.logic.startRegistration(chosen.fixedVolume, chosen.movingVolume, outputs=outputs)

    def test_one_node_cannot_take_two_results(self, scene: Any, ready: Panel) -> None:
        from RegistrationNetLib.errors import InputError

        volume = volume_node(scene, ball((9, 9, 9), 8), "mine")
        chosen = ready.parameters
        with pytest.raises(InputError, match="is chosen for two outputs"):
            ready.logic.startRegistration(chosen.fixedVolume, chosen.movingVolume, outputs={"warped": volume, "jacobian": volume})


class TestPresets:
    """One choice for a kind of pair."""

    def test_a_built_in_preset_decides_network_alignment_and_modalities(self, ready: Panel, fake: FakeClient) -> None:
        ready.choose("presetCombo", "Chest, CT of two breaths")
        ready.click("registerButton")
        options = fake.jobs[-1].request["options"]
        asked = {name: options[name] for name in ("model", "align", "conserve_mass", "fixed_modality", "moving_modality")}
        assert asked == {
            "model": "direct", "align": ("centre", "pose", "rigid", "similarity", "affine"), "conserve_mass": True, "fixed_modality": "ct", "moving_modality": "ct",
        }  # fmt: skip

    def test_every_built_in_preset_is_in_force_once_chosen_and_goes_with_its_network(self, ready: Panel) -> None:
        from RegistrationNetLib.slicer_bridge.presets import BUILT_IN

        cards = {card["name"]: card for card in ready.logic.models()}
        for preset in BUILT_IN:
            ready.choose("presetCombo", preset.title)
            assert ready.ui.presetCombo.currentText == preset.title
            assert set(preset.modalities) <= set(cards[ready.parameters.model]["modalities"])

    def test_a_pair_the_other_way_round_stays_so(self, ready: Panel) -> None:
        ready.choose("fixedModalityCombo", "MR")
        ready.choose("movingModalityCombo", "CT")
        ready.pick("presetCombo", "Head, CT with MR (one patient)")
        assert (ready.parameters.fixedModality, ready.parameters.movingModality) == ("mr", "ct")
        assert ready.ui.presetCombo.currentText == "Head, CT with MR (one patient)"

    def test_another_choice_is_shown_as_ones_own(self, ready: Panel) -> None:
        assert ready.ui.presetCombo.currentText == "Usual: any pair"
        ready.choose("alignmentCombo", "None")
        assert ready.ui.presetCombo.currentText == "Own settings"

    def press(self, panel: Panel, words: str) -> None:
        next(one for one in panel.ui.presetButton.menu().actions() if words in one.text).trigger()

    def test_settings_are_kept_used_again_and_deleted(self, ready: Panel, monkeypatch: pytest.MonkeyPatch, host: Any) -> None:
        monkeypatch.setattr(ready.qt.QInputDialog, "getText", lambda *_: ("Our protocol", True))
        ready.choose("alignmentCombo", "None")
        ready.choose("similarityCombo", "Correlation")
        self.press(ready, "Keep")
        assert ready.ui.presetCombo.currentText == "Our protocol"
        ready.choose("presetCombo", "Usual: any pair")
        host.slicer.util.reloadScriptedModule("RegistrationNet")
        monkeypatch.setattr(sys.modules["RegistrationNet"], "Client", FakeClient)
        host.slicer.util.reloadScriptedModule("RegistrationNet")
        ready.choose("presetCombo", "Our protocol")
        assert (ready.parameters.alignment, ready.parameters.similarity) == ("none", "ncc")
        self.press(ready, "Delete")
        assert ready.ui.presetCombo.findText("Our protocol") < 0

    def test_a_built_in_name_is_not_taken(self, ready: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ready.qt.QInputDialog, "getText", lambda *_: ("Head, MR with MR", True))
        self.press(ready, "Keep")
        assert "is a built-in preset" in ready.message


class TestWords:
    """The worker speaks English; the panel speaks the language of the application."""

    def test_every_sentence_of_the_marks_can_be_translated(self) -> None:
        from RegistrationNetLib.quality.marks import marks
        from RegistrationNetLib.quality.verdict import trust_marks
        from RegistrationNetLib.slicer_bridge.panel_words import SENTENCES, template_of

        from ..quality.made_evidence import FITTING, evidence
        from ..quality.test_marks import FINE
        from ..quality.test_verdict import verdict

        for mark in [*marks(FINE), *trust_marks(evidence(), FITTING, 1.0), *trust_marks(evidence(likeness=0.01), FITTING, 1.0)]:
            for sentence in (mark.measure, mark.value_text, mark.rule):
                assert template_of(sentence)[0] in SENTENCES, sentence
        for said in (verdict(), verdict(likeness=0.01), verdict(repeats_off_mm=(90.0, 0.5))):
            for sentence in (said.words, said.reason):
                assert template_of(sentence)[0] in SENTENCES, sentence

    def test_a_translated_sentence_keeps_its_numbers(self, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from RegistrationNetLib.slicer_bridge import panel_words

        german = {"{} % of it, {} before": "{} % davon, {} zuvor"}
        monkeypatch.setattr(panel_words, "_", lambda text: german.get(text, text))
        assert panel_words.translated("0.5 % of it, -3 before") == "0.5 % davon, -3 zuvor"
        assert panel_words.translated("Something new with 7") == "Something new with 7"


def test_undo_takes_a_result_away_where_the_scene_allows_it(scene: Any, ready: Panel, fake: FakeClient) -> None:
    scene.SetUndoOn()
    try:
        registered(ready, fake)
        count = scene.GetNumberOfUndoLevels()
        assert count >= 1
        scene.Undo()
        assert ready.message == ""
        assert ready.ui.registerButton.isVisibleTo(ready.top)
    finally:
        scene.ClearUndoStack()
        scene.SetUndoOff()


def test_a_saved_report_is_that_of_the_result_that_is_shown(
    ready: Panel, fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(ready, fake)
    registered(ready, fake, report={**REPORT, "model": "nephi"})
    ready.choose("resultCombo", ready.ui.resultCombo.itemText(0))
    monkeypatch.setattr(ready.qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "report.json"))
    ready.click("saveReportButton")
    assert json.loads((tmp_path / "report.json").read_text())["model"] == "direct"


def test_points_follow_after_a_scene_came_back(scene: Any, ready: Panel, fake: FakeClient, tmp_path: Path) -> None:
    registered(ready, fake)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    scene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    points_node(scene, [(-3, 4, 0)], "landmark")
    ready.check("applyToSelector", "landmark")
    ready.click("applyButton")
    assert ready.message == ""
    assert pair_nodes  # the pair came with the scene
