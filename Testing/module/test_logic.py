"""The module's logic: a registration from nodes to nodes, with a real worker and the real MRML."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.errors import Cancelled, InputError, OutputError, WorkerError
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import dependencies, mrml, scene_job
from RegistrationNetLib.slicer_bridge.scene_record import records
from RegistrationNetLib.slicer_bridge.scene_results import placed
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once, sampled

from ..worker_input import ball
from .conftest import ROOT
from .nodes import (
    bent_transform,
    centre_ras,
    linear_transform,
    pair_nodes,
    points_node,
    segmentation_node,
    to_world,
    volume_node,
)
from .test_scene_results import REPORT
from .test_scene_results import result as shift_result

QUICK: dict[str, Any] = {"steps": 3, "align": []}
# Where nothing is asked of the repeats, which take as long as the registration.
ONCE: dict[str, Any] = {"repeats": 0}
LONG: dict[str, Any] = {"steps": 100_000, "align": ["centre"]}


@pytest.fixture(scope="module")
def module(host: Any) -> Any:
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    return sys.modules["RegistrationNet"]


@pytest.fixture(scope="module")
def logic(module: Any) -> Iterator[Any]:
    one = module.RegistrationNetLogic()
    yield one
    one.close()


def until(logic: Any, is_true: Callable[[], bool], seconds: float = 120) -> None:
    """Polls until it is true; the limit only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError
        logic.poll()
        time.sleep(0.005)


def content(scene: Any) -> list[str]:
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


def texture(points: Any) -> Any:
    """Waves of 12 to 40 mm in all directions at `points` [..., 3]."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(40, 3))
    waves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (2 * np.pi / rng.uniform(12, 40, (40, 1)))
    return np.cos(points @ waves.T + rng.uniform(0, 6, 40)).sum(axis=-1)


def bend(points: Any) -> Any:
    """Where points of fixed lie in moving, LPS mm."""
    return points + np.array([3, -4, 2]) + 2.5 * np.sin(2 * np.pi * np.roll(points, 1, axis=-1) / 90)


def bent_pair(scene: Any) -> tuple[Any, Any, Any, Any]:
    """A texture and the same bent, both by their closed forms, with partners on them as markups."""
    lattice = ball((0, 0, 0), size=40, spacing_mm=2.5)
    indices = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij")[::-1], axis=-1)
    places = indices * 2.5 + lattice.world_from_index[:3, 3]
    fixed, moving = (
        volume_node(scene, Volume((100 * texture(points)).astype(np.int16), lattice.world_from_index), name)
        for name, points in (("fixed", bend(places)), ("moving", places))
    )
    points = places[8:-8:6, 8:-8:6, 8:-8:6].reshape(-1, 3)
    flip = np.array([-1, -1, 1])
    return (
        fixed,
        moving,
        points_node(scene, points * flip, "fixed points"),
        points_node(scene, bend(points) * flip, "moving points"),
    )


def test_a_known_warp_is_found_and_landmarks_fall_on_their_partners(scene: Any, logic: Any) -> None:
    fixed, moving, fixed_points, moving_points = bent_pair(scene)

    def apart_mm() -> Any:
        return np.linalg.norm(
            mrml.points_of(fixed_points, "points").points_mm - mrml.points_of(moving_points, "points").points_mm, axis=1
        )

    before = apart_mm()
    result = logic.register(fixed, moving, fixedLandmarks=fixed_points, movingLandmarks=moving_points, align=[], **ONCE)
    logic.applyTransform(moving_points, result.transformNode, harden=True)
    after = apart_mm()
    assert before.mean() > 4
    assert after.mean() < 0.5
    assert after.max() < 1
    told = result.report["landmarks"]["error_mm"]
    assert told["before"]["mean"] == pytest.approx(before.mean(), abs=1e-3)
    assert told["after"]["mean"] == pytest.approx(after.mean(), abs=0.1)


def test_moving_placed_under_the_transform_looks_like_warped(scene: Any, logic: Any) -> None:
    """The worker's warped volume, by ITK, against what MRML makes of moving and the transform node."""
    fixed, moving = pair_nodes(scene)
    result = logic.register(fixed, moving, steps=10, align=["centre"], **ONCE)
    moving.SetAndObserveTransformNodeID(result.transformNode.GetID())
    moving.HardenTransform()
    seen, warped = at_once(mrml.volume_of(moving, "moving")), at_once(mrml.volume_of(result.warpedNode, "warped"))
    assert warped.values.dtype == np.int16
    onWarped = at_once(sampled(moving.GetImageData(), mrml._ijk_to_ras(moving), None, warped, is_label=False))
    inner = (slice(4, -4),) * 3
    assert seen.values.max() > 900
    assert np.abs(onWarped.values[inner].astype(int) - warped.values[inner]).mean() < 10


@pytest.mark.parametrize("side", ["fixed", "moving"])
@pytest.mark.parametrize("kind", ["rigid", "bent"])
def test_what_the_user_sees_is_what_is_registered(scene: Any, logic: Any, side: str, kind: str) -> None:
    fixed, moving = pair_nodes(scene)
    turn = np.array([[0.8, -0.6, 0, 6], [0.6, 0.8, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    parent = linear_transform(scene, turn) if kind == "rigid" else bent_transform(scene)
    {"fixed": fixed, "moving": moving}[side].SetAndObserveTransformNodeID(parent.GetID())
    result = logic.register(fixed, moving, steps=5, align=["centre"], **ONCE)
    assert np.allclose(centre_ras(result.warpedNode), centre_ras(fixed), atol=1.0)
    logic.applyTransform(moving, result.transformNode)
    assert np.allclose(centre_ras(moving), centre_ras(fixed), atol=1.5)


def test_masks_labels_and_an_initial_transform_reach_the_library(scene: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    sides = {}
    for name, node in (("fixed", fixed), ("moving", moving)):
        volume = at_once(mrml.volume_of(node, name))
        inside = Volume((volume.values > 300).astype(np.uint8), volume.world_from_index)
        wide = Volume((volume.values > 20).astype(np.uint8), volume.world_from_index)
        sides[name] = segmentation_node(scene, {"ball": inside, "around": wide}, name)
    shift = linear_transform(scene, [[1, 0, 0, 3], [0, 1, 0, -4], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    result = logic.register(
        fixed,
        moving,
        fixedMask=sides["fixed"],
        fixedMaskSegment="around",
        movingMask=sides["moving"],
        fixedLabels=sides["fixed"],
        movingLabels=sides["moving"],
        initial=shift,
        align=[],
        steps=0,
        **ONCE,
    )
    assert result.report["inputs"]["initial"]
    assert result.report["inputs"]["fixed"]["mask"]
    dice = result.report["labels"]["mean_dice"]
    assert dice["after"] > 0.95 > dice["before"]
    assert np.allclose(to_world(result.transformNode, (-3, 4, 0)), 0, atol=0.02)


def test_nephi_is_fitted_to_nodes_as_well(scene: Any, logic: Any) -> None:
    result = logic.register(*pair_nodes(scene), model="nephi", steps=2, align=[], **ONCE)
    assert result.report["model"] == "nephi"
    assert result.report["steps_done"] > 0


def test_options_reach_the_library_by_their_name_in_either_style(scene: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    result = logic.register(
        fixed, moving, **QUICK, **ONCE, fixedModality="mr", moving_modality="mr", similarity="ncc", separateParts=True
    )
    assert result.report["inputs"]["fixed"]["modality"] == result.report["inputs"]["moving"]["modality"] == "mr"
    assert result.report["inputs"]["similarity"]["name"] == "ncc"
    assert result.affineNode.GetParentTransformNode() is result.deformableNode
    with pytest.raises(InputError, match="speed came"):
        logic.register(fixed, moving, speed=3)
    with pytest.raises(InputError, match="no model 'dance'"):
        logic.register(fixed, moving, model="dance")


def test_bad_input_is_refused_and_the_scene_stays(scene: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    flat = volume_node(scene, Volume(np.zeros((24, 24, 24), np.int16), ball((0, 0, 0)).world_from_index), "flat")
    thin = volume_node(scene, Volume(ball((0, 0, 0)).values[12:13], ball((0, 0, 0)).world_from_index), "thin")
    colour = volume_node(scene, Volume(np.zeros((9, 9, 9, 3), np.uint8), np.eye(4)), "colour", "vtkMRMLVectorVolumeNode")
    far = volume_node(scene, Volume(ball((0, 0, 0)).values, ball((0, 0, 0)).world_from_index + np.eye(4, k=3) * 1e4), "far")
    nan = volume_node(scene, Volume(np.full((9, 9, 9), np.nan, np.float32), np.eye(4)), "nan")
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    before = content(scene)
    for message, other, keywords in [
        ("same volume", fixed, {}),
        ("fixed is not chosen", None, {}),
        ("one value everywhere", flat, {}),
        ("every side needs at least", thin, {}),
        ("3 values per voxel", colour, {}),
        ("no voxel with a value", nan, {}),
        ("do not overlap", far, {"align": []}),
        ("fixed mask is empty", moving, {"fixedMask": empty}),
    ]:
        given = (None, moving) if other is None else (fixed, other)
        with pytest.raises(InputError, match=message):
            logic.register(*given, steps=1, **keywords)
        assert content(scene) == before


def test_a_job_tells_its_progress_and_its_end(scene: Any, module: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    seen = []
    job = logic.startRegistration(fixed, moving, onChanged=lambda job: seen.append((job.state, job.progress)), **QUICK)
    assert not job.isFinished
    result = job.wait()
    assert job.state is module.JobState.DONE
    assert job.result is result
    assert [state for state, _ in seen].count(module.JobState.DONE) == 1
    assert {progress.stage for _, progress in seen if progress} == {"prepare", "align", "refine", "repeats", "finish"}
    assert (result.fixedNode, result.movingNode) == (fixed, moving)


def test_the_timer_lets_jobs_get_on_by_itself(scene: Any, host: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)

    def body() -> bool:
        job = logic.startRegistration(fixed, moving, **QUICK, **ONCE)
        deadline = time.monotonic() + 60
        while not job.isFinished and time.monotonic() < deadline:
            slicer.app.processEvents()
            time.sleep(0.005)
        return bool(job.isFinished) and not logic._timer.isActive()

    assert host.inLoop(body)


@pytest.mark.parametrize("stage", ["prepare", "align", "refine", "repeats", "finish"])
def test_cancelling_leaves_the_scene_as_it_was(scene: Any, module: Any, logic: Any, stage: str) -> None:
    fixed, moving = pair_nodes(scene)
    before = content(scene)

    def cancel_in_stage(job: Any) -> None:
        if job.progress is not None and job.progress.stage == stage:
            job.cancel()

    given = {"repeats": {**QUICK, "repeats": 1}, "finish": {**QUICK, **ONCE}, "align": {**LONG, "align": ["rigid"]}}.get(
        stage, LONG
    )
    job = logic.startRegistration(fixed, moving, onChanged=cancel_in_stage, **given)
    with pytest.raises(Cancelled, match="nothing was changed"):
        job.wait()
    assert job.state is module.JobState.CANCELLED
    assert content(scene) == before


def test_closing_the_scene_cancels(scene: Any, module: Any, logic: Any) -> None:
    job = logic.startRegistration(*pair_nodes(scene), **LONG)
    until(logic, lambda: job.progress is not None)
    scene.Clear(0)
    fixed, moving = pair_nodes(scene)  # they have the IDs of the ones that went
    with pytest.raises(Cancelled, match="the scene was closed"):
        job.wait()
    assert job.state is module.JobState.CANCELLED
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0
    assert logic.register(fixed, moving, **QUICK, **ONCE).warpedNode is not None


def test_a_node_that_goes_while_it_is_registered_ends_the_job(scene: Any, module: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    job = logic.startRegistration(fixed, moving, **LONG)
    until(logic, lambda: job.progress is not None)
    scene.RemoveNode(moving)
    with pytest.raises(InputError, match="node of moving went from the scene"):
        job.wait()
    assert job.state is module.JobState.FAILED
    assert scene.GetNumberOfNodesByClass("vtkMRMLTransformNode") == 0


@pytest.fixture
def slow_start(scene: Any, module: Any, logic: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a registration whose mask is still being sampled when the start returns."""
    monkeypatch.setattr(scene_job, "GATHER_SECONDS", -1.0)

    def start(**keywords: Any) -> Any:
        fixed, moving = pair_nodes(scene)
        mask = segmentation_node(scene, {"inside": ball((0, 0, 0), size=24)}, "mask")
        mask.SetAndObserveTransformNodeID(bent_transform(scene).GetID())
        job = logic.startRegistration(fixed, moving, fixedMask=mask, **{**QUICK, **ONCE, **keywords})
        assert not job.isFinished
        assert not logic.client.unfinished
        return job

    return start


def test_what_is_sampled_bit_by_bit_reaches_the_library(slow_start: Callable[..., Any]) -> None:
    assert slow_start().wait().report["inputs"]["fixed"]["mask"]


def test_a_job_is_cancelled_before_the_worker_knows_of_it(module: Any, logic: Any, slow_start: Callable[..., Any]) -> None:
    states = []
    job = slow_start(onChanged=lambda job: states.append(job.state))
    job.cancel()
    assert states == [module.JobState.CANCELLED]
    with pytest.raises(Cancelled, match="nothing was changed"):
        job.wait()
    logic.poll()
    assert not logic.client.unfinished
    assert states == [module.JobState.CANCELLED]


def test_a_mask_that_goes_while_it_is_sampled_ends_the_job(scene: Any, slow_start: Callable[..., Any]) -> None:
    job = slow_start()
    scene.RemoveNode(scene.GetFirstNodeByName("mask"))
    with pytest.raises(InputError, match="node of fixed mask went from the scene"):
        job.wait()


def test_closing_the_scene_or_the_logic_ends_what_is_being_sampled(
    scene: Any, module: Any, logic: Any, slow_start: Callable[..., Any]
) -> None:
    job = slow_start()
    scene.Clear(0)
    with pytest.raises(Cancelled, match="the scene was closed"):
        job.wait()
    other = module.RegistrationNetLogic()
    job = other.startRegistration(*pair_nodes(scene), initial=bent_transform(scene), **QUICK)
    assert not other.client.unfinished
    other.close()
    assert job.state is module.JobState.CANCELLED


def test_an_error_after_the_start_ends_the_job(scene: Any, module: Any, slow_start: Callable[..., Any]) -> None:
    job = slow_start(initial=points_node(scene, [(0, 0, 0)], "no transform"))
    with pytest.raises(InputError, match="initial transform is no transform"):
        job.wait()
    assert job.state is module.JobState.FAILED


def voxels_painted(scene: Any) -> None:
    image = scene.GetFirstNodeByName("fixed").GetImageData()
    image.GetPointData().GetScalars().SetTuple1(0, 77)
    image.GetPointData().GetScalars().Modified()


def transform_moved(scene: Any) -> None:
    scene.GetFirstNodeByName("bent").SetAndObserveTransformNodeID(linear_transform(scene, np.eye(4), "above").GetID())


def segment_removed(scene: Any) -> None:
    segmentation = scene.GetFirstNodeByName("mask").GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))


def segment_painted(scene: Any) -> None:
    image = scene.GetFirstNodeByName("mask").GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    image.GetPointData().GetScalars().SetTuple1(0, 1)
    image.GetPointData().GetScalars().Modified()


@pytest.mark.parametrize("change", [voxels_painted, transform_moved, segment_painted, segment_removed])
def test_what_changes_while_it_is_read_ends_the_job(
    scene: Any, slow_start: Callable[..., Any], change: Callable[[Any], None]
) -> None:
    job = slow_start()
    change(scene)
    with pytest.raises(InputError, match="changed while it was read"):
        job.wait()


def test_a_killed_worker_is_told_and_the_next_registration_works(scene: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    before = content(scene)
    job = logic.startRegistration(fixed, moving, **LONG)
    until(logic, lambda: job.progress is not None)
    os.kill(logic.client._worker._process.pid, signal.SIGTERM)
    with pytest.raises(WorkerError, match="The worker ended before it answered"):
        job.wait()
    assert content(scene) == before
    assert logic.register(fixed, moving, **QUICK, **ONCE).transformNode is not None


def test_a_result_that_cannot_be_placed_fails_the_job_and_changes_nothing(
    scene: Any, module: Any, logic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = pair_nodes(scene)
    logic.register(fixed, moving, **QUICK, **ONCE)
    before = content(scene)
    monkeypatch.setattr("RegistrationNetLib.slicer_bridge.scene_results.set_chart", lambda *_: 1 / 0)
    job = logic.startRegistration(fixed, moving, **QUICK, **ONCE)
    with pytest.raises(ZeroDivisionError):
        job.wait()
    assert job.state is module.JobState.FAILED
    assert content(scene) == before


def test_a_full_disk_fails_the_job_and_changes_nothing(scene: Any, logic: Any) -> None:
    resource = pytest.importorskip("resource")
    fixed, moving = pair_nodes(scene)
    before = content(scene)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OutputError, match="Free some disk space"):
            logic.register(fixed, moving, **QUICK, **ONCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert content(scene) == before


@pytest.mark.slow
def test_ten_registrations_leave_neither_files_nor_memory_behind(scene: Any, logic: Any) -> None:
    import psutil

    fixed, moving = pair_nodes(scene)
    logic.register(fixed, moving, **QUICK, **ONCE)
    folder, process = logic.client._worker.folder, psutil.Process()
    sizes = []
    for _ in range(10):
        result = logic.register(fixed, moving, **QUICK, **ONCE)
        for node in vars(result).values():
            if hasattr(node, "GetID") and node not in (fixed, moving):
                scene.RemoveNode(node)
        sizes.append(process.memory_info().rss)
        assert not list(folder.iterdir())
    assert sizes[-1] - sizes[2] < 8e6


@pytest.fixture
def result(scene: Any, module: Any) -> Any:
    fixed, moving = pair_nodes(scene)
    nodes = placed(scene, shift_result(), fixed=fixed, moving=moving)
    return module.RegistrationResult(nodes, fixed, moving, REPORT)


PARENTS = {"none": None, "rigid": [[0.8, -0.6, 0, 6], [0.6, 0.8, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1.0]]}


@pytest.mark.parametrize("parent", ["none", "rigid", "bent"])
@pytest.mark.parametrize("harden", [False, True])
def test_every_kind_of_node_moves_with_the_transform(scene: Any, logic: Any, result: Any, parent: str, harden: bool) -> None:
    nodes = transformable(scene)
    between = bent_transform(scene) if parent == "bent" else linear_transform(scene, PARENTS[parent] or np.eye(4))
    bystander = volume_node(scene, ball((0, 0, 0)), "bystander")
    if parent != "none":
        for node in (*nodes.values(), bystander):
            node.SetAndObserveTransformNodeID(between.GetID())
    place = (-3.0, 4.0, 0.0) if parent == "none" else to_world(between, (-3, 4, 0))
    expected = to_world(result.transformNode, place)
    logic.applyTransform(list(nodes.values()), result.transformNode, harden=harden)
    for name, node in nodes.items():
        assert np.allclose(seen_centre(node), expected, atol=0.2 if name == "points" else 1.5), name
        assert (node.GetParentTransformNode() is None) == harden
    assert bystander.GetParentTransformNode() is (None if parent == "none" else between)


def transformable(scene: Any) -> dict[str, Any]:
    """A node of each kind, all around (-3, 4, 0) mm RAS."""
    import vtk

    volume = ball((3, -4, 0))
    inside = Volume((volume.values > 500).astype(np.uint8), volume.world_from_index)
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(-3, 4, 0)
    sphere.SetRadius(5)
    sphere.Update()
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    model.SetAndObservePolyData(sphere.GetOutput())
    return {
        "volume": volume_node(scene, volume, "one"),
        "labels": volume_node(scene, inside, "labels", "vtkMRMLLabelMapVolumeNode"),
        "segmentation": segmentation_node(scene, {"ball": inside}),
        "model": model,
        "points": points_node(scene, [(-3, 4, 0)]),
    }


def seen_centre(node: Any) -> Any:
    flip = np.array([-1, -1, 1])
    if node.IsA("vtkMRMLMarkupsNode"):
        return mrml.points_of(node, "points").points_mm[0] * flip
    if node.IsA("vtkMRMLSegmentationNode"):
        like = ball((0, 0, 0))
        indices = np.argwhere(at_once(mrml.mask_of(node, like)).values)[:, ::-1].mean(axis=0)
        return (mrml.LPS_FROM_RAS @ like.world_from_index @ [*indices, 1])[:3]
    if node.IsA("vtkMRMLModelNode"):
        points = slicer.util.arrayFromModelPoints(node)
        parent = node.GetParentTransformNode()
        return np.mean([to_world(parent, point) if parent else point for point in points], axis=0)
    return centre_ras(node)


def test_what_cannot_be_transformed_is_refused_and_nothing_moves(scene: Any, logic: Any, result: Any) -> None:
    one = volume_node(scene, ball((0, 0, 0)), "one")
    outer = linear_transform(scene, np.eye(4), "outer")
    result.transformNode.SetAndObserveTransformNodeID(outer.GetID())
    for node, message in [
        (None, "Nothing cannot be deformed"),
        (result.tableNode, "Quality: moving to fixed cannot be deformed"),
    ]:
        with pytest.raises(InputError, match=message):
            logic.applyTransform([one, node], result.transformNode)
    for node in (result.transformNode, outer):
        with pytest.raises(InputError, match="cannot be placed under itself"):
            logic.applyTransform([one, node], result.transformNode)
    with pytest.raises(InputError, match="There is no transform to apply"):
        logic.applyTransform(one, result.warpedNode)
    assert one.GetParentTransformNode() is None


def test_a_node_that_lies_under_the_transform_already_stays_there(scene: Any, logic: Any, result: Any) -> None:
    one = volume_node(scene, ball((0, 0, 0)), "one")
    logic.applyTransform(one, result.transformNode)
    before = content(scene)
    logic.applyTransform(one, result.transformNode)
    assert content(scene) == before
    assert one.GetParentTransformNode() is result.transformNode


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the slice views were told to show."""
    shown: dict[str, Any] = {}
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **kwargs: shown.update(kwargs))
    return shown


@pytest.mark.parametrize(
    ("view", "background", "foreground"),
    [
        ("fixed", "fixedNode", None),
        ("moving", "movingNode", None),
        ("warped", "warpedNode", None),
        ("jacobian", "fixedNode", "jacobianNode"),
        ("grid", "warpedNode", None),
    ],
)
def test_each_view_shows_its_volumes(
    logic: Any, result: Any, layers: dict[str, Any], view: str, background: str, foreground: str
) -> None:
    logic.showResult(result, view)
    assert layers["background"] is getattr(result, background)
    assert layers["foreground"] is (getattr(result, foreground) if foreground else None)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.jacobianNode)
    assert bool(legend.GetVisibility()) == (view == "jacobian")
    grid = result.transformNode.GetNodeReference("RegistrationNet.Grid")
    assert (grid is not None) == (view == "grid")
    assert grid is None or grid.GetDisplayNode().GetVisibility2D()
    logic.leaveViews()
    assert not legend.GetVisibility()
    assert grid is None or not grid.GetDisplayNode().GetVisibility2D()


@pytest.mark.parametrize("view", ["difference", "checkerboard"])
def test_comparisons_are_made_once(scene: Any, logic: Any, result: Any, layers: dict[str, Any], view: str) -> None:
    logic.showResult(result, view)
    first, count = layers["background"], scene.GetNumberOfNodes()
    logic.showResult(result, view)
    assert layers["background"] is first
    assert first.GetName() == f"{view.capitalize()}: {result.warpedNode.GetName()}"
    assert scene.GetNumberOfNodes() == count


def test_an_unknown_view_is_refused(logic: Any, result: Any) -> None:
    with pytest.raises(
        InputError,
        match="no view 'smell'; the views are fixed, moving, warped, difference, checkerboard, jacobian, error, grid, other",
    ):
        logic.showResult(result, "smell")


def test_models_are_listed_without_a_worker_and_devices_by_it(module: Any, logic: Any) -> None:
    fresh = module.RegistrationNetLogic()
    try:
        assert "direct" in [model["name"] for model in fresh.models()]
        assert fresh.client._worker is None
    finally:
        fresh.close()
    assert logic.devices()[0]["name"] == "cpu"


def test_a_download_gets_on_by_the_timer(host: Any, logic: Any) -> None:
    def body() -> Any:
        job = logic.startDownload("direct")
        deadline = time.monotonic() + 60
        while not job.is_finished and time.monotonic() < deadline:
            slicer.app.processEvents()
            time.sleep(0.005)
        return job.error

    assert "needs no weights" in str(host.inLoop(body))


def test_choices_survive_saving_and_loading_the_scene(scene: Any, module: Any, logic: Any, tmp_path: Path) -> None:
    """Every one of them, none at its default."""
    chosen = logic.getParameterNode()
    fixed, moving = pair_nodes(scene)
    inside = {"inside": ball((0, 0, 0), size=8)}
    outline, points = segmentation_node(scene, inside, "outline"), points_node(scene, [(1, 2, 3)], "points")
    nodes: dict[str, Any] = {
        "fixedVolume": fixed, "movingVolume": moving, "fixedMask": outline, "movingMask": outline, "fixedLabels": outline,
        "movingLabels": outline, "fixedLandmarks": points, "movingLandmarks": points,
        "initialTransform": linear_transform(scene, np.eye(4), "start"), "outputVolume": moving,
        "outputTransform": scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "found"), "rigid": outline, "keepVolume": outline,
    }  # fmt: skip
    values: dict[str, Any] = {
        "model": "nephi", "alignment": "rigid", "refinement": "none", "hasOwnSteps": True, "steps": 7, "similarity": "ncc",
        "fixedModality": "ct", "movingModality": "mr", "smoothness": 2.5, "resolution": 1.5, "device": "cpu", "separateParts": True, "mirrored": True,
        "conserveMass": True, "fixedMaskSegment": "Segment_1", "movingMaskSegment": "Segment_2", "landmarks": "pull", "tolerance": 2.5,
    }  # fmt: skip
    assert {*nodes, *values} == set(module.RegistrationNetParameterNode.__annotations__)
    for name, value in (nodes | values).items():
        assert getattr(chosen, name) != value
        setattr(chosen, name, value)
    for node in (fixed, moving, outline):  # points have no storage of their own here
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        scene.AddNode(storage)
        storage.SetFileName(str(tmp_path / f"{node.GetName()}{'.seg' * (node is outline)}.nrrd"))
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    names = {name: node.GetName() for name, node in nodes.items()}
    scene.Clear(1)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Connect()
    again = logic.getParameterNode()
    assert {name: getattr(again, name).GetName() for name in nodes} == names
    assert {name: getattr(again, name) for name in values} == values


def test_every_choice_of_the_parameter_node_reaches_the_registration(
    scene: Any, module: Any, logic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = pair_nodes(scene)
    points = points_node(scene, [(0, 0, 0)])
    chosen = logic.getParameterNode()
    chosen.fixedVolume, chosen.movingVolume = fixed, moving
    asked: dict[str, Any] = {}
    monkeypatch.setattr(logic, "startRegistration", lambda *nodes, **keywords: asked.update(keywords, nodes=nodes))
    logic.startFromParameters()
    assert asked["nodes"] == (fixed, moving)
    assert asked["model"] == "direct"
    assert not {"align", "refine", "steps", "resolution", "fixedLandmarks", "fixedMask", "initial"} & set(asked)
    chosen.fixedLandmarks = chosen.movingLandmarks = points
    chosen.initialTransform = linear_transform(scene, np.eye(4))
    chosen.alignment, chosen.refinement, chosen.hasOwnSteps, chosen.steps = "rigid", "field", True, 9
    chosen.similarity, chosen.fixedModality, chosen.movingModality = "mind", "ct", "mr"
    chosen.smoothness, chosen.resolution, chosen.device, chosen.separateParts = 3.0, 2.5, "cpu", True
    logic.startFromParameters()
    wanted = {
        "align": ("centre", "pose", "rigid"), "refine": "field", "steps": 9, "similarity": "mind", "fixedModality": "ct", "movingModality": "mr",
        "smoothness": 3.0, "resolution": 2.5, "device": "cpu", "separateParts": True, "fixedLandmarks": points, "movingLandmarks": points,
        "initial": chosen.initialTransform,
    }  # fmt: skip
    assert {name: asked[name] for name in wanted} == wanted


def test_opening_the_module_starts_nothing(host: Any, module: Any) -> None:
    representation = slicer.modules.registrationnet.widgetRepresentation()
    widget = representation.self()
    assert widget.logic.client._worker is None
    widget.cleanup()
    for name in ("title", "categories", "contributors", "helpText", "acknowledgementText"):
        assert getattr(slicer.modules.registrationnet, name)
    assert "torch" not in {name for name in ("torch",) if name in vars(module)}


def test_a_user_who_declines_the_installation_gets_a_clear_error(
    scene: Any, module: Any, logic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from RegistrationNetLib.errors import ResourceError

    asked = []

    def declined(*_: object) -> None:
        asked.append(1)
        raise ResourceError("torch was not installed")

    monkeypatch.setattr(dependencies, "ensure", declined)
    before = content(scene)
    with pytest.raises(ResourceError, match="was not installed"):
        logic.startRegistration(*pair_nodes(scene))
    assert asked
    assert len(content(scene)) > len(before)


def test_a_result_is_corrected_from_the_console_and_stays_in_the_scene(scene: Any, logic: Any) -> None:
    fixed, moving = pair_nodes(scene)
    result = logic.register(fixed, moving, **QUICK, **ONCE)
    on_fixed, on_moving = points_node(scene, [(0, 0, 0)], "F"), points_node(scene, [(-3, 4, 6)], "M")
    better = logic.refineFrom(result, fixedLandmarks=on_fixed, movingLandmarks=on_moving, **ONCE)
    (told,) = better.report["landmarks"]["points"]
    assert (told["label"], told["followed"]) == ("F-1", True)
    assert told["after_mm"] < 1.0 < told["unpulled_mm"]
    assert np.linalg.norm(np.subtract(better.transformNode.GetTransformFromParent().TransformPoint(0, 0, 0), (-3, 4, 6))) < 1.0
    assert scene.IsNodePresent(result.transformNode)
    assert [one.corrects != "" for one in records(scene)] == [False, True]
    scene.RemoveNode(result.transformNode)
    gone = next(one.result for one in records(scene) if one.result.warpedNode is result.warpedNode)
    with pytest.raises(InputError, match="The transform of this result is gone; to go on from it takes the two volumes"):
        logic.refineFrom(gone, fixedLandmarks=on_fixed, movingLandmarks=on_moving)
