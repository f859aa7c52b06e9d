"""Results as nodes: where they lie, how they look, and that they come all or none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.errors import OutputError
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.quality.colours import TABLE_WINDOW, error_colour, error_top_mm, jacobian_colour
from RegistrationNetLib.slicer_bridge import mrml, scene_display, scene_results
from RegistrationNetLib.slicer_bridge.client import Result
from RegistrationNetLib.slicer_bridge.packed_mask import packed
from RegistrationNetLib.slicer_bridge.scene_results import ResultNodes, all_or_none, placed
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once

from ..worker_input import ball
from .nodes import centre_ras, from_world, pair_nodes, points_node, volume_node

REPORT = {
    "model": "direct",
    "refine": "field",
    "device": "cpu",
    "seconds": {"total": 1.25},
    "peak_memory_mb": 512.0,
    "resolution_mm": [1.25, 1.25, 3.0],
    "marks": {"Folded voxels": {"colour": "green", "value": "0 %", "rule": "Tissue cannot fold."}},
}
SHIFT_LPS = np.array([3, -4, 0])


BODY = np.zeros((12, 12, 12), bool)
BODY[3:9, 3:9, 3:9] = True


def body() -> dict[str, Any]:
    """The middle of the pair's lattice, at half its resolution."""
    half = np.diag([2.0, 2.0, 2.0, 1.0])
    half[:3, 3] = 0.5
    return packed(BODY, (ball((0, 0, 0)).world_from_index @ half).tolist())


def result(*, with_parts: bool = False, with_error: bool = False) -> Result:
    """What the worker would bring for the pair: a shift, half of it affine where the parts are wanted.

    With the expected error: 3 mm throughout, and where the body is.
    """
    lattice = ball((0, 0, 0)).world_from_index

    def field(shift: Any) -> Volume:
        return Volume(np.tile(np.float32(shift * mrml.DISPLACEMENT_AXES), (24, 24, 24, 1)), lattice)

    volumes = {
        "warped": ball((0, 0, 0)),
        "jacobian": Volume(np.ones((24, 24, 24), np.float32), lattice),
        "moving_from_fixed": field(SHIFT_LPS),
        "fixed_from_moving": field(-SHIFT_LPS),
    }
    if with_parts:
        volumes["deformable"] = field(SHIFT_LPS / 2)
    if with_error:
        volumes["error_mm"] = Volume(np.full((24, 24, 24), 3.0, np.float32), lattice)
    affine = np.eye(4)
    affine[:3, 3] = SHIFT_LPS / 2
    histogram = {"determinant": [0.5, 1.0], "voxels": [3.0, 7.0]}
    return Result(volumes, affine.tolist(), REPORT, histogram, body() if with_error else None)


@pytest.fixture
def pair(scene: Any) -> tuple[Any, Any]:
    return pair_nodes(scene)


@pytest.fixture
def nodes(scene: Any, pair: tuple[Any, Any]) -> ResultNodes:
    fixed, moving = pair
    return placed(scene, result(with_parts=True, with_error=True), fixed=fixed, moving=moving)


def hardened(scene: Any, node: Any, transform: Any) -> Any:
    node.SetAndObserveTransformNodeID(transform.GetID())
    node.HardenTransform()
    return node


def test_moving_under_the_transform_lies_on_fixed(scene: Any, pair: tuple[Any, Any], nodes: ResultNodes) -> None:
    fixed, moving = pair
    moving.SetAndObserveTransformNodeID(nodes.transform.GetID())
    seen = at_once(mrml.volume_of(moving, "moving"))
    assert np.allclose(centre_ras(moving), centre_ras(fixed), atol=0.2)
    assert seen.values.max() > 900


def test_points_of_moving_under_the_transform_fall_on_those_of_fixed(scene: Any, nodes: ResultNodes) -> None:
    points = hardened(scene, points_node(scene, [(-3, 4, 0), (7, 4, 5)]), nodes.transform)
    assert np.allclose(mrml.points_of(points, "points").points_mm, [(0, 0, 0), (-10, 0, 5)], atol=1e-2)


def test_the_inverse_takes_fixed_onto_moving(scene: Any, nodes: ResultNodes) -> None:
    points = hardened(scene, points_node(scene, [(0, 0, 0)]), nodes.inverse)
    assert np.allclose(mrml.points_of(points, "points").points_mm, [SHIFT_LPS], atol=1e-2)


def test_the_parts_chained_are_the_whole(scene: Any, nodes: ResultNodes) -> None:
    assert nodes.affine.GetParentTransformNode() is nodes.deformable
    for point in [(0, 0, 0), (10, -5, 20)]:
        assert np.allclose(from_world(nodes.affine, point), from_world(nodes.transform, point), atol=1e-5)


def test_without_parts_there_are_none(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, moving = pair
    nodes = placed(scene, result(), fixed=fixed, moving=moving)
    assert nodes.affine is None
    assert nodes.deformable is None


def test_warped_looks_like_moving(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, moving = pair
    colours = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "own")
    colours.SetTypeToCool1()
    display = moving.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(321, 123)
    display.SetAndObserveColorNodeID(colours.GetID())
    display.SetInterpolate(False)
    nodes = placed(scene, result(), fixed=fixed, moving=moving)
    warped = nodes.warped.GetDisplayNode()
    assert warped is not display
    assert (warped.GetWindow(), warped.GetLevel(), warped.GetInterpolate()) == (321, 123, 0)
    assert warped.GetColorNode() is colours


def test_warped_of_a_volume_never_shown_gets_the_usual_display(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, moving = pair
    scene.RemoveNode(moving.GetDisplayNode())
    assert placed(scene, result(), fixed=fixed, moving=moving).warped.GetDisplayNode() is not None


def test_determinants_have_their_colours_exactly(scene: Any, nodes: ResultNodes) -> None:
    """One is white, half and double are equally strong, and folds are loud: through MRML's own pipeline."""
    determinants = [-1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 3.9]
    values = np.zeros((1, 1, len(determinants)), np.float32)
    values[0, 0] = determinants
    mrml.set_voxels(nodes.jacobian, Volume(values, np.eye(4)))
    display = nodes.jacobian.GetDisplayNode()
    assert np.allclose([display.GetWindowLevelMin(), display.GetWindowLevelMax()], TABLE_WINDOW, atol=1e-4)
    display.UpdateImageDataPipeline()
    display.GetOutputImageDataConnection().GetProducer().Update()
    image = display.GetOutputImageData()
    shown = [
        [image.GetScalarComponentAsDouble(index, 0, 0, channel) for channel in range(3)] for index in range(len(determinants))
    ]
    # Within the width of an entry of the table.
    assert np.abs(np.array(shown) - jacobian_colour(determinants).astype(int)).max() <= 20
    assert shown[0] == shown[1] == [255, 230, 0]
    assert min(shown[4]) >= 240


def test_the_legend_names_what_it_shows(scene: Any, nodes: ResultNodes) -> None:
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(nodes.jacobian)
    assert legend.GetTitleText() == "Volume change\n≤ 0: folded\n≥ 4"
    low, high = TABLE_WINDOW
    marks = np.linspace(low, high, legend.GetNumberOfLabels())
    assert {-1.0, 0.0, 1.0, 2.0, 4.0} <= set(marks)
    assert not legend.GetVisibility()


def test_a_scene_holds_one_table_of_colours(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, moving = pair
    both = [placed(scene, result(), fixed=fixed, moving=moving) for _ in range(2)]
    assert len({one.jacobian.GetDisplayNode().GetColorNodeID() for one in both}) == 1
    assert len(names(scene)) == len(set(names(scene)))


def test_expected_errors_have_the_colours_of_the_report_and_are_clear_below_a_voxel(scene: Any, nodes: ResultNodes) -> None:
    values = np.zeros((1, 1, 4), np.float32)
    values[0, 0] = 0.0, 2.0, 9.0, 90.0
    mrml.set_voxels(nodes.error, Volume(values, np.eye(4)))
    display = nodes.error.GetDisplayNode()
    edge_mm = scene_display.largest_edge_mm(ball((0, 0, 0)))
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, error_top_mm(edge_mm))
    display.UpdateImageDataPipeline()
    display.GetOutputImageDataConnection().GetProducer().Update()
    image = display.GetOutputImageData()
    shown = np.array([[image.GetScalarComponentAsDouble(one, 0, 0, channel) for channel in range(4)] for one in range(4)])
    colours, weights = error_colour(values[0, 0], edge_mm)
    assert shown[:, 3].tolist() == [255 * (weight > 0) for weight in weights]
    assert np.abs(shown[2:, :3] - colours[2:]).max() <= 12
    title = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(nodes.error).GetTitleText()
    assert title == "Expected error,\nmm\n≥"


def test_an_older_worker_brings_no_error(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, moving = pair
    assert placed(scene, result(), fixed=fixed, moving=moving).error is None


def names(scene: Any) -> list[str]:
    kinds = ("vtkMRMLVolumeNode", "vtkMRMLTransformNode", "vtkMRMLTableNode")
    return [node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(kind, scene)]


def test_a_table_of_colours_that_is_missing_is_told(scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scene_display, "resource_folder", lambda: tmp_path)
    before = scene.GetNumberOfNodes()
    with pytest.raises(OutputError, match="colour table .* cannot be read"), all_or_none(scene):
        scene_display.jacobian_colours(scene)
    assert scene.GetNumberOfNodes() == before


def test_no_transform_is_drawn_before_anybody_asks_for_it(scene: Any, nodes: ResultNodes) -> None:
    for node in (nodes.transform, nodes.inverse, nodes.affine, nodes.deformable):
        assert node.GetDisplayNode() is None or not node.GetDisplayNode().GetVisibility()


def test_the_table_says_what_was_measured(scene: Any, nodes: ResultNodes) -> None:
    table = nodes.table
    rows = [[table.GetCellText(row, column) for column in range(4)] for row in range(table.GetNumberOfRows())]
    assert rows[0] == ["Folded voxels", "0 %", "green", "Tissue cannot fold."]
    assert [row[:2] for row in rows[1:]] == [
        ["Model", "direct"],
        ["Refinement", "field"],
        ["Device", "cpu"],
        ["Time", "1.2 s"],
        ["Peak memory", "512 MB"],
        ["Resolution of the work", "1.25 × 1.25 × 3 mm"],
    ]


def test_the_chart_draws_the_histogram(scene: Any, nodes: ResultNodes) -> None:
    series = nodes.chart.GetNthPlotSeriesNode(0)
    assert series.GetTableNode() is nodes.histogram
    columns = {name: slicer.util.arrayFromTableColumn(nodes.histogram, name).tolist() for name in ("determinant", "voxels")}
    assert columns == {"determinant": [0.5, 1.0], "voxels": [3.0, 7.0]}
    assert (series.GetXColumnName(), series.GetYColumnName()) == ("determinant", "voxels")


def test_everything_lies_in_one_folder_named_after_the_pair(scene: Any, nodes: ResultNodes) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in vars(nodes).values()}
    assert [hierarchy.GetItemName(folder) for folder in folders] == ["moving to fixed"]


def test_the_transforms_know_their_pair(scene: Any, pair: tuple[Any, Any], nodes: ResultNodes) -> None:
    fixed, moving = pair
    assert nodes.transform.GetNodeReference("spatialRegistrationMoving") is moving
    assert nodes.transform.GetNodeReference("spatialRegistrationFixed") is fixed
    assert nodes.inverse.GetNodeReference("spatialRegistrationMoving") is fixed


def content(scene: Any) -> list[str]:
    return [scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())]


@pytest.mark.parametrize(
    "stage", ["set_displacements", "set_quality", "show_as_jacobian", "set_voxels", "set_chart", "set_matrix", "filed"]
)
def test_a_failure_at_any_stage_leaves_the_scene_as_it_was(
    scene: Any, pair: tuple[Any, Any], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = pair
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = content(scene)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = hierarchy.GetNumberOfItems()

    def fail(*_: object) -> None:
        raise MemoryError("not enough")

    monkeypatch.setattr(scene_results, stage, fail)
    with pytest.raises(MemoryError):
        placed(scene, result(with_parts=True), fixed=fixed, moving=moving)
    assert content(scene) == before
    assert hierarchy.GetNumberOfItems() == items


def test_a_failure_while_filing_leaves_no_folder(scene: Any, pair: tuple[Any, Any]) -> None:
    fixed, _ = pair
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = hierarchy.GetNumberOfItems()
    with pytest.raises(TypeError), all_or_none(scene):
        scene_results.filed(scene, "folder", [fixed, "no node"])
    assert hierarchy.GetItemByName("folder") == hierarchy.GetInvalidItemID()
    assert hierarchy.GetNumberOfItems() <= items + 1


def test_comparisons_are_made_in_display_windows(scene: Any) -> None:
    fixed, warped = volume_node(scene, ball((0, 0, 0)), "fixed"), volume_node(scene, ball((3, 0, 0)), "warped")
    for node, low, high in ((fixed, 0, 1000), (warped, 0, 500)):
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(low, high)
    both = [(at_once(mrml.volume_of(node, "volume")), node.GetDisplayNode()) for node in (fixed, warped)]
    difference, board = (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("difference", "board"))
    scene_display.set_difference(difference, *both)
    scene_display.set_checkerboard(board, *both)
    one, other = both[0][0].values / 1000, (both[1][0].values / 500).clip(0, 1)
    assert np.allclose(slicer.util.arrayFromVolume(difference), other - one, atol=1e-6)
    values = slicer.util.arrayFromVolume(board)
    assert np.allclose(values[:3, :3, :3], one[:3, :3, :3], atol=1e-6)
    assert np.allclose(values[:3, :3, 3:6], other[:3, :3, 3:6], atol=1e-6)
    assert difference.GetDisplayNode().GetColorNode().GetNumberOfColors() == 255
    assert (difference.GetDisplayNode().GetWindowLevelMin(), difference.GetDisplayNode().GetWindowLevelMax()) == (-1, 1)
