"""A hundred users who click without a plan, and a worker of every mood: the panel stays whole, and nothing fails inside."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from RegistrationNetLib.errors import InputError, WorkerError

from ..module.nodes import linear_transform, pair_nodes, points_node, segmentation_node
from ..module.test_scene_results import result as shift_result
from .conftest import Panel
from .fake_client import FakeClient

SEQUENCES, STEPS = 100, 12
SEQUENCES_PER_TEST = 10


class User:
    """Acts at random on a panel, its scene and its worker."""

    def __init__(self, panel: Panel, scene: Any, fake: FakeClient, seed: int) -> None:
        self.panel, self.scene, self.fake = panel, scene, fake
        self.random = random.Random(seed)
        self.deeds: list[str] = []

    def act(self) -> None:
        deed = self.random.choice(DEEDS)
        self.deeds.append(deed.__name__)
        deed(self)

    def click(self) -> None:
        """Any button or box that can be clicked now."""
        kinds = (self.panel.qt.QPushButton, self.panel.qt.QCheckBox)
        found = [one for kind in kinds for one in self.panel.top.findChildren(kind) if one.name.endswith(("Button", "CheckBox"))]
        found = [one for one in found if one.isEnabled() and one.isVisibleTo(self.panel.top)]
        for one in self.random.sample(found, min(1, len(found))):
            self.deeds.append(one.name)
            self.panel.click(one.name)

    def register(self) -> None:
        if self.panel.ui.registerButton.isEnabled():
            self.panel.click("registerButton")

    def choose(self) -> None:
        """Any entry of any list."""
        names = ("fixedSelector", "movingSelector", "fixedMaskSelector", "movingLandmarksSelector", "initialTransformSelector")
        names += ("modelCombo", "deviceCombo", "similarityCombo", "refinementCombo", "fixedModalityCombo", "alignmentCombo")
        name = self.random.choice(names)
        widget = getattr(self.panel.ui, name)
        combo = widget if isinstance(widget, self.panel.qt.QComboBox) else widget.findChild(self.panel.qt.QComboBox)
        if combo.isEnabled():
            self.panel.choose(name, combo.itemText(self.random.randrange(combo.count)))

    def type(self) -> None:
        if self.panel.ui.stepsSpinBox.isEnabled():
            self.panel.type("stepsSpinBox", str(self.random.randrange(1000)))

    def load(self) -> None:
        make = self.random.choice((pair_nodes, segments, points, matrix))
        make(self.scene)

    def delete(self) -> None:
        kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLTransformNode", "vtkMRMLSegmentationNode", "vtkMRMLTableNode")
        kind = self.random.choice(kinds)
        if count := self.scene.GetNumberOfNodesByClass(kind):
            self.scene.RemoveNode(self.scene.GetNthNodeByClass(self.random.randrange(count), kind))

    def leave_and_return(self) -> None:
        self.panel.module.exit()
        self.panel.module.enter()

    def close_scene(self) -> None:
        self.scene.Clear(0)

    def work(self) -> None:
        """The worker gets on with what it has."""
        for job in self.fake.unfinished:
            end = self.random.choice(("progress", "answer", "answer", "fail"))
            if end == "progress":
                self.fake.progress(job, self.random.choice(("prepare", "refine", "download")), self.random.random(), 3)
            elif end == "fail":
                self.fake.fail(job, self.random.choice((InputError("It is wrong. Mend it."), WorkerError("It died. Try again."))))
            else:
                self.fake.answer(job, answer_to(job))
        self.panel.logic.poll()


def segments(scene: Any) -> Any:
    return segmentation_node(scene, {}, "outline")


def points(scene: Any) -> Any:
    return points_node(scene, [[1, 2, 3]])


def matrix(scene: Any) -> Any:
    return linear_transform(scene, [[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def answer_to(job: Any) -> Any:
    answers: dict[str, Callable[[], Any]] = {
        "register": lambda: shift_result(with_parts=job.request.get("parts", False)),
        "devices": lambda: [{"name": "cpu", "title": "x86_64", "free_mb": 1024.0}],
    }
    return answers.get(job.request["do"], dict)()


DEEDS = (
    *[User.click] * 6,
    *[User.register] * 4,
    *[User.choose] * 4,
    *[User.work] * 4,
    *[User.load] * 2,
    User.type,
    *[User.delete] * 2,
    User.leave_and_return,
    User.close_scene,
)


def check(panel: Panel, scene: Any) -> None:
    """What must always be so."""
    from RegistrationNetLib.slicer_bridge.panel_checks import what_is_missing

    ui, parameters = panel.ui, panel.widget._parameterNode
    is_running = panel.widget.job is not None
    assert ui.cancelButton.isVisibleTo(panel.top) == is_running
    assert parameters is not None
    assert ui.fixedSelector.currentNode() is parameters.fixedVolume
    assert ui.movingSelector.currentNode() is parameters.movingVolume
    is_busy = is_running or panel.widget._isSeveralRunning
    can_start = not is_busy and not what_is_missing(parameters, panel.widget.modelPanel, panel.widget.segmentPanel)
    assert ui.registerButton.isEnabled() == can_start
    assert ui.progressBar.isVisibleTo(panel.top) == is_running
    assert ui.modelCombo.currentText == panel.widget.modelPanel.card["title"]
    assert parameters.model == panel.widget.modelPanel.card["name"]
    result = panel.widget.resultPanel.result
    assert ui.verdictFrame.isVisibleTo(panel.top) == ui.resultBox.isVisibleTo(panel.top) == (result is not None)
    if result is not None:
        assert all(scene.IsNodePresent(node) for node in vars(result.nodes).values() if node is not None)
    shown = [one.isVisibleTo(panel.top) for one in (ui.registerButton, ui.consentBox, ui.cancelButton)]
    assert shown.count(True) == 1
    assert "It failed inside" not in panel.message


@pytest.fixture
def client(fake: FakeClient) -> FakeClient:
    return fake


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in range(SEQUENCES_PER_TEST, SEQUENCES, SEQUENCES_PER_TEST))]
)
def test_whatever_is_clicked_the_panel_is_whole(
    panel: Panel, scene: Any, fake: FakeClient, first: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel.qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "report.json"))
    monkeypatch.setattr(panel.qt.QFileDialog, "getOpenFileName", lambda *_: str(tmp_path / "none.trch"))
    for seed in range(first, first + SEQUENCES_PER_TEST):
        scene.Clear(0)
        pair_nodes(scene)
        panel.module.enter()
        user = User(panel, scene, fake, seed)
        try:
            for _ in range(STEPS):
                user.act()
                check(panel, scene)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {user.deeds}") from error
